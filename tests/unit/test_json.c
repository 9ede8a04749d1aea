/* The JSON pull reader and writer: what is accepted, what is refused and where, numbers as Python's repr. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/ck.h"
#include "base/json.h"
#include "base/jsonw.h"
#include "base/mem.h"

/* ---- documents that must be refused, with the part of the message that says why ---------------------------------- */

#define S(text) text, sizeof text - 1
static const struct {
    const char *text;
    size_t n;
    const char *message;
} BAD[] = {
    {S(""), "wanted a value, got the end"},
    {S("   "), "wanted a value, got the end"},
    {S("\xEF\xBB\xBF{}"), "offset 0: wanted a value, got byte 0xEF"},
    {S("{"), "wanted a key or '}', got the end"},
    {S("{\"a\""), "wanted ':', got the end"},
    {S("{\"a\":"), "wanted a value, got the end"},
    {S("{\"a\":1"), "wanted ',' or '}', got the end"},
    {S("{\"a\":1,"), "wanted a key in quotes, got the end"},
    {S("{\"a\":1,}"), "offset 7: wanted a key in quotes, got '}'"},
    {S("{,}"), "wanted a key in quotes, got ','"},
    {S("{a:1}"), "wanted a key in quotes, got 'a'"},
    {S("{'a':1}"), "wanted a key in quotes"},
    {S("{1:1}"), "wanted a key in quotes"},
    {S("{\"a\" 1}"), "wanted ':', got '1'"},
    {S("{\"a\":1 \"b\":2}"), "wanted ',' or '}', got '\"'"},
    {S("{\"a\":}"), "wanted a value, got '}'"},
    {S("{\"a\":1]"), "wanted ',' or '}', got ']'"},
    {S("["), "wanted a value or ']', got the end"},
    {S("[1"), "wanted ',' or ']', got the end"},
    {S("[1,"), "wanted a value, got the end"},
    {S("[1,]"), "wanted a value, got ']'"},
    {S("[,1]"), "wanted a value, got ','"},
    {S("[1 2]"), "wanted ',' or ']', got '2'"},
    {S("[1}"), "wanted ',' or ']', got '}'"},
    {S("]"), "wanted a value, got ']'"},
    {S("1 2"), "offset 2: wanted the end, got '2'"},
    {S("{} x"), "wanted the end"},
    {S("tru"), "wanted true"},
    {S("truth"), "wanted true"},
    {S("fals"), "wanted false"},
    {S("nul"), "wanted null"},
    {S("True"), "wanted a value, got 'T'"},
    {S("NaN"), "wanted a value, got 'N'"},
    {S("Infinity"), "wanted a value, got 'I'"},
    {S("-Infinity"), "wanted a digit, got 'I'"},
    {S("// c\n1"), "wanted a value, got '/'"},
    {S("01"), "must not begin with 0"},
    {S("-01"), "must not begin with 0"},
    {S("-"), "wanted a digit, got the end"},
    {S("+1"), "wanted a value, got '+'"},
    {S(".5"), "wanted a value, got '.'"},
    {S("1."), "wanted a digit, got the end"},
    {S("1.e3"), "wanted a digit, got 'e'"},
    {S("1e"), "wanted a digit, got the end"},
    {S("1e+"), "wanted a digit, got the end"},
    {S("0x10"), "wanted the end, got 'x'"},
    {S("\""), "the text ends inside a string"},
    {S("\"abcdefghijkl"), "the text ends inside a string"},
    {S("\"\\\""), "the text ends inside a string"},
    {S("\"a\\"), "the text ends inside a string"},
    {S("\"\\x41\""), "unknown escape"},
    {S("\"\\\0\""), "unknown escape"},
    {S("\"\\u12\""), "four hexadecimal digits"},
    {S("\"\\u12G4\""), "four hexadecimal digits"},
    {S("\"\\uD800\""), "lone surrogate \\uD800"},
    {S("\"\\uD800\\n\""), "lone surrogate"},
    {S("\"\\uD800\\uD800\""), "lone surrogate"},
    {S("\"\\uDC00\""), "lone surrogate \\uDC00"},
    {S("\"a\nb\""), "control character 0x0A"},
    {S("\"01234567\t01234567\""), "offset 9: control character 0x09"},
    {S("\"\0\""), "control character 0x00"},
    {S("\"\x80\""), "invalid UTF-8"},
    {S("\"\xC0\x80\""), "invalid UTF-8"},
    {S("\"\xED\xA0\x80\""), "invalid UTF-8"},
    {S("\"\xF4\x90\x80\x80\""), "invalid UTF-8"},
    {S("\"\xE2\x82\""), "invalid UTF-8"},
    {S("{\"\xFF\":1}"), "invalid UTF-8"},
};

