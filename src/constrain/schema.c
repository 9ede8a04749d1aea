/* Schema compilation: draft, identifiers, references; then nodes (schema_expand.c) and tables (schema_emit.c). */
#include <string.h>

#include "base/ck.h"
#include "base/utf8.h"
#include "constrain/schema_impl.h"

static const struct { const char *part; int draft; } drafts[] = {
    {"draft-03", 3}, {"draft-04", 4}, {"draft-05", 4}, {"draft-06", 6}, {"draft-07", 7},
    {"2019-09", 2019}, {"2020-12", 2020},
};

static int find_draft(const jv *root)
{
    const jv *s = jv_get(root, "$schema");
    for (size_t i = 0; s && s->type == JV_STRING && i < CK_COUNT(drafts); i++)
        if (memmem(s->s, s->n, drafts[i].part, strlen(drafts[i].part)))
            return drafts[i].draft;
    return 0;
}

/* ---- identifiers ------------------------------------------------------------------------------------------------
 * An index from text to schema: "uri" for $id, "#name" for $anchor, relative to the root only. References with another
 * base are looked up by their text; what is not found is refused by name. */
static void note_id(sx *x, const char *s, size_t n, const jv *v)
{
    bool found;
    uint64_t h = hash_bytes(s, n) >> 1;
    uint32_t *at = idmap_at(x->c, &x->ids, h, &found);
    *at = found && *at != v->id ? DEAD : v->id; /* said twice: ambiguous, so unusable */
}

/* Members whose values are data or names, not schemas. */
static bool holds_schemas(const char *k, size_t n)
{
    static const char *const data[] = {"enum", "const", "default", "examples", "required"};
    for (size_t i = 0; i < CK_COUNT(data); i++)
        if (strlen(data[i]) == n && !memcmp(data[i], k, n))
            return false;
    return true;
}

static void index_ids(sx *x)
{
    for (uint32_t i = 0; i < x->doc.n; i++) {
        const jv *v = x->doc.by_id[i];
        if (v->type != JV_STRING || !v->key || !v->parent || v->parent->type != JV_OBJECT)
            continue;
        bool data = false;
        for (const jv *p = v->parent; p && !data; p = p->parent)
            data = p->key && !holds_schemas(p->key, p->key_n);
        if (data)
            continue;
        bool is_id = (v->key_n == 3 && !memcmp(v->key, "$id", 3)) ||
                     (x->draft && x->draft <= 4 && v->key_n == 2 && !memcmp(v->key, "id", 2));
        bool is_anchor = v->key_n == 7 && !memcmp(v->key, "$anchor", 7);
        if (is_id && v->parent->parent && v->n)
            note_id(x, v->s, v->n, v->parent);
        if (is_anchor && v->n < 200) {
            char buf[202] = "#";
            memcpy(buf + 1, v->s, v->n);
            note_id(x, buf, v->n + 1, v->parent);
        }
    }
}

static const jv *pointer(sx *x, const jv *at, const char *s, size_t n)
{
    char *seg = CC_ARRAY(x->c, char, n + 1);
    for (size_t i = 0; at && i < n;) {
        size_t k = 0;
        if (s[i++] != '/')
            return NULL;
        while (i < n && s[i] != '/') {
            unsigned char ch = (unsigned char)s[i];
            if (ch == '%' && i + 2 < n && hex_value(s[i + 1]) >= 0 && hex_value(s[i + 2]) >= 0) {
                ch = (unsigned char)(hex_value(s[i + 1]) * 16 + hex_value(s[i + 2]));
                i += 2;
            }
            i++;
            seg[k++] = (char)ch;
        }
        size_t m = 0;
        for (size_t j = 0; j < k; j++) {
            if (seg[j] == '~' && j + 1 < k && (seg[j + 1] == '0' || seg[j + 1] == '1'))
                seg[m++] = seg[++j] == '0' ? '~' : '/';
            else
                seg[m++] = seg[j];
        }
        if (at->type == JV_ARRAY) {
            size_t idx = 0;
            for (size_t j = 0; j < m && idx < 1000000; j++)
                idx = seg[j] >= '0' && seg[j] <= '9' ? idx * 10 + (size_t)(seg[j] - '0') : 1000000;
            const jv *c = at->child;
            while (c && idx--)
                c = c->next;
            at = m ? c : NULL;
        } else {
            at = jv_getn(at, seg, m);
        }
    }
    return at;
}

static const jv *by_text(sx *x, const char *s, size_t n)
{
    bool found;
    uint64_t h = hash_bytes(s, n) >> 1;
    idmap *m = &x->ids;
    uint32_t *at = idmap_at(x->c, m, h, &found);
    if (!found)
        *at = DEAD;
    return *at == DEAD ? NULL : x->doc.by_id[*at];
}

const jv *schema_ref(sx *x, const jv *ref)
{
    if (ref->type != JV_STRING)
        schema_fail(x, ref, IMP_E_PARSE, "wanted a reference");
    if (x->ref_target[ref->id])
        return x->ref_target[ref->id];
    const char *s = ref->s, *hash = memchr(ref->s, '#', ref->n);
    size_t n = ref->n;
    const jv *base = x->doc.root, *t = NULL;
    /* Inside a subschema with an $id of its own, "#..." means that subschema. */
    for (const jv *p = ref->parent; p; p = p->parent) {
        const jv *id = p->type == JV_OBJECT && p->parent ? jv_get(p, x->draft && x->draft <= 4 ? "id" : "$id") : NULL;
        if (id && id->type == JV_STRING && id->n && id->s[0] != '#') {
            base = p;
            break;
        }
    }
    if (n && s != hash) {
        size_t un = hash ? (size_t)(hash - s) : n;
        const jv *rid = jv_get(x->doc.root, "$id");
        if (!rid)
            rid = jv_get(x->doc.root, "id");
        base = by_text(x, s, un);
        if (!base && rid && rid->type == JV_STRING &&
            ((rid->n == un && !memcmp(rid->s, s, un)) ||
             (rid->n == un + 1 && rid->s[un] == '#' && !memcmp(rid->s, s, un))))
            base = x->doc.root;
    }
    if (base) {
        if (!hash || hash + 1 == s + n)
            t = base;
        else if (hash[1] == '/')
            t = pointer(x, base, hash + 1, n - (size_t)(hash + 1 - s));
        else
            t = by_text(x, hash, n - (size_t)(hash - s));
    }
    if (!t)
        cc_fail(x->c, IMP_E_UNSUPPORTED, "schema: %s: $ref: \"%.100s\" is not in this document", jv_path(x->c, ref),
                ref->s);
    return x->ref_target[ref->id] = t;
}

void schema_compile(cc *c, const char *text, size_t n, constrain_prog *p)
{
    sx *x = CC_NEW(c, sx);
    x->c = c;
    x->p = p;
    jdoc_parse(c, text, n, &x->doc);
    x->ref_target = CC_ARRAY(c, const jv *, x->doc.n);
    x->draft = find_draft(x->doc.root);
    if (x->draft == 3)
        cc_fail(c, IMP_E_UNSUPPORTED, "schema: #/$schema: draft 3 is not supported");
    if (x->draft == 4)
        c->o.plain_integers = true; /* there 1.0 is not an integer */
    index_ids(x);
    p->json = true;
    item it[2] = {item_of(x->doc.root, false, false)};
    schema_emit(x, node_get(x, it, 1));
}
