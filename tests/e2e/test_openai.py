# SPDX-License-Identifier: Apache-2.0
"""The OpenAI-compatible door, as OpenAI's own Python library uses it: over TLS, with the box's CA and a token of
`hearth token create`. Answers come from the default model; tools from a tiny one whose template has them."""

import json
import os
import shutil
import socket
import ssl
import subprocess
import time

import httpx2 as httpx
import openai
import pytest
from gguf_tiny import tiny_model
from hearthbox import BUILD, MODEL_NAME, PATIENCE, Box, free_port, model_path
from prometheus_client.parser import text_string_to_metric_families

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather somewhere",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Paris"]}, "celsius": {"type": "boolean"}},
            "required": ["city", "celsius"],
            "additionalProperties": False,
        },
    },
}
NOW = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}


def new_token(box, name="test", person="owner", **fields):
    return box.admin("token.create", person=person, name=name, **fields)


def http_client(box, token=None):
    context = ssl.create_default_context(cadata=box.ca_pem)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    base_url, timeout = f"https://localhost:{box.port}", 60 * PATIENCE
    return httpx.Client(verify=context, base_url=base_url, headers=headers, timeout=timeout, trust_env=False)


def client_of(box, token=None):
    return openai.OpenAI(
        base_url=f"https://localhost:{box.port}/v1",
        api_key=token or new_token(box)["token"],
        max_retries=0,
        http_client=http_client(box),
    )


@pytest.fixture(scope="module")
def box():
    if not model_path():
        pytest.skip("the default model is absent")
    with Box(model_path(), args=["--threads", "2"]) as box:
        yield box


@pytest.fixture(scope="module")
def client(box):
    return client_of(box)


@pytest.fixture(scope="module")
def tool_box(tmp_path_factory):
    file = tmp_path_factory.mktemp("model") / "tiny.gguf"
    file.write_bytes(tiny_model(context=4096))
    with Box(file, args=["--template", "qwen2.5", "--ctx", "8192"]) as box:
        yield box


@pytest.fixture(scope="module")
def tool_client(tool_box):
    return client_of(tool_box)


# ---- answers


def test_chat(client):
    answer = client.chat.completions.create(model=MODEL_NAME, messages=FRANCE, temperature=0, max_tokens=40)
    assert answer.object == "chat.completion" and answer.model == MODEL_NAME
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop" and answer.choices[0].message.role == "assistant"
    usage = answer.usage
    assert usage.prompt_tokens > 5 and usage.completion_tokens > 1
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_stream_says_the_same_piece_by_piece(client):
    options = dict(model=MODEL_NAME, messages=FRANCE, temperature=0, max_tokens=40)
    whole = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **options))
    assert len({c.id for c in chunks}) == 1 and all(c.object == "chat.completion.chunk" for c in chunks)
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content and len(chunks) > 5
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(c.usage is None for c in chunks[:-1])


def test_stream_ends_with_done_and_has_no_usage_unless_asked(box):
    token = new_token(box)["token"]
    body = {"model": "", "messages": FRANCE, "max_tokens": 3, "stream": True}
    with http_client(box, token) as http, http.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert lines[-1] == "data: [DONE]" and all(line.startswith("data: ") for line in lines)
    chunks = [json.loads(line[6:]) for line in lines[:-1]]
    assert all("usage" not in c for c in chunks)
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_completions_go_on_with_a_text(client):
    options = dict(model=MODEL_NAME, prompt="The capital of France is", temperature=0, max_tokens=5)
    whole = client.completions.create(**options)
    assert whole.object == "text_completion" and "Paris" in whole.choices[0].text
    assert whole.choices[0].finish_reason == "length" and whole.usage.completion_tokens == 5
    listed = client.completions.create(**options | {"prompt": [options["prompt"]]})  # as LangChain sends it
    assert listed.choices[0].text == whole.choices[0].text
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**options | {"prompt": ["one", "two"]})
    assert caught.value.param == "prompt"
    chunks = list(client.completions.create(stream=True, **options))
    assert "".join(c.choices[0].text for c in chunks) == whole.choices[0].text


