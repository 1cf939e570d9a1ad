# SPDX-License-Identifier: Apache-2.0
"""What `make run` does after the build: model, box, chat; with a pipe on stdin answers alone come out."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("HEARTH_TEST_BUILD", ROOT / "build"))
QUESTION = "What is the capital of France?\n"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def env(tmp_path):
    """A household of its own; only the model folder is the user's."""
    if "HEARTH_TEST_SMOLLM2" not in os.environ:
        pytest.skip("the default model is not there")
    folders = {f"XDG_{x}_HOME": str(tmp_path / x.lower()) for x in ("STATE", "DATA", "CONFIG")}
    (tmp_path / "run").mkdir(mode=0o700)
    settings = {"HEARTH_PORT": str(free_port()), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    return dict(os.environ, HEARTH_LISTEN="loopback", **folders, **settings)


def run(env, questions):
    return subprocess.run(
        [ROOT / "tools/run", BUILD],
        input=questions,
        capture_output=True,
        text=True,
        env=env,
        timeout=280,
        cwd=ROOT,
    )


def is_running(env):
    return subprocess.run([BUILD / "hearth", "status"], env=env, capture_output=True).returncode == 0


def test_each_line_of_a_pipe_is_a_question(env):
    done = run(env, QUESTION + "And what is the capital of Italy?\n")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "Paris" in lines[0] and "Rome" in done.stdout, done.stdout
    assert not is_running(env)
    again = run(env, QUESTION)
    assert (again.returncode, again.stdout.splitlines()[0]) == (0, lines[0])


def test_no_question_no_output(env):
    done = run(env, "")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert not is_running(env)


def test_a_running_box_is_used_and_left_running(env):
    with subprocess.Popen([BUILD / "hearthd"], env=env, stderr=subprocess.DEVNULL) as box:
        try:
            deadline = time.monotonic() + 30
            while not is_running(env):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            done = run(env, QUESTION)
            assert done.returncode == 0 and "Paris" in done.stdout, done.stderr
            assert "running already" in done.stderr and box.poll() is None
        finally:
            box.send_signal(signal.SIGTERM)
            assert box.wait(30) == 0


def test_a_taken_port_is_one_clear_line(env):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(env["HEARTH_PORT"])))
        taken.listen()
        done = run(env, QUESTION)
    assert done.returncode == 69 and done.stdout == ""
    assert f"port {env['HEARTH_PORT']}" in done.stderr.splitlines()[-1], done.stderr
