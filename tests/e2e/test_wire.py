# SPDX-License-Identifier: Apache-2.0
"""hearthd over its real protocol, spoken by an independent client: Python's TLS, websockets and protobuf."""

import json
import os
import socket
import threading
import time

import pytest
from hearthbox import NO_END, PATIENCE, ROOT, AdminError, Box, model_path, python_client
from websockets.exceptions import ConnectionClosed

TINY = ROOT / "tests/golden/tiny-llama.gguf"
Code = python_client.SCHEMA["Error"].DESCRIPTOR.enum_types_by_name["Code"].values_by_name
GREEDY = {"temperature": {"value": 0}}
LONG = "Tell me a long story about a lighthouse keeper, with many details."


@pytest.fixture(scope="module")
def tiny():
    """Answers nonsense, fast; needs no download."""
    with Box(TINY, args=["--template", "chatml"]) as box:
        yield box


@pytest.fixture(scope="module")
def box():
    """Answers slowly enough to be interrupted."""
    if not model_path():
        pytest.skip("the default model (SmolLM2) is absent")
    with Box(model_path()) as box:
        yield box


@pytest.fixture
def client(tiny):
    with tiny.paired() as client:
        yield client


def code(name):
    return Code[f"CODE_{name}"].number


def fails_with(name):
    class Check:
        def __enter__(self):
            return self

        def __exit__(self, kind, value, _):
            assert kind is python_client.RequestFailed, f"expected CODE_{name}, got {value!r}"
            assert value.code == code(name), str(value)
            return True

    return Check()


def names(events):
    return [event.WhichOneof("event") for event in events]


def text_of(events):
    return "".join(e.output_text_delta.delta for e in events)


def usage_of(last):
    return getattr(last, last.WhichOneof("event")).usage


def sampling(**values):
    return {k: v if isinstance(v, list) else {"value": v} for k, v in values.items()}


def wait_finished(client, conversation, turns=2, timeout=120):
    deadline = time.monotonic() + timeout * PATIENCE
    while time.monotonic() < deadline:
        got = client.call("get_conversation", conversation_id=conversation)
        if len(got.turns) >= turns and all(t.finished for t in got.turns):
            return got
        time.sleep(0.1)
    raise AssertionError("the answer did not end")


# ---- answers


def test_an_answer_as_events(client):
    accepted = client.call("chat", text="hello", sampling=sampling(max_tokens=20, temperature=0, seed=7))
    events = list(client.events())
    assert [e.seq for e in events] == list(range(1, len(events) + 1))
    assert {e.response_id for e in events} == {accepted.response_id}
    got = names(events)
    deltas = got.count("output_text_delta")
    assert deltas > 0
    assert [n for n in got if n not in ("output_text_delta", "response_in_progress")] == [
        "response_created",
        "output_item_added",
        "content_part_added",
        "output_text_done",
        "content_part_done",
        "output_item_done",
        got[-1],
    ]
    assert got[-1] in ("response_completed", "response_incomplete")
    assert events[0].response_created.conversation_id == accepted.conversation_id
    assert events[0].response_created.model
    done = next(e for e in events if e.WhichOneof("event") == "output_text_done")
    assert done.output_text_done.text == text_of(events)
    usage = usage_of(events[-1])
    assert usage.prompt_tokens > 0 and usage.seed == 7 and len(usage.numerics_id) == 32
    assert usage.stop_reason in ("end", "max_tokens")
    stored = client.call("get_conversation", conversation_id=accepted.conversation_id)
    assert [t.text for t in stored.turns] == ["hello", text_of(events)]
    assert stored.turns[0].turn_id == accepted.user_turn_id
    assert stored.turns[1].turn_id == accepted.assistant_turn_id
    assert stored.turns[1].response_id == accepted.response_id
    assert stored.turns[1].finished and stored.turns[1].usage == usage


def test_same_seed_same_answer(client):
    def ask():
        return "".join(client.ask("hello", sampling=sampling(seed=11, max_tokens=16, temperature=1)))

    assert ask() == ask()


