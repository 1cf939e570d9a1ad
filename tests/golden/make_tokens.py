#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/tokens.txt: texts of our own, made to be hard, and what the reference libraries make of them.

Needs tokenizers, sentencepiece, gguf and both models (HEARTH_TEST_SMOLLM2, HEARTH_TEST_GEMMA3). Lines:
  text HEX              a text, in order
  ids NAME / a line of ids for each text
  pieces NAME / a line of byte lengths for each text: how that pre-tokenizer cuts it
"""
import random
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "peers"))
import text_oracles as oracles  # noqa: E402

BY_HAND = [
    "", " ", "  ", "   ", "\n", "\n\n", " \n", "\n ", " \n \n  x", "\t", "\t\tx", "\r\n\r\n", "\r", "a\r\nb\n\n\nc",
    "Hello, world!", "hello", " hello", "  hello", "hello  world   again    ", "hello\nworld\n", "\u00a0x\u2003y\u3000z",
    "I'm you're he's we'll they'd I've can't", "I'M YOU'RE HE'S WE'LL THEY'D", "'s's 's ''s '", "x'\u017fx", "rock 'n' roll",
    "0", "12", "123", "1234", "12345678", "3.14159", "1,000,000", "x1y22z333", "a 1 b  2 c   3", "\u0663\u0664\u0665", "\u2167 \u00bd \u00b2",
    "...", "!?!?", "a,b;c:d", "--- -- -", "$5 + \u20ac6 = \u00a311", "a_b-c/d\\e|f", "<<>>", "(((a)))", "`x` ~y~ ^z^", "#!@%&*",
    "def f(x):\n    return x ** 2  # square\n\n\nprint(f(3))\n", "if (a<b && c>d) { return a[i++]; }", "SELECT * FROM t WHERE x='1';",
    "{\"key\": [1, 2.5, null], \"s\": \"\\n\"}", "https://example.org/a/b?c=d&e=f#g", "user@example.org", "C:\\dir\\file.txt",
    "<table><tr><td>1</td></tr></table>", "<h1>Title</h1><p>text</p>", "</s></h1></b>", "<b>bold</b> and <i>it</i>", "< b >", "<<b>>",
    "<|im_start|>user\nhi<|im_end|>", "<start_of_turn>user\nhi<end_of_turn>", "<bos><eos><pad><unk>", "<|endoftext|>", "[multimodal]",
    "[multimodal", "<unused1>", "<0x0A>", "<0x41><0x-1>", "<mask> <s> </s>", "[INST] x [/INST]",
    "\u2581", "\u2581\u2581a", "a\u2581b", "\u0120a\u010a", "\u00c3\u00a9 vs \u00e9",
    " " * 15, " " * 31, " " * 32, " " * 63 + "x", "\n" * 30, "\n" * 31, "\n" * 32, "\n" * 63, "a" * 100, "ab" * 50, "=" * 80, "." * 33, "\t" * 9,
    "Gr\u00fc\u00dfe aus K\u00f6ln", "\u00c9cole fran\u00e7aise, na\u00efve", "e\u0301 e\u0301\u0301 n\u0303", "\u017b\u00f3\u0142\u0107", "\u0130\u0131", "\ufb01\ufb02 \ufb05",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!", "\u0393\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5 \u039a\u03cc\u03c3\u03bc\u03b5", "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd", "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645", "\u0647\u0670\u0630\u064e\u0627",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01", "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3067\u3059\u3002", "\ud55c\uad6d\uc5b4 \ubb38\uc7a5", "\u1112\u1161\u11ab", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01", "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
    "\u1a20\u1a61\u1a3e", "\u10d2\u10d0\u10db\u10d0\u10e0\u10ef\u10dd\u10d1\u10d0", "\u0562\u0561\u0580\u0587", "\u12a0\u121b\u122d\u129b", "\u1019\u103c\u1014\u103a\u1019\u102c", "\ua4d0\ua4d1", "\U00012000\U00012001", "\U00020000\U0002a6d6", "\U0002ebf0\U00031350",
    "\U0001f600", "\U0001f600\U0001f600\U0001f600", "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7", "\U0001f44d\U0001f3fd", "\u2764\ufe0f", "1\ufe0f\u20e3", "\U0001f3f4\U000e0067\U000e0062\U000e007f",
    "\u200b\u200c\u200d\u2060\ufeff", "a\u200bb", "\u202eabc\u202c", "\u00ad\u034f", "x\u0300\u0301\u0302\u0303\u0304y", "\u2028\u2029\u0085", "\u180e\u1680",
    "\x00", "a\x00b", "\x01\x02\x03\x05\x07\x08", "\x0b\x0c\x1c\x1d\x1e\x1f\x7f", "\x04\x06\x13\x14\x16\x1d", "\x80\x9f\xa0", "\ufffd", "\ufffe\uffff", "\ue000\U000f0000\U0010ffff",
    "\U00010d40\U00010d41", "\U00011de0\U00016ff4", "\u1c89\u1c8a\ua7cb", "\u1b4e\u1b7f", "\U0001e030\U0001e04f", "\u0378\u0379\U0001fffe",
    "The capital of France is Paris.", "It was the best of lines, it was the worst of lines.", "O'Neill's 2nd-best co-op isn't re-elected.",
    "Mixed \u4e2d\u6587 and English 123\u6587\u5b57 text", "camelCaseWord snake_case_word SCREAMING_CASE", "antidisestablishmentarianism",
    "a\u0301bc d\u0301ef", "  leading and trailing  ", "tab\tseparated\tvalues\n1\t2\t3\n", "1. one\n2. two\n   - three\n", "x = [i for i in range(10)]",
]
PARTS = ["a", "b", "The", " the", "ing", "\u00e9", "\u017f", "'", "'s", "'LL", "'Re", " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "1", "23", "456",
         "\u0663", "\u2167", "!", "?", "...", "$", "+", "_", "-", "\u65e5", "\u672c", "\ud55c", "\U0001f600", "\u200d", "\u0301", "\ufeff", "<", ">", "</",
         "<td>", "</td>", "<|im_end|>", "  \n", "\n\n\n", "^", "|", "`", "\u2581", "\U00010d41", "\U0002ebf1", "of", "and"]


def texts():
    draw = random.Random(20)
    mixed = ["".join(draw.choice(PARTS) for _ in range(draw.randrange(2, 16))) for _ in range(120)]
    return BY_HAND + mixed


def splitters():
    from tokenizers import Regex, pre_tokenizers

    def split(pattern):
        return pre_tokenizers.Split(Regex(pattern), "isolated")

    gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    llama3 = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    default = [r"[\p{P}\$\+<=>\^~\|]+", gpt2, r"\p{N}+", r"[0-9][0-9][0-9]"]
    return {
        "gpt-2": split(gpt2),
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), split(gpt2)]),
        "llama-bpe": split(llama3),
        "qwen2": split(llama3.replace("{1,3}", "")),
        "default": pre_tokenizers.Sequence([split(pattern) for pattern in default]),
    }


def main():
    lines = ["text " + text.encode().hex() for text in texts()]
    for name in oracles.NAMES:
        path = oracles.model_path(name)
        if not path:
            sys.exit(f"make_tokens.py: the model {name} is absent")
        encode = oracles.oracle(oracles.Vocabulary(path))
        lines.append(f"ids {name}")
        lines += [" ".join(map(str, encode(text))) for text in texts()]
    for name, splitter in splitters().items():
        lines.append(f"pieces {name}")
        for text in texts():
            cut = splitter.pre_tokenize_str(text) if text else []
            lines.append(" ".join(str(len(piece.encode())) for piece, _ in cut))
    (HERE / "tokens.txt").write_text("\n".join(lines) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
