# SPDX-License-Identifier: Apache-2.0
"""`hearth eval` and `hearth adapter merge` from outside: numbers against a computation of our own over the logits that
`hearth logits` writes, llama.cpp's perplexity of a fixed text, files that are wrong."""

import json
import math
import os
import struct
import subprocess
from pathlib import Path

import numpy
import pytest
from gguf_tiny import tiny_model

ROOT = Path(__file__).resolve().parents[2]
HEARTH = str(Path(os.environ.get("HEARTH_TEST_BUILD", ROOT / "build")) / "hearth")
GOLDEN = json.loads((ROOT / "tests/golden/perplexity.json").read_text())
TEXT = "The sea was calm.\nhello, said the keeper of the light, and went to bed.\n\nIt rained all night long.\n"
CHATS = [
    {"messages": [{"role": "user", "content": f"Question {i}?"}, {"role": "assistant", "content": f"hello {i * i}"}]}
    for i in range(12)
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    file = tmp_path_factory.mktemp("model") / "tiny.gguf"
    file.write_bytes(tiny_model())
    return file


def run(*words):
    return subprocess.run([HEARTH, *map(str, words)], capture_output=True, text=True, timeout=300)


def told(*words):
    done = run(*words, "--json")
    assert done.returncode == 0, done.stderr
    text = done.stdout
    return json.loads(text if text.startswith("{\n") else text.splitlines()[-1])


def wrong(code, *words):
    done = run(*words)
    assert done.returncode == code and len(done.stderr.splitlines()) == 1, (done.returncode, done.stderr)
    return done.stderr


def nll_of(model, folder, ids):
    """Of each id behind the ones before it, by the logits in a file."""
    (folder / "ids").write_text(" ".join(map(str, ids)))
    done = run("logits", "-m", model, "--ids", folder / "ids", "--out", folder / "l.npy", "--exact")
    assert done.returncode == 0, done.stderr
    rows = numpy.load(folder / "l.npy").astype(numpy.float64)[:-1]
    rows -= rows.max(axis=1, keepdims=True)
    return numpy.log(numpy.exp(rows).sum(axis=1)) - rows[numpy.arange(len(ids) - 1), ids[1:]]


def ids_of(model, text):
    done = subprocess.run([HEARTH, "tokenize", "-m", str(model)], input=text, capture_output=True, text=True)
    return [int(i) for i in done.stdout.split()]


def test_perplexity_is_that_of_the_logits(tiny, tmp_path):
    (tmp_path / "t.txt").write_text(TEXT)
    ids = ids_of(tiny, TEXT)
    assert len(ids) < 128
    nll = nll_of(tiny, tmp_path, ids)
    got = told("eval", "ppl", tmp_path / "t.txt", "-m", tiny, "--exact")["files"][0]
    assert got["tokens"] == len(nll) and got["texts"] == 1 and got["words"] == len(TEXT.split())
    assert got["token_all"] == pytest.approx(math.exp(nll.mean()), rel=1e-9)
    assert got["seed_all"] == pytest.approx(got["token_all"])
    assert got["bytes"] == len(TEXT) - 1  # a first token without BOS is not scored
    assert got["bits_per_byte"] == pytest.approx(nll.sum() / math.log(2) / got["bytes"], rel=1e-9)
    assert got["word"] == pytest.approx(math.exp(nll.sum() / len(TEXT.split())), rel=1e-9)
    assert got["token_response"] is None and got["seed_response"] is None


def test_windows_and_chunks(tiny, tmp_path):
    (tmp_path / "t.txt").write_text(TEXT)
    ids = ids_of(tiny, TEXT)
    parts, at = [nll_of(tiny, tmp_path, ids[:32])], 32
    while at < len(ids):  # 8 more each, behind the 24 before them
        end = min(at + 8, len(ids))
        parts.append(nll_of(tiny, tmp_path, ids[end - 32:end])[-(end - at):])
        at = end
    got = told("eval", "ppl", tmp_path / "t.txt", "-m", tiny, "--exact", "--window", 32, "--stride", 8)["all"]
    assert got["tokens"] == len(ids) - 1
    assert got["token_all"] == pytest.approx(math.exp(numpy.concatenate(parts).mean()), rel=1e-9)
    halves = [nll_of(tiny, tmp_path, ids[c:c + 32])[16:] for c in range(0, len(ids) - 31, 32)]
    got = told("eval", "ppl", tmp_path / "t.txt", "-m", tiny, "--exact", "--window", 32, "--chunks")["all"]
    assert got["tokens"] == 15 * len(halves) and len(halves) >= 2
    assert got["token_all"] == pytest.approx(math.exp(numpy.concatenate(halves).mean()), rel=1e-9)


def test_seed_is_the_mean_over_texts(tiny, tmp_path):
    (tmp_path / "t.txt").write_text(TEXT)
    lines = [line for line in TEXT.split("\n") if line.strip()]
    each = [nll_of(tiny, tmp_path, ids_of(tiny, line)) for line in lines]
    got = told("eval", "ppl", "--lines", tmp_path / "t.txt", tmp_path / "t.txt", "-m", tiny, "--exact")
    one = got["files"][0]
    assert one["texts"] == 3 and got["all"]["texts"] == 6
    assert one["seed_all"] == pytest.approx(numpy.mean([math.exp(n.mean()) for n in each]), rel=1e-9)
    assert one["token_all"] == pytest.approx(math.exp(numpy.concatenate(each).mean()), rel=1e-9)
    assert got["all"]["token_all"] == pytest.approx(one["token_all"])
    assert got["all"]["bits_per_byte"] == pytest.approx(one["bits_per_byte"])


@pytest.fixture
def chats(tmp_path):
    file = tmp_path / "chats.jsonl"
    bad = "{\"half\": \n" + json.dumps({"messages": []}) + "\n"
    file.write_text("".join(json.dumps(c) + "\n" for c in CHATS) + bad)
    return file


def test_losses_of_records(tiny, chats):
    words = ("-m", tiny, "--template", "chatml", "--data", chats)
    done = run("eval", "loss", *words)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and len(lines) == len(CHATS)
    assert all(r["targets"] > 3 and r["loss"] == pytest.approx(r["nll"] / r["targets"]) for r in lines)
    assert [r["line"] for r in lines] == list(range(1, 13))
    assert "not valid JSON (first: line 13)" in done.stderr and "(first: line 14)" in done.stderr
    mean = sum(r["nll"] for r in lines) / sum(r["targets"] for r in lines)
    assert f"loss {mean:.6f}" in done.stderr
    # the same records as texts: their answers' perplexity is that loss
    got = told("eval", "ppl", chats, "-m", tiny, "--template", "chatml")["all"]
    assert got["token_response"] == pytest.approx(math.exp(mean)) and got["texts"] == len(CHATS)
    assert got["response_tokens"] == sum(r["targets"] for r in lines) < got["tokens"]
    held = run("eval", "loss", *words, "--held-out", "0.5").stdout.splitlines()
    assert 0 < len(held) < len(CHATS) and all(json.loads(r)["held_out"] for r in held)


def peft_folder(folder, seed):
    """An adapter for layer 0's down_proj of the tiny model, as PEFT writes one; values by hand."""
    folder.mkdir()
    rng = numpy.random.default_rng(seed)
    name = "base_model.model.model.layers.0.mlp.down_proj.lora_{}.weight"
    shapes = {"A": (2, 64), "B": (1024, 2)}
    parts = {name.format(half): rng.normal(size=shape).astype("<f4") for half, shape in shapes.items()}
    at, header = 0, {}
    for key, value in parts.items():
        header[key] = {"dtype": "F32", "shape": value.shape, "data_offsets": [at, at + value.nbytes]}
        at += value.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = struct.pack("<Q", len(text)) + text + b"".join(v.tobytes() for v in parts.values())
    (folder / "adapter_model.safetensors").write_bytes(data)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["down_proj"], "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_comparison(tiny, chats, tmp_path):
    words = ("-m", tiny, "--template", "chatml", "--data", chats, "--exact")
    same = told("eval", "compare", "base", "base", *words)
    assert same["difference"] == 0 and same["interval"] == [0, 0] and same["conversations"] == len(CHATS)
    adapter = peft_folder(tmp_path / "a", 1)
    one = told("eval", "compare", "base", adapter, *words)
    low, high = one["interval"]
    assert low < one["difference"] < high
    assert one["difference"] == pytest.approx(one["loss_b"] - one["loss_a"])
    assert one == told("eval", "compare", "base", adapter, *words)  # the same seed
    other = told("eval", "compare", adapter, "base", *words)
    assert other["difference"] == pytest.approx(-one["difference"])
    # an adapter in the model itself loses as much as beside it
    merged = tmp_path / "merged.gguf"
    done = told("adapter", "merge", adapter, "-m", tiny, "--out", merged, "--type", "f32")
    assert done["merged"] == 1 and done["rms_rounding"] == 0 < done["rms_change"]
    inside = told("eval", "loss", "-m", merged, "--template", "chatml", "--data", chats, "--exact")
    assert inside["loss"] == pytest.approx(one["loss_b"], rel=1e-5)


def test_merge_refuses(tiny, tmp_path):
    adapter, other = peft_folder(tmp_path / "a", 1), ROOT / "tests/golden/tiny-llama.gguf"
    out = tmp_path / "m.gguf"
    wrong(2, "adapter", "merge", adapter, "-m", tiny)
    wrong(65, "adapter", "merge", adapter, "-m", other, "--out", out)
    wrong(65, "adapter", "merge", adapter, "-m", tiny, "--out", out, "--type", "q9")
    assert not out.exists()
    run("adapter", "import", adapter, "--base", tiny, "--out", tmp_path / "a.gguf")
    changed = tmp_path / "changed.gguf"
    changed.write_bytes(tiny.read_bytes() + b"\0" * 32)
    assert "another base" in wrong(65, "adapter", "merge", tmp_path / "a.gguf", "-m", changed, "--out", out)
    both = told("adapter", "merge", f"{adapter}:0.5", adapter, "-m", tiny, "--out", out, "--type", "q4_k")
    assert both["merged"] == 1


def test_choices_and_answers(tiny, tmp_path):
    file = tmp_path / "c.jsonl"
    items = [{"ctx": "hello", "endings": ["hello", "zzzz"], "label": i % 2} for i in range(4)]
    file.write_text("".join(json.dumps(i) + "\n" for i in items) + "{}\n")
    done = run("eval", "choices", file, "-m", tiny, "--json", "--items")
    *each, last = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 0 and last["items"] == 4 and last["acc"] == 0.5
    assert last["skipped"] == {"a field is missing or of another kind": 1} and "(first: line 5)" in done.stderr
    assert len({tuple(i["log_p"]) for i in each}) == 1  # what is shared by prefix changes nothing
    file.write_text("".join(json.dumps({"prompt": "hello", "answer": "#### 7"}) + "\n" for _ in range(2)))
    got = told("eval", "gen", file, "-m", tiny, "--match", "strict", "--max-tokens", 4)
    assert got["items"] == 2 and got["nothing_taken"] == 2 and got["acc"] == 0


def test_what_is_wrong(tiny, tmp_path):
    empty, binary, prose = tmp_path / "empty", tmp_path / "binary", tmp_path / "prose"
    empty.write_bytes(b"")
    binary.write_bytes(bytes(range(256)))
    prose.write_text("Once.\n")
    for verb in ("ppl", "choices", "gen"):
        for file in (empty, binary):
            assert file.name in wrong(65, "eval", verb, file, "-m", tiny)
        wrong(66, "eval", verb, tmp_path / "none", "-m", tiny)
    for file in (empty, binary):
        assert file.name in wrong(65, "eval", "loss", "--data", file, "-m", tiny, "--template", "chatml")
    wrong(65, "eval", "choices", prose, "-m", tiny)
    wrong(65, "eval", "ppl", "--chunks", "--window", "64", prose, "-m", tiny)
    for option in ("--window", "--seq"):
        assert "made for at most 128" in wrong(2, "eval", "ppl", prose, option, "129", "-m", tiny)
    for words in (["dance"], ["ppl"], ["loss"], ["compare", "a", "--data", "x"], ["compare", "a", "b"], ["choices"],
                  ["ppl", prose, "--stride", "99", "--window", "64"], ["choices", prose, "--form", "round"],
                  ["gen", prose, "--match", "most"], ["gen", prose, "--match", "regex"],
                  ["gen", prose, "--pattern", "x"], ["ppl", prose, "--lines", "--chunks"]):
        assert run("eval", *words, "-m", tiny).returncode == 2, words


def test_perplexity_of_llama_cpp():
    """On a fixed text, by its protocol: `tests/golden/make_perplexity.py` asked llama-perplexity."""
    model = Path(os.environ.get("HEARTH_TEST_SMOLLM2") or Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "hearth/models", GOLDEN["model"]))
    if not model.exists():
        pytest.skip("no SmolLM2 model")
    for flags in ((), ("--exact",)):
        got = told("eval", "ppl", ROOT / GOLDEN["text"], "-m", model, "--chunks", *flags)["all"]
        assert got["tokens"] == GOLDEN["tokens"]
        assert got["token_all"] == pytest.approx(GOLDEN["perplexity"], rel=0.005)
