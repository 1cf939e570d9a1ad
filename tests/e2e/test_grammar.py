# SPDX-License-Identifier: Apache-2.0
"""Answers that follow a JSON schema, judged by somebody else's validator: random schemas, a tiny model that draws at
random, and whatever comes out parses and holds. The default model fills a small form in earnest."""

import datetime
import json
import os
import random
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema
import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("HEARTH_TEST_BUILD", ROOT / "build"))
TINY = ROOT / "tests/golden/tiny-llama.gguf"
N_SCHEMAS = 400
FORMATS = jsonschema.FormatChecker(formats=())


@FORMATS.checks("date", raises=ValueError)
def is_date(text):
    return not isinstance(text, str) or bool(datetime.date.fromisoformat(text))


@FORMATS.checks("time", raises=ValueError)
def is_time(text):
    return not isinstance(text, str) or bool(datetime.time.fromisoformat(text[:8]) or True)


@FORMATS.checks("date-time", raises=ValueError)
def is_date_time(text):
    return not isinstance(text, str) or bool(datetime.datetime.fromisoformat(text[:19]) or True)


@FORMATS.checks("uuid")
def is_uuid(text):
    return not isinstance(text, str) or bool(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text))


def hearth(*args, **kwargs):
    env = dict(os.environ, HEARTH_NO_COLOR="1")
    return subprocess.run(
        [BUILD / "hearth", "run", *map(str, args)], capture_output=True, timeout=120, env=env, **kwargs
    )


# ---- random schemas: every keyword that is understood comes up


def some_string(r):
    kind = r.randrange(5)
    if kind == 0:
        low = r.randrange(4)
        return {"type": "string", "minLength": low, "maxLength": low + r.randrange(6)}
    if kind == 1:
        return {"format": r.choice(["date", "time", "date-time", "uuid"]), "type": "string"}
    if kind == 2:
        patterns = [r"^[a-z]{2,4}-\d+$", r"^(foo|b[^a]r)?x*$", r"^\S\w.$", r"a{2}|^b", r"^[^0-9]{1,3}\.$", '^"\\\\$']
        return {"type": "string", "pattern": r.choice(patterns)}
    if kind == 3:
        return {"enum": r.sample(["red", "green", 'a "quote"', "ü", "", "x\\y\n"], 3), "type": "string"}
    return {"type": "string", "maxLength": 8, "description": "some words"}


def some_number(r):
    if r.randrange(2):
        low = r.choice([-1, 1]) * r.randrange(10 ** r.randrange(1, 12))
        schema = {"type": "integer"}
        bounds = {"minimum": low, "maximum": low + r.randrange(10 ** r.randrange(1, 10))}
        if r.randrange(4) == 0:
            bounds = {"exclusiveMinimum": low - 1, "exclusiveMaximum": low + 5}
    else:
        low = round(r.uniform(-1, 1) * 10 ** r.randrange(-3, 7), r.randrange(5))
        high = low + r.choice([1, 0.25, 0.001, 1000, 17.5])
        schema = {"type": "number"}
        bounds = {"minimum": low, "maximum": high}
        if r.randrange(3) == 0:
            bounds = {"exclusiveMinimum": low, "exclusiveMaximum": high}
    for key in r.sample(sorted(bounds), r.randrange(len(bounds) + 1)):
        schema[key] = bounds[key]
    return schema


def some_object(r, depth):
    names = r.sample(["a", "ab", "name", "x y", "ü", 'q"', "id"], r.randrange(5))
    schema = {"type": "object", "properties": {n: some_schema(r, depth - 1) for n in names}}
    schema["required"] = [n for n in names if r.randrange(2)]
    more = r.randrange(4)
    if more == 0:
        schema["additionalProperties"] = False
    elif more == 1:
        schema["additionalProperties"] = some_schema(r, 0)
    return schema


def some_array(r, depth):
    low = r.randrange(3)
    schema = {"type": "array", "minItems": low, "maxItems": low + r.randrange(4)}
    if r.randrange(3):
        schema["items"] = some_schema(r, depth - 1)
    else:
        schema["prefixItems"] = [some_schema(r, 0) for _ in range(r.randrange(1, 3))]
        schema["items"] = r.choice([False, True, {"type": "null"}]) if low < 2 else {"type": "boolean"}
        if schema["items"] is False:
            schema["minItems"] = 0
    return schema


