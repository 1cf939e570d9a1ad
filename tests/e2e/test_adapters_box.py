# SPDX-License-Identifier: Apache-2.0
"""Adapters and data sets come into the box and go out of it: export, import by the command, plain text, what a removal
leaves, and the memory that adapters take."""

import hashlib
import json
import os
import socket
import re
import time

import pytest
from hearthbox import NO_END, PATIENCE
from python_client import ClientFrame, RequestFailed
from test_training_box import DONE, STOPPED, WILD, ask, box, client, file_of, finish, hearth, learnt, start

_ = box, client, learnt  # fixtures
MIB = 1 << 20
SHORT = WILD | {"max_tokens": {"value": 8}}


def sealed(box):
    return {p.name for p in (box.state / "learn").iterdir()}


def exported(box, name, path):
    done = hearth(box, "adapter", "export", name, path)
    assert done.returncode == 0, done.stderr
    return path.read_bytes()


def with_patience(box, *words):
    """Until the models' hashes are known."""
    end = time.monotonic() + 20 * PATIENCE
    while "being looked at" in (done := hearth(box, *words)).stderr:
        assert time.monotonic() < end, done.stderr
        time.sleep(0.05)
    return done


# ---- out


def test_export(learnt, client, tmp_path):
    box = learnt
    path = tmp_path / "a.gguf"
    data = exported(box, "a", path)
    assert hashlib.sha256(data).hexdigest() == file_of(box, "a")["sha256"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert not any(data[:4096] in p.read_bytes() for p in (box.state / "learn").iterdir())  # sealed there
    facts = json.loads(hearth(box, "adapter", "inspect", path, "--json").stdout)
    assert facts["base_sha256"] == file_of(box, "a")["base"] and facts["format"] == "gguf"
    assert exported(box, "b", path) != data  # what stood there is replaced
    before = path.read_bytes()
    for words in (("none-such", path), ("../a", path), ("a", tmp_path / "no/such/folder.gguf")):
        done = hearth(box, "adapter", "export", *words)
        assert done.returncode != 0 and done.stdout == "" and done.stderr.count("\n") == 1, words
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.gguf"]
    assert hearth(box, "adapter", "export", "a", path, "--to", "gguf").returncode == 2  # that is of files


def test_export_and_descriptors_that_are_wrong(learnt, tmp_path):
    def call(*fds):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(20 * PATIENCE)
            s.connect(str(learnt.home / "run/hearth/admin.sock"))
            socket.send_fds(s, [b'{"cmd":"adapters.export","name":"a"}\n'], list(fds))
            return json.loads(s.makefile("rb").readline())

    read, write = os.pipe()
    longer = tmp_path / "longer"
    longer.write_bytes(b"x" * 8 * MIB)
    small = open(longer, "rb")
    assert call()["code"] == "invalid"
    assert call(write)["code"] == "invalid"  # a pipe nobody reads would hold the box up
    assert call(small.fileno())["code"] in ("storage", "internal")  # not opened for writing
    assert longer.stat().st_size == 8 * MIB
    with open(longer, "r+b") as file:
        assert call(file.fileno())["ok"]
    assert hashlib.sha256(longer.read_bytes()).hexdigest() == file_of(learnt, "a")["sha256"]
    os.close(read)
    os.close(write)
    small.close()


def test_devices_cannot_export(learnt, client):
    """There is no such request on the wire, and the door serves no adapter."""
    names = [f.name for f in ClientFrame.DESCRIPTOR.fields]
    assert "use_adapter" in names and not [n for n in names if "export" in n]


# ---- in


def test_a_good_file_comes_in_by_the_command(learnt, client, tmp_path):
    box = learnt
    path = tmp_path / "a.gguf"
    data = exported(box, "a", path)
    expected = ask(client, adapter="a")[0]
    done = with_patience(box, "adapter", "import", path, "--name", "copy")
    assert done.returncode == 0 and "copy" in done.stdout, done.stderr
    assert ask(client, adapter="copy") == (expected, "copy")
    assert file_of(box, "copy")["rank"] == file_of(box, "a")["rank"] and file_of(box, "copy")["person"] is None
    assert hearth(box, "adapter", "import", path, "--name", "copy").returncode == 2  # the name is taken
    listed = hearth(box, "adapter", "list").stdout
    assert re.search(rf"^copy .* for SHA-256 {file_of(box, 'copy')['base'][:12]}$", listed, re.M), listed
    peft = tmp_path / "peft"
    assert hearth(box, "adapter", "export", path, "--to", "peft", "--out", peft).returncode == 0
    assert with_patience(box, "adapter", "import", peft, "--name", "folder").returncode == 0
    assert ask(client, adapter="folder") == (expected, "folder")
    assert exported(box, "copy", tmp_path / "copy.gguf") == exported(box, "folder", tmp_path / "f.gguf")
    token = client.token
    box.stop()
    box.start()
    with box.hello(token) as again:
        end = time.monotonic() + 20 * PATIENCE
        while True:
            try:
                assert ask(again, adapter="copy") == (expected, "copy")
                break
            except RequestFailed as error:
                assert "being looked at" in str(error) and time.monotonic() < end
                time.sleep(0.1)
    other = data.replace(bytes(file_of(box, "a")["base"], "ascii"), b"0" * 64)
    assert other != data
    path.write_bytes(other)
    done = with_patience(box, "adapter", "import", path, "--name", "other")
    assert done.returncode != 0 and "not on this box" in done.stderr


def test_plain_text(box, client):
    notes = box.home / "notes.txt"
    notes.write_text("\n\n".join(f"The parrot number {i} sleeps under stair {i % 7}." for i in range(60)))
    done = hearth(box, "data", "import", "notes", f"{notes}:text")
    assert done.returncode == 0, done.stderr
    found = next(s for s in client.call("list_data_sets").data_sets if s.name == "notes")
    assert found.records > 0
    held_out = {"held_out": {"value": 0}}
    start(client, data_set="notes", adapter="t", epochs={"value": 3}, lr={"value": 0.05}, **held_out)
    last = finish(client)
    assert last.state == DONE and last.step > 0
    assert ask(client, adapter="t")[1] == "t"
    more = box.home / "more.jsonl"
    more.write_text(json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}))
    assert hearth(box, "data", "import", "both", more, f"{notes}:text").returncode == 0
    start(client, data_set="both", adapter="u", epochs={"value": 1}, **held_out)
    assert finish(client).state == DONE


