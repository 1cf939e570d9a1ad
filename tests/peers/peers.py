# SPDX-License-Identifier: Apache-2.0
"""Shared by the comparisons: where the models, the peers and our programs are; ids and logits to and from files."""
import math
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("HEARTH_TEST_BUILD", ROOT / "build"))
HEARTH = BUILD / "hearth"
SHARED = ROOT.parent / "shared" / "data"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "hearth")
MODELS = {
    "smollm2": ("HEARTH_TEST_SMOLLM2", "SmolLM2-135M-Instruct-Q4_1.gguf"),
    "gemma3": ("HEARTH_TEST_GEMMA3", "gemma-3-270m-Q4_K_M.gguf"),
}


def model_path(name):
    variable, file = MODELS[name]
    path = Path(os.environ.get(variable) or CACHE / "models" / file)
    if not path.exists():
        pytest.skip(f"model {name} is absent")
    return path


def llama_folder():
    """The newest llama.cpp that tools/build-llama made."""
    found = sorted(CACHE.glob("llama-*/complete"), key=lambda p: p.stat().st_mtime)
    if not found:
        pytest.skip("llama.cpp is absent (tools/setup peers)")
    return found[-1].parent


def sample_text():
    """Wikitext where it lies beside the tree, else the repository's own prose."""
    for path in sorted(SHARED.glob("wikitext2/*")):
        if path.suffix in (".txt", ".raw", ".tokens"):
            return path.read_text(encoding="utf-8")
    return "".join(p.read_text(encoding="utf-8") for p in sorted((ROOT / "docs").glob("*.md")))


def run(*command, **kwargs):
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, **kwargs).stdout


def tokenize(model, text, n):
    ids = run(HEARTH, "tokenize", "-m", model, "--special", input=text.encode()).split()
    return [int(i) for i in ids[:n]]


def write_ids(folder, ids):
    path = folder / "ids.txt"
    path.write_text(" ".join(map(str, ids)))
    return path


def hearth_logits(model, ids_file, out, *flags):
    run(HEARTH, "logits", "-m", model, "--ids", ids_file, "--out", out, *flags)
    return np.load(out, mmap_mode="r")


def log_softmax(rows):
    rows = rows.astype(np.float64)
    rows = rows - rows.max(axis=1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


def mean_kl(exact, other, step=64):
    """Mean over positions of KL(exact || other), in nats."""
    total = 0.0
    for at in range(0, len(exact), step):
        p, q = log_softmax(exact[at:at + step]), log_softmax(other[at:at + step])
        total += float((np.exp(p) * (p - q)).sum())
    assert math.isfinite(total)
    return total / len(exact)
