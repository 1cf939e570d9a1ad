# SPDX-License-Identifier: Apache-2.0
"""Many clients at once: what tests/e2e/soak.py does, for some seconds; for minutes in `make test-long`."""

import json

import pytest
from hearthbox import model_path
from soak import soak


def test_a_short_soak():
    if model_path() is None:
        pytest.skip("no SmolLM2 model")
    report = soak(20)
    print(json.dumps(report))
    assert report["errors"] == []
