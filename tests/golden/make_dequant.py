#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/dequant.bin: blocks of every weight type and the values that the `gguf` package gives them.

  python3 tests/golden/make_dequant.py [OUT]

Little-endian, per type: u32 type number, u32 count of values, u32 bytes of blocks, the blocks, the values (float32).
Blocks are random bytes with random finite half floats in the places of d, m and dmin; some are all zero bits, all
one bits but for the half floats, and some have the smallest and largest half floats there.
"""

import struct
import sys
from pathlib import Path

import gguf
import numpy as np

# type -> byte offsets of its half floats in a block
HALVES = {
    "F32": (), "F16": (0,), "BF16": (), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,),
}  # fmt: skip
EDGES = np.array([0x0000, 0x8000, 0x0001, 0x03FF, 0x0400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF], dtype="<u2")
N_BLOCKS = {1: 96, 32: 40, 256: 10}  # by values in a block


def blocks_of(name, rng):
    kind = gguf.GGMLQuantizationType[name]
    values, size = gguf.GGML_QUANT_SIZES[kind]
    n = N_BLOCKS[values]
    blocks = rng.integers(0, 256, (n, size), dtype=np.uint8)
    if name == "F32":
        return kind, rng.standard_normal((n, 1)).astype("<f4").view(np.uint8)
    if name == "BF16":
        blocks[:, 1] &= 0xBF  # no infinity, no NaN
        return kind, blocks
    blocks[0], blocks[1] = 0, 255
    for offset in HALVES[name]:
        halves = (rng.standard_normal(n) * 0.1).astype("<f2")
        halves[2 : 2 + len(EDGES)] = rng.permutation(EDGES).view("<f2")[: n - 2]
        blocks[:, offset : offset + 2] = halves.view(np.uint8).reshape(n, 2)
    return kind, blocks


def main():
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("dequant.bin")
    rng = np.random.default_rng(20260101)
    with out.open("wb") as file:
        for name in HALVES:
            kind, blocks = blocks_of(name, rng)
            values = gguf.quants.dequantize(blocks.reshape(-1), kind).astype("<f4").reshape(-1)
            assert np.isfinite(values).all(), name
            file.write(struct.pack("<3I", int(kind), values.size, blocks.size))
            file.write(blocks.tobytes() + values.tobytes())
    print(f"{out}: {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
