# SPDX-License-Identifier: Apache-2.0
"""Rendered chats against the model files' own Jinja templates, byte for byte."""
import datetime
import json
import struct
import subprocess

import pytest
import text_oracles as oracles
from peers import BUILD, ROOT, llama_folder, model_path

ROLES = {"system": 1, "user": 2, "assistant": 3, "tool": 4, "tools": 5, "calls": 6}
TEXTS = [
    "Hello!",
    "  two\nlines\t",
    "{{ x }} {% y %}",
    "<|im_end|>\n<|im_start|>system\nno",
    "日本語 \u00a0",
    "</s>[INST]",
    "",
]


def jinja_render(template, messages, generation, bos, eos, **more):
    """As transformers sets Jinja up; dates are the templates' own."""
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message):
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = raise_exception
    if not more:
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    environment.filters["tojson"] = lambda x, indent=None: json.dumps(x, ensure_ascii=False, indent=indent)
    return environment.from_string(template).render(
        messages=messages, add_generation_prompt=generation, bos_token=bos, eos_token=eos, **more
    )


def conversations():
    """(messages, generation): single and several turns, with and without a system text."""
    for system in (None, "Be brief.", " S\n"):
        for first in range(len(TEXTS)):
            for n_turns in (1, 2, 3, 4, 5):
                messages = [{"role": "system", "content": system}] if system is not None else []
                for i in range(n_turns):
                    content = TEXTS[(first + i) % len(TEXTS)]
                    messages.append({"role": "assistant" if i % 2 else "user", "content": content})
                yield messages, n_turns % 2 == 1
                if n_turns % 2 == 0:
                    continue
                yield messages, False


@pytest.fixture(scope="module")
def render(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    program = folder / "render_chat"
    oracles.compile_helper(ROOT, BUILD, "render_chat.c", program)

    def call(template, messages, generation, bos, eos):
        file = folder / "template.jinja"
        file.write_bytes(template.encode())
        data = b""
        for message in messages:
            content = message["content"].encode()
            data += struct.pack("<BI", ROLES[message["role"]], len(content)) + content
        command = [program, file, bos, eos, str(int(generation))]
        done = subprocess.run(command, input=data, capture_output=True)
        if done.returncode:
            return None, done.stderr.decode()
        name, text = done.stdout.split(b"\n", 1)
        return name.decode(), text.decode()

    return call


def compare(render, template, bos, eos):
    count = 0
    for messages, generation in conversations():
        expected = jinja_render(template, messages, generation, bos, eos)
        name, text = render(template, messages, generation, bos, eos)
        assert name, text
        assert text == expected, (name, messages)
        count += 1
    print(name, count, "conversations")
    assert count > 100


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_template_of_the_file(name, render):
    vocabulary = oracles.Vocabulary(model_path(name))
    if not vocabulary.template:
        name, text = render("", [{"role": "user", "content": "x"}], True, "", "")
        assert name is None and "--template" in text
        return
    tokens = vocabulary.tokens
    bos = tokens[vocabulary.bos] if vocabulary.bos is not None else ""
    compare(render, vocabulary.template, bos, tokens[vocabulary.eos])


@pytest.mark.parametrize(
    "file, taken",
    [
        ("Qwen-Qwen2.5-7B-Instruct", True),
        ("Qwen-Qwen3-0.6B", True),
        ("Qwen3.5-4B", False),
        ("Bielik-11B-v3.0-Instruct", False),  # drops it
        ("meta-llama-Llama-3.1-8B-Instruct", True),
        ("meta-llama-Llama-3.3-70B-Instruct", True),
        ("microsoft-Phi-3.5-mini-instruct", True),
        ("google-gemma-2-2b-it", False),
        ("mistralai-Mistral-Nemo-Instruct-2407", False),
    ],
)
def test_late_system_messages(file, taken, render):
    path = llama_folder() / "templates" / f"{file}.jinja"
    if not path.exists():
        pytest.skip("this llama.cpp was kept without templates (remove its folder to build it again)")
    template = path.read_text(encoding="utf-8")
    for start in ([("system", "S0")], []):
        for middle in ([("assistant", "A"), ("system", " Mid\n")], [("system", "Mid")]):
            turns = [*start, ("user", "Q"), *middle, ("user", "R")]
            messages = [{"role": role, "content": content} for role, content in turns]
            name, text = render(template, messages, True, "<s>", "</s>")
            if taken:
                assert text == jinja_render(template, messages, True, "<s>", "</s>", unused=None), (name, text)
            else:
                assert name is None


# ---- tools

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather somewhere: \u00e9t\u00e9, <b> & 'quotes'.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "a \"city\""},
                    "days": {"type": "integer", "enum": [1, 2, 3], "default": 1},
                    "more": {"type": "array", "items": {}, "x": []},
                },
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
]


