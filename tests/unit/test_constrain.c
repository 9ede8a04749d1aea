/* src/constrain: schemas, regular expressions and grammars through the public interface; masks over a small vocabulary
 * checked against the bytes themselves; refusals that name path and keyword; an allocation-failure ramp. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "constrain/constrain.h"

typedef imp_status (*compile_fn)(const char *, size_t, const constrain_options *, constrain_prog **, imp_err *);

static constrain_prog *compiled_with(compile_fn f, const char *text, const constrain_options *o)
{
    constrain_prog *p = NULL;
    imp_err e = {0};
    if (f(text, strlen(text), o, &p, &e))
        fail_msg("%s\n  does not compile: %s", text, e.message);
    return p;
}

static constrain_prog *compiled(compile_fn f, const char *text) { return compiled_with(f, text, NULL); }

static bool accepts(const constrain_prog *p, const char *s)
{
    constrain_state *st = NULL;
    assert_int_equal(constrain_state_new(p, NULL, &st, NULL), IMP_OK);
    bool ok = constrain_state_accept_bytes(st, s, strlen(s)) && constrain_state_is_complete(st);
    constrain_state_free(st);
    return ok;
}

typedef struct row {
    const char *text;
    const char *yes[6], *no[8];
} row;

static void check_rows_with(compile_fn f, const row *r, size_t n, const constrain_options *o)
{
    for (; n--; r++) {
        constrain_prog *p = compiled_with(f, r->text, o);
        for (int i = 0; i < 6 && r->yes[i]; i++)
            if (!accepts(p, r->yes[i]))
                fail_msg("%s\n  should accept %s", r->text, r->yes[i]);
        for (int i = 0; i < 8 && r->no[i]; i++)
            if (accepts(p, r->no[i]))
                fail_msg("%s\n  should reject %s", r->text, r->no[i]);
        constrain_prog_free(p);
    }
}

static void check_rows(compile_fn f, const row *r, size_t n) { check_rows_with(f, r, n, NULL); }

static const row schemas[] = {
    {"true", {"null", "[1,{\"a\":\"b\"}]", "-1.5e3"}, {"", "nul", "[1,]", "01", "1 1", "{\"a\":1,\"a\":2}"}},
    {"{\"type\":\"integer\",\"minimum\":-5,\"exclusiveMaximum\":120}",
     {"-5", "0", "119", "7.0", "-0"}, {"-6", "120", "1.5", "00", "1e1"}},
    {"{\"type\":\"number\",\"minimum\":0.1,\"maximum\":90}",
     {"0.1", "90", "90.000", "9e1", "1e-1", "8.99e+01"}, {"0.09", "90.0001", "91", "9.1e1", "-1", "0", "9e2"}},
    {"{\"multipleOf\":0.25,\"type\":\"number\"}", {"0.25", "1", "-3.750", "0"}, {"0.3", "0.125"}},
    {"{\"not\":{\"multipleOf\":3},\"type\":\"integer\"}", {"1", "-4"}, {"0", "9", "-12"}},
    {"{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}",
     {"\"ab\"", "\"\\u00e9\\ud83d\\ude00x\"", "\"a\\n\""},
     {"\"a\"", "\"abcd\"", "\"\\ud83d\"", "\"a\x01\"", "\"a\\x\""}},
    {"{\"pattern\":\"^a+b$\"}", {"\"aab\"", "1", "\"\\u0061b\""}, {"\"b\"", "\"ab\\n\""}},
    {"{\"type\":\"string\",\"pattern\":\"^(ab)*$\",\"minLength\":3,\"maxLength\":5}",
     {"\"abab\""}, {"\"ab\"", "\"ababab\"", "\"\""}},
    {"{\"type\":\"string\",\"format\":\"date\"}",
     {"\"2024-02-29\"", "\"1999-12-31\"", "\"2000-02-29\"", "\"0001-01-01\""},
     {"\"2023-02-29\"", "\"1900-02-29\"", "\"2024-04-31\"", "\"0000-01-01\"", "\"0000-02-29\""}},
    {"{\"type\":\"string\",\"format\":\"ipv6\"}",
     {"\"::1\"", "\"1:2:3:4:5:6:7:8\"", "\"::ffff:1.2.3.4\""}, {"\"1:2\"", "\"1::2::3\"", "\":::\""}},
    {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"}},\"required\":[\"a\",\"b\"]}",
     {"{\"a\":1,\"b\":null}", "{\"b\":[],\"x\":1,\"a\":2}", "{\"\\u0061\":1,\"b\":2}"},
     {"{\"a\":1}", "{\"a\":\"\",\"b\":1}", "{\"a\":1,\"b\":1,\"x\":1,\"x\":2}", "{\"a\":1,\"\\u0061\":1,\"b\":0}"}},
    {"{\"type\":\"object\",\"patternProperties\":{\"^n\":{\"type\":\"number\"}},"
     "\"additionalProperties\":{\"type\":\"null\"},\"minProperties\":1,\"maxProperties\":2}",
     {"{\"n1\":1}", "{\"x\":null,\"n\":2}"},
     {"{}", "{\"n1\":null}", "{\"x\":1}", "{\"a\":null,\"b\":null,\"c\":null}"}},
    {"{\"type\":\"object\",\"patternProperties\":{\"^[ab]$\":true},\"additionalProperties\":false}",
     {"{}", "{\"a\":1,\"b\":2}"}, {"{\"c\":1}", "{\"a\":1,\"b\":2,\"a\":3}"}},
    {"{\"propertyNames\":{\"maxLength\":2},\"type\":\"object\"}", {"{\"ab\":1}"}, {"{\"abc\":1}"}},
    {"{\"type\":\"object\",\"dependentRequired\":{\"a\":[\"b\"]}}",
     {"{}", "{\"b\":1}", "{\"a\":1,\"b\":1}"}, {"{\"a\":1}"}},
    {"{\"type\":\"array\",\"prefixItems\":[{\"type\":\"string\"}],\"items\":{\"type\":\"integer\"},\"maxItems\":3}",
     {"[]", "[\"a\"]", "[\"a\",1,2]"}, {"[1]", "[\"a\",\"b\"]", "[\"a\",1,2,3]"}},
    {"{\"type\":\"array\",\"contains\":{\"const\":5},\"maxContains\":2,\"items\":{\"type\":\"integer\"}}",
     {"[5]", "[1,5,5]"}, {"[]", "[1]", "[5,5,5]"}},
    {"{\"type\":\"array\",\"items\":{\"enum\":[\"a\",\"ab\",1]},\"uniqueItems\":true}",
     {"[]", "[\"ab\",1,\"a\"]"}, {"[\"a\",\"a\"]", "[1,1]", "[1,\"\\u0061\",\"a\"]", "[1,1.0]"}},
    {"{\"type\":\"array\",\"items\":{\"type\":\"object\"},\"uniqueItems\":true}",
     {"[{\"a\":1},{\"a\":2}]"}, {"[{\"a\":1,\"b\":2},{\"b\":2.0,\"a\":1}]", "[{},{}]"}},
    {"{\"oneOf\":[{\"required\":[\"a\"]},{\"required\":[\"b\"]}],\"type\":\"object\"}",
     {"{\"a\":1}", "{\"b\":1,\"c\":1}"}, {"{}", "{\"a\":1,\"b\":1}"}},
    {"{\"if\":{\"properties\":{\"k\":{\"const\":1}},\"required\":[\"k\"]},\"then\":{\"required\":[\"v\"]},"
     "\"else\":{\"maxProperties\":1},\"type\":\"object\"}",
     {"{\"k\":1,\"v\":0}", "{\"k\":2}", "{}"}, {"{\"k\":1}", "{\"k\":2,\"v\":0}"}},
    {"{\"not\":{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{\"a\":true}}}",
     {"1", "{\"b\":1}", "{\"a\":1,\"b\":2}"}, {"{}", "{\"a\":1}"}},
    {"{\"const\":{\"a\":[1,\"x\"],\"b\":null}}",
     {"{\"a\":[1,\"x\"],\"b\":null}", "{\"b\":null,\"a\":[1.0,\"\\u0078\"]}"},
     {"{\"a\":[1,\"x\"]}", "{\"a\":[1],\"b\":null}"}},
    {"{\"$defs\":{\"n\":{\"type\":\"object\",\"properties\":{\"k\":{\"type\":\"array\","
     "\"items\":{\"$ref\":\"#/$defs/n\"}}},\"additionalProperties\":false}},\"$ref\":\"#/$defs/n\"}",
     {"{}", "{\"k\":[{\"k\":[{}]}]}"}, {"{\"k\":[1]}", "{\"k\":[{\"z\":1}]}"}},
    {"{\"$ref\":\"#x\",\"$defs\":{\"q\":{\"$anchor\":\"x\",\"type\":\"null\"}}}", {"null"}, {"1"}},
};

static void test_schemas(void **st)
{
    (void)st;
    check_rows(constrain_compile_schema, schemas, sizeof schemas / sizeof *schemas);
}

static const row ordered[] = {
    {"{\"type\":\"object\",\"properties\":{\"b\":{},\"a\":{},\"c\":{}},\"required\":[\"a\",\"z\"]}",
     {"{\"b\":1,\"a\":1,\"c\":1,\"z\":1,\"y\":1,\"x\":1}", "{\"a\":1,\"z\":1}", "{\"\\u0062\":1,\"a\":1,\"z\":1}"},
     {"{\"a\":1,\"b\":1,\"z\":1}", "{\"b\":1,\"z\":1}", "{\"b\":1,\"c\":1,\"a\":1,\"z\":1}",
      "{\"a\":1,\"x\":1,\"z\":1}", "{\"a\":1,\"z\":1,\"x\":1,\"c\":1}", "{\"a\":1,\"a\":1,\"z\":1}"}},
    /* enough keys must remain */
    {"{\"type\":\"object\",\"properties\":{\"b\":{},\"a\":{},\"c\":{},\"d\":false},"
     "\"additionalProperties\":false,\"minProperties\":2}",
     {"{\"b\":1,\"a\":1}", "{\"b\":1,\"c\":1}", "{\"a\":1,\"c\":1}"}, {"{\"c\":1", "{\"a\":1}", "{\"c\":1,\"a\":1}"}},
    {"{\"type\":\"object\",\"properties\":{\"b\":{},\"a\":{}},\"patternProperties\":{\"^[xyb]$\":{}},"
     "\"additionalProperties\":false,\"minProperties\":3,\"maxProperties\":3}",
     {"{\"b\":1,\"a\":1,\"y\":1}", "{\"b\":1,\"x\":1,\"y\":1}", "{\"a\":1,\"y\":1,\"x\":1}"},
     {"{\"x\":1,\"y\":1", "{\"b\":1,\"a\":1}", "{\"a\":1,\"b\":1,\"x\":1}", "{\"b\":1,\"x\":1,\"a\":1}"}},
    /* schemas that are joined: in the order in which the document names the keys; what is named in both has its first
     * place */
    {"{\"allOf\":[{\"properties\":{\"b\":{},\"a\":{}}},{\"$ref\":\"#/$defs/d\"}],\"properties\":{\"c\":{}},"
     "\"type\":\"object\",\"$defs\":{\"d\":{\"properties\":{\"d\":{},\"a\":{}}}}}",
     {"{\"b\":1,\"a\":1,\"c\":1,\"d\":1,\"z\":1}", "{\"a\":1,\"d\":1}", "{}"},
     {"{\"a\":1,\"b\":1}", "{\"d\":1,\"a\":1}", "{\"z\":1,\"d\":1}"}},
    {"{\"type\":\"object\",\"oneOf\":[{\"properties\":{\"k\":{\"const\":1},\"a\":{}},\"required\":[\"k\"]},"
     "{\"properties\":{\"b\":{},\"k\":{\"const\":2}},\"required\":[\"k\"]}]}",
     {"{\"k\":1,\"a\":0}", "{\"b\":0,\"k\":2}", "{\"k\":1,\"a\":0,\"b\":0}"},
     {"{\"a\":0,\"k\":1}", "{\"k\":2,\"b\":0}"}},
    {"{\"const\":{\"b\":{\"y\":1,\"x\":2},\"a\":3}}",
     {"{\"b\":{\"y\":1,\"x\":2},\"a\":3}"},
     {"{\"a\":3,\"b\":{\"y\":1,\"x\":2}}", "{\"b\":{\"x\":2,\"y\":1},\"a\":3}"}},
    /* a condition that some key must fulfil leaves the order free */
    {"{\"type\":\"object\",\"properties\":{\"b\":{},\"a\":{}},\"not\":{\"additionalProperties\":{\"type\":\"null\"}}}",
     {"{\"a\":1,\"b\":2}", "{\"b\":1,\"a\":2}"}, {"{\"z\":null}", "{}"}},
};