static void test_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < CK_COUNT(BAD); i++) {
        imp_err e = {0};
        jr r;
        jr_init(&r, BAD[i].text, BAD[i].n, "doc", &e);
        jr_skip(&r);
        if (jr_end(&r) || e.status != IMP_E_PARSE || !strstr(e.message, BAD[i].message) ||
            strncmp(e.message, "doc: offset ", 12))
            fail_msg("document %zu <%s>: wanted <%s>, got <%s>", i, BAD[i].text, BAD[i].message, e.message);
        /* The failure is sticky. */
        jr_str s;
        assert_int_equal(jr_peek(&r), JR_ERROR);
        assert_false(jr_string(&r, &s));
        assert_false(jr_next_item(&r));
        assert_false(jr_enter_array(&r));
        /* The same without anyone to tell. */
        jr_init(&r, BAD[i].text, BAD[i].n, "doc", NULL);
        jr_skip(&r);
        assert_false(jr_end(&r));
    }
}

static const char *const GOOD[] = {
    "{}",
    " [ ] ",
    "0",
    "-0",
    "-0.0",
    "1e5",
    "1E-05",
    "123.456e+7",
    "true",
    "false",
    "null",
    "\"\"",
    "\"\\u0000\"",
    "\"\\ud83d\\ude00\"",
    "\"\xF0\x9F\x98\x80 \xE2\x82\xAC \x7F\"",
    "[1,2,[3,{\"a\":[]}],{}]",
    "{\"a\":{\"b\":{\"c\":[null,true,false]}},\"\":0}",
    "\t\r\n {\"k\" : [ 1 , 2 ] } \n",
    "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
};

static void test_accepted(void **state)
{
    (void)state;
    for (size_t i = 0; i < CK_COUNT(GOOD); i++) {
        imp_err e = {0};
        jr r;
        const char *raw;
        size_t n;
        jr_init(&r, GOOD[i], strlen(GOOD[i]), "doc", &e);
        if (!jr_raw(&r, &raw, &n) || !jr_end(&r))
            fail_msg("%s: %s", GOOD[i], e.message);
        assert_true(raw >= GOOD[i] && raw + n <= GOOD[i] + strlen(GOOD[i]));
    }
}

/* A text that ends early is refused at every length, and nothing behind its end is read (ASan watches the copy). */
static void test_truncated(void **state)
{
    (void)state;
    static const char doc[] =
        "{\"key\": [1.5e3, \"\\ud83d\\ude00 \xE2\x82\xAC\", true, null, {\"x\": -7}], \"t\": \"0123456789abcdef\"}";
    for (size_t n = 0; n < sizeof doc - 1; n++) {
        char *copy = mem_strndup(doc, n);
        char *tight = mem_alloc(n);
        memcpy(tight, copy, n);
        mem_free(copy);
        jr r;
        jr_init(&r, tight, n, NULL, NULL);
        jr_skip(&r);
        assert_false(jr_end(&r));
        mem_free(tight);
    }
}

static void test_depth(void **state)
{
    (void)state;
    char doc[4 * JR_MAX_DEPTH];
    for (unsigned depth = JR_MAX_DEPTH - 1; depth <= JR_MAX_DEPTH + 1; depth++) {
        memset(doc, '[', depth);
        memset(doc + depth, ']', depth);
        imp_err e = {0};
        jr r;
        jr_init(&r, doc, 2 * depth, "deep", &e);
        bool ok = jr_skip(&r) && jr_end(&r);
        assert_int_equal(ok, depth <= JR_MAX_DEPTH);
        if (!ok)
            assert_non_null(strstr(e.message, "offset 128: nested deeper than 128 levels"));
    }
    /* Ten million brackets cost neither stack nor time. */
    size_t n = 10000000;
    char *big = mem_alloc(n);
    memset(big, '[', n);
    jr r;
    jr_init(&r, big, n, "big", NULL);
    assert_false(jr_skip(&r));
    mem_free(big);
}

