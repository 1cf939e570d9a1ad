#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Hearth beside llama.cpp on the same machine in the same minutes: rounds of one after the other, medians, ratios.

  tests/peers/bench.py [--build DIR] [--rounds N] [--threads N] [--json]     (make bench)

Ratios above 1 mean Hearth is faster. llama.cpp runs with flash attention off and on; the better one counts.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "hearth")
MODELS = ["SmolLM2-135M-Instruct-Q4_1.gguf", "gemma-3-270m-Q4_K_M.gguf"]
PROMPT, GENERATE = 512, 128


def hearth(build, model, threads):
    out = subprocess.run([build / "hearth", "bench", "-m", model, "--prompt", str(PROMPT), "--gen", str(GENERATE),
                          "--threads", str(threads), "--json"], check=True, capture_output=True).stdout
    return json.loads(out)


def llama(folder, model, threads):
    """The better of flash attention off and on, for each of prefill and decode."""
    best = {"prefill": 0.0, "decode": 0.0}
    out = subprocess.run([folder / "llama-bench", "-m", model, "-t", str(threads), "-p", str(PROMPT),
                          "-n", str(GENERATE), "-r", "3", "-fa", "0,1", "-o", "json"],
                         check=True, capture_output=True).stdout
    for run in json.loads(out):
        key = "prefill" if run["n_prompt"] else "decode"
        best[key] = max(best[key], run["avg_ts"])
    return best


def measure(args, model, folder):
    ours, theirs = [], []
    for _ in range(args.rounds):
        ours.append(hearth(args.build, model, args.threads))
        if folder:
            theirs.append(llama(folder, model, args.threads))
    median = statistics.median
    row = {"model": model.name, "device": ours[0]["device"], "threads": args.threads,
           "prefill": median(r["prefill_tokens_per_second"] for r in ours),
           "decode": median(r["decode_tokens_per_second"] for r in ours),
           "decode_share_of_bandwidth": median(r["decode_gib_per_second"] / r["copy_gib_per_second"] for r in ours),
           "first_token_ms": median(r["first_token_ms"] for r in ours),
           "peak_rss_mib": max(r["peak_rss_mib"] for r in ours)}
    for key in ("prefill", "decode") if theirs else ():
        row[f"llama_{key}"] = median(r[key] for r in theirs)
        row[f"{key}_ratio"] = median(a[f"{key}_tokens_per_second"] / b[key] for a, b in zip(ours, theirs))
    return row


def show(row):
    print(f"{row['model']}: {row['device']}")
    for key in ("prefill", "decode"):
        text = f"  {key:8} {row[key]:8.1f} tok/s"
        if f"llama_{key}" in row:
            text += f"   llama.cpp {row[f'llama_{key}']:8.1f}   ratio {row[f'{key}_ratio']:.2f}"
        print(text)
    print(f"  decode reads at {100 * row['decode_share_of_bandwidth']:.0f} % of the measured bandwidth, "
          f"first token {row['first_token_ms']:.0f} ms, peak {row['peak_rss_mib']:.0f} MiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, default=Path("build"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = sorted(CACHE.glob("llama-*/complete"), key=lambda p: p.stat().st_mtime)
    folder = found[-1].parent if found else None
    models = [CACHE / "models" / name for name in MODELS if (CACHE / "models" / name).exists()]
    if not models:
        sys.exit("bench: no model; `build/hearth pull default` fetches one")
    if not folder:
        print("bench: llama.cpp is absent (tools/setup peers); Hearth alone", file=sys.stderr)
    elif not args.json:
        print(f"llama.cpp flags: {(folder / 'flags').read_text().strip()}; best of flash attention off and on")
    rows = [measure(args, model, folder) for model in models]
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        for row in rows:
            show(row)


if __name__ == "__main__":
    main()
