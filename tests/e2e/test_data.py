# SPDX-License-Identifier: Apache-2.0
"""`hearth data inspect` from outside: masks, counts, errors; and real files, whose counts another reading found."""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEARTH = str(Path(os.environ.get("HEARTH_TEST_BUILD", ROOT / "build")) / "hearth")
SHARED = ROOT.parent / "shared/data"
TINY = str(ROOT / "tests/golden/tiny-llama.gguf")
CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes.\x1b[31m"}]}

# file, format, records, turns, pairs, left out (all counted once more by Python's json and re)
REAL = (
    ("alpaca/alpaca_random_sample.json", "alpaca", 2393, 4786, 0, 1),
    ("dolly/dolly_filtered_sample.json", "dolly", 819, 1638, 0, 0),
    ("sharegpt/dummy_conversation.json", "sharegpt", 294, 884, 0, 206),
    ("sharegpt/sharegpt_zh_sample.jsonl", "sharegpt", 53, 354, 0, 17),
    ("sharegpt/glaive_toolcall_en_100.json", "sharegpt", 90, 676, 0, 10),
    ("oasst/en_trees.jsonl", "oasst", 52, 142, 149, 0),
    ("baize_ko/quora_chat_data.json", "baize", 96, 456, 0, 0),
    ("daily_dialog/dialogues_test.txt", "dailydialog", 1000, 7400, 0, 0),
    ("daily_dialog/dialogues_validation.txt", "dailydialog", 1000, 7702, 0, 0),
    ("preference/hh_harmless_base_test.jsonl", "preference", 450, 2280, 450, 1),
    ("self_instruct/seed_tasks.jsonl", "alpaca", 175, 350, 0, 0),
)


def run(*words):
    return subprocess.run([HEARTH, "data", *map(str, words)], capture_output=True, text=True, timeout=60)


def told(*words):
    done = run("inspect", "--json", *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name, form, records, turns, pairs, left_out", REAL)
def test_real_files(name, form, records, turns, pairs, left_out):
    if not (SHARED / name).exists():
        pytest.skip("no ../shared/data")
    file = told("--keep-duplicates", SHARED / name)["files"][0]
    assert (file["format"], file["records"], file["turns"], file["pairs"]) == (form, records, turns, pairs)
    assert sum(file["skipped"].values()) == left_out


def test_masks_are_visible(tmp_path):
    file = tmp_path / "chat.jsonl"
    file.write_text(json.dumps(CHAT) + "\n")
    done = run("inspect", "-m", TINY, "--template", "chatml", file)
    assert "<|im_start|>assistant\n\u27e6Yes.?[31m<|im_end|>\u27e7" in done.stdout
    assert "\x1b" not in done.stdout
    assert "user: Hi\nassistant: \u27e6Yes.?[31m\u27e7" in run("inspect", file).stdout


def test_weights_and_formats(tmp_path):
    file = tmp_path / "a:b.jsonl"
    file.write_text("".join(json.dumps({"input": f"question {i}", "target": f"answer {i}"}) + "\n" for i in range(400)))
    words = ("-m", TINY, "--template", "chatml", "--held-out", 0, "--seq", 128)
    whole = told(*words, file)
    half = told(*words, f"{file}:alpaca:0.5")
    assert whole["samples"] == half["samples"] == 400 and half["files"][0]["weight"] == 0.5
    assert 0.4 < half["epoch_tokens"] / whole["epoch_tokens"] < 0.6
    assert told(*words, f"{file}:2")["epoch_tokens"] == 2 * whole["epoch_tokens"]
    held = told("-m", TINY, "--template", "chatml", "--held-out", 0.25, file)["held_out"]
    assert 57 <= held <= 143  # 100, five sigma


def test_what_is_wrong(tmp_path):
    empty, binary = tmp_path / "empty.json", tmp_path / "binary.json"
    empty.write_bytes(b"")
    binary.write_bytes(bytes(range(256)))
    for file, cause, code in (
        (empty, "is empty", 65),
        (binary, "is not text", 65),
        (tmp_path / "absent.json", "absent.json", 66),
        (f"{binary}:alpca", "'alpca'", 2),
        (f"{binary}:text:-1", "'text:-1'", 2),
    ):
        done = run("inspect", file)
        assert done.returncode == code and done.stderr.count("\n") == 1
        assert cause in done.stderr and (code == 2 or file.name in done.stderr)
    done = run("inspect", "--template", "no", binary)
    assert done.returncode == 2 and "no template 'no'; known: raw chatml " in done.stderr
    assert run("import", empty).returncode == 2  # a name and files
    assert run("inspect").returncode == run("inspect", "--mask", "no", empty).returncode == 2
