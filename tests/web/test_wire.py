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
    if not path or int(subprocess.run([path, "-p", "process.versions.node.split('.')[0]"], capture_output=True,
                                      text=True, check=True).stdout) < 20:
        pytest.skip("web: no node 20")
    return path


@pytest.mark.parametrize("file", ["wire.test.mjs", "words.test.mjs"])
def test_modules(file):
    run = subprocess.run([node(), "--test", "--test-reporter=tap", str(HERE / file)], capture_output=True, text=True,
                         timeout=120)
    assert run.returncode == 0, run.stdout[-4000:]
    assert int(re.search(r"^# pass (\d+)", run.stdout, re.M)[1]) >= 7, run.stdout[-1000:]