static void test_ordered_keys(void **st)
{
    (void)st;
    const constrain_options o = {.key_order = true};
    check_rows_with(constrain_compile_schema, ordered, sizeof ordered / sizeof *ordered, &o);
}

static const row regexes[] = {
    {"^\\d{3}-[a-f]+$", {"123-abc"}, {"123-", "x123-a"}},
    {"(?i:yes|no)!?", {"YES", "no!"}, {"yess", ""}},
    {"[^\\x00-\\x7f]{2}", {"\xc3\xa9\xe6\x97\xa5"}, {"\xc3\xa9", "ab", "\xc3"}},
    {"a{0,65536}", {"", "aaa"}, {"b"}},
    {"(a|b)*?c(?:d|)", {"abcd", "c"}, {"ab"}},
    /* counts of counts: one count where nothing between is left out */
    {"^((ab){2,3}){2}$", {"abababab", "abababababab"}, {"ababab", "ababababababab"}},
    {"^(a{3}){1,2}$", {"aaa", "aaaaaa"}, {"aaaa", "aaaaa"}},
    {"^(a{2,3}){0,2}$", {"", "aa"}, {"a", "aaaaaaa"}},
    {"^(a{2,3})+$", {"aa", "aaaaaaaaaaaaa"}, {"", "a"}},
    {"^(ok|B{0,40}{213})$", {"ok", "BBBBBBBBB"}, {"okB", "o"}},
};