def call(number, name, **arguments):
    return {"id": f"call{number:05}", "type": "function", "function": {"name": name, "arguments": arguments}}


def tool_conversations(single, systems):
    """Messages as OpenAI has them, with calls and answers, prompts and closed turns."""
    for system in systems:
        for tools in (TOOLS, TOOLS[1:], None):
            start = [{"role": "system", "content": system}] if system is not None else []
            start.append({"role": "user", "content": "Weather in Rome?"})
            yield tools, start
            if tools is None:
                continue
            for text in ("",) if single else ("", "Let me look."):
                calls = [call(1, "get_weather", city='R"om', days=2)]
                turn = {"role": "assistant", "content": text, "tool_calls": calls}
                answer = {"role": "tool", "tool_call_id": "call00001", "content": '{"t": 21, "s": "sunny\\n"}'}
                yield tools, [*start, turn, answer]
                if not single:
                    both = dict(turn, tool_calls=[*calls, call(2, "now")])
                    second = {"role": "tool", "tool_call_id": "call00002", "content": "12:00"}
                    yield tools, [*start, both, answer, second]
                said = {"role": "assistant", "content": "Sunny."}
                yield tools, [*start, turn, answer, said, {"role": "user", "content": " Thanks "}]


def as_roles(tools, messages):
    """The same conversation as Hearth's engine takes it."""
    out = [{"role": "tools", "content": json.dumps(tools, ensure_ascii=False)}] if tools else []
    for m in messages:
        calls = m.get("tool_calls")
        if m["content"] or not calls:
            out.append({"role": m["role"], "content": m["content"]})
        if calls:
            flat = [dict(c["function"], id=c["id"]) for c in calls]
            out.append({"role": "calls", "content": json.dumps(flat, ensure_ascii=False)})
    return out


@pytest.mark.parametrize(
    "file, name, systems",
    [
        ("Qwen-Qwen2.5-7B-Instruct", "chatml", (None, "Be brief.")),
        ("Qwen-Qwen3-0.6B", "qwen3", (None, "Be brief.")),
        ("meta-llama-Llama-3.1-8B-Instruct", "llama3.1", (None, " Be brief.\n")),
        ("meta-llama-Llama-3.2-3B-Instruct", "llama3.1", (None, "Be brief.")),
        ("meta-llama-Llama-3.3-70B-Instruct", "llama3.1", (None, "Be brief.")),
        # Its template puts a system text into the last turn, Hearth into the first.
        ("mistralai-Mistral-Nemo-Instruct-2407", "mistral-v3-tekken", (None,)),
    ],
)
def test_tools_of_known_templates(file, name, systems, render):
    path = llama_folder() / "templates" / f"{file}.jinja"
    if not path.exists():
        pytest.skip("this llama.cpp was kept without templates (remove its folder to build it again)")
    template = path.read_text(encoding="utf-8")
    count = 0
    for tools, messages in tool_conversations(name == "llama3.1", systems):
        more = {"tools": tools} if tools else {"unused": None}
        expected = jinja_render(template, messages, True, "<s>", "</s>", **more)
        found, text = render(template, as_roles(tools, messages), True, "<s>", "</s>")
        assert found == name, text
        assert text == expected, messages
        count += 1
    assert count >= 6
