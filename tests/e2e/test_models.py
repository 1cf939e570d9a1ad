# SPDX-License-Identifier: Apache-2.0
"""Several models in one box, their budget, what is told of them; caches of conversations over a restart and their
deletion; pages of a conversation."""

import hashlib
import os
import shutil
import time
from pathlib import Path

import pytest
from hearthbox import MODEL_NAME, PATIENCE, AdminError, Box, model_path
from python_client import RequestFailed

GREEDY = {"temperature": {"value": 0}, "max_tokens": {"value": 12}}
LAST = ("response_completed", "response_incomplete", "response_failed")
NEAR_MIB = 340  # SmolLM2 needs some 300 MiB with all its positions


def gemma_path():
    path = os.environ.get("HEARTH_TEST_GEMMA3") or Path.home() / ".cache/hearth/models/gemma-3-270m-Q4_K_M.gguf"
    return Path(path).resolve() if Path(path).is_file() else None


def ask(client, text, **fields):
    """Text, usage, model and conversation of an answer."""
    fields.setdefault("sampling", GREEDY)
    accepted = client.call("chat", text=text, **fields)
    text, model = "", ""
    for event in client.events():
        which = event.WhichOneof("event")
        if which == "response_created":
            model = event.response_created.model
        elif which == "output_text_delta":
            text += event.output_text_delta.delta
        elif which == "response_failed":
            raise RequestFailed(event.response_failed.error)
        if which in LAST:
            return text, getattr(event, which).usage, model, accepted.conversation_id
    raise AssertionError("no end")


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds * PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


@pytest.fixture
def model():
    if model_path() is None:
        pytest.skip("no SmolLM2 model")
    return model_path()


@pytest.fixture
def pair(model):
    """A box with two files of one model: two models, as far as the box knows."""
    with two_models(model) as box:
        yield box


def two_models(model, *args):
    box = Box(model, args=args)
    shutil.copy(model, box.models / "Second.gguf")
    return box


def test_what_is_told_of_models(pair):
    wait_for(lambda: all(m["sha256"] for m in pair.admin("models")["models"]))
    (pair.models / "broken.gguf").write_bytes(b"GGUF" + bytes(100))
    pair.admin("models")  # shows it
    wait_for(lambda: any(m["problem"] for m in pair.admin("models")["models"]))
    models = {m["name"]: m for m in pair.admin("models")["models"]}
    first, second = models[MODEL_NAME], models["Second"]
    digest = hashlib.sha256((pair.models / "Second.gguf").read_bytes()).hexdigest()
    assert first["sha256"] == second["sha256"] == digest
    assert first["in_use"] and first["loaded"] and not second["loaded"] and not second["in_use"]
    assert second["architecture"] == "llama" and second["file_type"] == "Q4_1" and second["fits"]
    assert second["needed_bytes"] > second["size_bytes"]
    assert "broken.gguf" in models["broken"]["problem"] and not models["broken"]["fits"]
    client = pair.paired()
    told = {m.name: m for m in client.call("list_models").models}
    assert told["Second"].sha256 == digest and told["Second"].needed_bytes == second["needed_bytes"]
    assert told["broken"].problem and told[MODEL_NAME].in_use
    pair.stop()
    pair.start()  # what was computed once is not computed again
    wait_for(lambda: pair.admin("models")["models"][0]["sha256"], 2)


def test_a_question_names_its_model(pair):
    client = pair.paired()
    assert ask(client, "Hello")[2] == MODEL_NAME
    _, _, name, conversation = ask(client, "Hello", model="Second")
    assert name == "Second"
    assert ask(client, "And again", conversation_id=conversation)[2] == MODEL_NAME
    turns = client.call("get_conversation", conversation_id=conversation).turns
    assert [t.model for t in turns if t.role == 3] == ["Second", MODEL_NAME]
    status = client.call("get_status")
    assert sorted(m.name for m in status.models) == sorted(["Second", MODEL_NAME])
    assert status.memory_held_bytes > 2 * model_path().stat().st_size
    for name in ("nothing", "../Second", "x" * 200):
        with pytest.raises(RequestFailed):
            client.call("chat", text="Hello", model=name)
    assert len(client.call("list_conversations").conversations) == 2  # nothing was stored of those