static void test_regexes(void **st)
{
    (void)st;
    check_rows(constrain_compile_regex, regexes, sizeof regexes / sizeof *regexes);
}

static const row grammars[] = {
    {"root ::= \"a\" (b | [c-e]+)* \"z\"\nb ::= \"(\" root \")\"{1,2}",
     {"az", "acdz", "a(az)cz", "a(az))z"}, {"a", "a(z", "a(az)))z"}},
    {"start: expr\nexpr: expr \"+\" NUM | NUM // sum\nNUM: /[0-9]+/\n", {"1", "1+22+3"}, {"", "+1", "1+"}},
    {"start: A\nA: /a[b]/sssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssissssssssss "
     "\"!\" /[c-z]+/\n", {"ab!z", "AB!cd"}, {"ab", "!z"}},
    {"root ::= ( \"x\"? )* \"y\"\n", {"y", "xxy"}, {"x"}},
    {"root ::= \"\\u00e9\" [\\n\\t]", {"\xc3\xa9\n"}, {"e\n"}},
    {"root ::= \"(\" root \")\" | \"\"", {"", "(())"}, {"(", "())"}},
};

static void test_grammars(void **st)
{
    (void)st;
    check_rows(constrain_compile_grammar, grammars, sizeof grammars / sizeof *grammars);
}