static const struct {
    const char *text;
    int64_t min, max, want;
    const char *message; /* NULL: accepted */
} INTS[] = {
    {"0", INT64_MIN, INT64_MAX, 0, NULL},
    {"-0", INT64_MIN, INT64_MAX, 0, NULL},
    {"42", 0, 100, 42, NULL},
    {"1.0", 0, 100, 1, NULL},
    {"1.50e1", 0, 100, 15, NULL},
    {"1e3", 0, 1000, 1000, NULL},
    {"1200e-2", 0, 1000, 12, NULL},
    {"0.0012e4", 0, 1000, 12, NULL},
    {"0e999999999999", 0, 1000, 0, NULL},
    {"0.000e-5", 0, 1000, 0, NULL},
    {"9223372036854775807", INT64_MIN, INT64_MAX, INT64_MAX, NULL},
    {"-9223372036854775808", INT64_MIN, INT64_MAX, INT64_MIN, NULL},
    {"922337203685477580.7e1", INT64_MIN, INT64_MAX, INT64_MAX, NULL},
    {"9007199254740993", INT64_MIN, INT64_MAX, 9007199254740993, NULL}, /* no double holds it */
    {"9223372036854775808", INT64_MIN, INT64_MAX, 0, "wanted an integer from"},
    {"-9223372036854775809", INT64_MIN, INT64_MAX, 0, "wanted an integer from"},
    {"1e19", INT64_MIN, INT64_MAX, 0, "wanted an integer from"},
    {"1e999999999999999999999", INT64_MIN, INT64_MAX, 0, "wanted an integer from"},
    {"1000000000000000019884624838656", INT64_MIN, INT64_MAX, 0, "wanted an integer from"},
    {"101", 0, 100, 0, "from 0 to 100, got 101"},
    {"-1", 0, 100, 0, "from 0 to 100, got -1"},
    {"1.5", 0, 100, 0, "wanted an integer, got 1.5"},
    {"15e-1", 0, 100, 0, "wanted an integer, got 15e-1"},
    {"1e-999999999999", 0, 100, 0, "wanted an integer"},
    {"0.1", 0, 100, 0, "wanted an integer"},
    {"\"1\"", 0, 100, 0, "wanted a number, got '\"'"},
    {"null", 0, 100, 0, "wanted a number"},
};

static void test_int(void **state)
{
    (void)state;
    for (size_t i = 0; i < CK_COUNT(INTS); i++) {
        imp_err e = {0};
        jr r;
        int64_t v = 77;
        jr_init(&r, INTS[i].text, strlen(INTS[i].text), "doc", &e);
        bool ok = jr_int(&r, INTS[i].min, INTS[i].max, &v) && jr_end(&r);
        if (ok != !INTS[i].message || v != INTS[i].want || (!ok && !strstr(e.message, INTS[i].message)))
            fail_msg("%s: got %lld, <%s>", INTS[i].text, (long long)v, e.message);
    }
}

static void test_double(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double want;
    } T[] = {
        {"0", 0}, {"-0.0", -0.0}, {"0.1", 0.1}, {"1e308", 1e308}, {"5e-324", 5e-324}, {"1e-400", 0}, {"2.5e0", 2.5},
        {"9007199254740993", 9007199254740992.0}, {"1.7976931348623157e308", DBL_MAX},
        /* 70 digits, longer than the fast buffer; the last one decides the rounding */
        {"1.000000000000000111022302462515654042363166809082031250000000000000000", 1.0},
        {"1.000000000000000111022302462515654042363166809082031250000000000000001", 1.0 + DBL_EPSILON},
    };
    for (size_t i = 0; i < CK_COUNT(T); i++) {
        jr r;
        double v;
        jr_init(&r, T[i].text, strlen(T[i].text), "doc", NULL);
        assert_true(jr_double(&r, &v) && jr_end(&r));
        assert_memory_equal(&v, &T[i].want, sizeof v);
    }
    imp_err e = {0};
    jr r;
    double v;
    jr_init(&r, "1e309", 5, "doc", &e);
    assert_false(jr_double(&r, &v));
    assert_non_null(strstr(e.message, "number out of range: 1e309"));
    const char *text = "[NaN, Infinity, -Infinity, 1]";
    jr_init(&r, text, strlen(text), "doc", NULL);
    r.nonfinite = true;
    assert_true(jr_enter_array(&r) && jr_next_item(&r) && jr_double(&r, &v) && isnan(v));
    assert_true(jr_next_item(&r) && jr_double(&r, &v) && v > DBL_MAX);
    assert_true(jr_next_item(&r) && jr_double(&r, &v) && v < -DBL_MAX);
    int64_t n;
    assert_true(jr_next_item(&r) && jr_int(&r, 0, 9, &n) && n == 1);
    assert_true(!jr_next_item(&r) && jr_end(&r));
    e = (imp_err){0};
    jr_init(&r, "NaN", 3, "doc", &e);
    r.nonfinite = true;
    assert_false(jr_int(&r, 0, 9, &n));
    assert_non_null(strstr(e.message, "wanted an integer, got NaN"));
    jr_init(&r, "-NaN", 4, "doc", NULL);
    r.nonfinite = true;
    assert_false(jr_double(&r, &v));
    /* memory may run out on a long literal only */
    mem_fail_after(0);
    e = (imp_err){0};
    jr_init(&r, T[9].text, strlen(T[9].text), "doc", &e);
    assert_false(jr_double(&r, &v));
    mem_fail_after(-1);
    assert_int_equal(e.status, IMP_E_NOMEM);
}