# ---- what a removal leaves


def test_a_removal_removes_the_sealed_files(learnt, client):
    box = learnt
    before = sealed(box)
    assert len([n for n in before if n.endswith("adapter.gguf")]) == 2
    assert hearth(box, "adapter", "rm", "a").returncode == 0
    gone = before - sealed(box)
    assert len(gone) == 1 and gone.pop().endswith("adapter.gguf")
    assert hearth(box, "data", "rm", "set").returncode == 0
    left = sealed(box)
    assert len(left) == 1 and left.pop().endswith("adapter.gguf")
    assert ask(client, adapter="b")[1] == "b"  # what was learnt from the set stays
    assert hearth(box, "adapter", "rm", "b").returncode == 0
    assert sealed(box) == set()


def held(client):
    return client.call("get_status").memory_held_bytes


def test_an_answering_adapter_is_dropped_after_its_answer(learnt, client):
    box = learnt
    alone = ask(client, adapter="none")[0]
    other = box.hello(client.token)  # a call passes over events that come meanwhile
    base = held(other)
    client.call("use_adapter", name="a")
    long = WILD | {"max_tokens": {"value": 100}, "logit_bias": NO_END}
    client.call("chat", text="q1?", sampling=long)
    for event in client.events():
        if event.WhichOneof("event") == "output_text_delta":
            break
    assert held(other) > base
    assert hearth(box, "adapter", "rm", "a").returncode == 0
    for event in client.events():
        last = event.WhichOneof("event")
    assert last in ("response_completed", "response_incomplete", "response_failed")
    assert ask(client) == (alone, "")  # nothing is left of the choice
    end = time.monotonic() + 10 * PATIENCE
    while held(other) != base:
        assert time.monotonic() < end, (held(other), base)
        time.sleep(0.02)
    other.close()
    assert client.call("list_adapters").chosen is False


