#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/strbuf.h"

static imp_status io_error(imp_err *e, const char *path)
{
    int n = errno;
    return err_set(e, n == ENOENT ? IMP_E_NOTFOUND : IMP_E_IO, "%s: %s", path, strerror(n));
}

imp_status file_map_open(file_map *m, const char *path, imp_err *e)
{
    *m = (file_map){.fd = -1};
    m->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (m->fd < 0)
        return io_error(e, path);
    struct stat st;
    imp_status s = IMP_OK;
    if (fstat(m->fd, &st))
        s = io_error(e, path);
    else if (S_ISDIR(st.st_mode))
        s = err_set(e, IMP_E_IO, "%s: is a folder, wanted a file", path);
    else if (!S_ISREG(st.st_mode))
        s = err_set(e, IMP_E_IO, "%s: is not a regular file", path);
    if (s == IMP_OK && !(m->path = mem_strdup(path)))
        s = err_oom(e, path, strlen(path));
    if (s == IMP_OK && st.st_size > 0) {
        m->size = (uint64_t)st.st_size;
        void *p = mmap(NULL, m->size, PROT_READ, MAP_SHARED, m->fd, 0);
        if (p == MAP_FAILED)
            s = io_error(e, path);
        else
            m->data = p;
    }
    if (s != IMP_OK)
        file_map_close(m);
    return s;
}

void file_map_close(file_map *m)
{
    if (m->data)
        munmap((void *)(uintptr_t)m->data, m->size);
    if (m->fd >= 0 && m->path) /* a zeroed map has fd 0, which is not ours */
        close(m->fd);
    else if (m->fd > 0)
        close(m->fd);
    mem_free(m->path);
    *m = (file_map){.fd = -1};
}

void file_map_release(const file_map *m, uint64_t off, uint64_t n)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t b = (off + page - 1) / page * page, end = (off + n) / page * page;
    if (m->data && b < end && end <= (m->size + page - 1) / page * page)
        madvise((void *)(uintptr_t)(m->data + b), end - b, MADV_DONTNEED);
}

imp_status file_read_all(const char *path, size_t max, char **out, size_t *n, imp_err *e)
{
    *out = NULL;
    *n = 0;
    bool is_stdin = strcmp(path, "-") == 0;
    int fd = is_stdin ? 0 : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return io_error(e, path);
    imp_status s = IMP_OK;
    strbuf b = {0};
    char chunk[65536];
    for (;;) {
        ssize_t k = read(fd, chunk, sizeof chunk);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0) {
            s = io_error(e, path);
            break;
        }
        if (k == 0)
            break;
        if ((size_t)k > max - b.n) {
            s = err_set(e, IMP_E_LIMIT, "%s: larger than %zu bytes", path, max);
            break;
        }
        sb_add(&b, chunk, (size_t)k);
        if (b.failed) {
            s = err_oom(e, path, b.n);
            break;
        }
    }
    if (!is_stdin)
        close(fd);
    size_t len = b.n;
    if (s == IMP_OK && !(*out = sb_take(&b)))
        s = err_oom(e, path, len);
    else if (s == IMP_OK)
        *n = len;
    sb_free(&b);
    return s;
}

imp_status file_write_all(const char *path, const void *data, size_t n, imp_err *e)
{
    strbuf t = {0};
    sb_printf(&t, "%s.tmp.%ld", path, (long)getpid());
    if (t.failed)
        return err_oom(e, path, strlen(path));
    imp_status s = IMP_OK;
    int fd = open(t.s, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        s = io_error(e, path);
        sb_free(&t);
        return s;
    }
    for (size_t done = 0; done < n && s == IMP_OK;) {
        ssize_t k = write(fd, (const char *)data + done, n - done);
        if (k < 0 && errno != EINTR)
            s = io_error(e, path);
        else if (k > 0)
            done += (size_t)k;
    }
    if (s == IMP_OK && fsync(fd) && errno != EINVAL)
        s = io_error(e, path);
    if (close(fd) && s == IMP_OK)
        s = io_error(e, path);
    if (s == IMP_OK && rename(t.s, path))
        s = io_error(e, path);
    if (s != IMP_OK)
        unlink(t.s);
    sb_free(&t);
    return s;
}

bool file_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}
