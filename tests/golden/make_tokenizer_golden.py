#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tokenizer_smollm.json, tokenizer_gemma.json and pre_tokenizer.json beside this file.

usage: make_tokenizer_golden.py DIR    (DIR holds the two GGUF files named below)
needs: pip install gguf tokenizers sentencepiece

The ids come from the libraries the models were made with, fed with the vocabulary of the GGUF file:
SmolLM2 from `tokenizers`, Gemma 3 from `sentencepiece` (its model file is rebuilt here).
"""
import json
import re
import struct
import sys
from pathlib import Path

import sentencepiece
from gguf import GGUFReader
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

SMOLLM = "SmolLM2-135M-Instruct.Q4_1.gguf"
GEMMA = "gemma-3-270m-q4_k_m.gguf"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

TEXTS = [
    "",
    " ",
    "Hello world",
    " Hello  world   and    more     spaces ",
    "trailing spaces   ",
    "   leading",
    "tab\tand\t\ttabs \t mixed\t ",
    "line\nbreak\n\nparagraph\n\n\n\nfour",
    "dos\r\nlines\r\n\r\nend\r",
    " \n \n  x \r\n\t\n",
    "\n",
    "12345 007 3.14159 1,000,000 2024-11-23 0xFF 1e-9",
    "\u0661\u0662\u0663 \u096a\u096b \u2167 \u00bd \u00b2\u00b3 \u2460",
    "I'm you're he'll they've she'd it's don't",
    "I'M YOU'RE HE'LL THEY'VE SHE'D IT'S DON'T",
    "'tis rock'n'roll O'Neil ''s 'S \u2019s '\u017f 'Re",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002",
    "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c \u30ab\u30bf\u30ab\u30ca \ud55c\uad6d\uc5b4 \ub9d0",
    "\U0001f600 \U0001f44d\U0001f3fd \U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1e9\U0001f1ea \u2764\ufe0f",
    "caf\u00e9 cafe\u0301 n\u0303 a\u0308\u0323 \u1e69 s\u0323\u0307 Z\u0351\u036b\u0343algo",
    "\u0915\u094d\u0937\u0947\u0924\u094d\u0930 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u0ba4\u0bae\u0bbf\u0bb4\u0bcd",
    "non\u00a0breaking\u00a0\u00a0space \u2003em\u2003 \u3000ideographic",
    "zero\u200bwidth\u200c\u200djoiner\ufeffbom \u00adsoft \u180emongolian\u180e",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd \u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 \u202eabc\u202c",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0393\u03b5\u03b9\u03ac \u03a3\u03bf\u03c5 \u10d2\u10d0\u10db\u10d0\u10e0\u10ef\u10dd\u10d1\u10d0",
    "def f(x):\n    return x**2  # square\n\n\tif (a != b) { c += d->e[0]; }\n",
    "#include <vector>\ntemplate<class T> T&& f(T&&...);//x\n/* y */",
    "<div class=\"a\">\n  <b>bold</b> &amp; <s>struck</s></div>",
    "{\"key\": [1, 2.5, null], \"\\u00e9\": \"\\n\"}",
    "https://example.org/a_b-c?d=e%20f&g#h  user@mail.com C:\\path\\file",
    "CamelCase snake_case SCREAMING_CASE kebab-case mixed123abc 4K 3D",
    "!!! ??? ... --- ___ *** ### @@@ $$$ %%% ^^^ &&& ((( ))) [[[ ]]] ;;; :::",
    "a" * 70 + " " + "ab" * 40 + " " + "=" * 65 + " " * 40 + "x" + "\n" * 35,
    "supercalifragilisticexpialidocious antidisestablishmentarianism pneumonoultramicroscopic",
    "\u222b\u2080^\u221e e^{\u2212x\u00b2} dx = \u221a\u03c0/2 \u2211 \u2200x\u2208\u211d \u21d2 \u22a5",
    "\u201cquoted\u201d \u2018single\u2019 \u00abguillemets\u00bb \u2014 dash \u2013 en\u2026",
    "\u0000\u0001\u0007\u001b[0m\u007f\u0085\u2028\u2029\ue000\ufffd\U0010ffff\U000e0041",
    "\u0130stanbul \u00dfTRASSE \ufb01nd \u01c5 \u24b6\u24d0 \U0001d400\U0001d44e \uff21\uff42\uff11",
    "\U00020000\U0002a6d6 \U00010400 \U00012000 \U0001f9ff\U0001fae0",
    "a\u2581b \u2581 \u2581\u2581",
    "<0x0A> <0xFF> [UNK] <pad> <unk> <mask>",
]
SMOLLM_SPECIAL = [
    "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|><|endoftext|> <|im_start|><|im_end <|im_end|>|>",
    "a<file_sep>b <repo_name> c<reponame>d<gh_stars>1000+<empty_output>",
]
GEMMA_SPECIAL = [
    "<start_of_turn>user\nHi there<end_of_turn>\n<start_of_turn>model\n",
    "<bos><bos>x <eos> y<pad><unused12><unused1>2<unk>",
    "<start_of_image><end_of_turn <end_of_turn>></s><h1>[multimodal] [@BOS@]",
]

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
WORDS = [r"[^\r\n\p{L}\p{N}]?" + word for word in (f"{UPPER}*{LOWER}+", f"{UPPER}+{LOWER}*")]
CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
AFTER_NUMBERS = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = "|".join(WORDS) + r"|\p{N}" + AFTER_NUMBERS
GPT4O = "|".join(w + CONTRACTION for w in WORDS) + r"|\p{N}{1,3}" + AFTER_NUMBERS


def split_by(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def fields(path):
    reader = GGUFReader(path)
    return lambda key: reader.fields[f"tokenizer.ggml.{key}"].contents()


def write(name, value):
    """One case a line."""
    path = Path(__file__).parent / name
    head = {k: v for k, v in value.items() if k != "cases"}
    lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in value["cases"])
    path.write_text(json.dumps(head)[:-1] + ', "cases": [\n' + lines + "\n]}\n")
    print(path, path.stat().st_size)


def cases(texts, special_texts, encode):
    for text in texts + special_texts:
        case = {"text": text, "ids": encode(text, True)}
        if (plain := encode(text, False)) != case["ids"]:
            case["plain_ids"] = plain  # without parse_special
        yield case


def smollm(path):
    get = fields(path)
    tokens = get("tokens")
    merges = [tuple(m.split(" ", 1)) for m in get("merges")]

    def build():
        tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ])
        return tokenizer

    plain, special = build(), build()
    special.add_special_tokens([
        AddedToken(t, special=True, normalized=False)
        for t, kind in zip(tokens, get("token_type")) if kind == CONTROL
    ])
    encode = lambda text, parse: (special if parse else plain).encode(text).ids
    write("tokenizer_smollm.json",
          {"model": SMOLLM, "cases": list(cases(TEXTS, SMOLLM_SPECIAL, encode))})


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def field(number, value):
    """A protobuf field: bytes, float or unsigned integer."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3) + varint(value)