# ---- one's own conversations, from a device


def own_sets(client):
    return {x.name: x.records for x in client.call("list_data_sets").data_sets if x.own}


def test_own_conversations_from_a_device(box, client):
    def refused(who, name):
        with pytest.raises(RequestFailed) as error:
            who.call("import_conversations", data_set=name)
        return error.value.code

    with box.paired("Ann", name="ann", scopes=["chat", "train"]) as ann:
        assert refused(ann, "mine") == 3  # nothing was said yet
        said = []
        for text in ("one thing", "and another"):
            said.append(ann.call("chat", text=text, sampling=SHORT).conversation_id)
            list(ann.events())
        ann.call("import_conversations", data_set="mine")
        assert own_sets(ann) == {"mine": 2} and own_sets(client) == {}
        for name in ("", "../x", "x" * 65, "none", "set"):
            assert refused(ann, name) in (3, 5), name
        assert refused(client, "mine") in (3, 4)  # the name is somebody else's
        with box.paired("Ann", name="second", scopes=["chat"]) as second:
            assert refused(second, "mine") == 2
        ann.call("chat", text="a third", sampling=SHORT)
        list(ann.events())
        ann.call("import_conversations", data_set="mine")  # as they are now
        assert own_sets(ann) == {"mine": 3}
        start(ann, data_set="mine", adapter="ann", held_out={"value": 0}, epochs={"value": 1000})
        assert refused(ann, "mine") == 6  # a training needs it
        ann.call("train_stop", adapter="ann")
        assert finish(ann).state == STOPPED
        assert refused(ann, "mine") == 6  # and would go on with it
        ann.call("train_stop", adapter="ann", discard=True)
        start(ann, data_set="mine", adapter="ann", held_out={"value": 0}, epochs={"value": 1}, use=True)
        assert finish(ann).state == DONE and ask(ann)[1] == "ann"
        assert b"another" not in b"".join(p.read_bytes() for p in (box.state / "learn").iterdir())
        ann.call("delete_conversation", conversation_id=said[0])
        assert own_sets(ann) == {} and ann.call("list_adapters").adapters == []
        assert len(sealed(box)) == 1


# ---- memory


def test_adapters_count_in_the_memory_budget(learnt, client, tmp_path):
    box = learnt
    base = held(client)
    start(client, adapter="large", rank={"value": 128}, epochs={"value": 1}, init="")
    assert finish(client).state == DONE
    n_values = file_of(box, "large")["n_params"]
    token = client.token
    for room, fits in ((8 * n_values - MIB, False), (10 * n_values + 2 * MIB, True)):
        box.stop()
        box.args = [*box.args[:4], "--memory-budget-mib", str((base + room) // MIB), "--ctx", "128"]
        box.start()
        with box.hello(token) as again:
            end = time.monotonic() + 20 * PATIENCE
            while True:
                try:
                    text, adapter = ask(again, adapter="large")
                    assert fits and adapter == "large"
                    assert held(again) - base >= 8 * n_values  # as read, and as the engine has them
                    break
                except RequestFailed as error:
                    if "being looked at" in str(error):
                        assert time.monotonic() < end
                        time.sleep(0.1)
                        continue
                    assert not fits and "the adapter large needs" in str(error) and "memory budget" in str(error)
                    break
            assert ask(again, adapter="b")[1] == "b"  # a small one does
