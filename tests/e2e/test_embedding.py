# SPDX-License-Identifier: Apache-2.0
"""An embedder's path: install, build the program of docs/embedding.md elsewhere, run it under ASan."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("HEARTH_TEST_BUILD", ROOT / "build"))
DOC = (ROOT / "docs/embedding.md").read_text()
SANITIZE = "-g -fsanitize=address,undefined -Wall -Wextra -Werror"


def run(command, **options):
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=280, **options
    )


def installed_files(folder):
    return sorted(str(x.relative_to(folder)) for x in folder.rglob("*") if not x.is_dir())


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hearth") / "usr"
    done = run([ROOT / "tools/install", BUILD, folder, folder, "0.1.0", "0"])
    assert done.returncode == 0, done.stderr
    yield folder


@pytest.fixture(scope="module")
def program(prefix):
    source = re.search(r"```c\n(.*?)```", DOC, re.DOTALL)[1]
    assert len(source.splitlines()) <= 60
    (prefix.parent / "ask.c").write_text(source)
    return prefix.parent


def build(program, prefix, kind):
    """Runs the page's own command for this kind of library, with the sanitizers added."""
    command = [
        x for x in re.findall(r"```sh\n(.*?)```", DOC, re.DOTALL) if ("--static" in x) == (kind == "static")
    ][0]
    env = dict(os.environ, PKG_CONFIG_PATH=str(prefix / "lib/pkgconfig"))
    command = command.replace("cc -std=c11", f"{os.environ.get('CC', 'gcc')} -std=c11 {SANITIZE}")
    done = run(["bash", "-ec", command], cwd=program, env=env)
    assert done.returncode == 0, done.stderr
    return program / "ask"


@pytest.mark.parametrize("kind", ["shared", "static"])
def test_program_of_the_page(program, prefix, kind):
    model = os.environ.get("HEARTH_TEST_SMOLLM2")
    ask = build(program, prefix, kind)
    env = dict(os.environ, LD_LIBRARY_PATH=str(prefix / "lib") if kind == "shared" else "")
    linked = run(["ldd", ask], env=env).stdout
    assert ("libhearth.so.0" in linked) == (kind == "shared") and "not found" not in linked
    missing = run([ask, "/nonexistent.gguf", "Hello?"], env=env)
    assert missing.returncode == 1 and "/nonexistent.gguf" in missing.stderr and missing.stdout == ""
    if model is None:
        pytest.skip("the default model is not there")
    done = run([ask, model, "What is the capital of France?"], env=env)
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout and done.stderr == "", done.stdout + done.stderr


def test_what_is_installed(prefix):
    files = installed_files(prefix)
    for (
        name
    ) in """bin/hearth bin/hearthd lib/libhearth.so lib/libhearth.so.0 lib/libhearth.so.0.1.0 lib/libhearth.a
                   include/hearth/engine.h include/hearth/status.h lib/pkgconfig/hearth.pc
                   share/hearth/hearth-symbols.txt""".split():
        assert name in files, files
    assert os.readlink(prefix / "lib/libhearth.so.0") == "libhearth.so.0.1.0"
    names = (prefix / "share/hearth/hearth-symbols.txt").read_text().split()
    assert "hearth_engine_open" in names and all(x.startswith("hearth_") for x in names), names
    env = dict(os.environ, PKG_CONFIG_PATH=str(prefix / "lib/pkgconfig"))
    assert run(["pkg-config", "--modversion", "hearth"], env=env).stdout.strip() == "0.1.0"
    assert "-lutf8proc" in shlex.split(run(["pkg-config", "--static", "--libs", "hearth"], env=env).stdout)


def test_uninstall_leaves_nothing(prefix, tmp_path):
    copy = tmp_path / "usr"
    shutil.copytree(prefix, copy, symlinks=True)
    (copy / "bin/other").write_text("somebody else's")
    done = run([ROOT / "tools/install", "--remove", copy, "0.1.0", "0"])
    assert done.returncode == 0, done.stderr
    assert installed_files(copy) == ["bin/other"]