def some_schema(r, depth):
    kind = r.randrange(11 if depth else 5)
    if kind <= 1:
        return some_string(r)
    if kind == 2:
        return some_number(r)
    if kind == 3:
        return {"type": r.sample(["boolean", "null", "integer"], 2)}
    if kind == 4:
        return {"const": r.choice([1, "x", None, [1, {"y": 2.5}], -0.125])}
    if kind <= 7:
        return some_object(r, depth)
    if kind == 8:
        return some_array(r, depth)
    if kind == 9:
        return {"anyOf": [some_schema(r, depth - 1), some_schema(r, 0)]}
    return r.choice(
        [
            {"oneOf": [{"type": "boolean"}, some_string(r) | {"type": "string"}, {"type": "null"}]},
            {"allOf": [{"type": "integer", "minimum": -4}, {"maximum": 70}]},
            {"$ref": "#/$defs/tree"},
            {"properties": {"k": {"const": 1}}, "anyOf": [{"required": ["k"]}, {"maxLength": 2}], "type": "object"},
        ]
    )


TREE = {"type": "object", "properties": {"v": {"type": "integer"}, "kids": {"items": {"$ref": "#/$defs/tree"}}}}


def check(seed):
    r = random.Random(seed)
    schema = some_schema(r, 3) | {"$defs": {"tree": TREE}}
    done = hearth(
        *["-m", TINY, "--raw", "-p", "the thing", "--temp", 2, "--top-k", 0, "--top-p", 1],
        *["--min-p", 0, "--seed", seed, "--json-schema", json.dumps(schema, ensure_ascii=False), "--json"],
    )
    assert done.returncode == 0, (seed, schema, done.stderr)
    answer = json.loads(done.stdout)
    if answer["usage"]["stop_reason"] == "context_full":
        return 0  # a random model may go on with a string for ever
    assert answer["usage"]["stop_reason"] == "end", (seed, schema, answer)
    value = json.loads(answer["text"])
    jsonschema.Draft202012Validator(schema, format_checker=FORMATS).validate(value)
    return 1


def test_random_answers_hold_for_random_schemas():
    with ThreadPoolExecutor(2) as pool:
        whole = sum(pool.map(check, range(N_SCHEMAS)))
    assert whole > N_SCHEMAS * 0.8, whole


# ---- the command


def test_a_grammar_from_a_file(tmp_path):
    file = tmp_path / "colour.gbnf"
    file.write_text('root ::= ("red" | "green") "!"\n')
    done = hearth("-m", TINY, "--raw", "-p", "x", "--grammar", file, "--temp", 2)
    assert (done.returncode, done.stdout.strip() in (b"red!", b"green!")) == (0, True), done
    (tmp_path / "schema.json").write_text('{"enum": [17]}')
    done = hearth("-m", TINY, "--raw", "-p", "x", "--json-schema", tmp_path / "schema.json")
    assert (done.returncode, done.stdout) == (0, b"17\n"), done


@pytest.mark.parametrize(
    "args, words",
    [
        (["--json-schema", '{"type": "object", "not": {}}'], b"keyword `not` is not supported"),
        (["--json-schema", "{"], b"line 1"),
        (["--json-schema", "no-such-file.json"], b"no-such-file.json: No such file"),
        (["--grammar", "no-such-file.gbnf"], b"no-such-file.gbnf: No such file"),
        (["--grammar", "x", "--json-schema", "{}"], b"cannot be given together"),
    ],
)
def test_what_is_wrong_is_told(args, words):
    done = hearth("-m", TINY, "--raw", "-p", "x", *args)
    assert done.returncode != 0 and words in done.stderr and not done.stdout, done


@pytest.mark.parametrize("option, text", [("--grammar", "root ::= x\n"), ("--json-schema", '{"not": {}}')])
def test_the_file_that_is_wrong_is_told(tmp_path, option, text):
    file = tmp_path / "broken"
    file.write_text(text)
    for raw in ([], ["--raw"]):
        done = hearth("-m", TINY, *raw, "-p", "x", option, file)
        assert done.returncode != 0 and f"{file}: ".encode() in done.stderr and not done.stdout, done


def test_the_default_model_fills_a_form():
    if "HEARTH_TEST_SMOLLM2" not in os.environ:
        pytest.skip("the default model is not there")
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "country": {"type": "string"}, "capital": {"type": "boolean"}},
        "required": ["city", "country", "capital"],
    }
    question = "Fill in a form about Paris: its name, its country, and whether it is a capital."
    model = os.environ["HEARTH_TEST_SMOLLM2"]
    done = hearth("-m", model, "-p", question, "--temp", 0, "-n", 200, "--json-schema", json.dumps(schema))
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    jsonschema.validate(value, schema)
    assert "Paris" in value["city"] and "France" in value["country"], value


def test_what_no_token_can_spell_fails(tmp_path):
    """The default model's vocabulary has no token for some control characters."""
    if "HEARTH_TEST_SMOLLM2" not in os.environ:
        pytest.skip("the default model is not there")
    file = tmp_path / "control.gbnf"
    file.write_text('root ::= "a" [\\x04] "b"\n')
    done = hearth("-m", os.environ["HEARTH_TEST_SMOLLM2"], "--raw", "-p", "x", "--grammar", file)
    assert done.returncode != 0 and b"no token of the vocabulary goes on" in done.stderr, done
