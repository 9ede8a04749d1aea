/* What a request like org/repo:Q4_K_M means: which files of the repository, and where they lie in the cache. */
#include "tools/pull.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "tools/pull_impl.h"

#define MAX_FILES 20000
#define MAX_DEPTH 8 /* of folders in a snapshot */

typedef struct names {
    const char **v;
    uint32_t n, cap;
} names;

static imp_status add_name(pull *p, names *l, const char *s, size_t n, imp_err *e)
{
    if (l->n == MAX_FILES)
        return err_set(e, IMP_E_LIMIT, "%s: more than %d files", p->repo, MAX_FILES);
    if (l->n == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 64;
        const char **v = ARENA_ARRAY(p->mem, const char *, l->cap);
        if (!v)
            return err_oom(e, "file list", l->cap * sizeof *v);
        if (l->n)
            memcpy(v, l->v, l->n * sizeof *v);
        l->v = v;
    }
    const char *copy = arena_strndup(p->mem, s, n);
    if (!copy)
        return err_oom(e, "file list", n);
    l->v[l->n++] = copy;
    return IMP_OK;
}

/* A name that stays inside the snapshot's folder. */
static bool safe_name(const char *s, size_t n)
{
    if (n == 0 || n > 500 || s[0] == '/')
        return false;
    for (size_t i = 0; i < n;) {
        size_t k = i;
        while (k < n && s[k] != '/')
            if ((unsigned char)s[k] < 0x20 || s[k++] == '\\')
                return false;
        if (k == i || (k - i <= 2 && memcmp(s + i, "..", k - i) == 0))
            return false;
        i = k + 1;
    }
    return s[n - 1] != '/';
}

/* ---- the spec --------------------------------------------------------------------------------------------------- */
static size_t repo_length(const char *s)
{
    size_t n = 0, slashes = 0;
    for (; s[n] && s[n] != ':'; n++) {
        slashes += s[n] == '/';
        if (!isalnum((unsigned char)s[n]) && !strchr("-._/", s[n]))
            return 0;
    }
    bool bad = n == 0 || slashes > 1 || s[0] == '/' || s[0] == '.' || s[n - 1] == '/' || strstr(s, "..") ||
               strstr(s, "--");
    return bad ? 0 : n;
}

bool pull_is_spec(const char *spec)
{
    size_t n = repo_length(spec);
    return n && spec[n] == ':' && spec[n + 1] && memchr(spec, '/', n);
}

static imp_status open_spec(pull *p, const pull_params *par, const char *spec, arena *mem, imp_err *e)
{
    size_t n = repo_length(spec);
    if (!n || (spec[n] == ':' && !safe_name(spec + n + 1, strlen(spec + n + 1))))
        return err_set(e, IMP_E_USAGE, "'%s': wanted ORG/NAME, ORG/NAME:FILE or ORG/NAME:TAG", spec);
    *p = (pull){.par = par, .mem = mem};
    p->endpoint = par->endpoint ? par->endpoint : PULL_DEFAULT_ENDPOINT;
    size_t k = strlen(p->endpoint);
    while (k && p->endpoint[k - 1] == '/')
        k--;
    p->endpoint = arena_strndup(mem, p->endpoint, k);
    p->revision = par->revision ? par->revision : "main";
    if (!safe_name(p->revision, strlen(p->revision)) || p->revision[strcspn(p->revision, "?#% ")])
        return err_set(e, IMP_E_USAGE, "revision '%s': wanted a branch, tag or commit", p->revision);
    p->repo = arena_strndup(mem, spec, n);
    p->want = spec[n] == ':' ? spec + n + 1 : NULL;
    strbuf dir = {0};
    sb_printf(&dir, "%s/models--", par->cache);
    for (size_t i = 0; i < n; i++)
        sb_str(&dir, spec[i] == '/' ? "--" : (char[]){spec[i], 0});
    p->dir = dir.failed ? NULL : arena_strdup(mem, dir.s);
    sb_free(&dir);
    return p->endpoint && p->repo && p->dir ? IMP_OK : err_oom(e, spec, n);
}

/* ---- choosing --------------------------------------------------------------------------------------------------- */
static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcasecmp(s + n - k, end) == 0;
}

