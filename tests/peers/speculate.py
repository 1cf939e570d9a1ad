#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What proposing tokens brings on real texts: `hearth run` with and without it in turn, the same answers, medians.

  tests/peers/speculate.py [--build DIR] [--model NAME] [--group edit|chat] [--rounds N] [--temp T] [--json]

The texts are in tests/peers/speculation: edit-* ask for a passage again, changed or shortened; chat-* are free
questions. A model without a chat template goes on with the text. Fails where answers differ, where edits gain less than
1.5 times on average, or where free chat as a whole is slower than 0.97 times.
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "hearth")
MODELS = ["SmolLM2-135M-Instruct-Q4_1.gguf", "gemma-3-270m-Q4_K_M.gguf"]
TEXTS = Path(__file__).parent / "speculation"
BARS = {"edit": 1.5, "chat": 0.97}


def answer(args, model, text, draft):
    raw = ["--raw"] if model.name.startswith("gemma-3-270m-Q") else []  # a base model
    command = [args.build / "hearth", "run", "-m", model, "-p", text, "--json", "--seed", "7", "--ctx", "1024",
               "--temp", str(args.temp), "-n", str(args.tokens), "--draft", str(draft), *raw]
    out = subprocess.run(command, check=True, capture_output=True).stdout
    told = json.loads(out)
    usage = told["usage"]
    usage["rate"] = 1000 * (usage["completion_tokens"] - 1) / usage["completion_ms"] if usage["completion_ms"] else 0
    return told["text"], usage


def measure(args, model, path):
    text = path.read_text()
    rates = {0: [], args.draft: []}
    for _ in range(args.rounds):
        said = {}
        for draft, speeds in rates.items():
            said[draft], usage = answer(args, model, text, draft)
            speeds.append(usage["rate"])
        if said[0] != said[args.draft]:
            sys.exit(f"speculate: {model.name}, {path.name}: another answer with --draft {args.draft}")
    return {"text": path.stem, "tokens": usage["completion_tokens"], "drafted": usage["drafted_tokens"],
            "accepted": usage["accepted_tokens"], "plain": statistics.median(rates[0]),
            "proposing": statistics.median(rates[args.draft]),
            "gain": statistics.median(b / a for a, b in zip(rates[0], rates[args.draft]))}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, default=Path("build"))
    parser.add_argument("--model", default="")
    parser.add_argument("--group", default="")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=192)
    parser.add_argument("--draft", type=int, default=7)
    parser.add_argument("--temp", type=float, default=0.2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    models = [CACHE / "models" / name for name in MODELS if args.model in name and (CACHE / "models" / name).exists()]
    if not models:
        sys.exit("speculate: no model; `build/hearth pull default` fetches one")
    ok, told = True, []
    for model in models:
        for group in (g for g in BARS if args.group in g):
            rows = [measure(args, model, path) for path in sorted(TEXTS.glob(f"{group}-*.txt"))]
            rows = [row for row in rows if row["tokens"] > 20]  # too short to time
            mean = math.exp(statistics.mean(math.log(row["gain"]) for row in rows))
            least = min(row["gain"] for row in rows)
            ok = ok and mean >= BARS[group]
            told.append({"model": model.name, "group": group, "temp": args.temp, "gain": mean, "least": least,
                         "rows": rows})
            if not args.json:
                print(f"{model.name}, {group}, temperature {args.temp}: {mean:.2f} times, least {least:.2f}")
                for row in rows:
                    print(f"  {row['text']:14} {row['tokens']:4} tokens {row['plain']:7.1f} -> {row['proposing']:7.1f} "
                          f"tok/s, {row['gain']:.2f} times, {row['accepted']} of {row['drafted']} proposed taken")
    if args.json:
        print(json.dumps(told, indent=1))
    sys.exit(not ok)


if __name__ == "__main__":
    main()
