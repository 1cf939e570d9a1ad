# SPDX-License-Identifier: Apache-2.0
"""hearthd against clients that break the rules. No model is needed: a tiny one from tests/golden answers."""

import os
import selectors
import socket
import ssl
import threading
import time

import pytest
from hearthbox import PATIENCE, ROOT, Box, python_client
from rawws import BINARY, CLOSE, CONTINUE, TEXT, RawSocket, http, tls_socket, upgrade_headers
from websockets.exceptions import ConnectionClosed, InvalidStatus

TINY = ROOT / "tests/golden/tiny-llama.gguf"
Code = python_client.SCHEMA["Error"].DESCRIPTOR.enum_types_by_name["Code"].values_by_name
MIB = 1 << 20


@pytest.fixture(scope="module")
def box():
    with Box(TINY, args=["--template", "chatml"]) as box:
        yield box


@pytest.fixture
def witness(box):
    """Another device, which must not notice anything."""
    with box.paired(name="witness") as client:
        yield client
        started = time.monotonic()
        assert client.call("ping", payload=b"still here").payload == b"still here"
        assert time.monotonic() - started < 2 * PATIENCE


def code(name):
    return Code[f"CODE_{name}"].number


def frame(body=None, request_id=None, **fields):
    out = python_client.ClientFrame(request_id=os.urandom(16) if request_id is None else request_id)
    if body:
        getattr(out, body).SetInParent()
        getattr(out, body).MergeFrom(type(getattr(out, body))(**fields))
    return out.SerializeToString()


def raw_hello(box, client):
    raw = RawSocket(box)
    raw.frame(frame("hello", token=client.token, client="raw"))
    opcode, payload = raw.read()
    assert python_client.ServerFrame.FromString(payload).WhichOneof("body") == "welcome"
    return raw


def reply(raw):
    _, payload = raw.read()
    return python_client.ServerFrame.FromString(payload)


# ---- before authentication


@pytest.mark.parametrize(
    "first, expected",
    [
        (b"\xff" * 200, 4401),
        (b"", 4401),
        (b"GET / HTTP/1.1\r\n\r\n", 4401),
        (frame("chat", text="hello"), 4401),
        (frame("list_conversations"), 4401),
        (frame(), 4401),
        (frame("hello", token=b"x" * 32, request_id=b"short"), 4401),
        (frame("pair", secret=b"s" * 32, device_name="d" * 65), 4400),
        (frame("pair", secret=b"s" * 32), 4400),
        (frame("hello", token=b"t" * 5000), 4401),
    ],
)
def test_wrong_first_frame_is_closed(box, witness, first, expected):
    with RawSocket(box, "127.0.0.11") as raw:
        raw.frame(first)
        assert raw.close_code() in (expected, 4400 if expected == 4401 else expected)


def test_text_frame_is_closed_before_and_after_hello(box, witness):
    with RawSocket(box) as raw:
        raw.frame(b"hello", TEXT)
        assert raw.close_code() == 1003
    with raw_hello(box, witness) as raw:
        raw.frame(b"hello", TEXT)
        assert raw.close_code() == 1003


def test_announced_large_first_frame_is_closed_at_once(box, witness):
    with RawSocket(box) as raw:
        raw.frame(b"x", announced=100_000)
        assert raw.close_code() == 4401


def test_silence_is_closed_after_ten_seconds(box, witness):
    before = time.monotonic()
    with RawSocket(box) as raw:
        started = time.monotonic()
        raw.s.settimeout(20 * PATIENCE)
        assert raw.close_code() == 4408
        ended = time.monotonic()
        assert ended - before > 8 and ended - started < 14 * PATIENCE


def first_answer(raw, first):
    """Sends the first frame; the close reason, or the body of what came."""
    raw.frame(first)
    opcode, payload = raw.read()
    if opcode == CLOSE:
        assert payload[:2] == b"\x11\x31"  # 4401
        return payload[2:].decode()
    return python_client.ServerFrame.FromString(payload).WhichOneof("body")


