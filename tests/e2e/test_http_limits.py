# SPDX-License-Identifier: Apache-2.0
"""HTTP from clients that break the rules, byte by byte over TLS. Nobody else may notice: a witness asks meanwhile."""

import json
import socket
import threading
import time

import pytest
from gguf_tiny import tiny_model
from hearthbox import PATIENCE, Box
from rawws import tls_socket

MIB = 1 << 20
BODY = json.dumps({"model": "", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}).encode()
SMUGGLED = b"GET /health/live HTTP/1.1\r\nHost: localhost:%d\r\n\r\n"


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    file = tmp_path_factory.mktemp("model") / "tiny.gguf"
    file.write_bytes(tiny_model())
    with Box(file, args=["--template", "chatml"]) as box:
        box.token = box.admin("token.create", person="owner", name="rude")["token"]
        yield box


@pytest.fixture(scope="module", autouse=True)
def witness(box):
    """Asks the whole time, from another address; its slowest answer counts."""
    stop, times, failures = threading.Event(), [], []
    token = box.admin("token.create", person="owner", name="witness")["token"]

    def ask():
        while not stop.is_set():
            started = time.monotonic()
            try:
                with tls_socket(box, source="127.0.0.77") as s:
                    s.sendall(request(box, body=BODY, token=token))
                    answer = read_all(s)
                if not answer.startswith(b"HTTP/1.1 200 "):
                    failures.append(answer[:200])
            except OSError as error:
                failures.append(error)
            times.append(time.monotonic() - started)
            time.sleep(0.05)

    thread = threading.Thread(target=ask)
    thread.start()
    yield
    stop.set()
    thread.join()
    assert not failures and times and max(times) < 5 * PATIENCE, (failures[:3], len(times), max(times))


def request(box, path="/v1/chat/completions", method="POST", headers=(), body=b"", token=None, host=None):
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host or f'localhost:{box.port}'}"]
    lines.append(f"Authorization: Bearer {token or box.token}")
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def read_all(s, timeout=20):
    """Everything until the box hangs up."""
    s.settimeout(timeout * PATIENCE)
    data = b""
    try:
        while chunk := s.recv(65536):
            data += chunk
    except OSError:
        pass
    return data


def send(box, data, wait=True):
    with tls_socket(box) as s:
        try:
            s.sendall(data)
        except OSError:
            pass
        return read_all(s)


def status(answer):
    return int(answer.split()[1]) if answer else 0


def test_a_proper_request_for_comparison(box):
    answer = send(box, request(box, body=BODY))
    assert status(answer) == 200 and answer.count(b"HTTP/1.1") == 1
    assert b"connection: close" in answer.lower()


def test_a_stream_ends_as_its_http_says(box):
    body = json.dumps(json.loads(BODY) | {"stream": True}).encode()
    head, _, told = send(box, request(box, body=body)).partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head.lower() and told.endswith(b"\r\n0\r\n\r\n")
    old = send(box, request(box, body=body).replace(b" HTTP/1.1", b" HTTP/1.0", 1))
    head, _, told = old.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert told.startswith(b"data: ") and told.endswith(b"data: [DONE]\n\n")
    head, _, told = send(box, request(box, "/health", "HEAD")).partition(b"\r\n\r\n")
    assert status(head) == 200 and told == b""


# ---- smuggling: whatever follows a doubtful request is never answered


def post(box, *headers, body=BODY, tail=b""):
    lines = ["POST /v1/chat/completions HTTP/1.1", f"Host: localhost:{box.port}", f"Authorization: Bearer {box.token}"]
    lines += ["Content-Type: application/json", *headers, "", ""]
    return "\r\n".join(lines).encode() + body + tail


