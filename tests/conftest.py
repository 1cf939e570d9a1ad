# SPDX-License-Identifier: Apache-2.0
"""Skips what an emulator cannot show; the reason is the mark's."""

import os

import pytest


def pytest_runtest_setup(item):
    mark = item.get_closest_marker("native")
    if mark and os.environ.get("HEARTH_TEST_EMULATED"):
        pytest.skip(f"under an emulator: {mark.args[0]}")