def test_parts_and_developer_are_other_spellings(client):
    history = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello, Zed."}]
    spelt = [
        {"role": "developer", "content": [{"type": "text", "text": "You are "}, {"type": "text", "text": "brief."}]},
        *history,
        {"role": "user", "content": [{"type": "text", "text": "Who are you?"}], "name": "zed"},
    ]
    plain = [
        {"role": "system", "content": "You are brief."},
        *history,
        {"role": "user", "content": "Who are you?"},
    ]
    options = dict(model=MODEL_NAME, temperature=0, max_tokens=12)
    one = client.chat.completions.create(messages=spelt, **options)
    other = client.chat.completions.create(messages=plain, **options)
    assert one.choices[0].message.content == other.choices[0].message.content
    assert one.usage.prompt_tokens == other.usage.prompt_tokens
    spelt[2]["tool_calls"] = []  # none
    same = client.chat.completions.create(messages=spelt, **options)
    assert same.choices[0].message.content == other.choices[0].message.content
    short = client.chat.completions.create(messages=plain[-1:], **options)
    assert short.usage.prompt_tokens < one.usage.prompt_tokens


def test_several_system_messages(client):
    def ask(*messages):
        spelt = [{"role": role, "content": content} for role, content in messages]
        answer = client.chat.completions.create(model=MODEL_NAME, messages=spelt, temperature=0, max_tokens=12)
        return answer.choices[0].message.content, answer.usage.prompt_tokens

    # At the beginning they are one text.
    hello, who = ("user", "Hello."), ("user", "Who are you?")
    joined = ask(("system", "You are Zed.\n\nBe brief.\n\nBe kind."), hello)
    assert ask(("system", "You are Zed."), ("developer", "Be brief."), ("system", "Be kind."), hello) == joined
    assert ask(("system", "You are Zed."), ("system", ""), hello) == ask(("system", "You are Zed."), hello)
    # Later ones stay where they are, in a turn of their own.
    said = ("assistant", "Hello.")
    late = ask(("system", "S"), hello, said, ("developer", "Be brief."), who)
    without = ask(("system", "S"), hello, said, who)
    turn = ask(("system", "S"), hello, said, ("user", "Be brief."), who)
    assert late[1] == turn[1] > without[1]  # `system` and `user` are a token each


def test_a_late_system_message_that_the_template_does_not_take(tmp_path):
    file = tmp_path / "tiny.gguf"
    file.write_bytes(tiny_model(context=512))
    with Box(file, args=["--template", "gemma"]) as box:
        client = client_of(box)
        start = [{"role": "system", "content": "S"}, {"role": "developer", "content": "T"}, *FRANCE]
        options = dict(model="default", max_tokens=2)
        client.chat.completions.create(messages=start, **options)
        late = [*start, {"role": "assistant", "content": "Paris."}, {"role": "system", "content": "U"}, *FRANCE]
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(messages=late, **options)
        assert "messages[4] is a system message" in str(caught.value) and "gemma" in str(caught.value)


def test_sampling_fields_are_obeyed(client):
    options = dict(model=MODEL_NAME, messages=FRANCE, max_tokens=24)

    def text(**more):
        return client.chat.completions.create(**options, **more).choices[0].message.content

    hot = dict(temperature=2.0, top_p=1.0, extra_body={"top_k": 0, "min_p": 0})
    assert text(seed=5, **hot) == text(seed=5, **hot)
    assert text(seed=5, **hot) != text(seed=6, **hot)
    assert text(seed=5, temperature=2.0, extra_body={"top_k": 1}) == text(temperature=0)
    assert "Paris" not in text(temperature=0, stop=["Paris"])
    assert "Paris" not in text(temperature=0, stop="Par")
    with_bias = text(temperature=0, logit_bias={"504": 100, "2": -100}, presence_penalty=0, frequency_penalty=0)
    assert with_bias != text(temperature=0) and len(set(with_bias.split())) <= 2  # one token for ever


