# SPDX-License-Identifier: Apache-2.0
"""What may happen to an answer while it is paused for another person's: its client goes and comes back, its device is
revoked, its conversation deleted, it is cancelled, the daemon ends."""

import signal
import threading
import time
from collections import namedtuple

import pytest
from gguf_tiny import tiny_model
from hearthbox import MODEL_NAME, NO_END, PATIENCE, Box
from python_client import RequestFailed
from test_openai import http_client, new_token

ENDLESS = {"temperature": {"value": 1}, "seed": {"value": 5}, "logit_bias": NO_END}
Paused = namedtuple("Paused", "alice bob first other accepted events client")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    path.write_bytes(tiny_model(context=65536))
    return path


@pytest.fixture
def box(model):
    with Box(model, args=["--sessions", "2", "--template", "chatml", "--ctx", "65536"]) as box:
        yield box


def begun(client, text, **fields):
    """An answer that has told its first text, and its events so far."""
    accepted = client.call("chat", text=text, sampling=ENDLESS, **fields)
    events = []
    for event in client.events():
        events.append(event)
        if event.WhichOneof("event") == "output_text_delta":
            return accepted, events


def answer_of(box, token, text):
    """Asked on a connection of its own, that nobody reads any further."""
    with box.hello(token) as client:
        return begun(client, text)[0]


def wait_for(box, **wanted):
    end = time.monotonic() + 60 * PATIENCE
    while True:
        status = box.admin("status")
        if all(status[key] == value for key, value in wanted.items()):
            return
        assert time.monotonic() < end, (wanted, status)
        time.sleep(0.02)


def pause_for_bob(box, alice, bob):
    """The second of two answers that Alice has begun stands still for Bob's."""
    other = answer_of(box, bob, "Bob's")
    wait_for(box, engine_active=2, queue_depth=1)
    return other


def pause(box):
    alice, bob = (box.paired(name).token for name in ("alice", "bob"))
    first = answer_of(box, alice, "the first")
    client = box.hello(alice)
    accepted, events = begun(client, "the second")
    return Paused(alice, bob, first, pause_for_bob(box, alice, bob), accepted, events, client)


def cancel(box, token, accepted):
    with box.hello(token) as client:
        client.call("cancel", response_id=accepted.response_id)


def text_of(events):
    """Of a response, from its first event, or a snapshot of it, on."""
    text = ""
    for event in events:
        if event.WhichOneof("event") == "response_snapshot":
            text = event.response_snapshot.text
        text += event.output_text_delta.delta
    return text


def what_is_told_next(client, seconds=0.3):
    """Until nothing comes for a while, at whose end the box, which may be slow, has answered a ping."""
    events = []
    for _ in range(20):
        told = len(events)
        time.sleep(seconds)
        ping = client.send("ping", payload=b"next")
        while (frame := client.receive(60)).request_id != ping:
            if frame.WhichOneof("body") == "event":
                events.append(frame.event)
        if told == len(events):
            break
    return events


def read_until(client, events, n_chars):
    while len(text_of(events)) < n_chars:
        frame = client.receive(60)
        if frame.WhichOneof("body") == "event":
            events.append(frame.event)
    assert [e.seq for e in events] == list(range(events[0].seq, events[0].seq + len(events)))
    return text_of(events)


def stored(box, token, accepted):
    with box.hello(token) as client:
        return client.call("get_conversation", conversation_id=accepted.conversation_id).turns[1]


def test_its_reader_goes_and_comes_back(box):
    token = box.paired("alice").token
    with box.hello(token) as client:
        accepted, alone = begun(client, "the second")
        want = read_until(client, alone, 3000)
        client.call("cancel", response_id=accepted.response_id)
    wait_for(box, engine_active=0, queue_depth=0)
    p = pause(box)
    p.events.extend(what_is_told_next(p.client))
    p.client.close()
    with box.hello(p.alice) as client:
        client.send("resume", response_id=p.accepted.response_id, after_seq=p.events[-1].seq)
        assert what_is_told_next(client) == []  # nothing is lost, nothing comes twice, and it is not over
        assert client.call("ping", payload=b"x").payload == b"x"
        cancel(box, p.bob, p.other)
        got = read_until(client, p.events, max(3000, len(text_of(p.events)) + 500))
        assert got.startswith(want)
        cancel(box, p.alice, p.accepted)
    assert not stored(box, p.alice, p.first).finished


