/* Formats: one row each. The expressions are written for exactness over length; dates know their months and leap
 * years. */
#include <string.h>

#include "constrain/constrain_impl.h"

#define DATE_31 "(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])"
#define DATE_30 "(0[469]|11)-(0[1-9]|[12][0-9]|30)"
/* No year 0000: RFC 3339 has it, most readers of dates (Python's datetime, SQL) have not, and an answer is there to be
 * read. */
#define YEAR "([1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
#define LEAP "([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
#define DATE "(" YEAR "-(" DATE_31 "|" DATE_30 "|02-(0[1-9]|1[0-9]|2[0-8]))|" LEAP "-02-29)"
/* A leap second is real only at 23:59:60 UTC; with an offset of zero that can be checked. */
#define HMS "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]+)?"
#define OFFSET "([zZ]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
#define LEAPSEC "23:59:60(\\.[0-9]+)?([zZ]|[+-]00:00)"
#define TIME "(" HMS OFFSET "|" LEAPSEC ")"
#define DUR_T "T([0-9]+H([0-9]+M([0-9]+S)?)?|[0-9]+M([0-9]+S)?|[0-9]+S)"
#define DUR_D "([0-9]+Y([0-9]+M([0-9]+D)?)?|[0-9]+M([0-9]+D)?|[0-9]+D)"
#define DURATION "P(" DUR_D "(" DUR_T ")?|" DUR_T "|[0-9]+W)"
#define LABEL "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#define HOST LABEL "(\\." LABEL ")*"
#define ATEXT "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
#define OCTET "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
#define IPV4 OCTET "(\\." OCTET "){3}"
#define H16 "[0-9A-Fa-f]{1,4}"
#define LS32 "(" H16 ":" H16 "|" IPV4 ")"
#define IPV6 "((" H16 ":){6}" LS32 "|::(" H16 ":){5}" LS32 "|(" H16 ")?::(" H16 ":){4}" LS32 \
             "|((" H16 ":){0,1}" H16 ")?::(" H16 ":){3}" LS32 "|((" H16 ":){0,2}" H16 ")?::(" H16 ":){2}" LS32 \
             "|((" H16 ":){0,3}" H16 ")?::" H16 ":" LS32 "|((" H16 ":){0,4}" H16 ")?::" LS32 \
             "|((" H16 ":){0,5}" H16 ")?::" H16 "|((" H16 ":){0,6}" H16 ")?::)"
#define PCT "%[0-9A-Fa-f]{2}"
#define UNRES "A-Za-z0-9._~\\-"
#define SUB "!$&'()*+,;="
#define PCHAR "([" UNRES SUB ":@]|" PCT ")"
#define SCHEME "[A-Za-z][A-Za-z0-9+.-]*"
#define REGNAME "([" UNRES SUB "]|" PCT ")*"
#define AUTH "(([" UNRES SUB ":]|" PCT ")*@)?" \
             "(\\[(" IPV6 "|[vV][0-9A-Fa-f]+\\.[" UNRES SUB ":]+)\\]|" REGNAME ")(:[0-9]*)?"
#define ABEMPTY "(/" PCHAR "*)*"
#define QF "(\\?(" PCHAR "|[/?])*)?(#(" PCHAR "|[/?])*)?"
#define HIER "(//" AUTH ABEMPTY "|/(" PCHAR "+" ABEMPTY ")?|" PCHAR "+" ABEMPTY "|)"
#define SEGNC "([" UNRES SUB "@]|" PCT ")+"
#define URI SCHEME ":" HIER QF
#define URIREF "(" SCHEME ":" HIER "|//" AUTH ABEMPTY "|/(" PCHAR "+" ABEMPTY ")?|" SEGNC ABEMPTY "|)" QF
/* IRIs: the same with the characters beyond ASCII that RFC 3987 allows. */
#define UCS "\\u00A0-\\uD7FF\\uF900-\\uFDCF\\uFDF0-\\uFFEF" \
            "\\u{10000}-\\u{1FFFD}\\u{20000}-\\u{2FFFD}\\u{30000}-\\u{3FFFD}"
#define IPCHAR "([" UNRES UCS SUB ":@]|" PCT ")"
#define IAUTH "(([" UNRES UCS SUB ":]|" PCT ")*@)?" \
              "(\\[(" IPV6 "|[vV][0-9A-Fa-f]+\\.[" UNRES SUB ":]+)\\]|([" UNRES UCS SUB "]|" PCT ")*)(:[0-9]*)?"
#define IABEMPTY "(/" IPCHAR "*)*"
#define IQF "(\\?(" IPCHAR "|[/?\\uE000-\\uF8FF\\u{F0000}-\\u{FFFFD}\\u{100000}-\\u{10FFFD}])*)?(#(" IPCHAR "|[/?])*)?"
#define IHIER "(//" IAUTH IABEMPTY "|/(" IPCHAR "+" IABEMPTY ")?|" IPCHAR "+" IABEMPTY "|)"
#define ISEGNC "([" UNRES UCS SUB "@]|" PCT ")+"
#define TPLVAR "([A-Za-z0-9_]|" PCT ")(\\.?([A-Za-z0-9_]|" PCT "))*(:[1-9][0-9]{0,3}|\\*)?"

static const struct { const char *name, *re; } formats[] = {
    {"date", DATE},
    {"time", TIME},
    {"date-time", DATE "[tT]" TIME},
    {"duration", DURATION},
    {"email", "(" ATEXT "+(\\." ATEXT "+)*|\"([ !#-\\[\\]-~]|\\\\[ -~])*\")"
              "@(" HOST "|\\[" IPV4 "\\]|\\[IPv6:" IPV6 "\\])"},
    {"hostname", HOST},
    {"ipv4", IPV4},
    {"ipv6", IPV6},
    {"uri", URI},
    {"uri-reference", URIREF},
    {"iri", SCHEME ":" IHIER IQF},
    {"iri-reference",
     "(" SCHEME ":" IHIER "|//" IAUTH IABEMPTY "|/(" IPCHAR "+" IABEMPTY ")?|" ISEGNC IABEMPTY "|)" IQF},
    {"uri-template", "([!#$&-;=?-\\[\\]_a-z~" UCS "]|" PCT "|\\{[+#./;?&]?" TPLVAR "(," TPLVAR ")*\\})*"},
    {"uuid", "[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}"},
    {"json-pointer", "(/([^/~]|~[01])*)*"},
    {"relative-json-pointer", "(0|[1-9][0-9]*)(#|(/([^/~]|~[01])*)*)"},
};

/* Specified, but not by anything that an automaton of sensible size decides: refused rather than ignored. */
static const char *const refused[] = {"idn-email", "idn-hostname", "regex"};

cdfa *format_dfa(cc *c, const char *name, size_t n, bool *known)
{
    *known = true;
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        if (strlen(formats[i].name) != n || memcmp(formats[i].name, name, n))
            continue;
        bool found;
        cdfa *d = dfa_cached(c, "format", name, n, &found);
        if (found)
            return d;
        re_sets sets = {0};
        re_node *re = re_parse(c, &sets, formats[i].re, strlen(formats[i].re), formats[i].name);
        for (size_t k = 0; k < sets.n; k++)
            cpset_norm(&sets.s[k]);
        d = re_compile(c, &sets, re, false, formats[i].name);
        dfa_cache_add(c, "format", formats[i].name, n, d);
        return d;
    }
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (strlen(refused[i]) == n && !memcmp(refused[i], name, n))
            return NULL;
    *known = false;
    return NULL;
}
