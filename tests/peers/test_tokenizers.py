# SPDX-License-Identifier: Apache-2.0
"""Token ids against `tokenizers`, `sentencepiece` and llama.cpp: public texts, made-up vocabularies."""
import random
import struct
from collections import Counter

import pytest
import text_oracles as oracles
from peers import BUILD, HEARTH, ROOT, SHARED, llama_folder, model_path, run

LOSSY_BYTES = b"\x04\x06\x13\x14\x16\x1d\xf1\xf2"  # SmolLM2 has no tokens for these


@pytest.fixture(scope="module")
def tokenize_all(tmp_path_factory):
    """texts, model -> [(ids, decoded bytes)]"""
    program = tmp_path_factory.mktemp("tokenize") / "tokenize_all"
    oracles.compile_helper(ROOT, BUILD, "tokenize_all.c", program)

    def call(texts, model):
        data = b"".join(struct.pack("<I", len(text)) + text for text in texts)
        out, at, results = run(program, model, input=data), 0, []
        for _ in texts:
            (n,) = struct.unpack_from("<I", out, at)
            ids = list(struct.unpack_from(f"<{n}i", out, at + 4))
            at += 4 + 4 * n
            (n,) = struct.unpack_from("<I", out, at)
            results.append((ids, out[at + 4 : at + 4 + n]))
            at += 4 + n
        assert at == len(out)
        return results

    return call


def keeps(name, text):
    """Whether the vocabulary can give this text back."""
    if name == "smollm2":
        return not any(byte in LOSSY_BYTES for byte in text.encode())
    return oracles.MARK not in text


def compare(name, encode, texts, results):
    counts, first = Counter(), None
    for (source, text), (ids, back) in zip(texts, results):
        expected = encode(text)
        counts[source, "texts"] += 1
        counts[source, "tokens"] += len(expected)
        if ids != expected or (back == text.encode()) != keeps(name, text):
            counts["differences"] += 1
            first = first or (source, text[:80], expected[:20], ids[:20])
    print(name, dict(counts))
    assert counts["differences"] == 0, first


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_public_texts(name, tokenize_all):
    if not SHARED.is_dir():
        pytest.skip("the public texts are absent")
    model = model_path(name)
    texts = list(oracles.texts(SHARED))
    assert {source for source, _ in texts} == {"torture", "udhr", "alpaca", "daily_dialog"}
    results = tokenize_all([text.encode() for _, text in texts], model)
    compare(name, oracles.oracle(oracles.Vocabulary(model)), texts, results)


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_random_texts(name, tokenize_all):
    model = model_path(name)
    draw = random.Random(1)
    parts = ["a", "The", " the", "ing", "é", "ſ", "'", "'s", "'LL", " ", "  ", "\n", "\r\n", "\t", "\u00a0"]
    parts += ["\u3000", "1", "23", "٣", "Ⅷ", "!", "...", "$", "_", "日本", "한", "😀", "\u200d", "\u0301", "\x00"]
    parts += ["<", "</", "<td>", "</td>", "<h1>", "<|im_end|>", "<bos>", "<0x0A>", "\n" * 5]
    parts += [" " * 31, " " * 40, "\U00010d41", "\U00011de1"]
    texts = []
    for i in range(6000):
        if i % 6:
            text = "".join(draw.choice(parts) for _ in range(draw.randrange(1, 30)))
        else:
            points = (draw.choice([draw.randrange(0x20, 0x3000), draw.randrange(0xE000, 0x110000), 32, 10])
                      for _ in range(draw.randrange(1, 40)))
            text = "".join(map(chr, points))
        texts.append(("random", text))
    results = tokenize_all([text.encode() for _, text in texts], model)
    compare(name, oracles.oracle(oracles.Vocabulary(model)), texts, results)


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_invalid_utf8_round_trip(name, tokenize_all):
    """Bytes that are no text come back, but for those that the vocabulary lacks."""
    model = model_path(name)
    lacking = set(LOSSY_BYTES + bytes([0xC0, 0xC1, *range(0xF5, 0x100)])) if name == "smollm2" else set()
    allowed = [byte for byte in range(256) if byte not in lacking]
    draw = random.Random(2)
    texts = [bytes(draw.choices(allowed, k=draw.randrange(1, 60))) for _ in range(3000)]
    texts = [text for text in texts if oracles.MARK.encode() not in text]
    for text, (_, back) in zip(texts, tokenize_all(texts, model)):
        assert back == text


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_command_line(name):
    """`hearth tokenize` and its --decode, as scripts call them."""
    model = model_path(name)
    encode = oracles.oracle(oracles.Vocabulary(model))
    for text in ["Hello, world!", "  two  spaces\n\n<b>1234</b> 日本語 😀", "<|im_end|><end_of_turn>"]:
        out = run(HEARTH, "tokenize", "-m", model, input=text.encode())
        assert [int(i) for i in out.split()] == encode(text)
        assert run(HEARTH, "tokenize", "-m", model, "--decode", input=out).rstrip(b"\n") == text.encode()


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_llama_cpp(name, tokenize_all, tmp_path):
    """A second witness, on whole files."""
    if not SHARED.is_dir():
        pytest.skip("the public texts are absent")
    model, program = model_path(name), llama_folder() / "llama-tokenize"
    files = sorted((SHARED / "udhr").glob("*.txt")) + sorted((SHARED / "tokenizer_torture").glob("*.txt"))
    texts = [path.read_bytes().replace(b"\x00", b"") for path in files]
    if name == "smollm2":  # llama.cpp lets neighbours of a lacking byte not merge
        texts = [bytes(byte for byte in text if byte not in LOSSY_BYTES) for text in texts]
    different = []
    for path, text, (ids, _) in zip(files, texts, tokenize_all(texts, model)):
        part = tmp_path / "text"
        part.write_bytes(text)
        flags = ["--ids", "--no-bos", "--no-parse-special", "--no-escape", "--log-disable"]
        out = run(program, "-m", model, "-f", part, *flags).decode()
        if [int(i) for i in out.strip().strip("[]").split(",")] != ids:
            different.append(path.name)
    assert not different


