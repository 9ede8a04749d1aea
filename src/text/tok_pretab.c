/* The pre-tokenizers that GGUF files name in tokenizer.ggml.pre. The patterns are those of the families' own
 * tokenizer.json files (Hugging Face is the reference), one row a name. `normalized by NFC` is not stored in GGUF but
 * belongs to the family, so it is a flag here. */
#include <stdio.h>

#include "base/ck.h"
#include "text/tok_impl.h"

enum {
    PRE_NFC = 1,       /* the family's normalizer */
    PRE_WHOLE = 2,     /* ignore_merges: a word that is a token is taken as it is */
    PRE_BOS = 4,       /* BOS is added unless the file says otherwise */
    PRE_SPACES = 8     /* not byte-level: spaces become U+2581, characters fall back to byte tokens */
};

#define CONTRACT "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define SPACES "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define LETTERS "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define PUNCT " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CAMEL(tail) \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" tail "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" tail

#define RE_GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define RE_LLAMA3 CONTRACT "|" LETTERS "|\\p{N}{1,3}|" PUNCT "|" SPACES
#define RE_QWEN2 CONTRACT "|" LETTERS "|\\p{N}|" PUNCT "|" SPACES
#define RE_QWEN35 \
    CONTRACT "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" SPACES
#define RE_TEKKEN CAMEL("") "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES
#define RE_O200K CAMEL(CONTRACT "?") "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES
#define RE_CJK_V3 "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+"
#define RE_DEEPSEEK3 \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|" \
    " ?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACES
/* DeepSeek LLM and Coder: 4E00-9FA5, 0800-4E00, AC00-D7FF */
#define RE_CJK_V1 "[\\x{4E00}-\\x{9FA5}\\x{0800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+"
/* the letters that have case, as DeepSeek's file lists them */
#define RE_CASED \
    "\\s?[A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}\\x{1C4}-\\x{293}" \
    "\\x{295}-\\x{2AF}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}\\x{386}\\x{388}-\\x{38A}\\x{38C}" \
    "\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}\\x{531}-\\x{556}\\x{10A0}-\\x{10C5}" \
    "\\x{13A0}-\\x{13F5}\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}\\x{1D00}-\\x{1D2B}" \
    "\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}\\x{1F20}-\\x{1F45}" \
    "\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}\\x{1F5D}\\x{1F5F}-\\x{1F7D}\\x{1F80}-\\x{1FB4}" \
    "\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}\\x{1FC6}-\\x{1FCC}\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}" \
    "\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}\\x{210A}-\\x{2113}\\x{2115}" \
    "\\x{2119}-\\x{211D}\\x{2124}\\x{2126}\\x{2128}\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}\\x{2139}" \
    "\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}\\x{214E}\\x{2183}\\x{2184}\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}" \
    "\\x{2CEB}-\\x{2CEE}\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}" \
    "\\x{A771}-\\x{A787}\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}" \
    "\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}\\x{10400}-\\x{1044F}\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}" \
    "\\x{10C80}-\\x{10CB2}\\x{10CC0}-\\x{10CF2}\\x{118A0}-\\x{118DF}\\x{1E900}-\\x{1E943}]+"
#define RE_PUNCT_V1 "\\s?[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}]+"
/* \s+$ would be tried from every space of a run that does not end the line; from the first one is enough. */
#define RE_SPACE_END "(?<!\\s)\\s+$"
#define RE_BLOOM " ?[^(\\s|.,!?\xE2\x80\xA6\xE3\x80\x82\xEF\xBC\x8C\xE3\x80\x81\xE0\xA5\xA4\xDB\x94\xD8\x8C)]+"
#define RE_HAN "\\p{Han}+"
#define RE_KIMI \
    RE_HAN "|[^\\r\\n\\p{L}\\p{N}]?(?:(?!\\p{Han})" UPPER ")*(?:(?!\\p{Han})" LOWER ")+" CONTRACT "?|" \
    "[^\\r\\n\\p{L}\\p{N}]?(?:(?!\\p{Han})" UPPER ")+(?:(?!\\p{Han})" LOWER ")*" CONTRACT "?|" \
    "\\p{N}{1,3}|" PUNCT "|" SPACES

#define RE_BAILING \
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|" \
    "\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"

typedef struct pre_row {
    const char *name;
    unsigned flags;
    const char *re[6];
} pre_row;