def test_max_tokens_and_stop_are_told(client):
    client.call("chat", text="hello", sampling=sampling(max_tokens=2, temperature=0))
    end = list(client.events())[-1]
    assert end.response_incomplete.usage.completion_tokens == 2
    assert end.response_incomplete.usage.stop_reason == "max_tokens"


def test_paris(box):
    with box.paired() as client:
        assert "Paris" in "".join(client.ask("What is the capital of France?", sampling=GREEDY))


def test_a_conversation_goes_on_and_the_cache_is_used(box):
    with box.paired() as client:
        accepted = client.call(
            "chat", text="My name is Ada. Say hello.", sampling=sampling(max_tokens=12, temperature=0)
        )
        first = usage_of(list(client.events())[-1])
        client.call(
            "chat",
            text="And again.",
            conversation_id=accepted.conversation_id,
            sampling=sampling(max_tokens=4),
        )
        second = usage_of(list(client.events())[-1])
        said = first.prompt_tokens + first.completion_tokens
        assert second.prompt_tokens > said, "the answer is not in the prompt"
        assert second.cached_tokens >= said - 2
        assert client.call("get_conversation", conversation_id=accepted.conversation_id).head.turns == 4


def test_a_prompt_that_does_not_fit_is_told(client):
    accepted = client.call("chat", text="word " * 2000)
    end = list(client.events())[-1]
    assert end.response_failed.error.code == code("CONTEXT")
    assert client.call("get_conversation", conversation_id=accepted.conversation_id).turns[1].finished


def test_old_turns_are_dropped_when_asked(client):
    conversation = client.call("chat", text="a" * 40, sampling=sampling(max_tokens=4)).conversation_id
    list(client.events())
    dropped = 0
    for _ in range(3):
        client.call(
            "chat", text="b" * 40, conversation_id=conversation, overflow=1, sampling=sampling(max_tokens=4)
        )
        events = list(client.events())
        assert names(events)[-1] != "response_failed", events[-1]
        dropped = max(dropped, events[0].response_created.dropped_turns)
    assert dropped >= 2
    client.call("chat", text="c" * 40, conversation_id=conversation)
    assert list(client.events())[-1].response_failed.error.code == code("CONTEXT")


def test_many_old_turns_are_dropped(tiny):
    with tiny.paired(person="talker") as client:
        conversation = client.call("chat", text="lorem ipsum " * 1000).conversation_id
        list(client.events())
        for _ in range(59):
            client.call("chat", text="lorem ipsum " * 1000, conversation_id=conversation)
            list(client.events())
        client.call("chat", text="short", conversation_id=conversation, overflow=1, sampling=sampling(max_tokens=1))
        created = next(e.response_created for e in client.events() if e.WhichOneof("event") == "response_created")
        assert created.dropped_turns == 60
        list(client.events())


def test_a_conversation_that_is_longer_than_any_prompt(tiny):
    with tiny.paired(person="writer") as client:
        conversation = client.call("chat", text="x" * 250_000).conversation_id
        list(client.events())
        for _ in range(8):
            client.call("chat", text="x" * 250_000, conversation_id=conversation)
            list(client.events())
        client.call("chat", text="more", conversation_id=conversation)
        error = list(client.events())[-1].response_failed.error
        assert error.code == code("CONTEXT") and "than any prompt" in error.message
        client.call("chat", text="short", conversation_id=conversation, overflow=1, sampling=sampling(max_tokens=1))
        events = list(client.events())
        assert names(events)[-1] != "response_failed" and events[0].response_created.dropped_turns == 9


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 6},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"min_p": 1.5},
        {"repeat_penalty": 0},
        {"presence_penalty": 3},
        {"penalty_last_n": 5000},
        {"max_tokens": 0},
        {"stop": [""]},
        {"stop": ["x" * 257]},
        {"stop": ["x"] * 17},
        {"logit_bias": [{"token": -1, "bias": 1}]},
        {"logit_bias": [{"token": 1 << 30, "bias": 1}]},
        {"logit_bias": [{"token": 1, "bias": 101}]},
        {"logit_bias": [{"token": 1, "bias": 1}] * 301},
    ],
)
def test_sampling_is_checked_before_anything_is_stored(client, fields):
    before = client.call("list_conversations", limit=200)
    with fails_with("INVALID"):
        client.call("chat", text="hello", sampling=sampling(**fields))
    assert client.call("list_conversations", limit=200) == before