def synthetic(draw):
    """A small SentencePiece model: pieces, scores, types, dummy prefix."""
    dummy = draw.random() < 0.5
    pieces = [("<unk>", 2, 0.0), ("<s>", 3, 0.0), ("</s>", 3, 0.0)]
    if draw.random() < 0.6:
        pieces += [(f"<0x{byte:02X}>", 6, 0.0) for byte in range(256)]
    seen = {piece for piece, _, _ in pieces}

    def add(piece, kind, score):
        if piece not in seen:
            seen.add(piece)
            pieces.append((piece, kind, score))

    if not dummy:
        special = ["<x>", "ab", "\u2581\u2581", "\u2581\u2581\u2581", "<x", "cc", "\u2581a"]
        for piece in draw.sample(special, draw.randrange(4)):
            add(piece, 4, 0.0)
    alphabet = [oracles.MARK, "a", "b", "c", "é"]
    for piece in alphabet[: draw.randrange(2, 6)]:
        add(piece, 1, -float(draw.randrange(30)))
    unused = draw.random() < 0.4
    for _ in range(draw.randrange(5, 60)):
        piece = "".join(draw.choice(alphabet) for _ in range(draw.randrange(2, 6)))
        add(piece, 5 if unused and draw.random() < 0.3 else 1, -float(draw.randrange(12)))
    return pieces, dummy


def test_synthetic_sentencepiece(tokenize_all, tmp_path):
    """Ties, unused pieces, unknown text, dummy prefixes, user-defined pieces: made-up vocabularies."""
    import gguf
    import sentencepiece

    draw = random.Random(3)
    for _ in range(40):
        pieces, dummy = synthetic(draw)
        names, types, scores = ([row[i] for row in pieces] for i in range(3))
        processor = sentencepiece.SentencePieceProcessor()
        processor.LoadFromSerializedProto(oracles.model_proto(names, scores, types, 0, dummy))
        path = tmp_path / "tiny.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_tokenizer_model("llama")
        writer.add_token_list(names)
        writer.add_token_scores(scores)
        writer.add_token_types(types)
        writer.add_unk_token_id(0)
        writer.add_add_space_prefix(dummy)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        texts = ["".join(draw.choice(["a", "b", "c", " ", " ", "é", "z", "日", "<x>", "ab", "cc", "  "])
                         for _ in range(draw.randrange(1, 25))) for _ in range(200)]
        for text, (ids, _) in zip(texts, tokenize_all([text.encode() for text in texts], path)):
            assert ids == processor.EncodeAsIds(text), (text, pieces)