def test_answers_of_a_form(client):
    schema = {
        "type": "object",
        "properties": {"capital": {"enum": ["Paris", "Rome"]}, "large": {"type": "boolean"}},
        "required": ["capital", "large"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": schema}}
    options = dict(model=MODEL_NAME, messages=FRANCE, temperature=0, max_tokens=60)
    answer = client.chat.completions.create(response_format=form, **options)
    value = json.loads(answer.choices[0].message.content)
    assert value["capital"] in ("Paris", "Rome") and value["large"] in (True, False) and len(value) == 2
    answer = client.chat.completions.create(response_format={"type": "json_object"}, **options)
    content = answer.choices[0].message.content
    assert content.lstrip().startswith("{")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(content), dict)
    answer = client.chat.completions.create(extra_body={"grammar": 'root ::= "yes" | "no"'}, **options)
    assert answer.choices[0].message.content in ("yes", "no")
    assert client.chat.completions.create(response_format={"type": "text"}, **options)


def test_several_at_once(client):
    from concurrent.futures import ThreadPoolExecutor

    def ask(number):
        text = f"Say the number {number}."
        answer = client.chat.completions.create(
            model=MODEL_NAME, messages=[{"role": "user", "content": text}], temperature=0, max_tokens=12
        )
        return answer.choices[0].message.content

    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(ask, range(6)))
    assert together == [ask(n) for n in range(6)]


# ---- models


def test_models(client):
    models = client.models.list().data
    assert MODEL_NAME in [m.id for m in models] and all(m.object == "model" for m in models)
    assert client.models.retrieve(MODEL_NAME).id == MODEL_NAME
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")


# ---- tools


def forced(client, choice, stream=False, tools=(WEATHER, NOW), **more):
    return client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": "Weather?"}],
        tools=list(tools),
        tool_choice=choice,
        max_tokens=200,
        stream=stream,
        **more,
    )


def check_call(call):
    arguments = json.loads(call.function.arguments)
    assert len(call.id) == 9 and call.id.isalnum()
    if call.function.name == "get_weather":
        assert arguments["city"] in ("Rome", "Paris") and arguments["celsius"] in (True, False) and len(arguments) == 2
    else:
        assert call.function.name == "now" and arguments == {}


@pytest.mark.parametrize("seed", range(3))
def test_a_required_call_is_valid_whatever_the_model(tool_client, seed):
    choice = forced(tool_client, "required", seed=seed).choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    assert len(choice.message.tool_calls) == 1
    check_call(choice.message.tool_calls[0])


def test_a_named_call(tool_client):
    for name in ("get_weather", "now"):
        choice = forced(tool_client, {"type": "function", "function": {"name": name}}).choices[0]
        assert [c.function.name for c in choice.message.tool_calls] == [name]
        check_call(choice.message.tool_calls[0])


def test_a_call_in_a_stream(tool_client):
    chunks = list(forced(tool_client, "required", stream=True))
    deltas = [d for c in chunks for d in c.choices[0].delta.tool_calls or []]
    assert [d.index for d in deltas] == [0] and deltas[0].type == "function"
    check_call(deltas[0])
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert not any(c.choices[0].delta.content for c in chunks)


def test_definitions_of_several_tools_do_not_mix(tool_client):
    def tool(name, values):
        definition = {"x": {"enum": values}}
        parameters = {
            "type": "object",
            "properties": {"v": {"$ref": "#/$defs/x"}},
            "required": ["v"],
            "additionalProperties": False,
            "$defs": definition,
        }
        return {"type": "function", "function": {"name": name, "parameters": parameters}}

    tools = [tool("a", ["one"]), tool("b", ["two"])]
    for name, value in (("a", "one"), ("b", "two")):
        choice = forced(tool_client, {"type": "function", "function": {"name": name}}, tools=tools).choices[0]
        assert json.loads(choice.message.tool_calls[0].function.arguments) == {"v": value}