def test_wrong_tokens_are_told_to_wait_and_lock_nobody_out(box, witness):
    """Neighbours behind one router or proxy have one address: what one of them tries must not keep out the others."""
    source = "127.0.0.21"
    secret = box.secret("owner")
    answers = []
    for _ in range(7):
        with RawSocket(box, source) as raw:
            answers.append(first_answer(raw, frame("hello", token=os.urandom(32))))
    assert ["wait" in a for a in answers] == [False] * 4 + [True] * 3
    with RawSocket(box, source) as raw:
        assert first_answer(raw, frame("hello", token=witness.token)) == "welcome"
    with RawSocket(box, source) as raw:
        assert first_answer(raw, frame("pair", secret=secret, device_name="neighbour")) == "paired"
    with RawSocket(box, source) as raw:  # and it is still told
        assert "wait" in first_answer(raw, frame("pair", secret=secret, device_name="again"))
    assert box.log_text().count(f"{source}: 5 wrong tokens or pairing secrets") == 1


def test_a_secret_works_once(box, witness):
    secret = box.secret("owner")
    with box.connect() as client:
        client.pair(secret, "first")
    with RawSocket(box, "127.0.0.22") as raw:
        raw.frame(frame("pair", secret=secret, device_name="second"))
        assert raw.close_code() == 4401


# ---- after authentication


def test_oversize_frames_are_closed(box, witness):
    with raw_hello(box, witness) as raw:
        raw.frame(b"x" * 1000, announced=MIB + 1)
        assert raw.close_code() == 1009
    with raw_hello(box, witness) as raw:
        raw.frame(b"x", announced=1 << 62)
        assert raw.close_code() in (1009, 1002, None)
    with raw_hello(box, witness) as raw:
        closed = None
        try:
            for i in range(40):
                raw.frame(b"y" * 32768, BINARY if i == 0 else CONTINUE, final=False)
        except OSError:
            pass
        closed = raw.close_code()
        assert closed in (1009, None)


def test_a_frame_of_exactly_one_mebibyte_is_read(box, witness):
    padding = MIB - len(frame("ping", payload=b"p"))
    with raw_hello(box, witness) as raw:
        # an unknown field of the right length: 2 bytes of tag, 3 of length
        data = frame("ping", payload=b"p") + b"\xfa\x3f" + encode_varint(padding - 5) + b"\0" * (padding - 5)
        assert len(data) == MIB
        raw.frame(data)
        assert reply(raw).pong.payload == b"p"


def encode_varint(value):
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def field(number, payload):
    return encode_varint(number << 3 | 2) + encode_varint(len(payload)) + payload


def test_bombs_cost_an_error_not_memory(box, witness):
    before = box.admin("status")["rss_bytes"]
    bias = field(10, b"") * 300_000  # empty messages: two bytes each, a struct each when unpacked
    chat = field(2, b"hi") + field(4, bias)
    unknown = b"".join(encode_varint(number << 3) + b"\1" for number in range(1000, 200_000))
    for bomb in (field(1, os.urandom(16)) + field(4, chat), field(1, os.urandom(16)) + unknown):
        assert len(bomb) < MIB
        with raw_hello(box, witness) as raw:
            raw.frame(bomb)
            answer = reply(raw)
            assert answer.error.code == code("LIMIT")
    assert box.admin("status")["rss_bytes"] - before < 24 * MIB


@pytest.mark.parametrize(
    "payload",
    [
        b"\x0a\x10" + b"i" * 16 + field(15, b"\x0a\x02") + b"\xff",
        b"\x0a\x10" + b"i" * 16 + field(15, field(1, b"a") + field(1, b"b")),  # a singular field twice
        b"\x0a\x10" + b"i" * 16 + field(15, b"") + field(14, b""),  # two bodies
        b"\x0a\x10" + b"i" * 16 + field(4, field(2, b"\xc3\x28")),  # not UTF-8
        b"\x0a\x10" + b"i" * 16 + field(4, field(2, b"a\0b")),
        b"\x0a\x10" + b"i" * 16 + field(4, field(2, b"\xed\xa0\x80")),  # a surrogate
        b"\x0a\x10" + b"i" * 16 + b"\x22\xff\xff\xff\xff\x0f",  # length beyond the end
        b"\x0a\x10" + b"i" * 16 + b"\x23\x24",  # groups
        b"\x0a\x10" + b"i" * 16 + b"\x20\x01",  # wrong wire type
        b"\x00\x01",
        b"\xff" * 11,
    ],
)
def test_malformed_messages_are_closed(box, witness, payload):
    with raw_hello(box, witness) as raw:
        raw.frame(payload)
        assert raw.close_code() == 4400