static const struct {
    compile_fn f;
    const char *text;
    imp_status status;
    const char *says[2];
} refusals[] = {
    {constrain_compile_schema, "{\"properties\":{\"a\":{\"unevaluatedItems\":false}}}", IMP_E_UNSUPPORTED,
     {"#/properties/a/unevaluatedItems", "unevaluatedItems"}},
    {constrain_compile_schema, "{\"items\":{\"pattern\":\"(?=a)\"}}", IMP_E_UNSUPPORTED,
     {"#/items/pattern", "look-around"}},
    {constrain_compile_schema, "{\"properties\":{\"a\":{\"format\":\"idn-email\"}}}", IMP_E_UNSUPPORTED,
     {"#/properties/a/format", "format"}},
    {constrain_compile_schema, "{\"$ref\":\"http://example.com/x\"}", IMP_E_UNSUPPORTED, {"#/$ref", "example.com"}},
    {constrain_compile_schema, "{\"type\":\"strin\"}", IMP_E_PARSE, {"#/type", "unknown type"}},
    {constrain_compile_schema, "{\"allOf\":[{\"type\":\"string\"},{\"type\":\"null\"}]}", IMP_E_UNSUPPORTED,
     {"#", "no value"}},
    {constrain_compile_schema, "{\"a\":1,\"a\":2}", IMP_E_PARSE, {"#", "twice"}},
    {constrain_compile_schema, "{\"minLength\":-1}", IMP_E_PARSE, {"#/minLength", "non-negative"}},
    {constrain_compile_schema, "{", IMP_E_PARSE, {"schema", "offset"}},
    {constrain_compile_regex, "(a", IMP_E_PARSE, {"offset 2", "( without )"}},
    {constrain_compile_regex, "(a)\\1", IMP_E_UNSUPPORTED, {"back references", ""}},
    {constrain_compile_regex, "a{5,2}", IMP_E_PARSE, {"out of order", ""}},
    {constrain_compile_regex, "((a{1000}){1000}){1000}", IMP_E_LIMIT, {"too big", ""}},
    {constrain_compile_grammar, "root ::= a\n", IMP_E_PARSE, {"\"a\"", "not defined"}},
    {constrain_compile_grammar, "root ::= a\na ::= b \"x\"\nb ::= a \"y\" | \"z\"", IMP_E_UNSUPPORTED,
     {"left recursion", ""}},
    {constrain_compile_grammar, "root ::= \"a\" root", IMP_E_UNSUPPORTED, {"no text", ""}},
    {constrain_compile_grammar, "a ::= \"a\"", IMP_E_PARSE, {"root", ""}},
};

