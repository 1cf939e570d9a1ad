# SPDX-License-Identifier: Apache-2.0
"""A person deletes a data set of theirs from a device: what goes, who may, and while a training reads it."""

import json
import os
import socket

import pytest
from hearthbox import BUILD, PATIENCE  # noqa: F401  (finds python_client)
from python_client import RequestFailed
from test_training_box import (  # noqa: F401
    DONE, STOPPED, WILD, box, client, finish, hearth, start,
)

CANARY = "badger lanterns"


def own_set(who, name="mine"):
    for _ in range(3):
        who.call("chat", text=CANARY, sampling=WILD | {"max_tokens": {"value": 12}})
        list(who.events())
    who.call("import_conversations", data_set=name)


def sealed(box):
    return {path.name: path.read_bytes() for path in (box.state / "learn").iterdir()}


def names(who):
    return sorted(s.name for s in who.call("list_data_sets").data_sets)


def refused(who, name, words):
    with pytest.raises(RequestFailed, match=words):
        who.call("delete_data_set", name=name)


def test_deleting_destroys_key_and_file(box, client):  # noqa: F811
    common = sealed(box)
    with box.paired("Ann", name="ann", scopes=["chat", "train"]) as ann:
        own_set(ann)
        start(ann, data_set="mine", adapter="ann", held_out={"value": 0})
        assert finish(ann).state == DONE
        (name,) = [n for n in sealed(box) if n.endswith(".data.messages") and n not in common]
        before, key = sealed(box)[name], bytes.fromhex(name.split(".")[0])
        keys = box.state / "turns.keys"
        assert key in keys.read_bytes() and len(before) > 64
        ann.call("delete_data_set", name="mine")
        assert names(ann) == ["set"] and name not in sealed(box)
        assert [a.name for a in ann.call("list_adapters").adapters] == ["ann"]  # what was learnt stays
        assert key not in keys.read_bytes()
        refused(ann, "mine", "no data set")
        for path in box.state.rglob("*"):
            held = path.read_bytes() if path.is_file() else b""
            assert before[32:64] not in held and CANARY.encode() not in held, path
        own_set(ann)  # the name is free again
        assert names(ann) == ["mine", "set"]
        token = ann.token
    assert box.stop() == 0
    box.start()
    with box.hello(token) as ann:
        ann.call("delete_data_set", name="mine")
        assert names(ann) == ["set"]


def test_who_may_delete_what(box, client):  # noqa: F811
    with box.paired("Ann", name="ann", scopes=["chat", "train"]) as ann:
        own_set(ann)
        refused(client, "mine", "no data set")  # another person's is not there
        refused(ann, "set", "its owner removes it")
        refused(client, "set", "its owner removes it")
        for name in ("", "nothing", "../mine"):
            refused(ann, name, "no data set")
        refused(ann, "x" * 65, "at most 64 bytes")
        with box.paired("Ann", name="chats", scopes=["chat"]) as chats:
            refused(chats, "mine", "may not train")
        assert names(ann) == ["mine", "set"]
        assert hearth(box, "data", "rm", "mine").returncode == 0  # the box's owner may
        assert names(ann) == ["set"]


def test_what_others_do_ends_no_import(box, client):  # noqa: F811
    """While a large set is being sealed somebody chooses an adapter, and somebody else deletes a conversation."""
    said = [{"role": r, "content": "w" * 4000} for r in ("user", "assistant")]
    line = json.dumps({"messages": said}).encode() + b"\n"
    fd = os.memfd_create("set")
    os.write(fd, line * (48 * 2**20 // len(line)))
    with box.paired("Ann", name="ann", scopes=["chat", "train"]) as ann, socket.socket(socket.AF_UNIX) as s:
        mine = ann.call("chat", text=CANARY, sampling=WILD)
        list(ann.events())
        s.settimeout(60 * PATIENCE)
        s.connect(str(box.home / "run/hearth/admin.sock"))
        request = {"cmd": "data.import", "name": "large", "messages": True, "counts": {}}
        socket.send_fds(s, [json.dumps(request).encode() + b"\n"], [fd])
        os.close(fd)
        client.call("use_adapter", box_default=True)
        ann.call("delete_conversation", conversation_id=mine.conversation_id)
        answer = json.loads(s.makefile("rb").readline())
        assert answer["ok"], answer
    assert names(client) == ["large", "set"]


def test_not_while_a_training_reads_it(box, client):  # noqa: F811
    with box.paired("Ann", name="ann", scopes=["chat", "train"]) as ann:
        own_set(ann)
        start(ann, data_set="mine", adapter="ann", held_out={"value": 0}, epochs={"value": 1000})
        with box.paired("Ann", name="second", scopes=["chat", "train"]) as second:
            refused(second, "mine", "stop it first")
            second.call("train_stop", adapter="ann")
            assert finish(ann).state == STOPPED
            second.call("delete_data_set", name="mine")
            with pytest.raises(RequestFailed, match="data set mine is not here"):
                second.call("train_start", adapter="ann")  # it cannot go on
            second.call("train_stop", adapter="ann", discard=True)
        assert box.admin("adapters.list")["trainings"] == []