def test_unknown_body_and_missing_id_are_answered(box, witness):
    with raw_hello(box, witness) as raw:
        raw.frame(field(1, os.urandom(16)) + field(99, b"future"))
        assert reply(raw).error.code == code("UNIMPLEMENTED")
        raw.frame(field(15, b""))
        assert reply(raw).error.code == code("INVALID")
        raw.frame(frame("hello", token=witness.token))
        assert reply(raw).error.code == code("INVALID")
        raw.frame(frame("ping", payload=b"x" * 65))
        assert reply(raw).error.code == code("LIMIT")


def refusals(n, seconds):
    """How many of n frames in so many seconds: the burst of firmware/limits.h passes, and what it fills up with."""
    burst, per_second = 200, 40
    return range(max(0, n - burst - int(per_second * seconds) - 1), n - burst + 1)


def test_flood_is_slowed_then_shown_out(box, witness):
    with box.paired(name="flood") as client:
        started = time.monotonic()
        for _ in range(360):
            client.send("ping")
        kinds = [client.receive(5) for _ in range(360)]
        refused = [f.error.code for f in kinds if f.WhichOneof("body") == "error"]
        assert len(refused) in refusals(360, time.monotonic() - started) and set(refused) <= {code("LIMIT")}
        with pytest.raises(ConnectionClosed) as end:
            for _ in range(1000):
                client.send("ping")
            while True:
                client.receive(5)
        # what was still on its way when the box hung up can make the kernel drop the close frame
        assert end.value.rcvd is None or end.value.rcvd.code == 4429


def test_a_device_has_one_rate_for_all_its_sockets(box, witness):
    with box.paired(name="wide") as client:
        sockets = [client] + [box.hello(client.token) for _ in range(3)]
        started = time.monotonic()
        for _ in range(90):
            for one in sockets:
                one.send("ping")
        kinds = [one.receive(5).WhichOneof("body") for one in sockets for _ in range(90)]
        assert kinds.count("error") in refusals(360, time.monotonic() - started)
        for one in sockets[1:]:
            one.close()


def test_reading_a_long_conversation_counts_as_many_frames(box, witness):
    with box.paired(name="archivist", person="archivist") as client:
        conversation = client.call("chat", text="x" * 260_000).conversation_id
        list(client.events())
        for _ in range(11):
            client.call("chat", text="x" * 260_000, conversation_id=conversation)
            list(client.events())
        time.sleep(1)
        for _ in range(100):
            client.send("get_conversation", conversation_id=conversation, limit=1)
        kinds = [client.receive(10).WhichOneof("body") for _ in range(100)]
        assert kinds.count("conversation") > 10 and kinds.count("error") > 0, kinds.count("error")


def test_one_device_may_not_hold_all_sockets(box, witness):
    with box.paired(name="many") as client:
        held = [box.hello(client.token) for _ in range(7)]
        with RawSocket(box) as raw:
            raw.frame(frame("hello", token=client.token))
            assert raw.close_code() == 4429
        for one in held:
            one.close()


def test_half_open_connections_do_not_keep_others_out(box, witness):
    source = "127.0.0.31"
    silent = []
    for _ in range(48):  # TCP only: no TLS at all
        s = socket.socket()
        s.bind((source, 0))
        s.settimeout(25 * PATIENCE)
        s.connect(("127.0.0.1", box.port))
        silent.append(s)
    deadline = time.monotonic() + 20 * PATIENCE
    while (refused := sum(is_closed(s) for s in silent)) < 16:  # 32 per address
        assert time.monotonic() < deadline, refused
        time.sleep(0.02)
    time.sleep(0.5)  # and no more of them
    assert sum(is_closed(s) for s in silent) == 16
    assert witness.call("ping", payload=b"x").payload == b"x"
    with box.hello(witness.token):
        pass
    for s in silent:  # the others are hung up within the handshake's time
        try:
            assert s.recv(1) == b""
        except ConnectionResetError:
            pass
        s.close()