@pytest.mark.parametrize(
    "fields, name",
    [
        ({"text": ""}, "LIMIT"),
        ({"text": "x" * (256 * 1024 + 1)}, "LIMIT"),
        ({"text": "x", "system": "s" * (64 * 1024 + 1)}, "LIMIT"),
        ({"text": "x", "conversation_id": b"short"}, "INVALID"),
        ({"text": "x", "conversation_id": b"n" * 16}, "NOT_FOUND"),
    ],
)
def test_chat_fields_are_checked(client, fields, name):
    with fails_with(name):
        client.call("chat", **fields)


# ---- interruptions


def start(client, text=LONG, **fields):
    """Asks and waits for the first piece: (Accepted, the seq seen so far). Without sampling the answer does not end."""
    accepted = client.call("chat", text=text, **{"sampling": {"logit_bias": NO_END}, **fields})
    for event in client.events():
        if event.WhichOneof("event") == "output_text_delta":
            return accepted, event.seq
    raise AssertionError("no text came")


def test_cancel(box):
    with box.paired() as client:
        accepted, _ = start(client)
        request = client.send("cancel", response_id=accepted.response_id)
        done, end = False, None
        while end is None:
            frame = client.receive()
            done = done or (frame.request_id == request and frame.WhichOneof("body") == "done")
            if frame.event.WhichOneof("event") == "response_incomplete":
                end = frame.event.response_incomplete
        assert done and end.usage.stop_reason == "cancelled"
        turn = client.call("get_conversation", conversation_id=accepted.conversation_id).turns[1]
        assert turn.finished and turn.text and turn.usage.stop_reason == "cancelled"


def test_resume_in_the_middle_and_after_the_end(box):
    with box.paired() as client:
        accepted, seen = start(client, sampling=sampling(max_tokens=40, temperature=0))
        with box.hello(client.token) as second:
            request = second.send("resume", response_id=accepted.response_id, after_seq=seen)
            rest = list(second.events())
            assert [e.seq for e in rest] == list(range(seen + 1, seen + 1 + len(rest)))
        with box.hello(client.token) as third:
            request = third.send("resume", response_id=accepted.response_id, after_seq=0)
            frames = []
            while not frames or frames[-1].event.seq != rest[-1].seq:
                frames.append(third.receive())
            assert {f.request_id for f in frames} == {request}
            assert [f.event.seq for f in frames] == list(range(1, rest[-1].seq + 1))
            whole = text_of([f.event for f in frames])
            third.send("resume", response_id=accepted.response_id, after_seq=rest[-1].seq)
            assert third.receive().WhichOneof("body") == "done"
        stored = client.call("get_conversation", conversation_id=accepted.conversation_id)
        assert stored.turns[1].text == whole


def test_an_answer_goes_on_without_anybody(box):
    with box.paired() as client:
        accepted, _ = start(client, sampling=sampling(max_tokens=40, temperature=0))
    with box.hello(client.token) as again:
        turn = wait_finished(again, accepted.conversation_id).turns[1]
        assert turn.usage.completion_tokens == 40


def test_a_repeated_request_is_the_same_request(box):
    with box.paired() as client, box.hello(client.token) as second:
        request = os.urandom(16)
        client.send("chat", request, text=LONG, sampling=sampling(max_tokens=20, temperature=0))
        first = client.receive().accepted
        second.send("chat", request, text=LONG, sampling=sampling(max_tokens=20, temperature=0))
        assert second.receive().accepted == first
        assert text_of(client.events()) == text_of(second.events())
        assert len(client.call("get_conversation", conversation_id=first.conversation_id).turns) == 2
        client.send("chat", request, text="something else")  # after the end
        assert client.receive().accepted == first


def test_one_answer_at_a_time_in_a_conversation(box):
    with box.paired() as client:
        accepted, _ = start(client)
        request = client.send("chat", text="me too", conversation_id=accepted.conversation_id)
        while (frame := client.receive()).request_id != request:
            pass
        assert frame.error.code == code("BUSY")
        client.send("cancel", response_id=accepted.response_id)
        list(client.events())