/* A language model's GGUF file: not a vision tower, not an importance matrix. */
static bool is_gguf(const char *s)
{
    const char *base = strrchr(s, '/') ? strrchr(s, '/') + 1 : s;
    return ends_with(s, ".gguf") && !strcasestr(base, "mmproj") && !strcasestr(base, "imatrix");
}

/* Is tag a word of name? "Q4_K" is one in m-Q4_K.gguf and not in m-Q4_K_M.gguf. */
static bool has_tag(const char *name, const char *tag)
{
    size_t n = strlen(tag);
    for (const char *at = name; (at = strcasestr(at, tag)); at++) {
        bool begins = at == name || !(isalnum((unsigned char)at[-1]) || at[-1] == '_');
        if (begins && !isalnum((unsigned char)at[n]) && at[n] != '_')
            return true;
    }
    return false;
}

/* Position of "-00001-of-00003.gguf" in a name, 0 when it is no part of a set. */
static size_t split_at(const char *name, unsigned *no, unsigned *count)
{
    size_t n = strlen(name), k = strlen("-00001-of-00001.gguf");
    if (n <= k)
        return 0;
    const char *s = name + n - k;
    for (size_t i = 0; i < k; i++)
        if (strchr("-of.gu", "-00001-of-00001.gguf"[i]) ? s[i] != "-00001-of-00001.gguf"[i]
                                                        : !isdigit((unsigned char)s[i]))
            return 0;
    *no = (unsigned)strtoul(s + 1, NULL, 10);
    *count = (unsigned)strtoul(s + 10, NULL, 10);
    return n - k;
}

static bool listed(const names *l, const char *name)
{
    for (uint32_t i = 0; i < l->n; i++)
        if (strcmp(l->v[i], name) == 0)
            return true;
    return false;
}

/* The file, or all files of its set. */
static imp_status add_set(pull *p, const names *all, const char *first, names *out, imp_err *e)
{
    unsigned no = 0, count = 0;
    size_t at = split_at(first, &no, &count);
    if (!at)
        return add_name(p, out, first, strlen(first), e);
    imp_status s = IMP_OK;
    for (unsigned i = 1; i <= count && s == IMP_OK; i++) {
        char *name = arena_printf(p->mem, "%.*s-%05u-of-%05u.gguf", (int)at, first, i, count);
        s = !name                ? err_oom(e, first, at)
            : !listed(all, name) ? err_set(e, IMP_E_NOTFOUND, "%s: %s is not in the repository", p->repo, name)
                                 : add_name(p, out, name, strlen(name), e);
    }
    return s;
}

static void list_some(const names *l, strbuf *b)
{
    uint32_t shown = 0;
    for (uint32_t i = 0; i < l->n && shown < 12; i++)
        if (is_gguf(l->v[i]))
            sb_printf(b, "%s%s", shown++ ? ", " : "", l->v[i]);
    if (shown == 0)
        sb_str(b, "none");
    else if (shown == 12)
        sb_str(b, ", ...");
}

/* The one GGUF model whose name has the tag (NULL: any). *n: how many there are, sets counted once. */
static const char *only_match(const names *all, const char *tag, uint32_t *n)
{
    const char *found = NULL;
    *n = 0;
    for (uint32_t i = 0; i < all->n; i++) {
        unsigned no = 1, count;
        if (!is_gguf(all->v[i]) || (tag && !has_tag(all->v[i], tag)) || (split_at(all->v[i], &no, &count) && no != 1))
            continue;
        found = all->v[i];
        ++*n;
    }
    return found;
}

static bool is_part_of_folder(const char *s)
{
    static const char *const ends[] = {
        ".safetensors", ".safetensors.index.json", "config.json", "tokenizer.json", "tokenizer.model", ".jinja",
        "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json", "hf_quant_config.json"};
    if (strchr(s, '/') || strstr(s, "consolidated"))
        return false;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (ends_with(s, ends[i]))
            return true;
    return false;
}