SHAPES = {
    "length and chunks": ["Content-Length: {n}", "Transfer-Encoding: chunked"],
    "chunks and length": ["Transfer-Encoding: chunked", "Content-Length: {n}"],
    "two lengths": ["Content-Length: {n}", "Content-Length: 0"],
    "the same length twice": ["Content-Length: {n}", "Content-Length: {n}"],
    "a list of lengths": ["Content-Length: {n}, {n}"],
    "chunks alone": ["Transfer-Encoding: chunked"],
    "chunks misspelt": ["Content-Length: {n}", "Transfer-Encoding: xchunked"],
    "chunks with a tab": ["Content-Length: {n}", "Transfer-Encoding:\tchunked"],
    "chunks with a comma": ["Content-Length: {n}", "Transfer-Encoding: identity, chunked"],
    "a blank before the colon": ["Content-Length: {n}", "Transfer-Encoding : chunked"],
    "a blank before the colon of the length": ["Content-Length : {n}"],
    "a folded line": ["Content-Length: {n}", "X-A: b", " Transfer-Encoding: chunked"],
    "a folded line with a tab": ["Content-Length: {n}", "X-A: b", "\tTransfer-Encoding: chunked"],
    "a line without colon": ["Content-Length: {n}", "nothing", "X-B: c"],
    "a plus": ["Content-Length: +{n}"],
    "a minus": ["Content-Length: -1"],
    "hexadecimal": ["Content-Length: 0x{n}"],
    "a length beyond 64 bits": ["Content-Length: 18446744073709551617"],
    "two hosts": ["Content-Length: {n}", "Host: evil.example"],
    "two tokens": ["Content-Length: {n}", "Authorization: Bearer x"],
}