static const pre_row rows[] = {
    {"default", 0, {"[\\p{P}\\$\\+<=>\\^~\\|]+", RE_GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {"llama-bpe", PRE_WHOLE | PRE_BOS, {RE_LLAMA3}},
    {"llama3", PRE_WHOLE | PRE_BOS, {RE_LLAMA3}},
    {"llama-v3", PRE_WHOLE | PRE_BOS, {RE_LLAMA3}},
    {"falcon3", PRE_WHOLE, {RE_LLAMA3}},
    {"falcon-h1", PRE_WHOLE, {RE_LLAMA3}},
    {"lfm2", PRE_WHOLE | PRE_BOS, {RE_LLAMA3}},
    {"midm-2.0", PRE_WHOLE, {RE_LLAMA3}},
    {"pixtral", PRE_WHOLE | PRE_BOS, {RE_TEKKEN}},
    {"tekken", PRE_WHOLE | PRE_BOS, {RE_TEKKEN}},
    {"nemotron", PRE_WHOLE, {RE_TEKKEN}},
    {"qwen2", PRE_NFC, {RE_QWEN2}},
    {"deepseek-r1-qwen", PRE_NFC, {RE_QWEN2}},
    {"megrez", PRE_NFC, {RE_QWEN2}},
    {"stablelm2", PRE_NFC, {RE_QWEN2}},
    {"hunyuan", PRE_NFC, {RE_QWEN2}},
    {"solar-open", PRE_NFC, {RE_QWEN2}},
    {"grok-2", 0, {RE_QWEN2}},
    {"qwen35", PRE_NFC, {RE_QWEN35}},
    {"gpt-2", 0, {RE_GPT2}},
    {"phi-2", 0, {RE_GPT2}},
    {"exaone4", PRE_NFC, {RE_GPT2}},
    {"a.x-4.0", 0, {RE_GPT2}},
    {"gigachat", 0, {RE_GPT2}},
    {"mellum", 0, {RE_GPT2}},
    {"trillion", 0, {RE_GPT2}},
    {"granite-docling", 0, {RE_GPT2}},
    {"mpt", PRE_NFC, {RE_GPT2}},
    {"olmo", PRE_NFC, {RE_GPT2}},
    {"jais", 0, {RE_GPT2}},
    {"gpt-4o", PRE_WHOLE, {RE_O200K}},
    {"o200k", PRE_WHOLE, {RE_O200K}},
    {"llama4", PRE_WHOLE | PRE_BOS, {RE_O200K}},
    {"kanana2", PRE_WHOLE, {RE_O200K}},
    {"minimax-m2", 0, {RE_O200K}},
    {"glm4", PRE_WHOLE, {RE_LLAMA3}},
    {"chatglm-bpe", PRE_WHOLE, {RE_LLAMA3}},
    {"dbrx", 0, {RE_LLAMA3}},
    {"smaug-bpe", PRE_WHOLE | PRE_BOS, {RE_LLAMA3}},
    {"smollm", 0, {"\\p{N}", RE_GPT2}},
    {"starcoder", 0, {"\\p{N}", RE_GPT2}},
    {"refact", 0, {"\\p{N}", RE_GPT2}},
    {"command-r", PRE_NFC | PRE_BOS, {"\\p{N}", RE_GPT2}},
    {"codeshell", 0, {"\\p{N}", RE_GPT2}},
    {"exaone", 0, {"\\p{N}", RE_GPT2}},
    {"minerva-7b", 0, {"\\p{N}", RE_GPT2}},
    {"mellum2", 0, {"\\p{N}", RE_GPT2}},
    {"falcon", 0, {"[\\p{P}$+<=>^~|`]+", RE_GPT2, "[0-9][0-9][0-9]"}},
    {"deepseek-llm", PRE_BOS, {"[\\r\\n]", RE_CASED, RE_PUNCT_V1, RE_SPACE_END, RE_CJK_V1, "\\p{N}"}},
    {"deepseek-coder", PRE_BOS, {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", RE_CJK_V1, "\\p{N}"}},
    {"deepseek-v3", PRE_BOS, {"\\p{N}{1,3}", RE_CJK_V3, RE_DEEPSEEK3}},
    {"hunyuan-dense", 0, {"\\p{N}{1,3}", RE_CJK_V3, RE_DEEPSEEK3}},
    {"joyai-llm", 0, {"\\p{N}{1,3}", RE_CJK_V3, RE_DEEPSEEK3}},
    {"poro-chat", 0, {RE_BLOOM}},
    {"bloom", 0, {RE_BLOOM}},
    {"gpt3-finnish", 0, {RE_BLOOM}},
    {"viking", 0, {RE_BLOOM, "\\p{N}"}},
    {"kimi-k2", PRE_WHOLE, {RE_KIMI}},
    {"seed-coder", 0, {CONTRACT "|" LETTERS "|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|" SPACES}},
    {"bailingmoe", 0, {RE_BAILING}},
    {"bailingmoe2", 0, {RE_BAILING}},
    {"gemma4", PRE_SPACES | PRE_BOS, {NULL}},
};

imp_status tok_pretok_named(tok *t, const char *name, size_t n, const char *file, imp_err *e)
{
    const pre_row *row = NULL;
    for (size_t i = 0; i < CK_COUNT(rows) && !row; i++)
        if (strlen(rows[i].name) == n && !memcmp(rows[i].name, name, n))
            row = &rows[i];
    if (!row) {
        strbuf b = {0};
        for (size_t i = 0; i < CK_COUNT(rows); i++) {
            sb_str(&b, i ? " " : "");
            sb_str(&b, rows[i].name);
        }
        imp_status st = err_set(e, IMP_E_UNSUPPORTED, "%s: tokenizer.ggml.pre: unknown pre-tokenizer '%.*s', known: %s",
                                file, (int)(n > 60 ? 60 : n), name, b.s ? b.s : "");
        sb_free(&b);
        return st;
    }
    imp_status st = IMP_OK;
    if (row->flags & PRE_NFC)
        st = tok_norm_add(t, (tok_norm){.kind = NORM_NFC}, file, e);
    if (row->flags & PRE_SPACES)
        st = tok_norm_add(t, TOK_SPACES_TO_2581, file, e);
    for (size_t i = 0; i < CK_COUNT(row->re) && row->re[i] && st == IMP_OK; i++) {
        pcre2_code *re;
        st = tok_re_compile(&re, row->re[i], strlen(row->re[i]), file, e);
        if (st == IMP_OK)
            st = tok_stage_add(t, (tok_stage){.kind = STAGE_RE, .behavior = SPLIT_ISOLATED, .re = re}, file, e);
    }
    t->ignore_merges = row->flags & PRE_WHOLE;
    t->add_bos = row->flags & PRE_BOS;
    return st;
}
