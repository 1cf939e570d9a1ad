#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Counts the instructions that the aarch64 kernels take, under qemu-user: the tables of docs/performance.md.

  make CROSS=aarch64 build-aarch64/tests/emulated/kernels && tests/emulated/counts.py build-aarch64

Each kernel runs 1 and 5 times with one instruction a translation block; the log of executed blocks gives the counts,
their difference is the kernel's. A number of instructions is no time: nothing here was measured on hardware."""

import os
import subprocess
import sys
import tempfile

K, DIM = 1024, 64  # of kernels.c
TYPES = "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 IQ4_NL Q2_K Q3_K Q4_K Q5_K Q6_K".split()
TRAINING = "softmax pairs norm glu loss adamw adamw8".split()


def executed(program, words):
    with tempfile.TemporaryDirectory() as folder:
        log = os.path.join(folder, "log")
        command = ["qemu-aarch64", "-cpu", "max", "-singlestep", "-d", "nochain,exec", "-D", log, program, *words]
        subprocess.run(command, check=True)
        with open(log, "rb") as file:
            return sum(chunk.count(b"Trace ") for chunk in iter(lambda: file.read(1 << 20), b""))


def count(program, isa, op, kind, columns):
    """Instructions of one call."""
    once, more = (executed(program, [isa, op, kind, str(columns), str(n)]) for n in (1, 5))
    return (more - once) / 4


def main():
    program = os.path.join(sys.argv[1], "tests/emulated/kernels")
    blocks = K / 32  # of 16 rows x 32
    print("| format | neon: 1 row | 4 rows | many | dotprod: 1 row | 4 rows | many | i8mm: many |")
    print("|---|---|---|---|---|---|---|---|")
    for kind in TYPES:
        cells = []
        for isa in ("neon", "dotprod", "i8mm"):
            if isa != "i8mm":
                cells += [count(program, isa, "matvec", kind, n) / blocks / n for n in (1, 4)]
            cells.append(count(program, isa, "tile", kind, 6) / (2 * blocks) / 6)
        print(f"| {kind} | " + " | ".join(f"{x:.0f}" for x in cells) + " |", flush=True)
    print("\n| KV | scores, 1 query | 4 queries | values, 1 query | 6 queries |\n|---|---|---|---|---|")
    for kind in ("f32", "f16", "q8"):
        cells = [count(program, "neon", op, kind, n) / n for op, n in (("scores", 1), ("scores", 4))]
        cells += [count(program, "neon", op, kind, n) / n for op, n in (("values", 1), ("values", 6))]
        print(f"| {kind} | " + " | ".join(f"{x / (32 * DIM / 16):.1f}" for x in cells) + " |", flush=True)
    print("\n| W as f32 | " + " | ".join(TYPES) + " |\n|---|" + "---|" * len(TYPES))
    cells = [count(program, "neon", "dequant", kind, 1) / blocks for kind in TYPES]
    print("| 16 rows x 32 | " + " | ".join(f"{x:.0f}" for x in cells) + " |", flush=True)
    print("\n| training | plain C | neon |\n|---|---|---|")
    for op, n in [("chains", 1), ("chains", 6), ("chains", 12)] + [(op, 1) for op in TRAINING]:
        cells = [count(program, isa, op, "f32", n) / n / K for isa in ("ref", "neon")]
        print(f"| {op} {n} | " + " | ".join(f"{x:.2f}" for x in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
