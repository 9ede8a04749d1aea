"""A fixed corpus of strings for tokenizers: deterministic, more than 2,000, no file needed.

strings() gives the same list on every machine and Python version (own generator, no `random`)."""

SCRIPTS = {
    "latin": (0x61, 26), "latin_upper": (0x41, 26), "latin1": (0xC0, 64), "latin_ext": (0x100, 200), "viet": (0x1EA0, 90),
    "greek": (0x391, 60), "cyrillic": (0x410, 80), "armenian": (0x531, 38), "hebrew": (0x5D0, 27), "arabic": (0x621, 42),
    "devanagari": (0x904, 100), "bengali": (0x985, 80), "gurmukhi": (0xA05, 100), "gujarati": (0xA85, 100),
    "tamil": (0xB85, 100), "telugu": (0xC05, 100), "kannada": (0xC85, 100), "malayalam": (0xD05, 100), "sinhala": (0xD85, 100),
    "thai": (0xE01, 58), "lao": (0xE81, 90), "tibetan": (0xF40, 120), "myanmar": (0x1000, 90), "georgian": (0x10D0, 43),
    "hangul_jamo": (0x1100, 200), "ethiopic": (0x1200, 200), "cherokee": (0x13A0, 80), "khmer": (0x1780, 100), "mongolian": (0x1800, 120),
    "hiragana": (0x3041, 86), "katakana": (0x30A1, 90), "bopomofo": (0x3105, 40), "cjk": (0x4E00, 2000), "cjk_ext": (0x3400, 500),
    "hangul": (0xAC00, 3000), "cjk_b": (0x20000, 500), "math": (0x1D400, 300), "fullwidth": (0xFF01, 90), "compat": (0xF900, 200),
    "symbols": (0x2190, 300), "punct": (0x2010, 80), "numbers": (0x2150, 60), "circled": (0x2460, 100), "arabic_digits": (0x660, 10),
    "deva_digits": (0x966, 10), "marks": (0x300, 112), "emoji": (0x1F300, 700), "emoji2": (0x1F900, 250), "gothic": (0x10330, 27),
    "deseret": (0x10400, 80), "presentation": (0xFB00, 80), "phonetic": (0x250, 90),
}