def test_an_answer_that_is_being_written_is_told_to_nobody_else(box):
    with box.paired(person="carol") as carol, box.paired(person="dave") as dave:
        accepted, _ = start(carol)
        with fails_with("NOT_FOUND"):
            dave.call("chat", text="is it there?", conversation_id=accepted.conversation_id)
        carol.send("cancel", response_id=accepted.response_id)
        list(carol.events())


def test_two_people_are_answered_together(box):
    with box.paired(person="ann") as ann, box.paired(person="bob") as bob:
        a, _ = start(ann)
        started = time.monotonic()
        b, _ = start(bob, sampling=sampling(max_tokens=10, temperature=0))
        list(bob.events())
        assert ann.call("get_status").active_responses == 1, "bob waited for ann's whole answer"
        assert time.monotonic() - started < 60 * PATIENCE
        ann.call("cancel", response_id=a.response_id)


def test_deleting_a_conversation_ends_its_answer(box):
    with box.paired() as client:
        accepted, _ = start(client)
        client.send("delete_conversation", conversation_id=accepted.conversation_id)
        last = list(client.events())[-1]
        assert last.response_incomplete.usage.stop_reason == "cancelled"
        with fails_with("NOT_FOUND"):
            client.call("get_conversation", conversation_id=accepted.conversation_id)
        with fails_with("NOT_FOUND"):
            client.call("resume", response_id=accepted.response_id)
        deadline = time.monotonic() + 3 * PATIENCE
        while box.admin("status")["engine_active"] and time.monotonic() < deadline:
            time.sleep(0.05)
        status = box.admin("status")
        assert status["active_responses"] == 0 and status["engine_active"] == 0


# ---- conversations


def finished_chat(client, text, **fields):
    accepted = client.call("chat", text=text, sampling=sampling(max_tokens=4), **fields)
    list(client.events())
    return accepted


def test_list_rename_and_delete(tiny):
    with tiny.paired(person="lists") as client:
        first = finished_chat(client, "the first question")
        second = finished_chat(client, "the second question")
        heads = client.call("list_conversations").conversations
        assert [h.conversation_id for h in heads] == [second.conversation_id, first.conversation_id]
        assert heads[1].title == "the first question" and heads[1].turns == 2
        page = client.call("list_conversations", limit=1)
        assert page.more and len(page.conversations) == 1
        rest = client.call("list_conversations", limit=1, before_ms=page.conversations[0].updated_ms)
        assert not rest.more and rest.conversations[0].conversation_id == first.conversation_id
        client.call("rename_conversation", conversation_id=first.conversation_id, title="naïve ☂")
        assert client.call("get_conversation", conversation_id=first.conversation_id).head.title == "naïve ☂"
        with fails_with("LIMIT"):
            client.call("rename_conversation", conversation_id=first.conversation_id, title="")
        client.call("delete_turn", turn_id=first.user_turn_id)
        assert not client.call("get_conversation", conversation_id=first.conversation_id).turns
        client.call("delete_conversation", conversation_id=first.conversation_id)
        assert len(client.call("list_conversations").conversations) == 1
        with fails_with("NOT_FOUND"):
            client.call("delete_conversation", conversation_id=first.conversation_id)
        with fails_with("LIMIT"):
            client.call("list_conversations", limit=201)


def test_nobody_sees_what_is_another_persons(tiny):
    with tiny.paired(person="carol") as carol, tiny.paired(person="dave") as dave:
        mine = finished_chat(carol, "private")
        for body, fields in [
            ("get_conversation", {"conversation_id": mine.conversation_id}),
            ("rename_conversation", {"conversation_id": mine.conversation_id, "title": "x"}),
            ("delete_conversation", {"conversation_id": mine.conversation_id}),
            ("delete_turn", {"turn_id": mine.user_turn_id}),
            ("resume", {"response_id": mine.response_id}),
            ("cancel", {"response_id": mine.response_id}),
            ("chat", {"conversation_id": mine.conversation_id, "text": "let me in"}),
        ]:
            with fails_with("NOT_FOUND"):
                dave.call(body, **fields)
        assert not dave.call("list_conversations").conversations
        assert len(carol.call("get_conversation", conversation_id=mine.conversation_id).turns) == 2


