# SPDX-License-Identifier: Apache-2.0
"""The page's modules that need no browser, under node's own test runner."""
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def node():
    path = shutil.which("node")
    asked = [path or "false", "-p", "process.versions.node.split('.')[0]"]
    if int(subprocess.run(asked, capture_output=True, text=True).stdout or 0) < 20:
        pytest.skip("web: no node 20")
    return path


@pytest.mark.parametrize("file", ["wire.test.mjs", "words.test.mjs"])
def test_modules(file):
    command = [node(), "--test", "--test-reporter=tap", str(HERE / file)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout[-4000:]
    assert int(re.search(r"^# pass (\d+)", run.stdout, re.M)[1]) >= 7, run.stdout[-1000:]