FIXED = [
    "", " ", "  ", "   ", "\n", "\n\n", "\n\n\n", "\r\n", "\r\n\r\n", "\t", "\t\t", " \n", "\n ", " \n ", "\n \n", "\u00a0", "\u3000", "\u200b", "\u180e",
    "a", "A", "0", ".", "é", "e\u0301", "ﬁ", "Å", "A\u030a", "\u212b", "ñ", "n\u0303", "ế", "e\u0302\u0301", "e\u0301\u0302", "q\u0307\u0323", "q\u0323\u0307",
    "\u1100\u1161\u11a8", "각", "\u0958", "\u0915\u093c", "\u2126", "\u1e9b\u0323", "①②③", "½ ¼ Ⅷ ㊿", "x² + y³ = z⁴", "１２３４５", "٠١٢٣٤٥", "०१२३४५", "𝟏𝟐𝟑",
    "Hello, world!", "Hello World", " Hello", "Hello ", "  Hello  World  ", "HELLO", "helloWorld", "HelloWorldFOOBar", "camelCaseXMLParser", "snake_case_name",
    "don't", "DON'T", "I'm you're he'll we've they'd it's", "I'M YOU'RE HE'LL", "'s 't 're", "''s", "x's'", "\u2019s", "'\u017f", "it'\u017f", "'S'T",
    "1", "12", "123", "1234", "12345", "123456", "1234567890", "3.14159", "1,234,567.89", "1e-10", "0x1F", "2024-01-31T12:34:56Z", "a1b2c3", "1 2 3",
    "?", "??", "?!", "...", "…", "!!!", "--", "---", "==", "===", "!=", "->", "=>", "<=", "::", "//", "/*", "*/", "\"quoted\"", "'quoted'", "«guillemets»",
    "(a)", "[b]", "{c}", "<d>", "<|x|>", "a/b", "a\\b", "a|b", "a&b", "a@b.com", "https://example.com/path?q=1&r=2#frag", "#hashtag @user", "$100", "€50", "50%",
    "日本語", "日本語のテキスト。", "你好，世界！", "中文English混合", "안녕하세요 세계", "Привет, мир!", "Γειά σου Κόσμε", "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया",
    "สวัสดีชาวโลก", "ສະບາຍດີ", "မင်္ဂလာပါ", "გამარჯობა", "Բարեւ աշխարհ", "ሰላም ልዑል", "ជំរាបសួរ", "བཀྲ་ཤིས་བདེ་ལེགས", "வணக்கம்", "తెలుగు", "ಕನ್ನಡ", "മലയാളം", "සිංහල",
    "🙂", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇫🇷🇯🇵", "👩🏾‍💻", "❤️", "☃︎", "1️⃣", "🧑‍🚀 in space", "a🙂b", "🙂🙂🙂", "\u200d", "\ufe0f", "\ufeff", "\ufeffhello", "a\u200bb",
    "Z̸̢̛a̵l̷g̴o̶", "a\u0300\u0301\u0302\u0303\u0304", "\u0301", " \u0301", "\u0301a", "\u093f", "क\u093f", "क्षि", "\u0e33", "ำ",
    "\x00", "a\x00b", "\x01\x02\x1f", "\x7f", "\x80\x9f", "\u2028", "\u2029", "a\u2028b", "\x0b\x0c", "\x85", "\ufffd", "\ufffe", "\U0010ffff", "\ue000",
    "\u2581", "\u2581\u2581", "a\u2581b", "\u2581Hello", " \u2581 ", "Ġ", "Ċ", "ĠHello", "Âł", "<0x41>", "<0x0A>", "<0xFF>", "##ing", "@@ ",
    "<s>", "</s>", "<unk>", "<pad>", "<bos>", "<eos>", "[INST] hi [/INST]", "<|im_start|>user\nhi<|im_end|>\n", "<|im_start|>", "<|im_end|>x", "x<|im_end|>",
    " <|im_end|> ", "<|im_end", "<|im_end|", "|im_end|>", "<|endoftext|>", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>user<|end_header_id|>\n\n",
    "<start_of_turn>user\nhi<end_of_turn>\n", "<think>hm</think>", "<tool_call>{}</tool_call>", "<｜begin▁of▁sentence｜>", "<｜User｜>hi<｜Assistant｜>",
    "<|turn>user\nhi<turn|>", "<|channel>thought<channel|>", "<unused1>", "<start_of_image>", "<|endoftext|><|endoftext|>", "[PAD508]", "[UNK]", "[CLS]", "[MASK]",
    "</s></s>", "<s>  a", "a  <s>", "<s>\n", "<bos>\n\n", "\n\n<eos>", "<think>\n\n</think>\n\n", "a<s>b</s>c",
    "a  b", "a   b", "a    b", "a\n b", "a \nb", "a\n\n b", "a \n \n b", "a\t b", "a \t\tb", "  \n\n  x", "x  \n\n  ", " \r\n x", "\t\n\t", "a\r\rb", "\r", "\n\r\n\r",
    "a" * 20, "ab" * 40, "a" * 300, "=" * 80, "-" * 80, "*" * 33, " " * 31, " " * 32, " " * 65, "\n" * 40, "\t" * 20, "." * 50, "0" * 100, "9" * 37, "é" * 40, "中" * 60,
    "ab " * 50, "the " * 30, "ha" * 100, "🙂" * 20, "\u0301" * 40, "e\u0301" * 30, ("a" + "\u0323\u0301" * 20),
    "supercalifragilisticexpialidocious", "Donaudampfschifffahrtsgesellschaftskapitän", "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "lopadotemachoselachogaleokranioleipsanodrimhypotrimmatosilphiokarabomelitokatakechymenokichlepikossyphophattoperisteralektryonoptekephalliokigklopeleiolagoiosiraiobaphetraganopterygon",
    "def f(x):\n    return x + 1\n", "for (int i = 0; i < n; i++) {\n\tsum += a[i];\n}\n", "#include <stdio.h>\nint main(void) { return 0; }\n",
    "SELECT * FROM t WHERE a = 'b' AND c >= 10;", "{\"key\": [1, 2.5, null, true, \"v\\n\"]}", "<html><body class=\"x\">&amp;</body></html>", "import os, sys\n\n\nclass A(B):\n    pass",
    "fn main() -> Result<(), Box<dyn Error>> { let x: Vec<_> = vec![1,2,3]; Ok(()) }", "\\frac{a}{b} \\sum_{i=0}^{n} x_i^2", "$x = y$ and $$z$$", "- item\n  - sub\n    - subsub\n", "| a | b |\n|---|---|\n| 1 | 2 |",
    "~/.bashrc && echo \"$HOME\" | sed 's/a/b/g' > /dev/null 2>&1", "C:\\Users\\name\\file.txt", "key=value; other=\"x y\"", "2 + 2 == 4 ? yes : no", "a<b>c</b>", "std::vector<int>::iterator", "λx.x", "∀x∈ℝ: x²≥0", "a→b←c↔d",
]

WORDS = ("the of and to in is that it was for on are with as his they be at one have this from or had by hot but some what there we can out other were all your when up use word how said an each she which do their time if will way about many then them would write like so these her long make thing see him two has look more day could go come did my sound no most number who over know water than call first people may down side been now find any new work part take get place made live where after back little only round man year came show every good me give our under name very through just form much great think say help low line before turn cause same mean differ move right boy old too does tell sentence set three want air well also play small end put home read hand port large spell add even land here must big high such follow act why ask men change went light kind off need house picture try us again animal point mother world near build self earth father head stand own page should country found answer school grow study still learn plant cover food sun four thought let keep eye never last door between city tree cross since hard start might story saw far sea draw left late run while press close night real life few stop Zürich naïve façade São Ångström Müller straße Ελλάδα Москва 東京 서울 القاهرة").split()