def test_two_models_take_turns_where_one_fits(model):
    with two_models(model, "--memory-budget-mib", str(NEAR_MIB)) as box:
        client = box.paired()
        for name in ("Second", MODEL_NAME, "Second"):
            assert ask(client, "Hello", model=name)[2] == name
            states = [m["name"] for m in box.admin("status")["models"]]
            assert states == [name]
        assert box.admin("status")["model"]["name"] == MODEL_NAME  # still the one in use
        assert "is unloaded for another" in box.log_text()


def test_what_does_not_fit_is_refused_with_its_figures(model):
    box = two_models(model, "--memory-budget-mib", "50")
    try:
        box.start(wait_model=False)
        wait_for(lambda: "more than the memory budget of 50.0 MiB" in box.log_text())
        assert box.admin("status")["model"] is None
        assert not box.admin("models")["models"][0]["fits"]
        with pytest.raises(AdminError, match="50.0 MiB"):
            box.admin("use-model", name="Second")
    finally:
        box.__exit__()


def test_another_architecture_beside(model):
    if gemma_path() is None:
        pytest.skip("no gemma model")
    box = Box(model)
    (box.models / "gemma.gguf").symlink_to(gemma_path())
    with box:
        client = box.paired()
        with pytest.raises(RequestFailed, match="chat template"):  # it completes text only: it was asked, then
            ask(client, "Hello", model="gemma")
        assert ask(client, "Hello")[2] == MODEL_NAME
        states = {m["name"]: m["state"] for m in box.admin("status")["models"]}
        assert states == {"gemma": "loaded", MODEL_NAME: "loaded"}


# ---- caches over a restart

LONG = "Summarise this: " + "The garden has rows of beans, onions and tall sunflowers near the old stone wall. " * 12


def test_a_conversation_is_continued_after_a_restart(model):
    box = Box(model)
    with box:
        client = box.paired()
        _, usage, _, conversation = ask(client, LONG)
        assert usage.cached_tokens == 0
        box.stop()
        files = list((box.state / "prefixes").iterdir())
        assert len(files) == 1
        assert b"sunflowers" not in files[0].read_bytes()
        box.start()
        client = box.hello(client.token)
        _, usage, _, _ = ask(client, "Thanks.", conversation_id=conversation)
        assert usage.cached_tokens > 150
        # Any deletion takes it all: the file at once, and what the engine holds.
        client.call("delete_conversation", conversation_id=conversation)
        assert list((box.state / "prefixes").iterdir()) == []
        _, usage, _, _ = ask(client, LONG)
        assert usage.cached_tokens < 64  # the household's own text at most
        box.stop()
        assert len(list((box.state / "prefixes").iterdir())) == 1


def test_nothing_is_kept_when_it_is_switched_off(model):
    with Box(model, args=["--prefix-cache-mib", "0"]) as box:
        ask(box.paired(), LONG)
        box.stop()
        assert list((box.state / "prefixes").iterdir()) == []


# ---- pages of a conversation


def test_a_long_conversation_has_pages(model):
    with Box(model) as box:
        client = box.paired()
        fields, conversation = {"sampling": {"max_tokens": {"value": 1}}}, b""
        for i in range(5):
            *_, conversation = ask(client, f"Question {i}", conversation_id=conversation, **fields)
        whole = client.call("get_conversation", conversation_id=conversation)
        assert not whole.more and len(whole.turns) == 10
        pages, before = [], b""
        while True:
            page = client.call("get_conversation", conversation_id=conversation, limit=4, before_turn_id=before)
            pages = list(page.turns) + pages
            if not page.more:
                break
            before = page.turns[0].turn_id
        assert [t.turn_id for t in pages] == [t.turn_id for t in whole.turns]
        with pytest.raises(RequestFailed):
            client.call("get_conversation", conversation_id=conversation, before_turn_id=b"x" * 16)