static void test_refusals(void **st)
{
    (void)st;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        constrain_prog *p = NULL;
        imp_err e = {0};
        imp_status s = refusals[i].f(refusals[i].text, strlen(refusals[i].text), NULL, &p, &e);
        if (s != refusals[i].status || !strstr(e.message, refusals[i].says[0]) ||
            !strstr(e.message, refusals[i].says[1]))
            fail_msg("%s\n  status %d, \"%s\"", refusals[i].text, s, e.message);
        assert_null(p);
    }
}

/* A vocabulary of all bytes and some longer tokens that cross boundaries; every mask is compared with what the bytes
 * say. */
static const char *const words[] = {
    "\"a\":", "\",", "\"}", "{\"", "\": \"", "true", " \"", ", \"", "ab", "\xc3\xa9", "\xa9", "]}", "1,", "\\n",
    "\\u00", "],\"", "aa\",\"", "\"b\"", "abcabcabc", "a:b", "\xe3\x81\x82", "\xe3\x81\x82" "a", "\xe3\x81",
    "\x82\"", "\xe2\x80\xa8", "\xe2\x80", "x\xe2\x80\x9d", "\xf0\x9f\x98\x80", "\xf0\x9f", "\xc3",
    "a\xc3\xa9\",", "a\n", "\xd0\x94\xd0\x94"};
#define N_WORDS (sizeof words / sizeof *words)
#define N_TOK (256 + N_WORDS + 1)

static constrain_vocab *small_vocab(void)
{
    static char bytes[256];
    constrain_token t[N_TOK];
    constrain_vocab *v = NULL;
    for (int i = 0; i < 256; i++) {
        bytes[i] = (char)i;
        t[i] = (constrain_token){&bytes[i], 1, false};
    }
    for (size_t i = 0; i < N_WORDS; i++)
        t[256 + i] = (constrain_token){words[i], (unsigned)strlen(words[i]), false};
    t[N_TOK - 1] = (constrain_token){"", 0, true};
    assert_int_equal(constrain_vocab_new(t, N_TOK, &v, NULL), IMP_OK);
    return v;
}

static void compare_masks(const constrain_prog *p, const constrain_vocab *v, const char *text)
{
    constrain_state *s = NULL, *c = NULL;
    uint32_t bits[(N_TOK + 31) / 32];
    assert_int_equal(constrain_state_new(p, v, &s, NULL), IMP_OK);
    for (const char *q = text;; q++) {
        assert_int_equal(constrain_state_mask(s, bits), IMP_OK);
        for (unsigned i = 0; i < N_TOK; i++) {
            assert_int_equal(constrain_state_clone(s, &c, NULL), IMP_OK);
            bool may = constrain_state_accept_token(c, (int32_t)i), in = bits[i / 32] >> i % 32 & 1;
            if (may != in)
                fail_msg("after %.*s: token %u: mask %d, text %d", (int)(q - text), text, i, in, may);
            constrain_state_free(c);
        }
        if (!*q)
            break;
        assert_true(constrain_state_accept_bytes(s, q, 1));
    }
    assert_true(constrain_state_is_complete(s));
    constrain_state_free(s);
}

