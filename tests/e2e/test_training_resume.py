# SPDX-License-Identifier: Apache-2.0
"""A training that the end of the daemon has interrupted, on a model that lies outside of the models folder: it goes on
when the box is started with that model, and says why when it is not; who comes back sees it."""

import signal
import time

import pytest
from gguf_tiny import tiny_model
from hearthbox import PATIENCE, Box
from test_training_box import DONE, EVALUATING, FAILED, SMALL, STEPPING, STOPPED
from test_training_box import ask, fill, finish, statuses, with_patience

LONG = {"data_set": "set", "adapter": "a", "epochs": {"value": 1000}, "lr": {"value": 0.01}} | SMALL


@pytest.fixture
def box():
    with Box(args=["--sessions", "4", "--template", "chatml"]) as box:
        path = box.home / "elsewhere/own.gguf"
        path.parent.mkdir()
        path.write_bytes(tiny_model())
        box.stop()
        box.own_model = ["--model", str(path)]
        box.args += box.own_model
        box.start()
        fill(box)
        yield box


def training(box, *states, problem=""):
    end = time.monotonic() + 40 * PATIENCE
    while True:
        now = box.admin("train.status")["training"]
        if now["state"] in states and problem in now["problem"]:
            return now
        assert time.monotonic() < end, (now, box.log_text()[-2000:])
        time.sleep(0.05)


def killed(box):
    box.process.send_signal(signal.SIGKILL)
    box.process.wait(20 * PATIENCE)
    box.process = None


def test_a_model_by_path(box):
    with box.paired(scopes=["chat", "train", "admin"]) as client:
        token = client.token
        with_patience(client.call, "train_start", **LONG)
        for status in statuses(client):
            if status.state == STEPPING and status.step >= 3:
                break
        client.call("train_stop", adapter="a")
        step = finish(client).step
        with_patience(client.call, "train_start", adapter="a")
        training(box, "stepping")
    killed(box)
    box.start()
    now = training(box, "stepping")
    assert now["adapter"] == "a" and now["model"] == "own"
    with box.hello(token) as client:  # whoever comes back sees it
        seen = client.call("get_status").training
        assert seen.state in (STEPPING, EVALUATING)
        assert (seen.adapter, seen.data_set, seen.model) == ("a", "set", "own")
        client.call("train_follow")
        for status in statuses(client):
            if status.points:
                break
        assert status.step > step and status.eta_seconds > 0 and status.loss > 0
    killed(box)

    box.args = box.args[: -len(box.own_model)]
    box.start()
    training(box, "failed", problem="its model own is not here")
    with box.hello(token) as client:
        seen = client.call("get_status").training
        assert seen.state == FAILED and seen.adapter == "a"
        assert "not here" in client.call("train_follow").error.message
    box.stop()

    box.args += box.own_model
    box.start()
    training(box, "stepping")
    with box.hello(token) as client:
        client.call("train_stop", adapter="a")
        client.call("train_follow")
        assert finish(client).state == STOPPED


def test_an_adapter_of_a_model_by_path_answers_after_a_restart(box):
    with box.paired(scopes=["chat", "train", "admin"]) as client:
        token = client.token
        with_patience(client.call, "train_start", **LONG | {"epochs": {"value": 4}, "lr": {"value": 0.05}, "use": True})
        assert finish(client).state == DONE
        expected = ask(client)
        assert expected[1] == "a"
    box.stop()
    box.start()
    with box.hello(token) as client:
        end = time.monotonic() + 20 * PATIENCE
        while ask(client) != expected:  # as soon as the model's hash is known; nobody lists the models
            assert time.monotonic() < end
            time.sleep(0.1)