/* out: the files to have. *folder: they are a SafeTensors folder. */
static imp_status choose(pull *p, const names *all, names *out, bool *folder, imp_err *e)
{
    *folder = false;
    if (p->want && listed(all, p->want))
        return add_set(p, all, p->want, out, e);
    uint32_t n = 0, any = 0;
    const char *found = only_match(all, p->want, &n);
    if (!p->want && n > 1 && (found = only_match(all, "Q4_K_M", &any), any == 1))
        n = 1;
    if (n == 1)
        return add_set(p, all, found, out, e);
    if (!p->want && n == 0 && listed(all, "config.json")) {
        imp_status s = IMP_OK;
        bool weights = false;
        for (uint32_t i = 0; i < all->n && s == IMP_OK; i++)
            if (is_part_of_folder(all->v[i])) {
                weights = weights || ends_with(all->v[i], ".safetensors");
                s = add_name(p, out, all->v[i], strlen(all->v[i]), e);
            }
        *folder = true;
        return s != IMP_OK || weights
                   ? s
                   : err_set(e, IMP_E_NOTFOUND, "%s: has neither GGUF nor SafeTensors files", p->repo);
    }
    strbuf b = {0};
    list_some(all, &b);
    imp_status s = n > 1 ? err_set(e, IMP_E_USAGE, "%s: %u files fit; name one: %s", p->repo, n, b.s ? b.s : "")
                         : err_set(e, IMP_E_NOTFOUND, "%s: has no file %s; its GGUF files: %s", p->repo,
                                   p->want ? p->want : "*.gguf", b.s ? b.s : "");
    sb_free(&b);
    return s;
}

/* ---- the hub's list --------------------------------------------------------------------------------------------- */
static imp_status read_siblings(pull *p, jr *r, names *l, imp_err *e)
{
    imp_status s = IMP_OK;
    jr_str key, v;
    strbuf name = {0};
    if (!jr_enter_array(r))
        return e->status;
    while (s == IMP_OK && jr_next_item(r))
        if (jr_enter_object(r))
            while (s == IMP_OK && jr_next_key(r, &key)) {
                if (!jr_key_is(&key, "rfilename")) {
                    jr_skip(r);
                } else if (jr_string(r, &v)) {
                    sb_clear(&name);
                    jr_str_decode(&v, &name);
                    if (name.failed)
                        s = err_oom(e, "name", v.n);
                    else if (safe_name(name.s ? name.s : "", name.n))
                        s = add_name(p, l, name.s, name.n, e);
                    else
                        s = err_set(e, IMP_E_PARSE, "%s: a file with an unsafe name: '%.60s'", p->repo,
                                    name.s ? name.s : "");
                }
            }
    sb_free(&name);
    return s;
}

static imp_status read_list(pull *p, const strbuf *text, names *l, const char **commit, imp_err *e)
{
    jr r;
    jr_str key, v;
    imp_status s = IMP_OK;
    jr_init(&r, text->s ? text->s : "", text->n, "the hub's answer", e);
    if (jr_enter_object(&r))
        while (s == IMP_OK && jr_next_key(&r, &key)) {
            if (jr_key_is(&key, "siblings"))
                s = read_siblings(p, &r, l, e);
            else if (jr_key_is(&key, "sha") && jr_peek(&r) == JR_STRING && jr_string(&r, &v))
                *commit = arena_strndup(p->mem, v.s, v.n);
            else
                jr_skip(&r);
        }
    if (s == IMP_OK && !jr_end(&r))
        return e->status;
    if (s == IMP_OK && (!*commit || !**commit || strspn(*commit, "0123456789abcdef") != strlen(*commit)))
        return err_set(e, IMP_E_PARSE, "%s: the hub names no commit", p->repo);
    return s;
}

static imp_status finish(pull *p, const char *commit, const names *files, bool folder, pull_result *out, imp_err *e)
{
    out->commit = commit;
    out->n_files = files->n;
    out->path = folder ? arena_printf(p->mem, "%s/snapshots/%s", p->dir, commit)
                       : arena_printf(p->mem, "%s/snapshots/%s/%s", p->dir, commit, files->v[0]);
    return out->path ? IMP_OK : err_oom(e, "path", 0);
}

