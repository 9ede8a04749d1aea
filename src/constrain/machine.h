/* machine: how a state runs. Private to machine*.c, state.c and mask.c.
 *
 * A configuration is a stack; a stack is its top frame, frames point to what lies below. Frames, byte strings ("blobs")
 * and sets of configurations are interned: equal content, equal number. So a set of configurations is one number, its
 * step by a byte can be remembered in a table, and its mask too: a deterministic automaton that is built while it runs.
 *
 * Invariants. (1) Every configuration in a set can still be completed, so a mask never leads into a dead end.
 * (2) A parent frame is stored as it will be once the value above it is done. (3) What a step does depends on the set
 * and the byte alone, except when it reads the text itself (a new key, an item of uniqueItems): then used_text is set
 * and the step is not remembered. */
#ifndef IMP_CONSTRAIN_MACHINE_H
#define IMP_CONSTRAIN_MACHINE_H

#include "constrain/constrain_impl.h"

typedef enum frame_kind { F_END, F_VAL, F_RAW, F_STR, F_KEY, F_OBJ, F_ARR, F_SEQ, F_REP, F_ANY } frame_kind;
typedef enum { O_OPEN, O_AFTER, O_COMMA, O_COMMA_SP, O_COLON } obj_phase;
typedef enum { AR_OPEN, AR_AFTER } arr_phase;
typedef enum { V_TIGHT, V_WS, V_SP } val_phase;

/* kind  node      q             x             cnt          y               z              aux
 * VAL   pnode                                                                             (phase: val_phase)
 * RAW   raw       state         partial       -            used values     depth
 * STR   strlex    state         partial       length       used values     depth
 * KEY   object    state of kd   partial       depth        lo | hi << 16   used keys
 * OBJ   object    value node    used names *  properties   used keys                      obligations open
 * ARR   array     counts        -             index        used values
 * SEQ   symbol
 * REP   repeat                                count
 * ANY   list                                                                              (below merged stacks:
 *                                                                                          any of these)
 * (*) a bit map, of more than 32 names a blob; where keys are ordered the first place in the order that is still
 *     open */
typedef struct frame {
    uint8_t kind, phase;
    uint16_t aux;
    uint32_t node, q, x, cnt, y, z, parent;
} frame;

#define KEY_UNKNOWN 0xFFFFFFFEu /* a key or item whose text is not at hand (merged walks) */

typedef struct table { /* open addressing over ids; 0 = free */
    uint32_t *slot;
    size_t cap, n;
} table;

typedef struct trans_row {
    uint64_t key; /* state << 8 | byte; UINT64_MAX free */
    uint32_t next;
} trans_row;

typedef struct mask_row {
    struct mask_row *next;
    uint32_t state;
    uint32_t bits[];
} mask_row;

/* JSON lexing of the text itself, to know where keys and items begin. */
typedef struct lexer {
    bool in_str, esc;
    size_t str_start;      /* behind the opening quote */
    size_t *start;         /* [depth] where the current item began (only when the program needs it) */
    size_t depth, cap;
    uint32_t ws_run;       /* white space at the end of the text */
} lexer;

typedef struct machine {
    const constrain_prog *p;
    frame *fr;
    size_t n_fr, cap_fr;
    table fr_tab;
    uint8_t *blob;
    size_t n_blob, cap_blob;
    uint32_t *blob_off;    /* [id], [id + 1] = end */
    size_t n_blob_id, cap_blob_id;
    table blob_tab;
    trans_row *trans;
    size_t n_trans, cap_trans;
    uint32_t *visit;       /* [frame] stamp */
    size_t cap_visit;
    uint32_t stamp;
    uint32_t *out;         /* configurations made by the current step */
    size_t n_out, cap_out;
    uint32_t *scratch;
    size_t cap_scratch;
    bool oom, full;
    /* the text, for used_text steps */
    const char *text;
    size_t n_text;
    const lexer *lex;      /* at text[0..n_lexed) */
    size_t n_lexed;
    bool text_known, used_text;
    bool deep_trust, deep_guessed; /* let unknown whole items pass; one did */
    mask_row **mask;       /* hash by state */
    uint32_t *alike;       /* [cap_alike] frame that has the same masks (mask.c); 0 = not asked yet */
    size_t cap_alike;
    size_t n_mask, cap_mask;
    size_t bytes;
} machine;