def merge_by_score(text, tokens, scores, types):
    """SentencePiece's BPE by its definition, in quadratic time: a check of the oracle itself."""
    ids = {t: i for i, t in enumerate(tokens) if types[i] in (NORMAL, USER_DEFINED, UNUSED)}
    text = text.replace(" ", "\u2581")
    frozen = [t.replace(" ", "\u2581") for t, kind in zip(tokens, types) if kind == USER_DEFINED]
    ids |= {t.replace(" ", "\u2581"): ids[t] for t, kind in zip(tokens, types) if kind == USER_DEFINED}
    frozen = re.compile("|".join(re.escape(t) for t in sorted(frozen, key=len, reverse=True)))
    out, done = [], 0
    for begin, end in [m.span() for m in frozen.finditer(text)] + [(len(text), len(text))]:
        symbols, done = list(text[done:begin]), end
        while True:
            pairs = [(-scores[ids[a + b]], i)
                     for i, (a, b) in enumerate(zip(symbols, symbols[1:])) if a + b in ids]
            if not pairs:
                break
            at = min(pairs)[1]
            symbols[at:at + 2] = [symbols[at] + symbols[at + 1]]
        for symbol in symbols:
            if symbol in ids:
                out.append(ids[symbol])
            else:
                out += [tokens.index(f"<0x{byte:02X}>") for byte in symbol.encode()]
        out += [ids[text[begin:end]]] if begin < end else []
    return out


def gemma(path):
    get = fields(path)
    tokens, scores, types = get("tokens"), get("scores"), get("token_type")
    unknown = get("unknown_token_id")
    model = b""
    for i, (token, score, kind) in enumerate(zip(tokens, scores, types)):
        if kind == USER_DEFINED:
            token = token.replace(" ", "\u2581")  # as Gemma's own file spells them
        kind = UNKNOWN if i == unknown else kind
        model += field(1, field(1, token.encode()) + field(2, float(score)) + field(3, kind))
    trainer = field(3, 2) + field(35, 1)  # model_type BPE, byte_fallback
    for number, key in ((40, "unknown"), (41, "bos"), (42, "eos"), (43, "padding")):
        trainer += field(number, get(f"{key}_token_id"))
    # identity, no dummy prefix, spaces kept and escaped
    normalizer = field(1, b"identity") + field(3, 0) + field(4, 0) + field(5, 1)
    processor = sentencepiece.SentencePieceProcessor(
        model_proto=model + field(2, trainer) + field(3, normalizer))
    control = {t: i for i, (t, kind) in enumerate(zip(tokens, types)) if kind == CONTROL}
    pattern = re.compile("|".join(re.escape(t) for t in sorted(control, key=len, reverse=True)))

    def encode(text, parse):
        if not parse:
            return processor.encode(text)
        ids, done = [], 0
        for match in pattern.finditer(text):
            ids += processor.encode(text[done:match.start()]) + [control[match.group()]]
            done = match.end()
        return ids + processor.encode(text[done:])

    for text in TEXTS:
        assert merge_by_score(text, tokens, scores, types) == processor.encode(text), text
    write("tokenizer_gemma.json",
          {"model": GEMMA, "cases": list(cases(TEXTS, GEMMA_SPECIAL, encode))})


def splits():
    families = {
        "gpt-2": split_by(GPT2),
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(True), split_by(GPT2)]),
        "llama-bpe": split_by(LLAMA3),
        "qwen2": split_by(QWEN2),
        "qwen35": split_by(QWEN35),
        "tekken": split_by(TEKKEN),
        "gpt-4o": split_by(GPT4O),
    }
    # Bytes of each piece; the text is the same for all families.
    value = [{"text": text} | {name: [len(piece.encode()) for piece, _ in rule.pre_tokenize_str(text)]
                               for name, rule in families.items()} for text in TEXTS]
    write("pre_tokenizer.json", {"families": list(families), "cases": value})


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    splits()
    smollm(Path(sys.argv[1]) / SMOLLM)
    gemma(Path(sys.argv[1]) / GEMMA)
