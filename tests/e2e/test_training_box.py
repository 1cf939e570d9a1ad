# SPDX-License-Identifier: Apache-2.0
"""The box trains and answers with adapters: data sets, training over the wire, stop and resume, a killed daemon,
adapters while others answer, who may do what, hostile parameters, deletion."""

import json
import os
import signal
import socket
import subprocess
import time

import pytest
from gguf_tiny import tiny_model
from hearthbox import BUILD, MODEL_NAME, PATIENCE, AdminError, Box, model_path
from python_client import RequestFailed

GREEDY = {"temperature": {"value": 0}, "max_tokens": {"value": 8}}
SMALL = {"rank": {"value": 2}, "seq": {"value": 64}, "batch": {"value": 2}, "held_out": {"value": 0.2}}
# An untrained model may say nothing when it is greedy.
WILD = {
    "temperature": {"value": 5}, "top_k": {"value": 0}, "top_p": {"value": 1}, "min_p": {"value": 0},
    "seed": {"value": 3}, "max_tokens": {"value": 40},
}
WAITING, READING, STEPPING, EVALUATING, STOPPING, STOPPED, DONE, FAILED = range(1, 9)
SECRET = "the parrot sleeps under the stairs"


def records(n=24):
    turns = [(f"q{i}?", f"{SECRET} {i}") for i in range(n)]
    return [
        {"id": q, "messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in turns
    ]


def write_records(path, n=24):
    path.write_text("".join(json.dumps(r) + "\n" for r in records(n)))
    return path


def hearth(box, *args):
    return subprocess.run([str(BUILD / "hearth"), *map(str, args)], env=box.env, capture_output=True, text=True)


def fill(box, name="set", n=24):
    """A box with a data set."""
    done = hearth(box, "data", "import", name, write_records(box.home / "records.jsonl", n))
    assert done.returncode == 0, done.stderr
    return box


def with_patience(call, *args, **fields):
    """The hash of a model's file is computed in the background: until then the box says so."""
    end = time.monotonic() + 60 * PATIENCE
    while True:
        try:
            return call(*args, **fields)
        except RequestFailed as error:
            if "being looked at" not in str(error):
                raise
            assert time.monotonic() < end, "the model's hash was never known"
            time.sleep(0.05)


def start(client, **fields):
    fields = {"data_set": "set", "adapter": "a"} | SMALL | fields
    return with_patience(client.call, "train_start", **fields)


def statuses(client, seconds=60):
    """What follows a train_start or train_follow, up to the end."""
    end = time.monotonic() + seconds * PATIENCE
    while time.monotonic() < end:
        frame = client.receive(seconds)
        if frame.WhichOneof("body") != "train_status":
            continue
        yield frame.train_status
        if frame.train_status.state in (STOPPED, DONE, FAILED):
            return
    raise AssertionError("the training did not end")


def finish(client, seconds=60):
    *_, last = statuses(client, seconds)
    return last


def ask(client, text="q1?", sampling=GREEDY, **fields):
    """Answer and the adapter that it was made with."""
    client.call("chat", text=text, sampling=sampling, **fields)
    out, adapter = "", None
    for event in client.events():
        which = event.WhichOneof("event")
        if which == "response_created":
            adapter = event.response_created.adapter
        elif which == "output_text_delta":
            out += event.output_text_delta.delta
        elif which == "response_failed":
            raise RequestFailed(event.response_failed.error)
    return out, adapter


def file_of(box, name):
    return next(a for a in box.admin("adapters.list")["adapters"] if a["name"] == name)


@pytest.fixture
def box():
    with Box(args=["--sessions", "4", "--template", "chatml"]) as box:
        (box.models / f"{MODEL_NAME}.gguf").write_bytes(tiny_model())
        box.stop()
        box.start()
        fill(box)
        yield box


@pytest.fixture
def client(box):
    with box.paired(scopes=["chat", "train", "admin"]) as client:
        yield client


# ---- data sets


def test_data_sets(box, client):
    (found,) = client.call("list_data_sets").data_sets
    assert (found.name, found.records, found.turns, found.own) == ("set", 24, 48, False)
    more = box.home / "more.jsonl"
    more.write_text('{"instruction": "a", "output": "b"}\n{"broken\n{"instruction": "", "output": "c"}\n')
    notes = box.home / "notes.txt"
    notes.write_text("plain words\n")
    done = hearth(box, "data", "import", "mixed", more, f"{notes}:text")
    assert done.returncode == 0, done.stderr
    assert "2 records" in done.stdout and "not valid JSON" in done.stdout + done.stderr or "half-written" in done.stdout
    assert hearth(box, "data", "import", "mixed", more).returncode == 2  # the name is taken
    assert hearth(box, "data", "import", "../x", more).returncode == 2
    assert hearth(box, "data", "import", "gone", box.home / "none.jsonl").returncode != 0
    for path in box.state.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    assert hearth(box, "data", "rm", "mixed").returncode == 0
    assert hearth(box, "data", "rm", "mixed").returncode == 1
    assert "set" in hearth(box, "data", "list").stdout


def test_admin_requests_with_descriptors_that_are_wrong(box):
    def call(request, *fds):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(20 * PATIENCE)
            s.connect(str(box.home / "run/hearth/admin.sock"))
            socket.send_fds(s, [json.dumps(request).encode() + b"\n"], list(fds))
            data = s.makefile("rb").readline()
            return json.loads(data) if data else None

    request = {"cmd": "data.import", "name": "x", "messages": True, "counts": {}}
    read, write = os.pipe()
    with open("/dev/null", "rb") as null, open("/etc/passwd", "rb") as file:
        assert call(request)["code"] == "invalid"  # none
        assert call(request, read)["code"] == "invalid"  # no plain file
        assert call(request, null.fileno())["code"] == "invalid"
        assert call(request, file.fileno(), file.fileno())["code"] == "invalid"
        assert call(request, *[file.fileno()] * 8) is None  # more than it takes: shown out
        assert call({"cmd": "status"}, file.fileno())["ok"]  # unwanted ones are closed
        assert call({"cmd": "adapters.import", "name": "x"}, file.fileno())["code"] in ("invalid", "storage")
        assert call(request | {"counts": []}, file.fileno())["code"] == "invalid"
    os.close(read)
    os.close(write)
    with pytest.raises(AdminError, match="no such parameter"):
        box.admin("train.start", data_set="set", adapter="a", colour=1)
    n_fds = len(os.listdir(f"/proc/{box.process.pid}/fd")) if os.geteuid() == 0 else 0
    for _ in range(20):
        call({"cmd": "status"}, 0)
    if os.geteuid() == 0:
        assert len(os.listdir(f"/proc/{box.process.pid}/fd")) <= n_fds + 2


# ---- training


def test_training_over_the_wire(box, client):
    first = start(client, epochs={"value": 2})
    assert first.state in (WAITING, READING, STEPPING) and first.adapter == "a" and first.data_set == "set"
    seen = list(statuses(client))
    assert seen[-1].state == DONE and seen[-1].step == seen[-1].n_steps > 0
    assert all(b.seq > a.seq for a, b in zip(seen, seen[1:]))
    steps = sorted({p.step for s in seen for p in s.points if p.loss})
    assert steps == list(range(1, seen[-1].n_steps + 1)) and seen[-1].held_out > 0
    (adapter,) = client.call("list_adapters").adapters
    assert (adapter.name, adapter.rank, adapter.data_set, adapter.model) == ("a", 2, "set", MODEL_NAME)
    assert not adapter.in_use and not adapter.own
    status = client.call("get_status")
    assert status.training.state == DONE and status.training.adapter == "a"
    assert box.admin("status")["training"]["slices"]["n"] > 0
    with pytest.raises(RequestFailed, match="already"):
        start(client)
    for path in box.state.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    assert SECRET not in box.log_text()
    assert not list(box.state.glob("learn/*.checkpoint.bin"))  # nothing is left of the run


@pytest.fixture
def whole(box, client):
    """What an undisturbed training gives: its parameters and the hash of its adapter, which is removed again."""
    fields = {"epochs": {"value": 10}, "lr": {"value": 0.01}, "seed": {"value": 5}}
    start(client, **fields)
    assert finish(client).state == DONE
    sha256 = file_of(box, "a")["sha256"]
    assert len(sha256) == 64
    box.admin("adapters.remove", name="a")
    start(client, **fields | {"seed": {"value": 6}})
    assert finish(client).state == DONE
    assert file_of(box, "a")["sha256"] != sha256
    box.admin("adapters.remove", name="a")
    return fields, sha256


def wait_training(box, ready):
    """Until the training is as it is to be. Looked at, not followed: who follows is told four times a second, and a
    fast machine is through with a short training by then."""
    end = time.monotonic() + 60 * PATIENCE
    while not ready(now := box.admin("train.status")["training"]):
        assert now["state"] != "failed" and time.monotonic() < end, now
        time.sleep(0.002)
    return now


def stop_while_stepping(box, client):
    wait_training(box, lambda now: now["step"] >= 3)
    client.call("train_stop", adapter="a")
    return finish(client)


def test_stop_and_resume_over_a_restart_gives_the_same_adapter(box, client, whole):
    fields, sha256 = whole
    start(client, **fields)
    assert stop_while_stepping(box, client).state == STOPPED
    token = client.token
    assert box.stop() == 0
    box.start()
    time.sleep(0.3)
    assert box.admin("train.status")["training"]["state"] == "none"  # it was stopped: it waits
    assert [t["name"] for t in box.admin("adapters.list")["trainings"]] == ["a"]
    with box.hello(token) as client:
        with pytest.raises(RequestFailed, match="begun with --rank [0-9]+, not 3"):
            start(client, **fields | {"rank": {"value": 3}})
        with_patience(client.call, "train_start", adapter="a")  # all it had is remembered
        assert finish(client).state == DONE
    assert file_of(box, "a")["sha256"] == sha256


def test_a_stop_whose_checkpoint_cannot_be_written_says_so(box, client, whole):
    fields, sha256 = whole
    start(client, **fields)
    assert stop_while_stepping(box, client).state == STOPPED
    (kept,) = box.state.glob("learn/*.checkpoint.bin")
    with_patience(client.call, "train_start", adapter="a")
    kept.rename(kept.with_suffix(".away"))
    kept.mkdir()  # nothing can take its place
    told = stop_while_stepping(box, client)
    assert told.state == FAILED and "cannot write in" in told.error.message, told
    kept.rmdir()
    kept.with_suffix(".away").rename(kept)
    with_patience(client.call, "train_start", adapter="a")  # from the checkpoint that stands
    assert finish(client).state == DONE
    assert file_of(box, "a")["sha256"] == sha256


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_daemon_that_ends_goes_on_after_its_start(box, client, whole, how):
    fields, sha256 = whole
    start(client, **fields)
    for _ in range(3):
        wait_training(box, lambda now: now["step"] >= 1 or box.admin("adapters.list")["adapters"])  # or it is over
        box.process.send_signal(how)
        box.process.wait(20 * PATIENCE)
        box.process = None
        box.start()
    end = time.monotonic() + 60 * PATIENCE
    while not box.admin("adapters.list")["adapters"]:
        assert time.monotonic() < end, box.admin("train.status")
        time.sleep(0.1)
    assert file_of(box, "a")["sha256"] == sha256


def test_stop_and_discard(box, client):
    start(client, epochs={"value": 1000})
    client.call("train_stop", discard=True)
    assert finish(client).state == STOPPED
    assert box.admin("adapters.list")["trainings"] == []
    assert not list(box.state.glob("learn/*.checkpoint.bin"))
    start(client, epochs={"value": 1000})
    with pytest.raises(RequestFailed, match="another training"):
        start(client, adapter="b")
    with pytest.raises(AdminError, match="stop it first"):
        box.admin("data.remove", name="set")
    follower = box.paired(name="second", scopes=["train"])
    assert follower.call("train_follow").adapter == "a"
    again = start(client, epochs={"value": 1000})  # the same once more: it is followed
    assert again.adapter == "a"
    with pytest.raises(RequestFailed, match="NOT_FOUND|4:"):
        client.call("train_stop", adapter="other")
    client.call("train_stop", adapter="a")
    assert finish(follower).state == STOPPED
    box.admin("adapters.remove", name="a")
    assert box.admin("adapters.list")["trainings"] == []


def test_who_may_train(box, client):
    with box.paired(name="chats", scopes=["chat"]) as chats, box.paired(name="trains", scopes=["train"]) as trains:
        for body in ("train_start", "train_stop", "train_follow", "list_data_sets"):
            with pytest.raises(RequestFailed) as error:
                chats.call(body)
            assert error.value.code == 2
        for body in ("list_adapters", "use_adapter"):
            with pytest.raises(RequestFailed) as error:
                trains.call(body)
            assert error.value.code == 2
        assert chats.call("list_adapters").adapters == []
        assert trains.call("train_follow").state == 0


HOSTILE = [
    {"data_set": "none-such"},
    {"data_set": "../../etc/passwd"},
    {"adapter": ""},
    {"adapter": "../x"},
    {"adapter": "none"},
    {"adapter": "x" * 65},
    {"model": "no-such-model"},
    {"model": "/etc/passwd"},
    {"init": "no-such"},
    {"targets": "attn_q,nothing"},
    {"targets": "x" * 300},
    {"precision": 7},
    {"moments": 7},
    {"rank": {"value": 0}},
    {"rank": {"value": 4294967295}},
    {"alpha": {"value": 0}},
    {"alpha": {"value": float("nan")}},
    {"lr": {"value": float("inf")}},
    {"lr": {"value": -1}},
    {"epochs": {"value": 1e9}},
    {"max_steps": {"value": 2**64 - 1}},
    {"seq": {"value": 1}},
    {"seq": {"value": 32768}},
    {"batch": {"value": 100000}},
    {"held_out": {"value": 1}},
]


@pytest.mark.parametrize("fields", HOSTILE, ids=[json.dumps(h)[:40] for h in HOSTILE])
def test_hostile_parameters(box, client, fields):
    try:
        start(client, **fields)
        last = finish(client)
        assert last.state == FAILED and last.error.message
    except RequestFailed as error:
        assert error.code in (3, 4, 5, 10), error
    assert client.call("list_adapters").adapters == []
    with box.paired(name="after") as after:
        assert ask(after)[1] == ""


# ---- adapters


@pytest.fixture
def learnt(box, client):
    """Two adapters, which answer differently."""
    for name, seed in (("a", 1), ("b", 2)):
        start(client, adapter=name, epochs={"value": 8}, lr={"value": 0.05}, seed={"value": seed})
        assert finish(client).state == DONE
    return box


def test_choices(learnt, client):
    box = learnt

    def said(client, **fields):  # draws that tell any two models apart: greedy ones of a tiny model may agree
        return ask(client, sampling=WILD, **fields)

    bare, a, b = (said(client, adapter=n) for n in ("none", "a", "b"))
    assert [x[1] for x in (bare, a, b)] == ["", "a", "b"]
    assert len({bare[0], a[0], b[0]}) == 3
    assert said(client) == bare  # nothing is used unless somebody says so
    client.call("use_adapter", name="a")
    assert said(client) == a and said(client, adapter="none") == bare and said(client, adapter="b") == b
    listed = client.call("list_adapters")
    assert listed.chosen and [x.in_use for x in listed.adapters] == [True, False]
    with box.paired("Ann", name="ann") as ann:  # nobody else's answers change
        assert said(ann) == bare
        assert hearth(box, "adapter", "use", "b").returncode == 0
        assert said(ann) == b and said(client) == a
        client.call("use_adapter", box_default=True)
        assert said(client) == b
        client.call("use_adapter", name="")
        assert said(client) == bare and said(ann) == b
        assert "b" in hearth(box, "adapter", "list").stdout
        assert hearth(box, "adapter", "off").returncode == 0
        assert said(ann) == bare
        client.call("use_adapter", name="a", scale={"value": 0})
        assert said(client)[0] == bare[0]
    for name in ("c", "../a"):
        with pytest.raises(RequestFailed):
            client.call("use_adapter", name=name)
        with pytest.raises(RequestFailed):
            said(client, adapter=name)
    with pytest.raises(RequestFailed):
        client.call("use_adapter", name="a", scale={"value": 100})
    client.call("use_adapter", name="a")
    token = client.token
    box.stop()
    box.start()
    with box.hello(token) as again:
        end = time.monotonic() + 20 * PATIENCE
        while said(again) != a:  # as soon as the model's hash is known
            assert time.monotonic() < end
            time.sleep(0.1)


def test_use_when_done_and_going_on_from_another(learnt, client):
    start(client, adapter="c", init="a", epochs={"value": 1}, lr={"value": 0.05}, use=True)
    assert finish(client).state == DONE
    assert ask(client)[1] == "c"
    entry = next(x for x in client.call("list_adapters").adapters if x.name == "c")
    assert entry.init == "a" and entry.in_use
    (data_set,) = (x for x in learnt.admin("data.list")["data_sets"] if x["name"] == "set")
    a, c = file_of(learnt, "a"), file_of(learnt, "c")  # what it came from is told by ids: a name may come again
    assert (c["data_set_id"], c["init_id"]) == (data_set["id"], a["id"])
    assert (a["data_set_id"], a["init_id"]) == (data_set["id"], "")


def test_adapters_while_others_answer(learnt, client):
    box = learnt
    expected = {n: ask(client, adapter=n)[0] for n in ("none", "a", "b")}
    for _ in range(12):  # answers with three of them at once, none, one and the other
        asked = {client.send("chat", text="q1?", adapter=name, sampling=GREEDY): name for name in expected}
        names, got = {}, {}
        while len(got) < len(asked) or any(not ended for _, ended in got.values()):
            frame = client.receive(60)
            if frame.WhichOneof("body") == "accepted":
                names[frame.accepted.response_id] = asked[frame.request_id]
                continue
            which = frame.event.WhichOneof("event")
            assert which not in (None, "response_failed"), frame
            text, ended = got.get(frame.event.response_id, ("", False))
            ended = ended or which in ("response_completed", "response_incomplete")
            got[frame.event.response_id] = (text + frame.event.output_text_delta.delta, ended)
        assert {names[i]: text for i, (text, _) in got.items()} == expected
    accepted = client.call("chat", text="q1?", adapter="a", sampling=GREEDY | {"max_tokens": {"value": 90}})
    assert hearth(box, "adapter", "rm", "a").returncode == 0  # while it is answered with
    last = [e.WhichOneof("event") for e in client.events()][-1]
    assert last in ("response_completed", "response_incomplete", "response_failed")
    with pytest.raises(RequestFailed):
        ask(client, adapter="a")
    assert ask(client, adapter="b")[0] == expected["b"]
    assert not any("adapter.gguf" in p.name for p in box.state.glob(f"learn/{accepted.response_id.hex()}*"))


def test_training_goes_on_while_somebody_asks(learnt, client):
    box = learnt
    expected = ask(client, adapter="b")
    start(client, adapter="long", epochs={"value": 1000})
    with box.paired(name="asks") as asks:
        for _ in range(5):
            assert ask(asks, adapter="b") == expected
            time.sleep(0.05)
    before = box.admin("train.status")["training"]
    wait_training(box, lambda now: now["step"] > before["step"] or now["slices"]["n"] > before["slices"]["n"])
    client.call("train_stop", discard=True)
    assert finish(client).state == STOPPED


def test_the_openai_door(learnt, client):
    import urllib.request

    box = learnt
    token = box.admin("token.create", person="owner", name="api")["token"]

    def call(path, body=None):
        import ssl

        context = ssl.create_default_context(cadata=box.ca_pem)
        request = urllib.request.Request(
            f"https://localhost:{box.port}{path}",
            data=json.dumps(body).encode() if body else None,
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, context=context, timeout=60) as reply:
            return json.load(reply)

    names = [m["id"] for m in call("/v1/models")["data"]]
    assert MODEL_NAME in names and f"{MODEL_NAME}@a" in names
    assert all(call(f"/v1/models/{name}")["id"] == name for name in names)
    body = {"messages": [{"role": "user", "content": "q1?"}], "temperature": 0, "max_tokens": 8}
    answer = call("/v1/chat/completions", body | {"model": f"{MODEL_NAME}@a"})
    assert answer["model"] == f"{MODEL_NAME}@a"
    plain = call("/v1/chat/completions", body | {"model": MODEL_NAME})
    assert plain["model"] == MODEL_NAME
    assert answer["choices"][0]["message"]["content"] != plain["choices"][0]["message"]["content"]
    with pytest.raises(urllib.error.HTTPError):
        call("/v1/chat/completions", body | {"model": f"{MODEL_NAME}@none-such"})


def test_import_and_export(learnt, client, tmp_path):
    """An adapter file goes in by the command; one for a model that is not here, or that is none, does not."""
    box = learnt
    bad = tmp_path / "bad.gguf"
    for content in (b"", b"GGUF", os.urandom(4096), tiny_model()):
        bad.write_bytes(content)
        with open(bad, "rb") as file, socket.socket(socket.AF_UNIX) as s:
            s.connect(str(box.home / "run/hearth/admin.sock"))
            socket.send_fds(s, [b'{"cmd":"adapters.import","name":"bad"}\n'], [file.fileno()])
            assert not json.loads(s.makefile("rb").readline())["ok"]
    assert hearth(box, "adapter", "import", bad, "--name", "bad").returncode != 0
    assert [a.name for a in client.call("list_adapters").adapters] == ["a", "b"]


# ---- what is one's own


def test_own_conversations_are_ones_own_and_go_with_a_deletion(box, client):
    with box.paired("Ann", name="ann", scopes=["chat", "train"]) as ann:
        accepted = ann.call("chat", text="a question", sampling=WILD)
        list(ann.events())
        for text in ("one more", "and another"):
            ask(ann, text)
        assert hearth(box, "data", "import", "anns", "--conversations").returncode == 2  # whose?
        done = hearth(box, "data", "import", "anns", "--conversations", "--person", "Ann")
        assert done.returncode == 0, done.stderr
        assert "own of Ann" in done.stdout
        assert [s.name for s in client.call("list_data_sets").data_sets] == ["set"]
        assert sorted(s.name for s in ann.call("list_data_sets").data_sets) == ["anns", "set"]
        with pytest.raises(RequestFailed):
            start(client, data_set="anns")
        start(ann, data_set="anns", adapter="ann", held_out={"value": 0}, use=True)
        assert finish(ann).state == DONE
        assert ask(ann)[1] == "ann"
        assert client.call("list_adapters").adapters == []
        assert client.call("get_status").training.adapter == ""
        with pytest.raises(RequestFailed):
            ask(client, adapter="ann")
        assert hearth(box, "adapter", "use", "ann").returncode == 2  # not for everybody
        ann.call("delete_conversation", conversation_id=accepted.conversation_id)
        assert ann.call("list_adapters").adapters == []
        assert [s.name for s in ann.call("list_data_sets").data_sets] == ["set"]
        assert ask(ann)[1] == ""
        assert len(list((box.state / "learn").iterdir())) == 1  # the common set's


def models_at_the_door(box, person):
    import ssl
    import urllib.request

    token = box.admin("token.create", person=person, name="api")["token"]
    context = ssl.create_default_context(cadata=box.ca_pem)
    url = f"https://localhost:{box.port}/v1/models"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, context=context, timeout=60) as reply:
        return {m["id"] for m in json.load(reply)["data"]}


