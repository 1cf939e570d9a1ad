# SPDX-License-Identifier: Apache-2.0
"""A person deletes a data set of theirs from a device: what goes, who may, and while a training reads it."""

import json
import os
import socket

import pytest
from gguf_tiny import tiny_model
from hearthbox import BUILD, MODEL_NAME, PATIENCE, Box  # noqa: F401  (finds python_client)
from python_client import RequestFailed
from test_training_box import (  # noqa: F401
    DONE, STOPPED, WILD, box, client, fill, finish, hearth, start, statuses,
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
            assert path.stat().st_mode & 0o77 == 0, path
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


# ---- how much one person may have


def import_set(box, name, size, person=None):
    """The admin socket's data.import: the answer."""
    line = json.dumps({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a" * 1000}]})
    path = box.home / "large.jsonl"
    path.write_text((line + "\n") * (size // len(line)))
    ask = {"cmd": "data.import", "name": name, "messages": True, "counts": {"records": 1}}
    ask |= {"person": person} if person else {}
    with socket.socket(socket.AF_UNIX) as s, open(path, "rb") as file:
        s.settimeout(20 * PATIENCE)
        s.connect(str(box.home / "run/hearth/admin.sock"))
        socket.send_fds(s, [json.dumps(ask).encode() + b"\n"], [file.fileno()])
        return json.loads(s.makefile("rb").readline())


def test_one_person_does_not_fill_the_disk():
    with Box(args=["--template", "chatml", "--learn-quota-mib", "1"]) as box:
        (box.models / f"{MODEL_NAME}.gguf").write_bytes(tiny_model())
        box.stop()
        box.start()
        with box.paired("Ann", name="ann", scopes=["chat", "train"]) as ann, box.paired("Bob", name="bob") as bob:
            assert import_set(box, "a", 700_000, "Ann")["ok"]
            more = import_set(box, "b", 700_000, "Ann")
            assert more["code"] == "limit" and "1 MiB" in more["error"], more
            assert "0.7 are used" in more["error"] and "needs 0.7" in more["error"], more
            assert import_set(box, "b", 300_000, "Ann")["ok"]
            own_question = "x" * 60_000
            ann.call("chat", text=own_question, sampling=WILD | {"max_tokens": {"value": 1}})
            list(ann.events())
            before = sealed(box).keys()
            assert import_set(box, "c", 700_000, "Bob")["ok"]  # each has their own
            assert import_set(box, "d", 2_000_000)["ok"]  # what is nobody's has no limit
            assert import_set(box, "e", 70_000, "Ann")["code"] == "limit"
            assert len(sealed(box).keys() - before) == 2  # what is refused leaves nothing
            ann.call("delete_data_set", name="a")
            assert import_set(box, "e", 70_000, "Ann")["ok"]
            assert bob.call("ping", payload=b"x").payload == b"x"
        box.args += ["--learn-quota-mib", "0"]
        box.stop()
        box.start()
        assert import_set(box, "f", 2_000_000, "Ann")["ok"]
        for i in range(64 - 3):  # but for their number
            assert import_set(box, f"n{i}", 2000, "Ann")["ok"], i
        more = import_set(box, "one-more", 2000, "Ann")
        assert more["code"] == "limit" and "64 may be" in more["error"], more
        assert import_set(box, "one-more", 2000, "Bob")["ok"]


def test_what_is_to_be_replaced_stays_until_the_new_one_is_here():
    quota = 1 << 20
    with Box(args=["--template", "chatml", "--learn-quota-mib", "1"]) as box:
        (box.models / f"{MODEL_NAME}.gguf").write_bytes(tiny_model())
        box.stop()
        box.start()
        with box.paired("Ann", name="ann", scopes=["chat", "train"]) as ann:

            def fails(words):
                here, before = names(ann), sealed(box)
                with pytest.raises(RequestFailed, match=words):
                    ann.call("import_conversations", data_set="mine")
                assert names(ann) == here and sealed(box) == before

            assert import_set(box, "mine", 1200, "Ann")["ok"]
            first = sealed(box)
            fails("no conversations")
            for _ in range(24):
                ann.call("chat", text=CANARY, sampling=WILD | {"max_tokens": {"value": 12}})
                list(ann.events())
            assert import_set(box, "rest", quota - 2500, "Ann")["ok"]
            fails("1 MiB on this box")
            ann.call("delete_data_set", name="rest")
            ann.call("import_conversations", data_set="mine")
            (mine,) = ann.call("list_data_sets").data_sets
            assert len(sealed(box)) == 1 and not first.keys() & sealed(box).keys()
            assert import_set(box, "rest", quota - mine.size_bytes * 3 // 2, "Ann")["ok"]
            kept = sealed(box)
            ann.call("import_conversations", data_set="mine")  # there is no room for both
            after = sealed(box)
            assert names(ann) == ["mine", "rest"] and len(after) == 2 and len(after.keys() & kept.keys()) == 1
            (gone,) = kept.keys() - after.keys()
            assert bytes.fromhex(gone.split(".")[0]) not in (box.state / "turns.keys").read_bytes()
            token = ann.token
        assert box.stop() == 0
        box.start()
        with box.hello(token) as ann:
            assert names(ann) == ["mine", "rest"] and sealed(box) == after


def test_a_training_wants_room():
    """Also of what is nobody's: what came out of it is theirs who had it trained."""
    with Box(args=["--template", "chatml", "--learn-quota-mib", "1"]) as box:
        (box.models / f"{MODEL_NAME}.gguf").write_bytes(tiny_model())
        box.stop()
        box.start()
        fill(box, "common")
        with box.paired("Ann", name="ann", scopes=["chat", "train"]) as ann:
            large = {"rank": {"value": 96}, "max_steps": {"value": 1}, "held_out": {"value": 0}}
            start(ann, data_set="common", adapter="large", **large)
            assert finish(ann).state == DONE
            (adapter,) = ann.call("list_adapters").adapters
            assert adapter.size_bytes > 1 << 20  # it was not known before
            with pytest.raises(RequestFailed, match="1 MiB on this box"):
                start(ann, data_set="common", adapter="next", **large)
            assert import_set(box, "mine", 5000, "Ann")["code"] == "limit"
            assert [a["name"] for a in box.admin("adapters.list")["trainings"]] == []
            box.admin("adapters.remove", name="large")
            assert import_set(box, "mine", 5000, "Ann")["ok"]


def test_a_training_that_was_stopped_takes_room():
    """What it goes on from lies on the disk: who stops one after the other fills it as well."""
    with Box(args=["--template", "chatml", "--learn-quota-mib", "1"]) as box:
        (box.models / f"{MODEL_NAME}.gguf").write_bytes(tiny_model())
        box.stop()
        box.start()
        fill(box, "common")
        large = {"rank": {"value": 96}, "epochs": {"value": 1000}, "held_out": {"value": 0}}
        with box.paired("Ann", name="ann", scopes=["chat", "train"]) as ann:
            start(ann, data_set="common", adapter="large", **large)
            next(s for s in statuses(ann) if s.step)
            ann.call("train_stop", adapter="large")
            assert finish(ann).state == STOPPED
            assert sum(len(data) for name, data in sealed(box).items() if "checkpoint" in name) > 1 << 20
            with pytest.raises(RequestFailed, match="1 MiB on this box"):
                start(ann, data_set="common", adapter="next", **large)
            assert import_set(box, "mine", 5000, "Ann")["code"] == "limit"
            assert import_set(box, "bobs", 5000)["ok"]
            ann.call("train_start", adapter="large")  # it goes on all the same
            ann.call("train_stop", adapter="large")
            assert finish(ann).state == STOPPED
            ann.call("train_stop", adapter="large", discard=True)
            assert import_set(box, "mine", 5000, "Ann")["ok"]