CODE = ["if", "else", "return", "(", ")", "{", "}", ";", "\n", "    ", "\t", "==", "+=", "->", "x", "i", "0", "1", "42", "\"str\"", "'c'", "//", "/*", "*/", "foo_bar", "FooBar", "0xFF", "&&", "||", "!", "<", ">", "[", "]", ",", " ", " ", "  ", "\n\n", "\r\n", "self.", "::", "#", "@", "$", "%", "^", "~", "`", "\\", "?", ":", "async", "lambda"]


class Gen:
    """SplitMix64: the same numbers everywhere."""

    def __init__(self, seed):
        self.s = seed

    def next(self, n):
        self.s = (self.s + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        z = self.s
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        return (z ^ z >> 31) % n

    def pick(self, v):
        return v[self.next(len(v))]


def strings():
    g = Gen(20261123)
    out = list(FIXED)
    names = sorted(SCRIPTS)

    def run(name, n):
        a, k = SCRIPTS[name]
        return "".join(chr(a + g.next(k)) for _ in range(n))

    for name in names:  # words of each script, with spaces, digits, punctuation
        for _ in range(8):
            out.append(" ".join(run(name, 1 + g.next(9)) for _ in range(1 + g.next(6))))
        out.append(run(name, 60))
        out.append(run(name, 5) + str(g.next(100000)) + run(name, 3) + ", " + run(name, 4) + ".\n" + run(name, 2))
    for _ in range(350):  # English-like sentences
        s = " ".join(g.pick(WORDS) for _ in range(3 + g.next(25)))
        s = s.capitalize() if g.next(3) else s
        out.append(s + g.pick([".", "?", "!", "...", "", "\n", " ", ".\n\n", "\u2014", ";"]))
    for _ in range(250):  # code-like
        out.append("".join(g.pick(CODE) + g.pick(["", "", " "]) for _ in range(5 + g.next(40))))
    for _ in range(250):  # white space of all kinds
        out.append("".join(g.pick([" ", " ", "  ", "\n", "\t", "\r\n", "\u00a0", "\u3000", "\u2003", "a", "b.", "1", "é", "\u2028"]) for _ in range(1 + g.next(20))))
    for _ in range(150):  # digits
        out.append("".join(g.pick(["0", "1", "7", "9", "12", "345", "6789", " ", ".", ",", "-", "٣", "५", "½", "a"]) for _ in range(1 + g.next(25))))
    for _ in range(250):  # scripts mixed
        out.append("".join(run(g.pick(names), 1 + g.next(4)) + g.pick(["", "", " ", "-", "\n"]) for _ in range(1 + g.next(8))))
    for _ in range(150):  # combining marks
        out.append("".join(g.pick(["a", "E", "o", "क", "ก", "\u0301", "\u0323", "\u0308", "\u030a", "\u0327", "\u0345", "\u1ab0", " ", "\u1161", "\u1100", "\u11a8", "가"]) for _ in range(1 + g.next(15))))
    for _ in range(150):  # emoji sequences
        out.append("".join(g.pick(["👩", "👨", "🏽", "\u200d", "💻", "❤", "\ufe0f", "🇩", "🇪", "🏴", " ", "x", "🙂", "\U000e0067", "⃣", "1"]) for _ in range(1 + g.next(12))))
    for _ in range(200):  # special-token text among text
        out.append("".join(g.pick(["<|im_start|>", "<|im_end|>", "<s>", "</s>", "<bos>", "<eos>", "<unk>", "<pad>", "<think>", "</think>", "<tool_call>", "\n", "\n\n", " ", "  ", "user", "Hello", "<", "|", ">", "<|eot_id|>", "<|begin_of_text|>", "[INST]", "<end_of_turn>", "<turn|>", "<｜User｜>", "é", "\u2581", "<|endoftext|>", "<0x0A>"]) for _ in range(1 + g.next(10))))
    for _ in range(150):  # camel case, contractions
        out.append("".join(g.pick(["foo", "Bar", "BAZ", "X", "y", "É", "ß", "'s", "'LL", "'", "’", "_", "-", " ", "1", "22", "ﬁ", "Ⅷ", "ǅ", "ʰ", "中", "Ω", "ж"]) for _ in range(1 + g.next(14))))
    return out


def byte_strings():
    """Invalid UTF-8: what the tokenizer must read as bytes.decode(errors="replace")."""
    g = Gen(7)
    out = [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe4\xb8", b"a\xe4\xb8", b"\xe4\xb8a", b"\xf0\x9f\x99", b"\x80", b"\xbf\xbf", b"ok\xffok", b"\xc3\xa9\xc3", b"\xf0\x9f\x99\x82\xf0\x9f"]
    for _ in range(120):
        out.append(bytes(g.pick([0x41, 0x20, 0xC3, 0xA9, 0xE4, 0xB8, 0xAD, 0xF0, 0x9F, 0x99, 0x82, 0xFF, 0x80, 0xED, 0xA0, 0x0A, 0xF4, 0x90]) for _ in range(1 + g.next(12))))
    return out


if __name__ == "__main__":
    print(len(strings()), len(byte_strings()), len(set(strings())))
