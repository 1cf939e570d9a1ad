# SPDX-License-Identifier: Apache-2.0
"""A training in the box with moments of one byte: over a stop, a restart and a kill it gives the adapter of an
undisturbed one, whose checkpoint is smaller and whose bytes are others than with moments of four."""

import signal
import time

import pytest
from hearthbox import PATIENCE
from python_client import RequestFailed
from test_training_box import (  # noqa: F401
    DONE, STOPPED, box, client, file_of, finish, start, stop_while_stepping, wait_training, with_patience,
)

F32, BYTES = 0, 1
FIELDS = {
    "epochs": {"value": 10}, "lr": {"value": 0.01}, "seed": {"value": 5}, "rank": {"value": 16},
    "targets": "all,output",
}


def undisturbed(box, client, moments):  # noqa: F811
    """The hash of its adapter, which is removed again."""
    start(client, **FIELDS, moments=moments)
    assert finish(client).state == DONE
    sha256 = file_of(box, "a")["sha256"]
    box.admin("adapters.remove", name="a")
    return sha256


def stopped(box, client, moments):  # noqa: F811
    start(client, **FIELDS, moments=moments)
    assert stop_while_stepping(box, client).state == STOPPED


def checkpoint_bytes(box):  # noqa: F811
    end = time.monotonic() + 20 * PATIENCE
    while not (found := list(box.state.glob("learn/*.checkpoint.bin"))):
        assert time.monotonic() < end, "no checkpoint"
        time.sleep(0.05)
    return found[0].stat().st_size


def test_stop_restart_and_kill(box, client):  # noqa: F811
    want, other = undisturbed(box, client, BYTES), undisturbed(box, client, F32)
    assert want != other
    stopped(box, client, F32)
    large = checkpoint_bytes(box)
    client.call("train_stop", adapter="a", discard=True)
    stopped(box, client, BYTES)
    assert checkpoint_bytes(box) < 0.6 * large  # 6 bytes a value rather than 12, and the scales
    token = client.token
    assert box.stop() == 0
    box.start()
    with box.hello(token) as again:
        with pytest.raises(RequestFailed, match="begun with --rank 16, not 3"):
            with_patience(again.call, "train_start", adapter="a", rank={"value": 3})
        with_patience(again.call, "train_start", adapter="a")  # what it had is remembered, moments too
    for _ in range(2):
        wait_training(box, lambda now: now["step"] >= 1 or box.admin("adapters.list")["adapters"])  # or it is over
        box.process.send_signal(signal.SIGKILL)
        box.process.wait(20 * PATIENCE)
        box.process = None
        box.start()
    end = time.monotonic() + 60 * PATIENCE
    while not box.admin("adapters.list")["adapters"]:
        assert time.monotonic() < end, box.admin("train.status")
        time.sleep(0.1)
    assert file_of(box, "a")["sha256"] == want
