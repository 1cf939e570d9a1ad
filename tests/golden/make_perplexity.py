#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Asks llama.cpp's llama-perplexity about a fixed text and writes perplexity.json.

  make_perplexity.py LLAMA_PERPLEXITY MODEL      (weights are not repacked: AMX code of some versions crashes)
"""
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT, CHUNK = "LICENSE", 512


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    tool, model = sys.argv[1:]
    done = subprocess.run(
        [tool, "-m", model, "-f", ROOT / TEXT, "-c", str(CHUNK), "-t", "2", "--no-repack"], capture_output=True,
        text=True, check=True
    )
    said = done.stdout + done.stderr
    chunks = int(re.search(r"over (\d+) chunks", said)[1])
    told = {
        "model": Path(model).name,
        "text": TEXT,
        "tokens": chunks * (CHUNK // 2 - 1),
        "perplexity": float(re.search(r"PPL = ([0-9.]+)", said)[1]),
    }
    (ROOT / "tests/golden/perplexity.json").write_text(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