def test_what_is_anothers_is_as_if_it_were_not_there(box, client):
    """Nobody stops, discards, chooses, goes on from or mixes what is learnt from another's conversations."""
    with box.paired("Ann", name="ann", scopes=["chat", "train"]) as ann, box.paired("Bob", name="bob") as bob:
        accepted = ann.call("chat", text="a question", sampling=WILD)
        list(ann.events())
        ask(bob, sampling=WILD)
        for person in ("Ann", "Bob"):
            done = hearth(box, "data", "import", person, "--conversations", "--person", person)
            assert done.returncode == 0, done.stderr
        start(ann, data_set="Ann", adapter="ann", held_out={"value": 0}, epochs={"value": 1000})
        for fields in ({}, {"adapter": "ann"}, {"adapter": "ann", "discard": True}):
            with pytest.raises(RequestFailed) as error:
                client.call("train_stop", **fields)
            assert error.value.code == 4
        ann.call("train_stop", adapter="ann")
        assert finish(ann).state == STOPPED  # and not discarded
        with pytest.raises(RequestFailed):
            client.call("train_stop", adapter="ann", discard=True)
        ann.call("train_stop", adapter="ann", discard=True)
        start(ann, data_set="Ann", adapter="ann", held_out={"value": 0})
        assert finish(ann).state == DONE
        with pytest.raises(RequestFailed):
            client.call("use_adapter", name="ann")
        with pytest.raises(RequestFailed):
            start(client, init="ann")
        with pytest.raises(AdminError, match="is not mixed"):
            box.admin("train.start", data_set="Bob", adapter="b", init="ann")
        start(ann, adapter="further", init="ann")  # on the common set, and hers all the same
        assert finish(ann).state == DONE
        assert [a.name for a in client.call("list_adapters").adapters] == []
        assert f"{MODEL_NAME}@ann" in models_at_the_door(box, "Ann")
        assert models_at_the_door(box, "Bob") == {MODEL_NAME}
        ann.call("delete_conversation", conversation_id=accepted.conversation_id)
        assert box.admin("adapters.list")["adapters"] == []