def test_idle_connections_of_a_neighbour_give_way(box, witness):
    """One address, as behind a router: who holds all its places without a token keeps nobody out; who has shown one
    stays."""
    source = "127.0.0.41"
    with RawSocket(box, source) as known:
        known.frame(frame("hello", token=witness.token, client="raw"))
        assert reply(known).WhichOneof("body") == "welcome"
        idle = [tls_socket(box, source) for _ in range(12)]  # TLS and nothing more
        for _ in range(12):  # a page, and kept open
            s = tls_socket(box, source)
            s.sendall(f"GET /health HTTP/1.1\r\nHost: localhost:{box.port}\r\n\r\n".encode())
            idle.append(s)
        silent = [tcp_socket(box, source) for _ in range(7)]
        time.sleep(1.5)
        for _ in range(40):  # each takes a place; those without a token lose theirs
            with RawSocket(box, source) as raw:
                raw.frame(frame("hello", token=witness.token))
                assert reply(raw).WhichOneof("body") == "welcome"
        held = [RawSocket(box, source) for _ in range(6)]
        for raw in held:
            assert first_answer(raw, frame("hello", token=witness.token)) == "welcome"
        known.frame(frame("ping", payload=b"here"))
        assert reply(known).pong.payload == b"here"
        for s in [*idle, *silent, *held]:
            s.close()


def client_hello():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    out = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost").do_handshake()
    except ssl.SSLWantReadError:
        return out.read()


class Flood:
    """Connections that send their first message of TLS, all at once, and wait for the answer."""

    def __init__(self, box, sources):
        self.started, hello = time.monotonic(), client_hello()
        self.waiting, self.answered, self.refused = selectors.DefaultSelector(), [], 0
        for source in sources:
            s = socket.socket()
            s.bind((source, 0))
            s.setblocking(False)
            s.connect_ex(("127.0.0.1", box.port))
            self.waiting.register(s, selectors.EVENT_WRITE, hello)

    def turn(self, seconds):
        for key, _ in self.waiting.select(seconds):
            try:
                if key.data:
                    key.fileobj.send(key.data)
                    self.waiting.modify(key.fileobj, selectors.EVENT_READ)
                    continue
                if key.fileobj.recv(1):
                    self.answered.append(key.fileobj)
                else:
                    self.refused += 1
            except OSError:
                self.refused += 1
            self.waiting.unregister(key.fileobj)

    def most(self):
        """How many may have been answered by now."""
        return 100 + 50 * (time.monotonic() - self.started) + 1


def test_a_flood_of_handshakes_takes_turns(box, witness):
    """As many as the box has decided, however fast they come, and somebody it knows in between."""
    source = "127.0.0.60"
    with RawSocket(box, source) as raw:
        assert first_answer(raw, frame("hello", token=witness.token)) == "welcome"
    flood = Flood(box, [f"127.0.0.{61 + i % 20}" for i in range(220)])
    late = threading.Thread(target=lambda: heard.append(http(box, "/health", source=source)[0]))
    heard, deadline = [], time.monotonic() + 60 * PATIENCE
    late.start()
    while flood.waiting.get_map():
        assert time.monotonic() < deadline
        flood.turn(0.05)
        assert len(flood.answered) <= flood.most()
    late.join()
    assert heard == [200]
    assert (len(flood.answered), flood.refused) == (220, 0)  # the others' turn came
    for s in flood.answered:
        s.close()


def tcp_socket(box, source):
    return socket.create_connection(("127.0.0.1", box.port), 15 * PATIENCE, source_address=(source, 0))


def is_closed(s):
    s.setblocking(False)
    try:
        return s.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        s.setblocking(True)
        s.settimeout(25 * PATIENCE)


def test_a_client_that_stops_answering_pings_is_cut():
    with Box(TINY, args=["--template", "chatml", "--ping-s", "1"]) as box, box.paired() as answers:
        with raw_hello(box, answers) as raw:
            raw.s.settimeout(15 * PATIENCE)
            started = time.monotonic()
            assert raw.read()[0] == 9  # a ping, which this client does not answer
            raw.close_code()
            assert time.monotonic() - started < 8 * PATIENCE
        time.sleep(4)  # this one answers its pings and stays
        assert answers.call("ping", payload=b"x").payload == b"x"


