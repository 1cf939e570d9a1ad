# SPDX-License-Identifier: Apache-2.0
"""`hearth pull` of a model in several files: all of one address, or nothing that anybody takes for a model."""

import hashlib
import json
import re
import subprocess

import pytest
from gguf_tiny import tiny_parts
from test_pull import (  # noqa: F401
    HEARTH, SHA, certificates, cut, environment, home, models, part, pull, reply, server, url, whole,
)

PARTS = {f"/m/tiny-{i + 1:05}-of-00003.gguf": data for i, data in enumerate(tiny_parts(3))}
NAMES = [path.rsplit("/", 1)[1] for path in sorted(PARTS)]


def parts_at(home):
    return [(home / "cache/hearth/models" / name).read_bytes() for name in NAMES] == [PARTS[p] for p in sorted(PARTS)]


@pytest.mark.parametrize("named", [1, 2])
def test_all_parts_of_a_split_model(server, home, certificates, named):  # noqa: F811
    server.answer = lambda request: [whole(body=PARTS[request["path"].split("?")[0]])]
    first = url(server, f"/m/tiny-{named:05}-of-00003.gguf?download=true")
    done = pull(home, certificates, first)
    assert done.returncode == 0, done.stderr
    assert models(home) == NAMES and parts_at(home)
    assert "tiny-00001-of-00003.gguf" in done.stdout and "all 3 files" in done.stderr
    assert [r["path"] for r in server.requests] == [f"{p}?download=true" for p in sorted(PARTS, reverse=True)]
    again = pull(home, certificates, first)
    assert again.returncode != 0 and "here already" in again.stderr and len(server.requests) == 3
    words = [HEARTH, "models", "rm", "tiny-00001-of-00003"]
    assert subprocess.run(words, env=environment(home), capture_output=True).returncode == 0
    assert models(home) == []


def test_a_split_model_goes_on_where_it_was_cut(server, home, certificates):  # noqa: F811
    cut_at = "/m/tiny-00002-of-00003.gguf"

    def fails(request):
        body = PARTS[request["path"]]
        if request["path"] != cut_at:
            return [whole(body=body)]
        if "range" in request:
            return [reply(503)]
        return [cut(whole(body=body), 0.6), None]

    server.answer = fails
    done = pull(home, certificates, url(server, sorted(PARTS)[0]))
    assert done.returncode != 0
    assert NAMES[0] not in models(home), "without its first part nobody takes it for a model"
    assert NAMES[2] + ".part" in models(home) and not set(NAMES) & set(models(home))
    server.requests.clear()
    server.answer = serve
    done = pull(home, certificates, url(server, sorted(PARTS)[0]))
    assert done.returncode == 0, done.stderr
    assert parts_at(home) and models(home) == NAMES
    assert [r["path"] for r in server.requests] == sorted(PARTS, reverse=True)
    starts = [r.get("range") for r in server.requests]
    assert starts[0] == f"bytes={len(PARTS[sorted(PARTS)[2]]) - 1}-", "of a whole one the last byte comes again"
    assert starts[1] and starts[1] != "bytes=0-" and starts[2] is None


def serve(request):
    body = PARTS[request["path"]]
    return [part(request, body=body) if "range" in request else whole(body=body)]


def other(data):
    """The same part of a model with other weights, of the same length."""
    return data[:-1] + bytes([data[-1] ^ 1])


def pull_but_the_first(server, home, certificates, body=lambda path: PARTS[path], etag=lambda path: '"v1"'):
    """All parts but the first come: the address."""
    first = sorted(PARTS)[0]
    server.answer = lambda r: [whole(etag(r["path"]), body(r["path"])) if r["path"] != first else reply(404)]
    assert pull(home, certificates, url(server, first)).returncode == 66
    server.requests.clear()
    return url(server, first)


def renamed(home, *names):
    """As a pull leaves them that was killed between its renames."""
    for name in names:
        file = home / "cache/hearth/models" / name
        file.with_name(name + ".part").rename(file)


@pytest.mark.parametrize("killed", [False, True])
def test_parts_of_another_address_are_not_mixed(server, home, certificates, killed):  # noqa: F811
    pull_but_the_first(server, home, certificates, lambda path: other(PARTS[path]))
    if killed:
        renamed(home, NAMES[2])
    server.answer = lambda r: [whole(body=PARTS[r["path"].replace("/b/", "/m/")])]
    done = pull(home, certificates, url(server, "/b/" + NAMES[0]))
    assert done.returncode == 0, done.stderr
    assert parts_at(home) and models(home) == NAMES