def test_a_deletion_ends_the_training_that_learns_from_it(box, client):
    with box.paired("Ann", name="ann", scopes=["chat", "train"]) as ann:
        accepted = ann.call("chat", text="a question", sampling=WILD)
        list(ann.events())
        assert hearth(box, "data", "import", "anns", "--conversations", "--person", "Ann").returncode == 0
        start(ann, data_set="anns", adapter="ann", held_out={"value": 0}, epochs={"value": 1000})
        with box.paired("Ann", name="second", scopes=["train"]) as follower:
            follower.call("train_follow")
            ann.call("delete_turn", turn_id=accepted.user_turn_id)
            last = finish(follower)
        assert last.state == FAILED and "deleted" in last.error.message
        assert len(list((box.state / "learn").iterdir())) == 1
        start(client)  # and the next one may begin
        assert finish(client).state == DONE


# ---- the command


def test_the_command_trains_in_the_box(box):
    words = ["--rank", 2, "--seq", 64, "--batch", 2, "--held-out", 0.2]
    begin = ("train", "start", "set", "cli", *words, "--max-steps", 6, "--use")
    end = time.monotonic() + 60 * PATIENCE
    while "being looked at" in (done := hearth(box, *begin)).stderr:
        assert time.monotonic() < end  # the model's hash is not known
        time.sleep(0.05)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cli: done, step 6 of 6, loss ")
    assert hearth(box, "train", "status").stdout == done.stdout
    status = json.loads(hearth(box, "train", "status", "--json").stdout)["training"]
    assert (status["state"], status["step"], status["adapter"]) == ("done", 6, "cli")
    assert file_of(box, "cli")["rank"] == 2
    assert any(c["adapter"] == "cli" for c in box.admin("adapters.list")["choices"])  # --use
    child = subprocess.Popen(
        [str(BUILD / "hearth"), "train", "start", "set", "long", *map(str, words), "--epochs", "1000"],
        env=box.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    wait_training(box, lambda now: now["adapter"] == "long" and now["state"] == "stepping")
    child.send_signal(signal.SIGINT)  # lets it go on alone
    assert child.wait(20 * PATIENCE) == 0 and "goes on" in child.stderr.read()
    step = box.admin("train.status")["training"]["step"]
    wait_training(box, lambda now: now["adapter"] == "long" and now["step"] > step)
    assert hearth(box, "train", "stop", "long", "--discard").returncode == 0
    wait_training(box, lambda now: now["state"] in ("none", "stopped"))
    assert [t["name"] for t in box.admin("adapters.list")["trainings"]] == []


@pytest.mark.parametrize(
    "words,code,said",
    [
        (["begin"], 2, "not start, stop or status"),
        (["start", "set"], 2, "wants a data set and the adapter's name"),
        (["start", "set", "a", "--out", "x"], 2, "--out is not for 'start'"),
        (["start", "set", "a", "--discard"], 2, "--discard is not for 'start'"),
        (["start", "set", "b", "--init", "a", "--rank", "4"], 2, "leave --rank out"),
        (["start", "set", "b", "--alpha", "8", "--init", "a"], 2, "leave --alpha out"),
        (["start", "set", "b", "--init", "a", "--targets", "attn_q"], 2, "leave --targets out"),
        (["stop", "a", "--rank", "4"], 2, "--rank is not for 'stop'"),
        (["--data", "x", "--out", "y", "--use"], 2, "for a training in the box"),
        (["start", "absent", "a"], 1, "no data set of that name"),
        (["start", "set", "a", "--rank", "300"], 2, "rank: 1 to 256"),
    ],
)
def test_wrong_words_of_the_command(box, words, code, said):
    end = time.monotonic() + 60 * PATIENCE
    while "being looked at" in (done := hearth(box, "train", *words)).stderr:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert done.returncode == code and said in done.stderr, (done.returncode, done.stderr)
    assert done.stderr.count("\n") == 1 and done.stdout == ""


# ---- the real model


def test_smollm2_learns_a_style():
    if model_path() is None:
        pytest.skip("no SmolLM2 model")
    with Box(model_path()) as box:
        path = box.home / "sums.jsonl"
        path.write_text(
            "".join(
                json.dumps(
                    {
                        "messages": [
                            {"role": "user", "content": f"What is {i} plus {i}?"},
                            {"role": "assistant", "content": f"Arr, {i} and {i} be {2 * i}, matey!"},
                        ]
                    }
                )
                + "\n"
                for i in range(40)
            )
        )
        assert hearth(box, "data", "import", "set", path).returncode == 0
        with box.paired(scopes=["chat", "train"]) as client:
            start(client, rank={"value": 4}, lr={"value": 1e-3}, epochs={"value": 1}, use=True, seq={"value": 128})
            assert finish(client, 300).state == DONE
            text, adapter = ask(client, "What is 3 plus 3?")
            assert adapter == "a" and text.startswith("Arr")
            assert not ask(client, "What is 3 plus 3?", adapter="none")[0].startswith("Arr")