bool machine_init(machine *m, const constrain_prog *p);
void machine_free(machine *m);
uint32_t machine_frame(machine *m, const frame *f);                     /* 0 when out of memory */
uint32_t machine_blob(machine *m, const void *p, size_t n);             /* 0: the empty blob */
const void *machine_blob_get(const machine *m, uint32_t id, size_t *n);
uint32_t machine_set(machine *m, uint32_t *ids, size_t n);              /* sorts; 0 = the empty set */
static inline const uint32_t *machine_list(const machine *m, uint32_t id, size_t *n)
{
    const uint32_t *p = machine_blob_get(m, id, n);
    *n /= sizeof *p;
    return p;
}
uint32_t machine_start(machine *m);
uint32_t machine_step(machine *m, uint32_t set, unsigned char byte);    /* 0 = refused */
/* Adds to map (256 bits) the bytes that a step might take: a superset, cheap. */
void machine_first(const machine *m, uint32_t set, uint32_t map[8]);
/* What follows the closing quote of a string whose frame lies on `parent`. The text must be unknown (text_known). */
uint32_t machine_after(machine *m, uint32_t parent);
/* The bytes (256 bits) after which `set` and `base` may differ, where base is set without the names and used values
 * that are in the way of its keys and strings: a superset. */
void machine_apart(const machine *m, uint32_t set, uint32_t base, uint32_t map[8]);
/* The frames that may lie below: what F_ANY lists, else the frame itself. */
uint32_t machine_below(machine *m, uint32_t parent);
bool machine_complete(const machine *m, uint32_t set);
uint32_t machine_copy_set(machine *to, const machine *from, uint32_t set);

/* machine_merge.c: merges what a step of a JSON program put into m->out */
void machine_merge(machine *m);

/* machine_json.c */
/* Adds what is left when the value above `parent` ends with `closing` (a quote or bracket, or 0: the byte behind
 * it). */
void value_close(machine *m, uint32_t parent, char closing);
/* May any key outside the names come next in object f? False also when only some of them may. */
bool key_others(const machine *m, const pobj *o, const frame *f);
/* Ordered keys: is it too late or too early for name i in object f? */
static inline bool key_misplaced(const pobj *o, const frame *f, uint32_t i)
{
    return o->rank && (o->rank[i] < f->x || o->rank[i] > o->place[f->x].stop);
}
void json_step(machine *m, uint32_t id, unsigned char b);
void machine_add(machine *m, uint32_t id);
void step_frame(machine *m, uint32_t id, unsigned char b);
void lexer_feed(lexer *l, char ch, size_t pos, bool starts);
bool lexer_copy(lexer *to, const lexer *from);

/* machine_text.c: what was written, as blobs; lists of blobs (sorted ids) with the values used so far. */
uint32_t text_key(machine *m);
uint32_t text_item(machine *m, char closing);
uint32_t list_add(machine *m, uint32_t list, uint32_t id);
bool list_has(const machine *m, uint32_t list, uint32_t id);
uint32_t list_narrow(machine *m, uint32_t list, uint32_t tag, uint32_t depth, uint32_t cp);
bool list_specials(const machine *m, uint32_t list, uint32_t depth, const cprange *r, unsigned n);
bool list_ends(const machine *m, uint32_t list, uint32_t tag, uint32_t depth);
size_t list_len(const machine *m, uint32_t list);

/* codec.c: bytes to code points. */
typedef enum codec_result { CODEC_DEAD, CODEC_PART, CODEC_CP, CODEC_QUOTE } codec_result;
typedef enum codec { CODEC_UTF8, CODEC_JSON, CODEC_JSON_PLAIN } codec;
#define CODEC_RANGES 8
codec_result codec_step(codec mode, uint32_t part, unsigned char b, uint32_t *next, uint32_t *cp);
/* Ranges of code points that a partial sequence can still become. */
unsigned codec_ranges(codec mode, uint32_t part, cprange out[CODEC_RANGES]);
bool str_viable(const strlex *s, uint32_t q, uint32_t cnt);
bool str_ends(const strlex *s, uint32_t q, uint32_t cnt);
static inline uint32_t str_count(const strlex *s, uint32_t cnt)
{
    return s->max != INF ? cnt + 1 : cnt < s->min ? cnt + 1 : cnt;
}

#endif
