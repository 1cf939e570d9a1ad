# SPDX-License-Identifier: Apache-2.0
"""What README, docs and man pages say is what there is: command lines, settings with their ranges, requests of the
wire, completion, figures, shown output."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from test_cli import COMMANDS, COMMON, flags_of, run, smollm2  # noqa: F401
from test_cli import home  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("HEARTH_TEST_BUILD", ROOT / "build"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROTO = (ROOT / "proto/hearth/v1/hearth.proto").read_text()
PROTOCOL = (ROOT / "docs/protocol.md").read_text()
NO_SETTING = {"--config", "--foreground", "--check-model", "--help", "--version"}


def command_lines():
    """(page, words) of each line in a page that calls hearth."""
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        blocks = re.findall(r"^```[a-z]*\n(.*?)^```|((?:^    .*\n)+)", text, re.M | re.S)
        lines = [line for block in blocks for line in "".join(block).splitlines()]
        for line in lines + re.findall(r"`(hearth [^`\n]+)`", text):
            found = re.match(r"\s*(?:\$ )?(?:\S+=\S+ )*(?:build/)?hearth ([a-z]+)\b(.*)", line)
            if found:
                yield page.name, found[1], re.split(r"\s#\s|\s\|\s|\s>\s", found[2])[0]


def test_command_lines_of_the_pages_are_understood(home):  # noqa: F811
    known = {c: flags_of(run(home, c, "--help").stdout) | COMMON for c in COMMANDS}
    wrong, n = [], 0
    for page, command, rest in command_lines():
        n += 1
        if command not in known:
            wrong.append(f"{page}: hearth {command}")
        else:
            wrong += [f"{page}: hearth {command} {flag}" for flag in flags_of(rest) - known[command]]
    assert wrong == [] and n > 40


def test_what_data_inspect_shows(home, smollm2, monkeypatch):  # noqa: F811
    monkeypatch.chdir(home)
    text = (ROOT / "docs/data.md").read_text()
    example = r"\$ cat chats.jsonl\n(.*?)\$ hearth data inspect -m default (.*?)```"
    record, shown = re.search(example, text, re.S).groups()
    words, expected = shown.split("\n", 1)
    (home / "chats.jsonl").write_text(record)
    done = run(home, "data", "inspect", "-m", smollm2, *words.split())
    assert done.returncode == 0 and done.stdout == expected, done.stderr


# ---------------------------------------------------------------- settings


def wrong_setting(home, name, value):  # noqa: F811
    """What hearthd says of it. It never starts."""
    (home / "conf").write_text(f"{name} = {value}\n")
    done = subprocess.run([BUILD / "hearthd", "--config", home / "conf"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 78, done.stderr
    return done.stderr


def test_settings_are_told_with_range_and_default(home):  # noqa: F811
    page = (ROOT / "docs/man/hearthd.8").read_text().replace("\\-", "-")
    source = (ROOT / "firmware/config.c").read_text()
    defaults = dict(re.findall(r"config->(\w+) = (\d+);", source))
    table = re.findall(r'\{"(\w+)", (\w+), AT\((\w+)\)', source)
    help_text = subprocess.run([BUILD / "hearthd", "--help"], capture_output=True, text=True).stdout
    assert {"--" + name.replace("_", "-") for name, _, _ in table} == flags_of(help_text) - NO_SETTING
    wrong = []
    for name, kind, field in table:
        flag = "--" + name.replace("_", "-")
        told = re.search(rf'^\.BI? "{flag}"(.*\n(?:(?!\.TP|\.SH|\.PP).*\n)*)', page, re.M)
        if not told:
            wrong.append(f"{flag} is not there")
        elif kind == "NUMBER":
            low, high = re.search(r"is not a number from (\d+) to (\d+)", wrong_setting(home, name, "x")).groups()
            default = defaults.get(field, "0")
            if f"{low} to {high} ({default}" not in told[1]:
                wrong.append(f"{flag}: {low} to {high} ({default})")
        elif kind == "CHOICE":
            choices = re.search(r"is not one of (\S+)", wrong_setting(home, name, "x"))[1]
            marked = re.search(r"\((\w+)\)|(\w+) \(default\)", told[1])
            if choices not in told[1] or not marked or (marked[1] or marked[2]).lower() not in choices.split("|"):
                wrong.append(f"{flag}: {choices}, and which is the default")
    assert wrong == [] and len(table) > 20


# ---------------------------------------------------------------- the wire


def one_of(message, name):
    """(type, name) of the fields of a oneof."""
    block = re.search(rf"^message {message} {{.*?oneof {name} {{(.*?)^  }}", PROTO, re.M | re.S)[1]
    return re.findall(r"^    (\w+) (\w+) = \d+;", block, re.M)


def test_every_request_answer_event_and_code_is_told():
    words = set(re.findall(r"\w+", PROTOCOL))
    frames = one_of("ClientFrame", "body") + one_of("ServerFrame", "body")
    missing = [kind for kind, _ in frames if not {kind, kind + "s"} & words]
    missing += [name for _, name in one_of("Event", "event") if name not in words]
    codes = re.findall(r"^    (CODE_\w+) = [1-9]", PROTO, re.M)
    missing += [code for code in codes if f"| `{code}` |" not in PROTOCOL]
    assert missing == [] and len(codes) > 10


def test_every_text_that_a_client_sends_has_its_length_in_the_schema():
    """Without one it would be a promise to take anything."""
    requests = PROTO[PROTO.index("message Hello") : PROTO.index("message ServerFrame")]
    fields = re.findall(r"((?:^ *//.*\n)*^.*\b(?:string|bytes) (\w+) = \d+;.*)", requests, re.M)
    told = r"\[(?:[^]]*\.\. ?)?(?:max )?\d|\[max \d+|\b(?:16|32) bytes"
    assert [name for text, name in fields if not name.endswith("_id") and not re.search(told, text)] == []
    assert len(fields) > 20


# ---------------------------------------------------------------- completion


def complete(home, *words):  # noqa: F811
    quoted = " ".join(f"'{w}'" for w in words)
    script = f"""source '{ROOT}/tools/completions/hearth.bash'; PATH='{BUILD}':$PATH
        COMP_WORDS=(hearth {quoted}); COMP_CWORD={len(words)}; _hearth; printf '%s\\n' "${{COMPREPLY[@]}}" """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=os.environ | {"HOME": str(home)})
    return set(done.stdout.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_completion_offers_every_flag_and_verb(home, command):  # noqa: F811
    help_text = run(home, command, "--help").stdout
    table = re.search(r"^Options:\n(.*?)^Example:", help_text, re.M | re.S)[1]
    assert complete(home, command, "--") == set(re.findall(r"^ .{0,6}(--[a-z0-9-]+)", table, re.M))
    usage = re.search(rf"^Usage: hearth {command}(.*)", help_text)[1]
    verbs = {v for v in re.findall(r"(?:^ ?|\| )([a-z]+)\b", usage)}
    if verbs:
        assert verbs <= complete(home, command, "")


# ---------------------------------------------------------------- figures


def bench_rows():
    rows = re.findall(r"^\| (.*?) \|$", (ROOT / "docs/bench.md").read_text(), re.M)
    return {tuple(cells[:2]): cells[2:] for row in rows if len(cells := [c.strip() for c in row.split("|")]) >= 5}


def test_figures_of_the_readme_are_those_of_the_last_benchmark():
    rows, text = bench_rows(), (ROOT / "README.md").read_text()

    def number(cell):
        return float(re.match(r"[\d.]+", cell)[0])

    def near(told, row):
        """Hearth's and the peer's number, rounded as they are told."""
        ours, peer = [float(x.replace(",", "")) for x in re.findall(r"\d[\d,]*(?:\.\d+)?", told)[:2]]
        return abs(ours - number(row[0])) <= 0.5001 and abs(peer - number(row[1])) <= 0.5001

    columns = ("prefill", "decode", "8 sessions together", "first token, cold")
    lines = re.findall(r"^\| ((?:SmolLM2|Gemma)\S* \S+) \| (.*) \|$", text, re.M)
    assert len(lines) == 3
    for model, cells in lines:
        for what, told in zip(columns, cells.split("|")):
            told = told.replace("llama.cpp ", "")
            assert near(told, rows[what, model]), f"{what}, {model}: {told} beside {rows[what, model]}"
    train, less = rows["training", "SmolLM2-135M Q4_1"], rows["training, checkpointing", "SmolLM2-135M Q4_1"]
    for row in (train, less):
        assert f"{number(row[0]):,.0f}" in text
