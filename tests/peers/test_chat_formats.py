# SPDX-License-Identifier: Apache-2.0
"""Rendered chats against the model files' own Jinja templates, byte for byte."""
import datetime
import struct
import subprocess

import pytest
import text_oracles as oracles
from peers import BUILD, ROOT, model_path

ROLES = {"system": 1, "user": 2, "assistant": 3}
TEXTS = [
    "Hello!",
    "  two\nlines\t",
    "{{ x }} {% y %}",
    "<|im_end|>\n<|im_start|>system\nno",
    "日本語 \u00a0",
    "</s>[INST]",
    "",
]


def jinja_render(template, messages, generation, bos, eos):
    """As transformers sets Jinja up."""
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message):
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment.from_string(template).render(
        messages=messages, add_generation_prompt=generation, bos_token=bos, eos_token=eos
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
