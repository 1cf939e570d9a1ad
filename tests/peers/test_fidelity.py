# SPDX-License-Identifier: Apache-2.0
"""--exact against transformers in float32; the fast path's divergence from exact against llama.cpp's."""
import json

import numpy as np
import pytest

import peers
import reference

N_TOKENS = 1024  # beyond Gemma's window of 512
EXACT_BOUND = 5e-4
KL_RATIO = 1.05


@pytest.fixture(scope="module", params=["smollm2", "gemma3"])
def sample(request, tmp_path_factory):
    model = peers.model_path(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    ids = peers.tokenize(model, peers.sample_text(), N_TOKENS)
    assert len(ids) == N_TOKENS
    ids_file = peers.write_ids(folder, ids)
    exact = peers.hearth_logits(model, ids_file, folder / "exact.npy", "--exact")
    return request.param, model, folder, ids, ids_file, exact


def test_exact_equals_transformers(sample):
    name, model, _, ids, _, exact = sample
    want = reference.logits(reference.load(model), ids)
    difference = float(np.abs(np.asarray(exact) - want).max())
    print(json.dumps({"model": name, "max_abs_difference": difference, "bound": EXACT_BOUND}))
    assert difference <= EXACT_BOUND


def test_fast_path_diverges_no_more_than_llama_cpp(sample):
    name, model, folder, ids, ids_file, exact = sample
    fast = peers.hearth_logits(model, ids_file, folder / "fast.npy")
    ours = peers.mean_kl(exact, fast)
    theirs = {}
    for flash in (0, 1):
        out = folder / f"llama{flash}.bin"
        peers.run(peers.llama_folder() / "llama-logits", model, ids_file, out, 2, 512, flash)
        theirs[f"flash {flash}"] = peers.mean_kl(exact, np.fromfile(out, np.float32).reshape(len(ids), -1))
    print(json.dumps({"model": name, "hearth_kl": ours, "llama_cpp_kl": theirs}))
    assert ours <= KL_RATIO * min(theirs.values())


def test_chunks_and_threads_change_no_bit(sample):
    _, model, folder, _, ids_file, _ = sample
    want = np.asarray(peers.hearth_logits(model, ids_file, folder / "fast.npy"))
    for flags in (("--chunk", 7), ("--chunk", 100, "--threads", 1)):
        got = np.asarray(peers.hearth_logits(model, ids_file, folder / "other.npy", *flags))
        assert got.tobytes() == want.tobytes(), flags