imp_status pull_model(const pull_params *par, const char *spec, arena *mem, pull_result *out, imp_err *e)
{
    pull p;
    names all = {0}, files = {0};
    strbuf text = {.max = (size_t)64 << 20};
    const char *commit = NULL;
    bool folder = false;
    *out = (pull_result){0};
    imp_status s = open_spec(&p, par, spec, mem, e);
    if (s == IMP_OK)
        s = web_open(&p.w, e);
    if (s != IMP_OK)
        return s;
    char *url = arena_printf(mem, "%s/api/models/%s/revision/%s", p.endpoint, p.repo, p.revision);
    s = url ? pull_fetch_text(&p, url, &text, e) : err_oom(e, spec, 0);
    if (s == IMP_OK)
        s = read_list(&p, &text, &all, &commit, e);
    if (s == IMP_OK)
        s = choose(&p, &all, &files, &folder, e);
    for (uint32_t i = 0; i < files.n && s == IMP_OK; i++) {
        uint64_t n = 0, got = 0;
        s = pull_fetch_file(&p, commit, files.v[i], &n, &got, e);
        out->n_bytes += n;
        out->n_fetched += got;
    }
    char *ref = arena_printf(mem, "%s/refs/%s", p.dir, p.revision);
    if (s == IMP_OK)
        s = ref ? pull_make_parents(ref, e) : err_oom(e, spec, 0);
    if (s == IMP_OK)
        s = file_write_all(ref, commit, strlen(commit), e);
    if (s == IMP_OK)
        s = finish(&p, commit, &files, folder, out, e);
    sb_free(&text);
    web_close(p.w);
    return s;
}

/* ---- the cache alone -------------------------------------------------------------------------------------------- */
static imp_status list_folder(pull *p, const char *dir, const char *prefix, int depth, names *l, imp_err *e)
{
    DIR *d = opendir(dir);
    imp_status s = IMP_OK;
    if (!d)
        return IMP_OK;
    for (struct dirent *f; s == IMP_OK && (f = readdir(d));) {
        if (strcmp(f->d_name, ".") == 0 || strcmp(f->d_name, "..") == 0)
            continue;
        char *path = arena_printf(p->mem, "%s/%s", dir, f->d_name);
        char *name = arena_printf(p->mem, "%s%s", prefix, f->d_name);
        struct stat st;
        if (!path || !name)
            s = err_oom(e, dir, 0);
        else if (stat(path, &st)) /* a link to a blob that is gone */
            continue;
        else if (S_ISDIR(st.st_mode) && depth < MAX_DEPTH)
            s = (name = arena_printf(p->mem, "%s/", name)) ? list_folder(p, path, name, depth + 1, l, e)
                                                           : err_oom(e, dir, 0);
        else if (S_ISREG(st.st_mode) && safe_name(name, strlen(name)))
            s = add_name(p, l, name, strlen(name), e);
    }
    closedir(d);
    return s;
}

imp_status pull_cached(const pull_params *par, const char *spec, arena *mem, pull_result *out, imp_err *e)
{
    pull p;
    names all = {0}, files = {0};
    bool folder = false;
    char *text = NULL;
    size_t n = 0;
    *out = (pull_result){0};
    imp_status s = open_spec(&p, par, spec, mem, e);
    if (s != IMP_OK)
        return s;
    char *ref = arena_printf(mem, "%s/refs/%s", p.dir, p.revision);
    if (!ref)
        return err_oom(e, spec, 0);
    s = file_read_all(ref, 200, &text, &n, e);
    while (s == IMP_OK && n && isspace((unsigned char)text[n - 1]))
        n--;
    char *commit = s == IMP_OK && safe_name(text, n) ? arena_strndup(mem, text, n) : NULL;
    mem_free(text);
    if (s == IMP_OK && !commit)
        s = err_set(e, IMP_E_NOTFOUND, "%s: no commit", ref);
    char *dir = s == IMP_OK ? arena_printf(mem, "%s/snapshots/%s", p.dir, commit) : NULL;
    if (s == IMP_OK)
        s = dir ? list_folder(&p, dir, "", 0, &all, e) : err_oom(e, spec, 0);
    if (s == IMP_OK)
        s = choose(&p, &all, &files, &folder, e);
    return s == IMP_OK ? finish(&p, commit, &files, folder, out, e) : s;
}