def test_slow_reader_is_cut_and_others_are_served(box, witness):
    """Answers pile up for one that does not read; memory stays bounded."""
    with box.paired(name="slow", person="slow") as client:
        conversation = client.call("chat", text="x" * 250_000).conversation_id
        assert list(client.events())[-1].response_failed.error.code == code("CONTEXT")
        raw = raw_hello(box, client)
        raw.s.settimeout(30 * PATIENCE)
        before = box.admin("status")["rss_bytes"]
        try:
            for _ in range(150):
                raw.frame(frame("get_conversation", conversation_id=conversation))
        except OSError:
            pass
        deadline = time.monotonic() + 15 * PATIENCE
        while any(d["name"] == "slow" and d["connected"] for d in box.admin("devices.list")["devices"]):
            client.close()
            assert time.monotonic() < deadline, "the slow reader is still connected"
            time.sleep(0.2)
        assert box.admin("status")["rss_bytes"] - before < 32 * MIB
        assert witness.call("ping", payload=b"y").payload == b"y"
        raw.close()


# ---- revocation, Host and Origin


def test_revocation_closes_open_sockets_at_once(box, witness):
    with box.paired(name="lost phone") as client:
        other = box.hello(client.token)
        started = time.monotonic()
        assert box.admin("devices.revoke", id=client.device_id.hex())["n_closed"] == 2
        for one in (client, other):
            with pytest.raises(ConnectionClosed) as end:
                one.receive(5)
            assert end.value.rcvd.code == 4403
        assert time.monotonic() - started < 2 * PATIENCE
    with RawSocket(box, "127.0.0.23") as raw:
        raw.frame(frame("hello", token=client.token))
        assert raw.close_code() == 4401


@pytest.mark.parametrize(
    "host, status",
    [
        ("localhost:{port}", 200),
        ("LOCALHOST:{port}", 200),
        ("127.0.0.1:{port}", 200),
        ("[::1]:{port}", 200),
        ("localhost", 421),
        ("localhost:1", 421),
        ("evil.example:{port}", 421),
        ("localhost.evil.example:{port}", 421),
        ("127.0.0.2:{port}", 421),
        ("localhost:{port}x", 421),
        ("[::1:{port}", 421),
    ],
)
def test_host_must_be_ours(box, host, status):
    assert http(box, "/health", host=host.format(port=box.port))[0] == status


@pytest.mark.parametrize("host", ["localhost:{port}", "127.0.0.1:{port}", "[::1]:{port}", "evil.example:{port}"])
def test_the_page_may_connect_to_its_own_box_only(box, host):
    host = host.format(port=box.port)
    policy = http(box, "/", host=host)[1]["content-security-policy"]
    allowed = next(p.split()[1:] for p in policy.split("; ") if p.startswith("connect-src"))
    assert allowed == ["'self'"] + ([] if "evil" in host or "[" in host else [f"wss://{host}"])


def test_missing_host_is_refused(box):
    assert http(box, "/health", host="")[0] in (400, 421)


@pytest.mark.parametrize(
    "origin, status",
    [
        ("https://localhost:{port}", 101),
        ("https://127.0.0.1:{port}", 101),
        ("http://localhost:{port}", 403),
        ("https://localhost", 403),
        ("https://evil.example", 403),
        ("https://localhost:{port}.evil.example", 403),
        ("null", 403),
    ],
)
def test_origin_must_be_ours(box, origin, status):
    assert upgrade(box, origin=origin.format(port=box.port)) == status


def upgrade(box, path="/ws", host=None, **headers):
    with tls_socket(box) as s:
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {host or f'localhost:{box.port}'}",
            *upgrade_headers(**headers),
            "",
            "",
        ]
        s.sendall("\r\n".join(lines).encode())
        head = s.recv(4096)
        return int(head.split()[1]) if head else 0


def test_upgrade_wants_path_protocol_and_host(box):
    assert upgrade(box) == 101
    assert upgrade(box, path="/other") == 404
    assert upgrade(box, path="/") == 404
    assert upgrade(box, protocol=None) == 400
    assert upgrade(box, protocol="chat") == 400
    assert upgrade(box, protocol="hearth-pages") == 400
    assert upgrade(box, host="evil.example") == 421


def test_browser_library_sees_the_refusal(box):
    with pytest.raises(InvalidStatus):
        box.connect(origin="https://evil.example")


def test_many_clients_at_once(box, witness):
    """Twenty devices talk at the same time; each gets its own answers."""
    failures = []

    def talk(number):
        try:
            with box.hello(witness.token) if number < 4 else box.paired(name=f"d{number}") as client:
                for i in range(20):
                    payload = f"{number}.{i}".encode()
                    assert client.call("ping", payload=payload).payload == payload
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=talk, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