static void test_masks(void **st)
{
    static const struct { compile_fn f; const char *text, *walk; } rows[] = {
        {constrain_compile_schema,
         "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"},\"ab\":{\"type\":\"integer\"}},"
         "\"required\":[\"a\"]}",
         "{\"a\": \"x\\u00e9y\", \"zz\":[1,{\"q\":true}], \"ab\":12}"},
        {constrain_compile_schema,
         "{\"type\":\"object\",\"properties\":{\"a\":{\"maxLength\":3}},\"additionalProperties\":false}",
         "{\"a\":\"\xc3\xa9" "bc\"}"},
        {constrain_compile_schema,
         "{\"type\":\"array\",\"items\":{\"type\":\"string\",\"minLength\":1,\"maxLength\":2},\"uniqueItems\":true}",
         "[\"a\",\"aa\",\"b\"]"},
        {constrain_compile_schema, "{\"type\":\"array\",\"items\":{\"type\":\"object\"},\"uniqueItems\":true}",
         "[{\"a\":1},{\"a\":2}]"},
        {constrain_compile_schema,
         "{\"patternProperties\":{\"^a\":{\"enum\":[\"ab\",1]}},\"maxProperties\":2,\"type\":\"object\"}",
         "{\"aa\":\"ab\",\"b\":1}"},
        {constrain_compile_schema, "{\"type\":\"array\",\"items\":{\"pattern\":\"^.+:.+$\"}}",
         "[\"ab:c\", \"\xe3\x81\x82:\xe2\x80\x9d\"]"},
        {constrain_compile_schema,
         "{\"type\":\"array\",\"items\":{\"type\":\"string\",\"pattern\":\"^[^\xc3\xa9]*$\",\"maxLength\":12}}",
         "[\"ab\xe3\x81\x82\", \"\xf0\x9f\x98\x80\"]"},
        {constrain_compile_schema,
         "{\"type\":\"array\",\"items\":{\"type\":\"string\",\"pattern\":\"^[\\u3041-\\u3096\\u0410-\\u044f]+$\","
         "\"minLength\":2}}",
         "[\"\xe3\x81\x82\xd0\x94\"]"},
        {constrain_compile_schema,
         "{\"type\":\"object\",\"patternProperties\":{"
         "\"^[a-z]+$\":{\"type\":\"string\",\"maxLength\":300,\"pattern\":\"a$\"},\"^.{3}$\":{}},"
         "\"additionalProperties\":false,\"properties\":{\"AB\":{\"type\":\"integer\"}}}",
         "{\"abc\":\"xa\", \"AB\":1, \"\xe3\x81\x82xx\":2}"},
        {constrain_compile_regex, "([a-c]+,?\xc3\xa9?)*1", "ab,\xc3\xa9" "c1"},
        {constrain_compile_grammar, "root ::= \"{\" (root \",\"?)* \"}\" | \"\\\"\" [ab]+ \"\\\"\"",
         "{\"ab\",{\"a\"}}"},
        /* counts far from their bounds and close to them (the longest token has nine bytes); recursion keeps them out
         * of automata */
        {constrain_compile_grammar, "root ::= w{24,45} \"1\"\nw ::= [abc] | \"{\" w \"}\"",
         "abcabcabcabcabcabcabcabcabcabcabcabcabcabcabc1"},
        {constrain_compile_grammar, "root ::= l{14}\nl ::= w{0,12} \"\\n\"\nw ::= [abc] | \"{\" w \"}\"",
         "a\na\n\n\n\nabcabcabcabc\n\n\n\n\nab\n\n\na\n"},
        {constrain_compile_grammar, "root ::= v{20} \"1\"\nv ::= \"a\"? | \"{\" v \"}\"", "aaaaaaaaaaaaaaaa1"},
    };
    static const struct { const char *text, *walk; } keys[] = { /* with keys in order */
        {"{\"type\":\"object\",\"properties\":{\"b\":{\"type\":\"integer\"},\"a\":{\"type\":\"string\"},"
         "\"ab\":{\"type\":\"integer\"}},\"required\":[\"a\"]}",
         "{\"a\": \"xy\", \"zz\":[1,{\"q\":true}], \"b\\u0062\":12}"},
        {"{\"type\":\"object\",\"properties\":{\"b\":{},\"aa\":{},\"ab\":{},\"a\":{}},"
         "\"patternProperties\":{\"^[ab]{1,2}$\":{}},\"additionalProperties\":false,"
         "\"minProperties\":5,\"maxProperties\":5}",
         "{\"b\":1,\"aa\":2,\"a\":3,\"bb\":1,\"ba\":2}"},
        {"{\"type\":\"object\",\"properties\":{\"b\":{},\"a\":{}},\"propertyNames\":{\"pattern\":\"^[ab]+$\"},"
         "\"required\":[\"b\"]}",
         "{\"b\":1,\"ab\":2}"},
    };
    const constrain_options in_order = {.key_order = true};
    (void)st;
    constrain_vocab *v = small_vocab();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        constrain_prog *p = compiled(rows[i].f, rows[i].text);
        compare_masks(p, v, rows[i].walk);
        constrain_prog_free(p);
    }
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        constrain_prog *p = compiled_with(constrain_compile_schema, keys[i].text, &in_order);
        compare_masks(p, v, keys[i].walk);
        constrain_prog_free(p);
    }
    constrain_vocab_free(v);
}