def test_parts_of_another_day_are_not_mixed(server, home, certificates):  # noqa: F811
    """What the address has now is another model: what came of the one before is not kept."""
    address = pull_but_the_first(server, home, certificates, lambda path: other(PARTS[path]), lambda path: '"v0"')
    server.answer = lambda r: [whole(body=PARTS[r["path"]])]  # also where a range is asked for: its If-Range is old
    done = pull(home, certificates, address)
    assert done.returncode == 0, done.stderr
    assert parts_at(home) and {r.get("if-range") for r in server.requests} == {None, '"v0"'}


@pytest.mark.parametrize("stated", [True, False])
def test_a_part_that_was_here_is_verified_only_if_its_hash_is_stated(server, home, certificates, stated):  # noqa: F811
    def etag(path):
        return f'"{hashlib.sha256(PARTS[path]).hexdigest()}"' if stated or path != sorted(PARTS)[2] else '"v1"'

    def answer(request):
        path = request["path"]
        body = PARTS[path]
        return [part(request, etag(path), body) if "range" in request else whole(etag(path), body)]

    address = pull_but_the_first(server, home, certificates, etag=etag)
    server.answer = answer
    done = pull(home, certificates, address, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verified"] is stated and ("all 3 files" in done.stderr) is not stated


@pytest.mark.parametrize("n_renamed", [1, 2, 3])
def test_killed_between_the_renames(server, home, certificates, n_renamed):  # noqa: F811
    first = home / "cache/hearth/models" / f"{NAMES[0]}.part"
    address = pull_but_the_first(server, home, certificates)
    first.write_bytes(PARTS[sorted(PARTS)[0]])
    note = {"url": address, "etag": '"v1"', "total": first.stat().st_size}
    first.with_name(first.name + ".json").write_text(json.dumps(note))
    renamed(home, *NAMES[3 - n_renamed :])
    server.answer = serve
    done = pull(home, certificates, address)
    assert done.returncode == 0, done.stderr
    assert parts_at(home) and models(home) == NAMES
    lasts = {f"bytes={len(PARTS[path]) - 1}-" for path in PARTS}
    assert {r["range"] for r in server.requests} == lasts, "nothing comes twice"


def test_a_part_that_no_pull_has_brought_is_left_alone(server, home, certificates):  # noqa: F811
    folder = home / "cache/hearth/models"
    folder.mkdir(parents=True)
    (folder / NAMES[2]).write_bytes(b"somebody's")
    server.answer = serve
    done = pull(home, certificates, url(server, sorted(PARTS)[0]))
    assert done.returncode == 73 and f"{NAMES[2]} is here already" in done.stderr, done.stderr
    assert models(home) == [NAMES[2]] and server.requests == []
    command = re.search(r"'hearth (models rm [^']+)'", done.stderr)[1].split()
    assert subprocess.run([HEARTH, *command], env=environment(home), capture_output=True).returncode == 0
    assert pull(home, certificates, url(server, sorted(PARTS)[0])).returncode == 0 and parts_at(home)


def test_parts_that_do_not_fit_together_do_not_stay(server, home, certificates):  # noqa: F811
    other = tiny_parts(2)[1]
    server.answer = lambda r: [whole(body=other if "00002" in r["path"] else PARTS[r["path"]])]
    done = pull(home, certificates, url(server, sorted(PARTS)[0]))
    assert done.returncode != 0 and models(home) == []


def test_words_that_do_not_fit_a_split_model(server, home, certificates):  # noqa: F811
    for words in (["--sha256", SHA], ["--name", "mine.gguf"], ["--name", "mine-00001-of-00002.gguf"]):
        done = pull(home, certificates, url(server, sorted(PARTS)[0]), *words)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert server.requests == []
    server.answer = lambda r: [whole(body=PARTS[r["path"]])]
    done = pull(home, certificates, url(server, sorted(PARTS)[0]), "--name", "mine-00001-of-00003.gguf")
    assert done.returncode == 0 and models(home) == [n.replace("tiny", "mine") for n in NAMES]