@pytest.mark.parametrize("followed", [True, False], ids=["followed", "alone"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s.replace(" ", "-"))
def test_smuggling_shapes_are_refused(box, shape, followed):
    headers = [h.format(n=len(BODY)) for h in SHAPES[shape]]
    answer = send(box, post(box, *headers, tail=SMUGGLED % box.port if followed else b""))
    assert status(answer) in (0, 400, 411), answer[:200]
    assert answer.count(b"HTTP/1.1") <= 1 and b'"live"' not in answer


@pytest.mark.parametrize("length", [len(BODY) - 10, len(BODY)])
def test_what_follows_a_body_is_not_a_request(box, length):
    answer = send(box, post(box, f"Content-Length: {length}", tail=SMUGGLED % box.port))
    assert answer.count(b"HTTP/1.1") <= 1 and b'"live"' not in answer


def test_bare_line_ends_are_one_request_at_most(box):
    answer = send(box, post(box, f"Content-Length: {len(BODY)}", tail=SMUGGLED % box.port).replace(b"\r\n", b"\n"))
    assert answer.count(b"HTTP/1.1") <= 1 and b'"live"' not in answer


@pytest.mark.parametrize("path", ["/health", "/", "/v1/models"])
def test_a_body_where_none_belongs(box, path):
    inner = SMUGGLED % box.port
    answer = send(box, request(box, path, "GET", body=inner))
    assert status(answer) in (400, 405) and answer.count(b"HTTP/1.1") == 1 and b'"live"' not in answer


def test_pipelined_questions_get_one_answer(box):
    one = request(box, body=BODY)
    answer = send(box, one + one)
    assert answer.count(b"HTTP/1.1") <= 1


# ---- methods, sizes


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW", "get", "\x16\x03"])
def test_other_methods(box, method):
    answer = send(box, request(box, method=method))
    assert status(answer) in (0, 400, 403, 405, 411) and b"access-control" not in answer.lower()


def test_a_long_url(box):
    assert status(send(box, request(box, "/v1/models/" + "x" * 3000, "GET"))) in (0, 400, 404, 414)
    assert status(send(box, request(box, "/v1/models?" + "x=1&" * 900, "GET"))) in (0, 200, 400, 404, 414)


def test_many_and_long_headers(box):
    for headers in (["X-Long: " + "y" * 100_000], [f"X-{i}: {i}" for i in range(5000)]):
        assert status(send(box, request(box, "/health", "GET", headers))) in (0, 400, 413, 431)


def test_large_bodies(box):
    before = box.admin("status")["rss_bytes"]
    assert status(send(box, request(box, body=b"x" * (2 * MIB + 1)))) == 413
    assert status(send(box, post(box, "Content-Length: 999999999999", body=b""))) == 413
    assert status(send(box, request(box, body=b"x" * (30 * MIB), token="A" * 43))) == 401  # read and dropped
    assert box.admin("status")["rss_bytes"] - before < 24 * MIB


# ---- JSON


def bomb_cases():
    deep = b'{"model":"","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    wide = b'{"model":"","messages":[' + b"0," * 500_000 + b"0]}"
    head, tail = b'{"model":"","messages":[{"role":"user","content":"', b'"}]}'
    return {
        "depth": deep,
        "width": wide,
        "duplicate keys": b'{"model":"","model":"","messages":[]}',
        "huge integer": b'{"model":"","seed":' + b"9" * 400 + b',"messages":[]}',
        "huge real": b'{"model":"","temperature":1e999,"messages":[]}',
        "long digits": b'{"model":"","temperature":0.' + b"1" * 500_000 + b',"messages":[]}',
        "invalid UTF-8": head + b"\xff\xfe" + tail,
        "overlong UTF-8": head + b"\xc0\x80" + tail,
        "surrogate": head + b"\\ud800" + tail,
        "NUL": head + b"\x00" + tail,
        "escaped NUL": head + b"\\u0000" + tail,
        "cut": head,
        "not an object": b"[]",
        "two values": b"{} {}",
        "empty": b" ",
        "deep schema": json.dumps(
            {"model": "", "messages": [], "response_format": {"type": "json_schema", "json_schema": {}}}
        ).encode(),
    }


@pytest.mark.parametrize("case", bomb_cases(), ids=lambda c: c.replace(" ", "-"))
def test_json_bombs(box, case):
    started = time.monotonic()
    answer = send(box, request(box, body=bomb_cases()[case]))
    assert status(answer) == 400, answer[:300]
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert error["type"] == "invalid_request_error" and error["message"]
    if case in ("depth", "width"):  # found before anything was allocated for it
        assert error["message"] == f"the body {'is nested too deeply' if case == 'depth' else 'has too many values'}"
    assert time.monotonic() - started < 3 * PATIENCE


# ---- slow, half, gone


def test_slow_headers_are_cut(box):
    with tls_socket(box) as s:
        started = time.monotonic()
        data = request(box, body=BODY)
        try:
            for i in range(int(60 * PATIENCE)):
                s.sendall(data[i : i + 1])
                time.sleep(0.5)
        except OSError:
            pass
        assert time.monotonic() - started < 25 * PATIENCE, "one byte every half second went on for ever"


def test_a_slow_body_is_cut(box):
    with tls_socket(box) as s:
        started = time.monotonic()
        s.sendall(post(box, "Content-Length: 1000", body=b""))
        try:
            for _ in range(int(100 * PATIENCE)):
                s.sendall(b" ")
                time.sleep(0.5)
        except OSError:
            pass
        assert 25 < time.monotonic() - started < 45 * PATIENCE


def test_many_slow_ones_at_once(box):
    sockets = []
    try:
        for i in range(20):
            s = tls_socket(box)
            begun = b"POST /v1/chat/completions HTTP/1.1\r\nHost: "
            s.sendall(begun if i % 2 else post(box, "Content-Length: 9", body=b"{"))
            sockets.append(s)
        assert status(send(box, request(box, body=BODY))) == 200
    finally:
        for s in sockets:
            s.close()


def test_half_closed_and_gone(box):
    for _ in range(5):
        s = tls_socket(box)
        s.sendall(request(box, body=BODY))
        s.shutdown(socket.SHUT_WR)
        read_all(s)
        s.close()
        s = tls_socket(box)
        s.sendall(request(box, body=BODY)[:-5])
        s.close()
        s = tls_socket(box)
        s.sendall(request(box, body=BODY))
        s.close()
    deadline = time.monotonic() + 10 * PATIENCE
    while box.admin("status")["engine_active"] > 1:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert status(send(box, request(box, body=BODY))) == 200


def test_expectations(box):
    with tls_socket(box) as s:
        s.sendall(post(box, f"Content-Length: {len(BODY)}", "Expect: 100-continue", body=b""))
        s.settimeout(10 * PATIENCE)
        assert s.recv(100).startswith(b"HTTP/1.1 100 ")
        s.sendall(BODY)
        assert status(read_all(s)) == 200
    with tls_socket(box) as s:  # refused before the body is sent
        s.sendall(request(box, body=b"", token="A" * 43, headers=["Content-Length: 9", "Expect: 100-continue"]))
        assert status(read_all(s)) == 401


def test_one_that_never_reads_blocks_nobody(box):
    ask = dict(json.loads(BODY), stream=True, max_tokens=100)
    silent = []
    for _ in range(4):
        s = tls_socket(box)
        s.sendall(request(box, body=json.dumps(ask).encode()))
        silent.append(s)
    assert status(send(box, request(box, body=BODY))) == 200
    for s in silent:
        s.close()


def test_too_many_of_one_device(box):
    ask = json.dumps(dict(json.loads(BODY), stream=True, max_tokens=110)).encode()
    token = box.admin("token.create", person="owner", name="greedy")["token"]
    sockets = [tls_socket(box, source=f"127.0.0.{30 + i}") for i in range(24)]
    for s in sockets:
        s.sendall(request(box, body=ask, token=token))
    codes = [status(read_all(s)) for s in sockets]
    assert set(codes) <= {200, 429} and 200 in codes