def test_parameters_that_refer_to_themselves(tool_client):
    leaf = {"type": "object", "properties": {"v": {"enum": [1]}}, "required": ["v"], "additionalProperties": False}
    node = {
        "type": "object",
        "properties": {"leaf": {"$ref": "#/$defs/leaf"}, "again": {"$ref": "#/properties/leaf"}, "more": {"$ref": "#"}},
        "required": ["leaf", "again"],
        "additionalProperties": False,
        "$defs": {"leaf": leaf},
    }

    def check(value):
        assert value["leaf"] == value["again"] == {"v": 1} and set(value) <= {"leaf", "again", "more"}
        if "more" in value:
            check(value["more"])

    tools = [NOW, {"type": "function", "function": {"name": "tree", "parameters": node}}]
    name = {"type": "function", "function": {"name": "tree"}}
    for seed in range(4):
        choice = forced(tool_client, name, tools=tools, seed=seed, temperature=2.0).choices[0]
        check(json.loads(choice.message.tool_calls[0].function.arguments))


def test_a_conversation_with_tools_goes_on(tool_client):
    message = forced(tool_client, "required").choices[0].message
    call = message.tool_calls[0]
    messages = [
        {"role": "user", "content": "Weather?"},
        message.model_dump(exclude_none=True, include={"role", "tool_calls"}),
        {"role": "tool", "tool_call_id": call.id, "content": '{"sunny": true}'},
    ]
    options = dict(model="default", max_tokens=4, tools=[WEATHER])
    assert tool_client.chat.completions.create(messages=messages, **options).choices[0].finish_reason == "length"
    wrong = [*messages[:2], dict(messages[2], tool_call_id="other")]
    with pytest.raises(openai.BadRequestError) as caught:
        tool_client.chat.completions.create(messages=wrong, **options)
    assert caught.value.param == "messages[2].tool_call_id"
    with pytest.raises(openai.BadRequestError):
        tool_client.chat.completions.create(messages=messages[:2] + messages[:1], **options)


def test_none_means_none(tool_client):
    choice = forced(tool_client, "none").choices[0]
    assert not choice.message.tool_calls


def test_a_template_without_tools_says_so(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL_NAME, messages=FRANCE, tools=[WEATHER])
    assert "no tools" in str(caught.value)


# ---- errors


def body(**more):
    return {"model": MODEL_NAME, "messages": FRANCE, "max_tokens": 2} | more


def called(*ids):
    calls = [{"id": i, "type": "function", "function": {"name": "f", "arguments": "{}"}} for i in ids]
    return {"role": "assistant", "tool_calls": calls}


TOLD = {"role": "tool", "tool_call_id": "a", "content": "x"}