static void test_forced_and_space(void **st)
{
    (void)st;
    constrain_options o = {.ws = CONSTRAIN_WS_COMPACT, .plain_escapes = true};
    constrain_prog *p = NULL;
    constrain_state *s = NULL;
    strbuf b = {0};
    static const char text[] = "{\"type\":\"object\",\"properties\":{\"name\":{\"const\":\"x\"},"
                               "\"on\":{\"type\":\"boolean\"}},\"required\":[\"name\"],"
                               "\"additionalProperties\":false,\"maxProperties\":1}";
    assert_int_equal(constrain_compile_schema(text, sizeof text - 1, &o, &p, NULL), IMP_OK);
    assert_int_equal(constrain_state_new(p, NULL, &s, NULL), IMP_OK);
    constrain_state_forced(s, 100, &b);
    assert_string_equal(b.s, "{\"name\":\"x\"}"); /* "on" has no place left */
    assert_false(constrain_state_accept_bytes(s, "{\"\\u006e", 8));
    assert_false(constrain_state_accept_bytes(s, "{ ", 2));
    assert_true(constrain_state_accept_bytes(s, "{\"name\":\"x\"", 11));
    assert_false(constrain_state_is_complete(s));
    assert_true(constrain_state_accept_bytes(s, "}", 1));
    assert_true(constrain_state_is_final(s));
    constrain_state_reset(s);
    assert_false(constrain_state_is_complete(s));
    sb_free(&b);
    constrain_state_free(s);
    constrain_prog_free(p);
}

/* Each allocation in turn fails: a clean status, and nothing leaks (the sanitizer build sees to that). */
static void test_memory_ramp(void **st)
{
    (void)st;
    static const char text[] = "{\"type\":\"object\",\"properties\":{\"a\":{\"pattern\":\"^x+$\"}},"
                               "\"required\":[\"a\"]}";
    for (long n = 1; n < 4000; n++) {
        constrain_prog *p = NULL;
        constrain_state *s = NULL;
        imp_err e = {0};
        bool ok = false;
        mem_fail_after(n);
        imp_status r = constrain_compile_schema(text, sizeof text - 1, NULL, &p, &e);
        if (!r)
            r = constrain_state_new(p, NULL, &s, &e);
        if (!r)
            ok = constrain_state_accept_bytes(s, "{\"a\":\"xx\",\"b\":[1]}", 18);
        mem_fail_after(-1);
        constrain_state_free(s);
        constrain_prog_free(p);
        if (ok)
            return;
        if (r)
            assert_int_equal(r, IMP_E_NOMEM);
    }
    fail_msg("never enough memory");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_schemas), cmocka_unit_test(test_ordered_keys), cmocka_unit_test(test_regexes),
        cmocka_unit_test(test_grammars), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_masks), cmocka_unit_test(test_forced_and_space), cmocka_unit_test(test_memory_ramp),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
