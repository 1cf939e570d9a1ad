# SPDX-License-Identifier: Apache-2.0
"""Training beside PEFT as on a CPU without AMX: Hearth on its AVX-512 path, torch's oneDNN held to AVX-512 (with BF16
for bf16). Both in turn, the medians of all; `bench.py --only train --no-amx`. Alone:
`train_no_amx.py MODEL.gguf [--build DIR] [--rounds N] [--threads 2]`; needs the peers' Python environment."""
import argparse
import json
import os
import random
import statistics
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import text_oracles

ROOT = Path(__file__).resolve().parents[2]
HELD_TO = {"bf16": "AVX512_CORE_BF16", "fp32": "AVX512_CORE"}
OURS = {"bf16": "bf16/avx512", "fp32": "f32"}
SEQ, SEQUENCES = 512, 4


def write_rows(path):
    """Micro-batches of one sequence of random ids, every token but the first a target, as train_steps.c reads them."""
    draw = random.Random(1)
    with open(path, "wb") as f:
        f.write(struct.pack("<II", SEQ, SEQUENCES))
        for _ in range(SEQUENCES):
            ids = [draw.randrange(100, 40000) for _ in range(SEQ)]
            for kind, values in (("i", ids), ("I", range(SEQ)), ("I", [0] * SEQ), ("i", ids[1:] + [-1]),
                                 ("f", [1 / (SEQ - 1) / SEQUENCES] * (SEQ - 1) + [0])):
                f.write(struct.pack(f"<{SEQ}{kind}", *values))


def ours(program, model, rows, kind, steps):
    """Tokens per second, or None where the CPU has no such products."""
    done = subprocess.run([program, model, "new:8", rows, OURS[kind], str(steps), str(SEQUENCES), "1e-4", "", "keep",
                           "avx512vnni"], capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    return [json.loads(line)["tokens_per_second"] for line in done.stdout.splitlines()[1:-1]]


def peft(python, model, kind, steps, threads):
    out = subprocess.run([python, ROOT / "tests/peers/train_speed.py", model, "--dtype", kind, "--threads",
                          str(threads), "--steps", str(steps)], check=True, stdout=subprocess.PIPE,
                         env={**os.environ, "ONEDNN_MAX_CPU_ISA": HELD_TO[kind]}).stdout
    return json.loads(out)["tokens_per_second"]


def measure(model, build, python, rounds=1, steps=3, threads=2):
    """{kind: (ours, PEFT's)}, tokens per second."""
    with tempfile.TemporaryDirectory() as folder:
        program, rows = Path(folder) / "train_steps", Path(folder) / "rows"
        text_oracles.compile_helper(ROOT, build, "train_steps.c", program)
        write_rows(rows)
        told = {}
        for kind in HELD_TO:
            mine, theirs = [], []
            for _ in range(rounds):
                mine += ours(program, model, rows, kind, steps) or []
                theirs.append(peft(python, model, kind, steps, threads))
            told[kind] = (statistics.median(mine) if mine else None, statistics.median(theirs))
        return told


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--build", type=Path, default=ROOT / "build")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    told = measure(args.model, args.build, sys.executable, args.rounds, args.steps, args.threads)
    for kind, (mine, theirs) in told.items():
        print(json.dumps({"precision": kind, "hearth": mine, "peft": theirs, "held_to": HELD_TO[kind],
                          "ratio": mine / theirs if mine else None}))


if __name__ == "__main__":
    main()