static void test_walk(void **state)
{
    (void)state;
    static const char doc[] =
        "{\"na\\u006de\":\"a\\\"\\\\\\/\\b\\f\\n\\r\\t\\u20ac\\ud83d\\ude00z\", \"skip\":[{\"x\":[1,{}]},2],"
        "\"flag\":true,\"none\":null,\"list\":[\"p\",\"q\"], \"raw\": {\"k\" : [ 1 ] } }";
    imp_err e = {0};
    jr r;
    jr_str key, v;
    strbuf b = {0};
    bool flag = false;
    size_t n = 0, seen = 0;
    const char *raw = NULL;
    jr_init(&r, doc, sizeof doc - 1, "doc", &e);
    assert_true(jr_enter_object(&r));
    while (jr_next_key(&r, &key)) {
        seen++;
        if (jr_key_is(&key, "name")) {
            assert_true(key.escaped && !jr_key_is(&key, "nam") && !jr_key_is(&key, "names"));
            assert_true(jr_string(&r, &v));
            jr_str_decode(&v, &b);
        } else if (jr_key_is(&key, "flag")) {
            assert_true(jr_bool(&r, &flag));
        } else if (jr_key_is(&key, "none")) {
            assert_true(jr_null(&r));
        } else if (jr_key_is(&key, "list")) {
            assert_true(jr_enter_array(&r));
            while (jr_next_item(&r))
                assert_true(jr_string(&r, &v) && v.n == 1 && !v.escaped);
        } else if (jr_key_is(&key, "raw")) {
            assert_true(jr_raw(&r, &raw, &n));
        } else {
            assert_true(jr_skip(&r));
        }
    }
    assert_true(jr_end(&r));
    assert_int_equal(seen, 6);
    assert_true(flag);
    assert_int_equal(n, strlen("{\"k\" : [ 1 ] }"));
    assert_memory_equal(raw, "{\"k\" : [ 1 ] }", n);
    assert_string_equal(b.s, "a\"\\/\b\f\n\r\t\xE2\x82\xAC\xF0\x9F\x98\x80z");
    sb_free(&b);
    /* A caller's own complaint carries the place; using the reader out of turn is an error, not a crash. */
    jr_init(&r, "[1]", 3, "doc", &e);
    jr_enter_array(&r);
    assert_int_equal(jr_fail(&r, "no %s", "ones"), IMP_E_PARSE);
    assert_string_equal(e.message, "doc: offset 1: no ones");
    jr_init(&r, "[1]", 3, "doc", NULL);
    assert_false(jr_next_key(&r, &key));
    jr_init(&r, "[1]", 3, "doc", NULL);
    jr_enter_array(&r);
    assert_false(jr_next_key(&r, &key));
    jr_init(&r, "[1]", 3, "doc", NULL);
    jr_enter_array(&r);
    assert_false(jr_end(&r));
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

/* Right column: Python's repr. */
static const struct {
    double v;
    const char *text;
} REPR[] = {
    {0.0, "0.0"},
    {-0.0, "-0.0"},
    {1.0, "1.0"},
    {0.1, "0.1"},
    {-2.5, "-2.5"},
    {5.0, "5.0"},
    {123456789.0, "123456789.0"},
    {1e15, "1000000000000000.0"},
    {9999999999999998.0, "9999999999999998.0"},
    {1e16, "1e+16"},
    {1.5e16, "1.5e+16"},
    {1e22, "1e+22"},
    {1e23, "1e+23"},
    {1e100, "1e+100"},
    {0.0001, "0.0001"},
    {0.00012, "0.00012"},
    {0.00001, "1e-05"},
    {1e-7, "1e-07"},
    {1.25e-10, "1.25e-10"},
    {0.30000000000000004, "0.30000000000000004"},
    {1.0 / 3, "0.3333333333333333"},
    {2.0 / 3, "0.6666666666666666"},
    {100.0, "100.0"},
    {5e-324, "5e-324"},
    {1.5e-323, "1.5e-323"},
    {2.2250738585072014e-308, "2.2250738585072014e-308"},
    {1.7976931348623157e308, "1.7976931348623157e+308"},
    {0x1p-44, "5.684341886080802e-14"},
    {0x1p-1000, "9.332636185032189e-302"},
    {9007199254740993.0, "9007199254740992.0"},
    {4.35, "4.35"},
    {0.6, "0.6"},
    {(double)0.1f, "0.10000000149011612"},
};

static void test_repr(void **state)
{
    (void)state;
    char out[32];
    for (size_t i = 0; i < CK_COUNT(REPR); i++) {
        int n = num_format_double(REPR[i].v, out);
        assert_string_equal(out, REPR[i].text);
        assert_int_equal(n, strlen(out));
    }
    /* Any bit pattern reads back as itself, in fewer than 32 bytes. */
    uint64_t x = 88172645463325252u;
    for (int i = 0; i < 100000; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        double v, back;
        memcpy(&v, &x, sizeof v);
        if (!isfinite(v))
            continue;
        int n = num_format_double(v, out);
        assert_true(n < 32 && json_parse_double(out, (size_t)n, &back));
        assert_memory_equal(&v, &back, sizeof v);
    }
}

static void test_locale(void **state)
{
    (void)state;
    /* A program that embeds the library may run in a locale with a decimal comma. */
    static const char *const comma[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "fr_FR.utf8", "nl_NL.utf8"};
    bool found = false;
    for (size_t i = 0; i < CK_COUNT(comma) && !found; i++)
        found = setlocale(LC_NUMERIC, comma[i]) != NULL;
    if (!found)
        skip();
    char out[32];
    num_format_double(0.25, out);
    double v;
    bool ok = json_parse_double("0.25", 4, &v);
    setlocale(LC_NUMERIC, "C");
    assert_string_equal(out, "0.25");
    assert_true(ok && v == 0.25);
}

static void test_writer(void **state)
{
    (void)state;
    strbuf b = {0};
    jw w;
    jw_init(&w, &b);
    jw_object(&w);
    jw_kstr(&w, "s", "q\"\\\n\x01\x7F\xE2\x82\xAC\xFFz");
    jw_kstr(&w, "n", NULL);
    jw_kint(&w, "i", INT64_MIN);
    jw_kdouble(&w, "d", 0.1);
    jw_kdouble(&w, "nan", NAN);
    jw_kbool(&w, "b", true);
    jw_key(&w, "a");
    jw_array(&w);
    jw_uint(&w, UINT64_MAX);
    jw_object(&w);
    jw_end_object(&w);
    jw_array(&w);
    jw_end_array(&w);
    jw_null(&w);
    jw_bool(&w, false);
    jw_raw(&w, S("[1, 2]"));
    jw_strn(&w, S("x\0y"));
    jw_end_array(&w);
    jw_kint(&w, "last", 1);
    jw_end_object(&w);
    assert_false(b.failed);
    assert_string_equal(
        b.s, "{\"s\":\"q\\\"\\\\\\n\\u0001\x7F\xE2\x82\xAC\xEF\xBF\xBDz\",\"n\":null,\"i\":-9223372036854775808,"
             "\"d\":0.1,\"nan\":null,\"b\":true,\"a\":[18446744073709551615,{},[],null,false,[1, 2],\"x\\u0000y\"],"
             "\"last\":1}");
    jr r;
    jr_init(&r, b.s, b.n, "own", NULL);
    assert_true(jr_skip(&r) && jr_end(&r));
    sb_clear(&b);
    json_quote(&b, S("a\x7F\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\t\xFF"), true);
    assert_string_equal(b.s, "\"a\\u007f\\u00e9\\u20ac\\ud83d\\ude00\\t\\ufffd\"");
    /* Nesting past the limit is a failure of the buffer, not a write past an array. */
    sb_clear(&b);
    jw_init(&w, &b);
    for (int i = 0; i < JW_MAX_DEPTH + 5; i++)
        jw_array(&w);
    for (int i = 0; i < JW_MAX_DEPTH + 9; i++)
        jw_end_array(&w);
    assert_true(b.failed);
    sb_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused), cmocka_unit_test(test_accepted), cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_depth),   cmocka_unit_test(test_int),      cmocka_unit_test(test_double),
        cmocka_unit_test(test_walk),    cmocka_unit_test(test_repr),     cmocka_unit_test(test_locale),
        cmocka_unit_test(test_writer),
    };
    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
