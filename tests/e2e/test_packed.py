# SPDX-License-Identifier: Apache-2.0
"""Packed weights as files: --packed-cache of the command, packed_cache of hearthd."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from hearthbox import MODEL_NAME, PATIENCE, Box, model_path
from test_cli import HEARTH, environment, home, run, smollm2  # noqa: F401

QUESTION = ["-p", "What is the capital of France?", "--temp", "0", "-n", "12"]


def files(folder):
    return sorted(p.name for p in Path(folder).glob("*")) if Path(folder).is_dir() else []


def wait_for(condition):
    deadline = time.monotonic() + 60 * PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def kept(home, smollm2):  # noqa: F811
    """A home whose model's packed weights are kept, and their file."""
    models = home / "cache/hearth/models"
    models.mkdir(parents=True)
    shutil.copy(smollm2, models / "small.gguf")
    os.utime(models / "small.gguf", (1e9, 1e9))
    done = run(home, "run", "-m", "small", "--packed-cache", *QUESTION)
    assert done.returncode == 0 and done.stderr == "" and "Paris" in done.stdout
    (file,) = (home / "cache/hearth/packed").iterdir()
    return file


def bench(home):  # noqa: F811
    words = ["bench", "-m", "small", "--prompt", "16", "--gen", "2", "--repeat", "1", "--json"]
    done = run(home, *words, "--packed-cache")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_kept_and_read_by_the_command(home, kept):  # noqa: F811
    assert kept.stat().st_mode & 0o777 == 0o600 and kept.parent.stat().st_mode & 0o777 == 0o700
    first = run(home, "run", "-m", "small", *QUESTION).stdout
    wait_for(lambda: bench(home)[0]["packed_read"])  # a hash is remembered once its file is some seconds old
    before = kept.stat()
    told, notes = bench(home)
    assert told["packed_read"] and told["packed_write_ms"] == 0 and notes == ""
    assert run(home, "run", "-m", "small", "--packed-cache", *QUESTION).stdout == first
    assert kept.stat().st_ino == before.st_ino  # it was good as it was

    data = bytearray(kept.read_bytes())
    data[len(data) // 2] ^= 4
    kept.write_bytes(data)
    done = run(home, "run", "-m", "small", "--packed-cache", *QUESTION)  # says so, answers, and writes it anew
    assert done.returncode == 0 and done.stdout == first
    assert "left out" in done.stderr and "damaged" in done.stderr and kept.name[-40:] in done.stderr
    assert bench(home)[0]["packed_read"]


def stopped_while_writing(home, model):  # noqa: F811
    """The command, halted once it has begun to write."""
    folder = home / "cache/hearth/packed"
    for _ in range(50):
        child = subprocess.Popen([HEARTH, "run", "-m", model, "--packed-cache", *QUESTION], text=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(home))
        while not files(folder) and child.poll() is None:
            time.sleep(0.001)
        child.send_signal(signal.SIGSTOP)
        if files(folder) and files(folder)[0].endswith(".tmp"):
            return child
        child.kill()  # it was faster
        child.communicate()
        shutil.rmtree(folder)
    raise AssertionError("it was never seen to write")


def test_ctrl_c_ends_the_writing(home, smollm2):  # noqa: F811
    """The answer is there: nobody has to wait for the file."""
    child = stopped_while_writing(home, smollm2)
    child.send_signal(signal.SIGINT)
    child.send_signal(signal.SIGCONT)
    out, notes = child.communicate(timeout=60 * PATIENCE)
    assert child.returncode == 0 and "Paris" in out and notes == ""
    assert files(home / "cache/hearth/packed") == []


def test_told_and_removed_with_the_model(home, kept):  # noqa: F811
    size = kept.stat().st_size
    assert f"{size / 1048576:.1f} MiB"[:4] in run(home, "models", "list").stdout.splitlines()[-1]
    checks = json.loads(run(home, "doctor", "--json").stdout)["checks"]
    (packed,) = [c for c in checks if c["name"] == "packed"]
    assert packed["text"].startswith("1 file of packed weights")
    (kept.parent / "mine").write_text("text of mine")
    other = kept.with_name("0" * 64 + kept.name[64:])
    other.write_bytes(b"of another model")
    assert run(home, "models", "rm", "small").returncode == 0
    assert files(kept.parent) == sorted(["mine", other.name])


def test_where_it_cannot_be_written_nothing_is_lost(home, smollm2):  # noqa: F811
    (home / "cache/hearth").mkdir(parents=True)
    (home / "cache/hearth/packed").write_text("a file of that name")
    done = run(home, "run", "-m", smollm2, "--packed-cache", *QUESTION)
    assert done.returncode == 0 and "Paris" in done.stdout
    assert len(done.stderr.splitlines()) == 1 and "not kept" in done.stderr


# ---------------------------------------------------------------- the daemon


@pytest.fixture
def box():
    if not model_path():
        pytest.skip("no SmolLM2 model")
    with Box(model_path(), ["--packed-cache"]) as b:
        b.packed = b.home / "cache/hearth/packed"
        yield b


def test_hearthd_keeps_and_reads_them(box):
    wait_for(lambda: files(box.packed) and not files(box.packed)[0].endswith(".tmp"))
    (name,) = files(box.packed)
    file = box.packed / name
    wait_for(lambda: "packed weights of" in box.log.read_text())
    sha256 = box.admin("models")["models"][0]["sha256"]
    assert name.startswith(sha256 + "-") and file.stat().st_mode & 0o777 == 0o600
    assert box.packed.stat().st_mode & 0o777 == 0o700
    assert "from their file" not in box.log.read_text()
    box.stop()
    box.log.write_text("")
    box.start()
    assert "packed weights from their file" in box.log.read_text()
    box.stop()
    file.write_bytes(file.read_bytes()[:-1])
    box.log.write_text("")
    box.start()  # serves, says why, and mends it
    wait_for(lambda: "are kept in" in box.log.read_text())
    text = box.log.read_text()
    assert "packed weights were left out" in text and "from their file" not in text
    assert box.admin("status")["model"]["name"] == MODEL_NAME
    box.stop()
    box.log.write_text("")
    box.start()
    assert "packed weights from their file" in box.log.read_text()


def test_hearthd_keeps_none_unless_told():
    if not model_path():
        pytest.skip("no SmolLM2 model")
    with Box(model_path()) as box:
        wait_for(lambda: box.admin("models")["models"][0]["sha256"])
        assert not (box.home / "cache/hearth/packed").exists()
