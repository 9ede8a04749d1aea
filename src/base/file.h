/* file: reading and writing files without surprises. Paths are bytes as the system has them. */
#ifndef IMP_BASE_FILE_H
#define IMP_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* A read-only memory map. The mapping stays valid until file_unmap, whatever happens to the name. */
typedef struct file_map {
    const uint8_t *data; /* NULL for an empty file */
    uint64_t size;
    int fd;              /* kept open for reads that should not map (pread) */
    char *path;          /* owned */
} file_map;

/* Fails with the path and the system's reason; a folder is named as such. */
imp_status file_map_open(file_map *m, const char *path, imp_err *e);
void file_map_close(file_map *m);
/* Tells the system that [off, off+n) will not be needed again: its clean pages may go (they come back on a touch). */
void file_map_release(const file_map *m, uint64_t off, uint64_t n);

/* Whole file into memory (mem_free), NUL added after n bytes; refuses more than max bytes. "-" is stdin. */
imp_status file_read_all(const char *path, size_t max, char **out, size_t *n, imp_err *e);
/* Writes path atomically: a temporary beside it, fsync, rename. Nothing is left behind on failure. */
imp_status file_write_all(const char *path, const void *data, size_t n, imp_err *e);

bool file_is_dir(const char *path);
bool file_exists(const char *path);

#endif