def test_system_text_is_kept_with_the_conversation(client):
    accepted = finished_chat(client, "hello", system="be brief")
    turns = client.call("get_conversation", conversation_id=accepted.conversation_id).turns
    assert [t.role for t in turns] == [1, 2, 3] and turns[0].text == "be brief"
    with fails_with("INVALID"):
        client.call("chat", text="x", system="changed", conversation_id=accepted.conversation_id)


# ---- models, status, scopes


def test_models_are_chosen_by_name_only(tiny):
    with tiny.paired(scopes=["chat", "admin"]) as client:
        listed = client.call("list_models").models
        assert [m.loaded for m in listed] == [True] and listed[0].context_tokens > 0
        for name in ("../secret", "/etc/passwd", "a/b", "", ".hidden", "x" * 129, "..\\x"):
            with fails_with("INVALID"):
                client.call("use_model", name=name)
        with fails_with("NOT_FOUND"):
            client.call("use_model", name="absent")
        broken = tiny.models / "broken.gguf"
        broken.write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 16)
        try:
            with fails_with("UNAVAILABLE"):
                client.call("use_model", name="broken")
        finally:
            broken.unlink()
        assert "".join(client.ask("still here?", sampling=sampling(max_tokens=4))) is not None
        client.call("use_model", name=listed[0].name)
        assert client.call("get_status").model.name == listed[0].name


def test_scopes(tiny):
    with tiny.paired(scopes=["chat"]) as client:
        with fails_with("FORBIDDEN"):
            client.call("use_model", name="x")
    with tiny.paired(scopes=["train"]) as client:
        some = os.urandom(16)
        for name, fields in (
            ("chat", {"text": "x"}),
            ("cancel", {"response_id": some}),
            ("resume", {"response_id": some}),
            ("list_conversations", {}),
            ("get_conversation", {"conversation_id": some}),
            ("rename_conversation", {"conversation_id": some, "title": "x"}),
            ("delete_turn", {"turn_id": some}),
            ("delete_conversation", {"conversation_id": some}),
        ):
            with fails_with("FORBIDDEN"):
                client.call(name, **fields)
        assert client.call("ping", payload=b"p").payload == b"p"


def test_status(client):
    status = client.call("get_status")
    assert (
        status.version
        and status.model.loaded
        and status.rss_bytes > 1 << 20
        and status.connected_devices >= 1
    )


# ---- the owner's socket


def test_admin_socket(tiny):
    with tiny.paired(person="erin", name="erin's phone") as client:
        mine = finished_chat(client, "what the admin socket shows")
        people = {p["name"]: p for p in tiny.admin("people.list")["people"]}
        assert people["erin"]["n_devices"] == 1 and people["erin"]["n_conversations"] == 1
        heads = tiny.admin("conversations.list", person="erin")["conversations"]
        assert heads[0]["id"] == mine.conversation_id.hex()
        shown = tiny.admin("conversations.show", person="erin", id=heads[0]["id"])["conversation"]
        assert [t["role"] for t in shown["turns"]] == ["user", "assistant"]
        assert (
            shown["turns"][0]["text"] == "what the admin socket shows"
            and shown["turns"][1]["usage"]["seed"].isdigit()
        )
        *lines, last = tiny.admin_lines("conversations.export", person="erin")
        assert [line["conversation"] for line in lines] == [shown] and last["n_conversations"] == 1
        tiny.admin("conversations.delete", person="erin", id=heads[0]["id"])
        with fails_with("NOT_FOUND"):
            client.call("get_conversation", conversation_id=mine.conversation_id)
        device = next(d for d in tiny.admin("devices.list", person="erin")["devices"])
        assert device["name"] == "erin's phone" and device["connected"]
        tiny.admin("people.remove", person="erin")
        with pytest.raises(ConnectionClosed) as end:
            client.receive(5)
        assert end.value.rcvd.code == 4403
    with pytest.raises(AdminError, match="not_found"):
        tiny.admin("conversations.list", person="erin")
    for wrong in (
        {"cmd": "nonsense"},
        {"cmd": "status", "extra": 1},
        {"cmd": "people.add"},
        {"cmd": "devices.revoke", "id": "xyz"},
    ):
        with pytest.raises(AdminError):
            tiny.admin(**wrong)
    with pytest.raises(AdminError, match="exists"):
        tiny.admin("people.add", name="owner")
    assert oct(os.stat(tiny.home / "run/hearth/admin.sock").st_mode)[-3:] == "600"


