#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How training and answering get along: first token of a question when idle and during training, the share of the time
that a request every second leaves which training takes, the longest slice. JSON on stdout.

    python tests/e2e/train_beside.py [--seconds 25] [--model FILE] [--template NAME] [--seq 512]
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

from hearthbox import BUILD, Box, model_path
from python_client import RequestFailed

WORDS = "the box learns at night from what was said by day and tells nobody of it while the house sleeps".split()


def write_records(path, n, n_words):
    draw = random.Random(7)
    with open(path, "w") as out:
        for i in range(n):
            text = " ".join(draw.choice(WORDS) for _ in range(n_words))
            turns = [{"role": "user", "content": f"Tell me of {i}."}, {"role": "assistant", "content": text}]
            out.write(json.dumps({"messages": turns}) + "\n")


def first_token_ms(client, i):
    """From sending a question to its first piece of text, and until its end."""
    sampling = {"temperature": {"value": 0}, "max_tokens": {"value": 16}}
    began, first = time.monotonic(), None
    client.call("chat", text=f"What is {i} plus {i + 1}? Answer in a word.", sampling=sampling)
    for event in client.events():
        if event.WhichOneof("event") == "output_text_delta" and first is None:
            first = time.monotonic() - began
    whole = time.monotonic() - began
    return (first or whole) * 1000, whole * 1000  # an answer may be empty


def every_second(client, seconds):
    times, began = [], time.monotonic()
    for i in range(int(seconds)):
        time.sleep(max(0, began + i - time.monotonic()))
        times.append(first_token_ms(client, i))
    firsts = sorted(t[0] for t in times)
    return {
        "n": len(firsts),
        "first_token_ms": {f"p{p}": round(firsts[min(len(firsts) - 1, len(firsts) * p // 100)], 1) for p in (50, 90)},
        "first_token_ms_max": round(firsts[-1], 1),
        "answer_ms_mean": round(sum(t[1] for t in times) / len(times), 1),
    }


def start(client, seq):
    for _ in range(200):
        try:
            fields = {"data_set": "set", "adapter": "a", "epochs": {"value": 1000}, "held_out": {"value": 0}}
            return client.call("train_start", seq={"value": seq}, **fields)
        except RequestFailed as error:
            if "being looked at" not in str(error):
                raise
            time.sleep(0.1)
    raise RuntimeError("the model's hash was never known")


def wait_for_steps(box, n):
    while True:
        now = box.admin("train.status")["training"]
        if now["state"] == "failed":
            raise RuntimeError(now["problem"])
        if now["step"] >= n:
            return now
        time.sleep(0.1)


def measure(model, template, seconds, seq):
    words = ["--template", template] if template else []
    with Box(model, args=["--sessions", "4", "--ctx", "4096", *words]) as box:
        write_records(box.home / "set.jsonl", 64, seq * 2 // 3)
        command = [str(BUILD / "hearth"), "data", "import", "set", str(box.home / "set.jsonl")]
        subprocess.run(command, env=box.env, check=True, stdout=subprocess.DEVNULL)
        with box.paired(scopes=["chat", "train"]) as trains, box.paired(name="asks") as asks:
            every_second(asks, 3)
            idle = every_second(asks, seconds)
            start(trains, seq)
            before = wait_for_steps(box, 1)
            during = every_second(asks, seconds)
            after = box.admin("train.status")["training"]
    left = after["slices"]["left_s"] - before["slices"]["left_s"]
    busy = after["slices"]["busy_s"] - before["slices"]["busy_s"]
    return {
        "model": Path(model).name,
        "precision": after["precision"],
        "seq": seq,
        "idle": idle,
        "training": during,
        "share_of_what_requests_left": round(busy / left, 4),
        "left_s": round(left, 1),
        "longest_slice_ms": round(after["slices"]["longest_s"] * 1000, 1),
        "slices": after["slices"]["n"],
        "steps": after["step"],
        "tokens_per_second_of_the_last_step": round(after["tokens_per_second"], 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=25)
    parser.add_argument("--seq", type=int, default=512)
    parser.add_argument("--model")
    parser.add_argument("--template", help="chat template of a model that has none: chatml")
    args = parser.parse_args()
    model = args.model or model_path()
    if not model:
        print("train_beside: no model; tools/fetch-test-models gets it", file=sys.stderr)
        return 69
    json.dump(measure(model, args.template, args.seconds, args.seq), sys.stdout, indent=2)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
