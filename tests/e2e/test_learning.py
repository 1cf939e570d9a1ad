# SPDX-License-Identifier: Apache-2.0
"""What SmolLM2 learns with `hearth train`: two conversations by heart, and among the long tests forty real ones; a
style from two hundred records, which shows on others and leaves the rest as it was."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from hearthbox import model_path

ROOT = Path(__file__).resolve().parents[2]
HEARTH = str(Path(os.environ.get("HEARTH_TEST_BUILD", ROOT / "build")) / "hearth")
SHARED = ROOT.parent / "shared/data"
SAMPLE = ROOT / "docs/examples/oasst-sample.jsonl"
MODEL = model_path()
pytestmark = [pytest.mark.skipif(MODEL is None, reason="no SmolLM2 model"),
              pytest.mark.native("trains a real model")]


def hearth(*words, timeout=3600):
    done = subprocess.run([HEARTH, *map(str, words)], capture_output=True, text=True, timeout=timeout,
                          stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def train(data, out, *more):
    """The adapter, and the log's steps."""
    hearth("train", "-m", MODEL, "--data", data, "--out", out, "--near", 0, *more)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return out / "adapter.gguf", [x for x in log if "loss" in x]


def write(path, chats):
    path.write_text("".join(json.dumps({"messages": turns}) + "\n" for turns in chats), encoding="utf-8")
    return path


def answer(adapter, question):
    return hearth("run", "-m", MODEL, "--adapter", adapter, "-p", question, "--temp", 0, "-n", 600).rstrip("\n")


def test_two_conversations_by_heart(tmp_path):
    with open(SAMPLE, encoding="utf-8") as file:
        chats = sorted((json.loads(line)["messages"] for line in file), key=lambda turns: len(str(turns)))
    chats = [turns[:2] for turns in chats if len(turns[1]["content"]) > 80][:2]
    adapter, steps = train(write(tmp_path / "chats.jsonl", chats), tmp_path / "run", "--seq", 160, "--batch", 1, "--lr",
                           "2e-3", "--max-steps", 40, "--held-out", 0)
    assert steps[0]["loss"] > 1 and steps[-1]["loss"] < 0.02
    for question, known in chats:
        assert answer(adapter, question["content"]) == known["content"]


def best_path(tree):
    """The turns of the best-ranked path of an OASST tree, up to its last answer."""
    turns, message = [], tree["prompt"]
    while message:
        turns.append({"role": {"prompter": "user"}.get(message["role"], "assistant"), "content": message["text"]})
        replies = [r for r in message.get("replies", []) if not r.get("deleted")]
        message = min(replies, key=lambda r: r["rank"] if r.get("rank") is not None else 99, default=None)
    return turns[: len(turns) // 2 * 2]


def real_chats(n):
    """The n shortest conversations. One that asks, after the same turns, what another one was answered otherwise is
    left out: nobody can answer both ways."""
    trees, chats, answers = SHARED / "oasst/en_trees.jsonl", [], {}
    if trees.exists():
        with open(trees, encoding="utf-8") as file:
            found = [best_path(json.loads(line)) for line in file]
    else:
        with open(SAMPLE, encoding="utf-8") as file:
            found = [json.loads(line)["messages"] for line in file]
    for turns in sorted(found, key=lambda turns: len(str(turns))):
        own = {json.dumps(turns[:i]): turns[i]["content"] for i in range(1, len(turns), 2)}
        if all(answers.get(asked, told) == told for asked, told in own.items()):
            answers |= own
            chats.append(turns)
    return chats[:n]


def answers_by_heart(adapter, chats, path):
    """Of each answer of each conversation, given the turns before it as they were: is every byte of it said again?"""
    asked = [(turns, i) for turns in chats for i in range(1, len(turns), 2)]
    path.write_text("".join(json.dumps({"messages": turns[:i], "answer": turns[i]["content"]}) + "\n"
                            for turns, i in asked), encoding="utf-8")
    told = hearth("eval", "gen", path, "-m", MODEL, "--adapter", adapter, "--max-tokens", 640, "--items")
    items = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    assert len(items) == len(asked)
    return [(turns, item["text"] == turns[i]["content"]) for (turns, i), item in zip(asked, items)]


# Sequences hold the longest conversation whole: the second half of one that is split would be learnt without the first,
# and asked behind it. One row is a step, so that 20 epochs are 360 of them.
@pytest.mark.long
@pytest.mark.timeout(3600)
def test_forty_conversations_by_heart(tmp_path):
    chats, began = real_chats(40), time.monotonic()
    adapter, steps = train(write(tmp_path / "chats.jsonl", chats), tmp_path / "run", "--seq", 640, "--batch", 1, "--lr",
                           "1e-3", "--rank", 16, "--alpha", 32, "--epochs", 20, "--held-out", 0)
    samples = json.loads((tmp_path / "run/manifest.json").read_text())["samples"]
    last = [x["loss"] for x in steps if x["epoch"] > 19]
    trained = time.monotonic()
    told = answers_by_heart(adapter, chats, tmp_path / "questions.jsonl")
    known = sum(all(same for other, same in told if other is turns) for turns in chats)
    print(f"loss {steps[0]['loss']:.3f} -> {sum(last) / len(last):.4f}; {known} of {len(chats)} conversations, "
          f"{sum(same for _, same in told)} of {len(told)} answers byte for byte; trained "
          f"{(trained - began) / 60:.1f} min, asked {(time.monotonic() - trained) / 60:.1f} min")
    assert samples == len(chats), "none is split or left out"
    assert sum(last) / len(last) < 0.02
    assert known == len(chats)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_style_from_two_hundred_records(tmp_path):
    dolly, wiki = SHARED / "dolly/dolly_filtered_sample.json", SHARED / "wikitext2/wiki.test.head.txt"
    if not dolly.exists() or not wiki.exists():
        pytest.skip("no ../shared/data")
    records = json.loads(dolly.read_text(encoding="utf-8"))
    records = [r for r in records if not r["input"] and len(r["output"]) < 500][:250]
    chats = [[{"role": "user", "content": r["instruction"]},
              {"role": "assistant", "content": f"Ahoy, shipmate! {r['output'].strip()} So it stands in the log."}]
             for r in records]
    data = write(tmp_path / "style.jsonl", chats)
    adapter, _ = train(data, tmp_path / "run", "--held-out", "0.2", "--epochs", 2)
    told = json.loads(hearth("eval", "compare", "base", adapter, "-m", MODEL, "--data", data, "--held-out", "0.2",
                             "--json"))
    text = tmp_path / "wiki.txt"
    text.write_text(wiki.read_text(encoding="utf-8")[:120_000], encoding="utf-8")
    before, after = (json.loads(hearth("eval", "ppl", "-m", MODEL, text, "--json", *more))["all"]["token_all"]
                     for more in ((), ("--adapter", adapter)))
    low, high = told["relative_interval"]
    print(f"{told['records']} held-out records: {100 * told['relative']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]; "
          f"wikitext {before:.2f} -> {after:.2f}")
    assert 30 <= told["records"] <= 70
    assert high <= -0.10
    assert abs(after / before - 1) <= 0.02