def test_later_invitations_are_for_chatting(tiny):
    tiny.secret("owner")  # somebody was invited
    with tiny.paired(person="guest", name="guest"):
        (device,) = tiny.admin("devices.list", person="guest")["devices"]
        assert device["scopes"] == ["chat"]


def test_the_admin_socket_is_bounded(tiny):
    def connect():
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(20 * PATIENCE)
        s.connect(str(tiny.home / "run/hearth/admin.sock"))
        return s

    def answer(s, request):
        try:
            s.sendall(request)
            return s.makefile("rb").readline()
        except ConnectionError:
            return b""

    ask = b'{"cmd": "models"}\n'
    for _ in range(2):  # who has gone takes nobody's place
        deadline = time.monotonic() + 20 * PATIENCE
        open_ones = []
        while len(open_ones) < 16:
            s = connect()
            if answer(s, ask):
                open_ones.append(s)
            else:  # those of before are not gone yet
                s.close()
                assert time.monotonic() < deadline
        one_more = connect()
        assert answer(one_more, ask) == b""
        assert all(answer(s, ask) for s in open_ones)
        for s in [one_more, *open_ones]:
            s.close()
    deadline = time.monotonic() + 20 * PATIENCE
    long_line = b""
    while not long_line and time.monotonic() < deadline:
        with connect() as s:
            long_line = answer(s, b" " * (64 << 10))
            assert not long_line or s.recv(1) == b"", "it hangs up"
    assert json.loads(long_line)["code"] == "limit"


def test_use_model_at_the_admin_socket_is_remembered(tiny):
    name = tiny.admin("models")["models"][0]["name"]
    assert tiny.admin("use-model", name=name)["model"]["loaded"]
    with pytest.raises(AdminError, match="not_found"):
        tiny.admin("use-model", name="absent")


# ---- many at once


@pytest.mark.native("an answer of a thousand tokens by the default model")
def test_the_queue_is_bounded():
    if not model_path():
        pytest.skip("the default model (SmolLM2) is absent")
    with Box(model_path(), args=["--sessions", "1"]) as box, box.paired() as client:
        # An endless answer holds the only session until all others have come.
        ids = [client.send("chat", text=LONG, sampling=sampling(logit_bias=NO_END))]
        ids += [client.send("chat", text=f"question {i}", sampling=sampling(max_tokens=1)) for i in range(59)]
        accepted, busy, ended, first = 0, 0, 0, None
        while accepted + busy < len(ids) or ended < accepted:
            frame = client.receive(60)
            kind = frame.WhichOneof("body")
            if kind == "accepted":
                first = frame.accepted.response_id if frame.request_id == ids[0] else first
                accepted += 1
            if kind == "error":
                assert frame.error.code == code("BUSY")
                busy += 1
            if first and accepted + busy == len(ids):
                first = client.send("cancel", response_id=first) and None
            if kind == "event":
                ended += frame.event.WhichOneof("event") in ("response_completed", "response_incomplete")
                assert frame.event.WhichOneof("event") != "response_failed", frame.event
        assert accepted >= 32 and busy > 0 and accepted == ended


def test_eight_conversations_at_once(tiny):
    results = {}

    def talk(number):
        with tiny.paired(person=f"p{number}") as client:
            results[number] = [
                "".join(client.ask(f"question {number}", sampling=sampling(max_tokens=12, temperature=0)))
                for _ in range(3)
            ]

    threads = [threading.Thread(target=talk, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert all(len(set(answers)) == 1 for answers in results.values())  # the same question, the same answer
