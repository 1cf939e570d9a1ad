# SPDX-License-Identifier: Apache-2.0
"""Many clients at once: what tests/e2e/soak.py does, for some seconds and, among the long tests, for minutes."""

import json
import os

import pytest
from hearthbox import model_path
from soak import soak


def check(seconds):
    if model_path() is None:
        pytest.skip("no SmolLM2 model")
    report = soak(seconds)
    print(json.dumps(report))
    assert report["errors"] == []


def test_a_short_soak():
    check(20)


@pytest.mark.long
def test_a_long_soak():
    check(float(os.environ.get("HEARTH_SOAK_SECONDS", "300")))