@pytest.mark.parametrize(
    "more, param",
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"audio": {}}, "audio"),
        ({"functions": []}, "functions"),
        ({"no_such_field": 1}, "no_such_field"),
        ({"store": True}, "store"),
        ({"temperature": 9}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"seed": "x"}, "seed"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_object"}, "grammar": "root ::= [a]"}, "grammar"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "code"}]}, "tools[0]"),
        ({"tools": [WEATHER, WEATHER]}, "tools[1]"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "audio": {}}]}, "messages[0].audio"),
        ({"model": 5}, "model"),
        ({"model": "x" * 129}, "model"),
        ({"min_p": -0.1}, "min_p"),
        ({"min_p": 1.1}, "min_p"),
        ({"repeat_penalty": 0.05}, "repeat_penalty"),
        ({"repeat_penalty": 10.5}, "repeat_penalty"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": -2.1}, "frequency_penalty"),
        ({"top_k": -1}, "top_k"),
        ({"max_tokens": 1 << 31}, "max_tokens"),
        ({"stop": "x" * 257}, "stop"),
        ({"logit_bias": {str(i): 1 for i in range(301)}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {str(1 << 32): 1}}, "logit_bias"),
        ({"stream": True, "stream_options": {"other": 1}}, "stream_options"),
        ({"messages": [*FRANCE, called("a"), *FRANCE]}, "messages"),
        ({"messages": [*FRANCE, called("a")]}, "messages"),
        ({"messages": [*FRANCE, called("a", "b"), *[TOLD] * 2]}, "messages[3].tool_call_id"),
        ({"messages": [*FRANCE, called(*map(str, range(65)))]}, "messages[1].tool_calls"),
        ({"messages": [called("a") | {"role": "user"}]}, "messages[0].role"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(box, more, param):
    with http_client(box, new_token(box)["token"]) as http:
        answer = http.post("/v1/chat/completions", json=body(**more))
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param and error["type"] == "invalid_request_error" and error["message"] and error["code"]


def test_fields_without_meaning_here_and_nulls_are_accepted(box):
    with http_client(box, new_token(box)["token"]) as http:
        more = {"user": "u", "metadata": {"a": "b"}, "n": 1, "logprobs": None, "stop": None, "tools": []}
        more["store"] = False
        assert http.post("/v1/chat/completions", json=body(**more)).status_code == 200


def test_http_codes(box, client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-9", messages=FRANCE)
    assert caught.value.code == "model_not_found" and caught.value.param == "model"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL_NAME, messages=[{"role": "user", "content": "word " * 20000}])
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL_NAME, messages=FRANCE, extra_body={"grammar": "root ::= ("})
    with http_client(box, new_token(box)["token"]) as http:
        assert http.get("/v1/chat/completions").status_code == 405
        assert http.post("/v1/models", json={}).status_code == 405
        for missing in (http.post("/v1/embeddings", json={"input": "x"}), http.delete("/v1/files/1")):
            assert missing.status_code == 404 and missing.json()["error"]["code"] == "unknown_url"
        assert http.post("/v1/embeddings", json={}, headers={"Authorization": "Bearer no"}).status_code == 401
        assert http.get("/v1/nothing").json()["error"]["code"] == "unknown_url"
        assert http.post("/v1/chat/completions", content="{}").status_code == 415
        big = http.post("/v1/chat/completions", json=body(user="x" * (3 << 20)))
        assert big.status_code == 413


def test_without_a_model(tmp_path):
    with Box() as bare, http_client(bare, new_token(bare)["token"]) as http:
        assert http.post("/v1/chat/completions", json=body(model="")).status_code == 503
        assert http.get("/v1/models").json()["data"] == []
        assert http.get("/health/live").status_code == 200
        assert http.get("/health/ready").status_code == 503
        assert http.get("/health").json() == {
            "status": "ok", "live": True, "ready": False, "training": False,
        }


# ---- who may


def test_tokens(box):
    made = new_token(box, "program")
    assert made["ca_file"].endswith("ca.crt") and made["base_url"] == f"https://localhost:{box.port}/v1"
    device = next(d for d in box.admin("devices.list")["devices"] if d["id"] == made["id"])
    assert device["name"] == "program" and device["scopes"] == ["chat"] and not box.admin("status")["listen"] == "all"
    with http_client(box, made["token"]) as http:
        assert http.get("/v1/models").status_code == 200
        assert http.get("/v1/models", headers={"Origin": "https://evil.example"}).status_code == 403
        assert http.get("/v1/models", headers={"Origin": f"https://localhost:{box.port}"}).status_code == 200
        assert http.get("/v1/models", headers={"Host": "evil.example"}).status_code == 421
        assert "access-control-allow-origin" not in http.options("/v1/models").headers
        box.admin("devices.revoke", id=made["id"])
        assert http.get("/v1/models").status_code == 401
    trains = new_token(box, "trainer", scopes=["train"])["token"]
    with http_client(box, trains) as http:
        assert http.get("/v1/models").status_code == 403


def test_a_device_of_the_wire_has_the_same_token(box):
    import base64

    with box.paired(name="phone") as phone:
        token = base64.urlsafe_b64encode(phone.token).decode().rstrip("=")
        with http_client(box, token) as http:
            assert http.get("/v1/models").status_code == 200
        with http_client(box, token + "=") as http:
            assert http.get("/v1/models").status_code == 200


def test_guessing_is_told_to_wait_and_locks_nobody_out():
    with Box() as bare:
        good = new_token(bare)["token"]
        with http_client(bare) as http:
            answers = [http.get("/v1/models", headers={"Authorization": "Bearer " + "A" * 43}) for _ in range(7)]
            assert [a.status_code for a in answers] == [401] * 4 + [429] * 3
            assert answers[-1].headers["retry-after"] == "60"
            late = http.get("/v1/models", headers={"Authorization": f"Bearer {good}"})
            assert late.status_code == 200


def test_the_command(box, tmp_path):
    def run(*words):
        command = [str(BUILD / "hearth"), *words]
        return subprocess.run(command, env=dict(os.environ, **box.env), capture_output=True, text=True)

    done = run("token", "create", "--person", "Ann", "--name", "editor", "--create")
    assert done.returncode == 0 and len(done.stdout.strip()) == 43 and "shown once" in done.stderr
    assert client_of(box, done.stdout.strip()).models.list().data
    assert run("token", "create", "--person", "Nobody", "--name", "x").returncode != 0


# ---- what goes on meanwhile, and what is left


def endless(client):
    """A stream that its own model does not end before the context is full: its end token is forbidden."""
    messages = [{"role": "user", "content": "Tell a very long story."}]
    return client.chat.completions.create(
        model=MODEL_NAME, messages=messages, stream=True, logit_bias={"2": -100, "0": -100}
    )


def test_a_client_that_goes_takes_its_question_along(box, client):
    stream = endless(client)
    for _ in range(4):
        next(stream)
    assert box.admin("status")["engine_active"] == 1
    stream.close()
    deadline = time.monotonic() + 2 * PATIENCE
    while box.admin("status")["engine_active"]:
        assert time.monotonic() < deadline, "the answer goes on for nobody"
        time.sleep(0.05)


def test_a_revoked_token_ends_its_stream(box):
    made = new_token(box, "lost")
    stream = endless(client_of(box, made["token"]))
    next(stream)
    box.admin("devices.revoke", id=made["id"])
    started = time.monotonic()
    with pytest.raises((httpx.HTTPError, openai.APIError)):
        for _ in stream:
            pass
    assert time.monotonic() - started < 2 * PATIENCE


def begun_question(box, token, body):
    """A question whose head and first bytes have arrived."""
    plain = socket.create_connection(("127.0.0.1", box.port), 20 * PATIENCE)
    context = ssl.create_default_context(cadata=box.ca_pem)
    s = context.wrap_socket(plain, server_hostname="localhost")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:{box.port}\r\nAuthorization: Bearer {token}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    s.sendall(head.encode())
    assert b" 100 " in s.recv(4096)
    s.sendall(body[:10])
    return s


@pytest.mark.parametrize("removed", ["device", "person"])
def test_a_token_that_is_revoked_while_its_question_arrives(box, removed):
    body = json.dumps({"model": MODEL_NAME, "messages": FRANCE, "max_tokens": 4}).encode()
    made = new_token(box, "lost", person="Guest", create=True)
    with begun_question(box, made["token"], body) as s:
        if removed == "device":
            box.admin("devices.revoke", id=made["id"])
        else:
            box.admin("people.remove", person="Guest")
        answer = b""
        try:
            s.sendall(body[10:])
            while chunk := s.recv(65536):
                answer += chunk
        except OSError:
            pass
        assert b" 200 " not in answer
    assert box.admin("status")["active_responses"] == 0


def test_nothing_is_stored_or_logged(box, client):
    secret = "Xylophagous-7351"
    client.chat.completions.create(
        model=MODEL_NAME, messages=[{"role": "user", "content": f"My word is {secret}."}], max_tokens=8
    )
    people = box.admin("people.list")["people"]
    assert all(p["n_conversations"] == 0 for p in people)
    assert secret not in box.log_text()
    for path in box.home.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.suffix != ".gguf":
            assert secret.encode() not in path.read_bytes(), path


# ---- without TLS


def test_a_port_without_tls_for_this_machine(tmp_path):
    port = free_port()
    file = tmp_path / "tiny.gguf"
    file.write_bytes(tiny_model())
    with Box(file, args=["--template", "chatml", "--http-port", str(port)]) as box:
        client = openai.OpenAI(base_url=f"http://localhost:{port}/v1", api_key=new_token(box)["token"], max_retries=0)
        messages = [{"role": "user", "content": "x"}]
        answer = client.chat.completions.create(model="default", messages=messages, max_tokens=3)
        assert answer.usage.completion_tokens == 3
        with httpx.Client(base_url=f"http://localhost:{port}", trust_env=False) as http:
            assert http.get("/health/ready").status_code == 200 and http.get("/metrics").status_code == 200
            assert http.get("/v1/models").status_code == 401
            assert http.get("/").status_code == 404 and http.get("/hearth-ca.crt").status_code == 404
            assert http.get("/health", headers={"Host": f"evil.example:{port}"}).status_code == 421
            assert http.get("/health", headers={"Host": f"localhost:{box.port}"}).status_code == 421
            upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Protocol": "hearth.v1"}
            assert http.get("/ws", headers=upgrade).status_code == 403
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.2", port), 5)


# ---- health and metrics


def test_metrics(box, client):
    client.chat.completions.create(model=MODEL_NAME, messages=FRANCE, max_tokens=8)
    with http_client(box) as http:
        answer = http.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {f.name: f for f in text_string_to_metric_families(answer.text)}
    assert all(name.startswith("hearth_") and f.documentation for name, f in families.items())
    values = {(s.name, *sorted(s.labels.items())): s.value for f in families.values() for s in f.samples}
    assert values[("hearth_requests_total", ("door", "openai"), ("outcome", "completed"))] > 0
    assert values[("hearth_tokens_generated_total",)] > 0 and values[("hearth_tokens_prompt_total",)] > 0
    assert values[("hearth_time_to_first_token_seconds_count",)] > 0
    assert values[("hearth_resident_memory_bytes",)] > 1e6
    pages, used, cached = (values[(f"hearth_kv_pages{which}",)] for which in ("", "_used", "_cached"))
    assert pages * 32 >= values[("hearth_kv_cache_tokens",)] > 0 and used + cached <= pages
    assert used + cached > 0, "the conversation that has just ended"
    assert any(key[0] == "hearth_http_requests_total" for key in values)
    if promtool := shutil.which("promtool"):
        done = subprocess.run([promtool, "check", "metrics"], input=answer.text, capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr, done.stderr


def test_metrics_are_not_for_everybody(box):
    chats, rules = new_token(box, "chats")["token"], new_token(box, "rules", scopes=["admin"])["token"]
    with http_client(box, chats) as http:
        assert http.get("/metrics").status_code == 403
    with http_client(box, rules) as http:
        assert http.get("/metrics").status_code == 200
    with http_client(box, "x" * 43) as http:
        assert http.get("/metrics").status_code == 401


def test_health_says_nothing_else(box):
    with http_client(box) as http:
        assert http.get("/health").json() == {"status": "ok", "live": True, "ready": True, "training": False}
        assert http.get("/health/ready").json() == {"ready": True}
        assert http.get("/health/live").json() == {"live": True}
        assert http.head("/health").status_code == 200