def test_it_is_cancelled(box):
    p = pause(box)
    p.events.extend(what_is_told_next(p.client))
    cancel(box, p.alice, p.accepted)
    wait_for(box, engine_active=2, queue_depth=0)
    ended = list(p.client.events())
    assert ended[-1].response_incomplete.usage.stop_reason == "cancelled"
    turn = stored(box, p.alice, p.accepted)
    assert turn.finished and turn.text == text_of(p.events)


def test_its_device_is_revoked(box):
    """On the wire the answer is the person's, not the device's: it goes on."""
    p = pause(box)
    device = next(d for d in box.admin("devices.list", person="alice")["devices"])
    with box.paired("alice", name="another") as another:
        box.admin("devices.revoke", id=device["id"])
        wait_for(box, engine_active=2, queue_depth=1)
        another.send("resume", response_id=p.accepted.response_id, after_seq=0)
        events = what_is_told_next(another)
        before = text_of(events)
        cancel(box, p.bob, p.other)
        read_until(another, events, len(before) + 500)
        with pytest.raises(Exception):
            box.hello(p.alice)


def test_its_token_of_the_door_is_revoked(box):
    """Behind the door an answer is the connection's: it ends."""
    alice, bob = (box.paired(name).token for name in ("alice", "bob"))
    answer_of(box, alice, "the first")
    made = new_token(box, person="alice")
    told, body = [], {"model": MODEL_NAME, "stream": True, "temperature": 1}
    body["logit_bias"] = {str(bias["token"]): bias["bias"] for bias in NO_END}
    body["messages"] = [{"role": "user", "content": "the second"}]

    def read():
        try:
            with http_client(box, made["token"]) as http, http.stream("POST", "/v1/chat/completions", json=body) as s:
                told.extend(s.iter_lines())
        except Exception as error:  # noqa: BLE001
            told.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    wait_for(box, engine_active=2, queue_depth=0)
    pause_for_bob(box, alice, bob)
    box.admin("devices.revoke", id=made["id"])
    reader.join(60 * PATIENCE)
    assert not reader.is_alive() and "data: [DONE]" not in told
    wait_for(box, engine_active=2, queue_depth=0)


def test_its_conversation_is_deleted(box):
    p = pause(box)
    with box.hello(p.alice) as client:
        client.call("delete_conversation", conversation_id=p.accepted.conversation_id)
        ended = list(p.client.events())
        assert ended[-1].response_incomplete.usage.stop_reason == "cancelled"
        wait_for(box, engine_active=2, queue_depth=0)
        for body, fields in (
            ("get_conversation", {"conversation_id": p.accepted.conversation_id}),
            ("resume", {"response_id": p.accepted.response_id}),
        ):
            with pytest.raises(RequestFailed):
                client.call(body, **fields)
        cancel(box, p.bob, p.other)
        wait_for(box, engine_active=1, queue_depth=0)  # it does not come back
        assert not stored(box, p.alice, p.first).finished


def test_its_person_is_removed(box):
    p = pause(box)
    box.admin("people.remove", person="alice")
    wait_for(box, engine_active=1, queue_depth=0)
    assert not stored(box, p.bob, p.other).finished


def start_with(box, hangup):
    """As `hangup` of those who start it says: nohup ignores it, also for these tests."""
    before = signal.signal(signal.SIGHUP, hangup)
    try:
        return box.start()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
def test_the_daemon_ends(box, how):
    assert box.stop() == 0
    start_with(box, signal.SIG_DFL)
    p = pause(box)
    p.events.extend(what_is_told_next(p.client))
    box.process.send_signal(how)
    assert box.process.wait(30 * PATIENCE) == 0
    box.start()
    for accepted in (p.first, p.accepted):
        turn = stored(box, p.alice, accepted)
        assert turn.finished and turn.usage.stop_reason == "cancelled"
    assert turn.text == text_of(p.events)


def test_a_signal_that_is_ignored_stays_so():
    """As nohup starts it."""
    box = start_with(Box(), signal.SIG_IGN)
    try:
        box.process.send_signal(signal.SIGHUP)
        box.admin("status")
        assert box.stop() == 0
        assert "signal 1:" not in box.log_text()
    finally:
        box.__exit__()
