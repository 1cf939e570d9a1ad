# SPDX-License-Identifier: Apache-2.0
"""`hearth chat` and the admin commands, against a box made here, which loses connections, and a real one."""

import base64
import hashlib
import json
import os
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from test_cli import Terminal
from test_pull import make_authority, make_leaf, openssl
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("HEARTH_TEST_BUILD", ROOT / "build"))
HEARTH = str(BUILD / "hearth")
TOKEN, SECRET, ID = b"t" * 32, b"s" * 32, b"i" * 16


def load_schema():
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "pb")
        subprocess.run(
            ["protoc", f"--descriptor_set_out={out}", "-I", ROOT / "proto", "hearth/v1/hearth.proto"],
            check=True,
        )
        files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return [
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"hearth.v1.{n}"))
        for n in ("ClientFrame", "ServerFrame")
    ]


ClientFrame, ServerFrame = load_schema()


def frame(request_id, kind, **fields):
    reply = ServerFrame(request_id=request_id)
    part = getattr(reply, kind)
    part.SetInParent()
    for name, value in fields.items():
        setattr(part, name, value)
    return reply


def event(seq, kind, **fields):
    reply = ServerFrame()
    reply.event.response_id, reply.event.seq = b"r" * 16, seq
    part = getattr(reply.event, kind)
    part.SetInParent()
    for name, value in fields.items():
        setattr(part, name, value)
    return reply


class Drop(Exception):
    """Ends the connection without a word."""


class Box:
    """Speaks hearth.v1; `answer(box, frame)` yields frames for what comes after Hello, and may raise Drop."""

    def __init__(self, folder, runtime):
        self.frames, self.requests, self.answer, self.token = [], [], None, TOKEN
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        leaf, key = folder / "box.crt", folder / "box.key"
        chain = folder / "chain.crt"
        chain.write_text(leaf.read_text() + (folder / "home.crt").read_text())
        context.load_cert_chain(chain, key)
        self.ca = folder / "home.crt"
        openssl(folder, "x509 -in home.crt -pubkey -noout -out home.pub")
        spki = base64.b64decode("".join((folder / "home.pub").read_text().splitlines()[1:-1]))
        self.fp = hashlib.sha256(spki).hexdigest()[:32]
        self.server = serve(
            self.talk, "127.0.0.1", 0, ssl=context, subprotocols=["hearth.v1"], compression=None
        )
        self.port = self.server.socket.getsockname()[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        runtime.mkdir(parents=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(runtime / "admin.sock"))
        self.listener.listen()
        threading.Thread(target=self.admin, daemon=True).start()

    def link(self, fp=None):
        secret = base64.urlsafe_b64encode(SECRET).decode().rstrip("=")
        return f"https://localhost:{self.port}/#pair={secret}&fp={fp or self.fp}"

    def admin(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rw") as lines:
                for line in lines:
                    request = json.loads(line)
                    self.requests.append(request)
                    reply = {"ok": True}
                    if request["cmd"] == "status":
                        reply |= {"port": self.port, "fp": self.fp, "ca_file": str(self.ca), "model": None}
                    if request["cmd"] == "pair":
                        secret = base64.urlsafe_b64encode(SECRET).decode().rstrip("=")
                        reply |= {
                            "secret": secret,
                            "link": self.link(),
                            "links": [],
                            "person": "Ann \x1b[31m",
                            "expires_ms": 1,
                        }
                    lines.write(json.dumps(reply) + "\n")
                    lines.flush()

    def talk(self, socket_):
        try:
            for data in socket_:
                got = ClientFrame.FromString(data)
                self.frames.append(got)
                kind = got.WhichOneof("body")
                if kind == "hello" and got.hello.token != self.token:
                    socket_.close(4401, "unknown token")
                    return
                if kind == "pair":
                    socket_.send(frame(got.request_id, "paired", token=self.token).SerializeToString())
                elif kind == "hello":
                    socket_.send(frame(got.request_id, "welcome", person="owner").SerializeToString())
                else:
                    for reply in self.answer(self, got):
                        socket_.send(reply.SerializeToString())
        except Drop:
            socket_.socket.shutdown(socket.SHUT_RDWR)
        except ConnectionClosed:
            pass

    def kinds(self):
        return [f.WhichOneof("body") for f in self.frames]

    def close(self):
        self.server.shutdown()
        self.listener.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("box")
    make_authority(folder, "home")
    make_leaf(folder, "home", "box", "DNS:localhost,IP:127.0.0.1")
    return folder


@pytest.fixture
def home():
    with tempfile.TemporaryDirectory(prefix="h") as folder:  # a short path: socket names are limited
        yield Path(folder)


@pytest.fixture
def box(certificates, home):
    box = Box(certificates, home / "run/hearth")
    yield box
    box.close()


def environment(home, **more):
    keep = {k: v for k, v in os.environ.items() if not k.startswith("HEARTH_") and k != "NO_COLOR"}
    folders = {f"XDG_{n}_HOME": str(home / n.lower()) for n in ("CACHE", "CONFIG", "DATA", "STATE")}
    return keep | folders | {"HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run")} | more


def hearth(home, *words, stdin="", timeout=90, **env):
    return subprocess.run(
        [HEARTH, *words],
        env=environment(home, **env),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def accepted(got):
    return frame(
        got.request_id,
        "accepted",
        response_id=b"r" * 16,
        conversation_id=b"c" * 16,
        user_turn_id=b"u" * 16,
        assistant_turn_id=b"a" * 16,
    )


def plain(box, got):
    """A whole answer of three pieces."""
    if got.WhichOneof("body") != "chat":
        return
    yield accepted(got)
    yield event(1, "response_created", model="m")
    for i, piece in enumerate(["You said: ", got.chat.text, "."]):
        yield event(2 + i, "output_text_delta", delta=piece)
    done = event(5, "response_completed")
    done.event.response_completed.usage.completion_tokens = 3
    done.event.response_completed.usage.seed = 2**64 - 1
    yield done


def test_questions_from_a_pipe(box, home):
    box.answer = plain
    done = hearth(home, "chat", stdin="one\n\ntwo\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "You said: one.\nYou said: two.\n", "")
    assert box.kinds() == ["pair", "chat", "chat"]
    first, second = box.frames[1].chat, box.frames[2].chat
    assert first.conversation_id == b"" and second.conversation_id == b"c" * 16, "one conversation"
    assert first.sampling.temperature.value == 0 and first.sampling.HasField("temperature")
    assert [r["cmd"] for r in box.requests] == ["status", "pair"] and box.requests[1]["person"] == "owner"
    store = home / "state/hearth/client.json"
    assert store.stat().st_mode & 0o777 == 0o600 and TOKEN.hex() in store.read_text()


def test_the_token_is_used_again(box, home):
    box.answer = plain
    assert hearth(home, "chat", stdin="one\n").returncode == 0
    done = hearth(home, "chat", "--temp", "1.5", "--seed", "7", "-n", "9", stdin="two\n")
    assert done.stdout == "You said: two.\n"
    assert box.kinds() == ["pair", "chat", "hello", "chat"] and box.frames[2].hello.token == TOKEN
    sampling = box.frames[3].chat.sampling
    assert (sampling.temperature.value, sampling.seed.value, sampling.max_tokens.value) == (1.5, 7, 9)


@pytest.mark.parametrize("spoiled", ['{"boxes":[{"fp":"00', '{"boxes":{}}', "", "a folder"])
def test_paired_boxes_that_cannot_be_read_are_not_written_over(box, home, spoiled):
    store = home / "state/hearth/client.json"
    store.parent.mkdir(parents=True)
    if spoiled == "a folder":
        store.mkdir()
    else:
        store.write_text(spoiled)
    box.answer = plain
    done = hearth(home, "chat", stdin="one\n")
    assert done.returncode == (74 if store.is_dir() else 65) and done.stdout == ""
    assert "client.json: " in done.stderr and done.stderr.count("\n") == 1
    assert store.is_dir() or store.read_text() == spoiled
    assert box.kinds() == []


def test_a_revoked_terminal_of_the_box_pairs_again(box, home):
    box.answer = plain
    assert hearth(home, "chat", stdin="one\n").returncode == 0
    box.token = b"n" * 32
    assert hearth(home, "chat", stdin="two\n").stdout == "You said: two.\n"
    assert box.kinds() == ["pair", "chat", "hello", "pair", "chat"]


def test_json(box, home):
    box.answer = plain
    told = json.loads(hearth(home, "chat", "--json", stdin="one\n").stdout)
    assert told["text"] == "You said: one." and told["usage"]["completion_tokens"] == 3
    assert told["usage"]["seed"] == str(2**64 - 1)


def test_by_link_and_then_by_name(box, home):
    box.answer = plain
    other = home / "other"
    done = hearth(other, "chat", "--host", box.link(), stdin="one\n")
    assert (done.returncode, done.stdout) == (0, "You said: one.\n"), done.stderr
    assert box.requests == [], "a box elsewhere has no admin socket here"
    assert hearth(other, "chat", "--host", "localhost", stdin="two\n").stdout == "You said: two.\n"
    assert box.kinds() == ["pair", "chat", "hello", "chat"]
    done = hearth(home / "third", "chat", "--host", "localhost", stdin="x\n")
    assert done.returncode == 77 and "not paired" in done.stderr


def test_an_impostor_is_not_entered(box, home):
    """Another identity than the link's: nothing is sent to it, the secret least of all."""
    box.answer = plain
    done = hearth(home, "chat", "--host", box.link("0" * 32), stdin="one\n")
    assert done.returncode == 69 and "another" in done.stderr and box.frames == []
    done = hearth(home, "chat", "--host", "https://localhost/#pair=abc", stdin="one\n")
    assert done.returncode == 2


def test_another_authority_is_not_trusted(box, home, tmp_path):
    box.answer = plain
    box.ca = make_authority(tmp_path, "strange")
    done = hearth(home, "chat", stdin="one\n")
    assert done.returncode == 77 and "not trusted" in done.stderr and box.frames == []


def test_lost_in_the_middle_of_an_answer(box, home):
    def answer(box, got):
        if got.WhichOneof("body") == "chat":
            yield accepted(got)
            yield event(1, "output_text_delta", delta="one ")
            yield event(2, "output_text_delta", delta="two ")
            raise Drop
        assert got.resume.response_id == b"r" * 16
        box.after.append(got.resume.after_seq)
        if len(box.after) == 1:
            yield event(2, "output_text_delta", delta="two ")  # told twice: shown once
            yield event(3, "output_text_delta", delta="three ")
            raise Drop
        yield event(5, "response_snapshot", text="one two three four ")
        yield event(6, "output_text_delta", delta="five")
        yield event(7, "response_completed")

    box.answer, box.after = answer, []
    done = hearth(home, "chat", stdin="count\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "one two three four five\n", "")
    assert box.after == [2, 3]
    assert box.kinds() == ["pair", "chat", "hello", "resume", "hello", "resume"]


def test_lost_before_it_was_accepted(box, home):
    def answer(box, got):
        if len([k for k in box.kinds() if k == "chat"]) == 1:
            raise Drop
        yield from plain(box, got)

    box.answer = answer
    done = hearth(home, "chat", stdin="one\n")
    assert done.stdout == "You said: one.\n"
    chats = [f for f in box.frames if f.WhichOneof("body") == "chat"]
    assert len(chats) == 2 and chats[0].request_id == chats[1].request_id, "the same id: asked once"


def test_a_response_the_box_no_longer_knows(box, home):
    def answer(box, got):
        if got.WhichOneof("body") == "chat":
            yield accepted(got)
            raise Drop
        yield frame(got.request_id, "error", code=4, message="no such response")

    box.answer = answer
    done = hearth(home, "chat", stdin="one\n")
    assert done.returncode == 1 and "no such response" in done.stderr and done.stdout == ""


@pytest.mark.parametrize("code,expected", [(1, 77), (3, 65), (6, 75), (7, 65), (9, 1), (10, 69), (11, 74)])
def test_errors_of_the_box(box, home, code, expected):
    box.answer = lambda box, got: [frame(got.request_id, "error", code=code, message="so it is")]
    done = hearth(home, "chat", stdin="one\ntwo\n")
    assert (done.returncode, done.stdout, done.stderr) == (expected, "", "hearth: so it is\n")
    assert box.kinds() == ["pair", "chat"], "the next line is not asked"


def test_answer_that_failed(box, home):
    def answer(box, got):
        yield accepted(got)
        yield event(1, "output_text_delta", delta="half")
        failed = event(2, "response_failed")
        failed.event.response_failed.error.message = "device lost"
        yield failed

    box.answer = answer
    done = hearth(home, "chat", stdin="one\n")
    assert done.returncode == 1 and done.stdout == "half\n" and "device lost" in done.stderr


def test_garbage_of_the_box(box, home):
    class Raw:
        def SerializeToString(self):
            return b"\xff\xff\xff"

    box.answer = lambda box, got: [Raw()] if len(box.frames) < 6 else plain(box, got)
    done = hearth(home, "chat", stdin="one\n")
    assert done.returncode == 0 and done.stdout == "You said: one.\n"


def test_escape_sequences_do_not_reach_the_terminal(box, home):
    def answer(box, got):
        if got.WhichOneof("body") == "chat":
            yield accepted(got)
            yield event(1, "output_text_delta", delta="A\x1b[2JB\x9bC\x07 äß世\n")
            yield event(2, "response_completed")

    box.answer = answer
    terminal = Terminal(home, "chat")
    terminal.until(r"/help.*\n.*> ")
    terminal.type("one\n")
    terminal.until(r"A\?\[2JB\?C\? äß世")
    terminal.type("\x04")
    assert terminal.end() == 0


def test_interrupt_cancels_the_answer_and_stays(box, home):
    def answer(box, got):
        if got.WhichOneof("body") == "chat":
            yield accepted(got)
            yield event(1, "output_text_delta", delta="endless ")
        elif got.WhichOneof("body") == "cancel":
            assert got.cancel.response_id == b"r" * 16
            stopped = event(2, "response_incomplete")
            stopped.event.response_incomplete.reason = 3
            yield stopped

    box.answer = answer
    terminal = Terminal(home, "chat")
    terminal.until(r"/help.*\n.*> ")
    terminal.type("one\n")
    terminal.until("endless")
    terminal.type("\x03")
    terminal.until("> $")
    terminal.type("\x04")
    assert terminal.end() == 0 and box.kinds() == ["pair", "chat", "cancel"]


@pytest.mark.parametrize("no_color,colour", [("", True), ("1", False)])
def test_pairing_code_on_a_terminal(box, home, no_color, colour):
    more = {"NO_COLOR": no_color} if no_color else {}
    terminal = Terminal(home, "pair", "--person", "Ann", **more)
    assert terminal.end() == 0
    assert box.link() in terminal.text and "▀" in terminal.text
    assert ("\x1b[97;40m" in terminal.text) is colour
    assert "Ann ?[31m" in terminal.text, "names cannot hold escape sequences"
    assert "\x1b[" not in hearth(home, "pair", "--person", "Ann").stdout


# ---------------------------------------------------------------- the real box


@pytest.fixture(scope="module")
def real():
    """hearthd with the default model, in folders of its own."""
    model = os.environ.get("HEARTH_TEST_SMOLLM2")
    cached = Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache",
        "hearth/models/SmolLM2-135M-Instruct-Q4_1.gguf",
    )
    if not model and not cached.exists():
        pytest.skip("no SmolLM2 model")
    with tempfile.TemporaryDirectory(prefix="h") as folder, socket.create_server(("127.0.0.1", 0)) as free:
        home = Path(folder)
        (home / "run").mkdir(mode=0o700)
        port = free.getsockname()[1]
        free.close()
        words = [
            BUILD / "hearthd",
            "--model",
            model or str(cached),
            "--port",
            str(port),
            "--listen",
            "loopback",
            "--ctx",
            "4096",
        ]
        with open(home / "log", "w") as log:
            daemon = subprocess.Popen(
                words, env=environment(home), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 60
        while True:
            done = hearth(home, "status", "--json")
            if done.returncode == 0 and json.loads(done.stdout)["model"]:
                break
            assert daemon.poll() is None and time.monotonic() < deadline, (home / "log").read_text()
            time.sleep(0.1)
        yield home
        daemon.terminate()
        assert daemon.wait(30) == 0


def test_real_answer(real):
    done = hearth(real, "chat", "-n", "40", stdin="What is the capital of France?\n")
    assert done.returncode == 0 and "Paris" in done.stdout and done.stderr == ""


def test_real_people_devices_and_conversations(real):
    assert hearth(real, "people", "add", "Ann").returncode == 0
    assert hearth(real, "people", "add", "Ann").returncode == 1
    people = json.loads(hearth(real, "people", "list", "--json").stdout)["people"]
    assert {"owner", "Ann"} == {p["name"] for p in people}
    for words in (["pair"], ["token", "create", "--name", "editor"]):
        done = hearth(real, *words, "--person", "Nobody")
        assert (done.returncode, done.stderr) == (1, "hearth: no such person; --create adds one\n")
    link = json.loads(hearth(real, "pair", "--person", "Ann", "--json").stdout)["links"][-1]
    other = real / "other"
    done = hearth(other, "chat", "--host", link, "-n", "5", stdin="Say hello.\n")
    assert done.returncode == 0, done.stderr
    done = hearth(real / "third", "chat", "--host", link, stdin="Say hello.\n")
    assert done.returncode == 77 and "used already" in done.stderr, "a link works once"
    devices = json.loads(hearth(real, "devices", "list", "--person", "Ann", "--json").stdout)["devices"]
    assert len(devices) == 1
    assert hearth(real, "conversations", "list").returncode == 2, "two people: which one?"
    heads = json.loads(hearth(real, "conversations", "list", "--person", "Ann", "--json").stdout)[
        "conversations"
    ]
    assert len(heads) == 1
    shown = hearth(real, "conversations", "show", heads[0]["id"], "--person", "Ann")
    assert "Say hello." in shown.stdout and "[assistant" in shown.stdout
    exported = [
        json.loads(line)
        for line in hearth(real, "conversations", "export", "--person", "Ann").stdout.splitlines()
    ]
    assert len(exported) == 1 and exported[0]["turns"][0]["text"] == "Say hello."
    assert hearth(real, "devices", "revoke", devices[0]["id"]).returncode == 0
    host = link.split("/")[2].rsplit(":", 1)[0]
    assert hearth(other, "chat", "--host", host, stdin="x\n").returncode == 77, "revoked"
    assert hearth(real, "conversations", "delete", heads[0]["id"], "--person", "Ann").returncode == 0
    assert hearth(real, "conversations", "delete", heads[0]["id"], "--person", "Ann").returncode == 1
    assert hearth(real, "people", "remove", "Ann").returncode == 0
    assert hearth(real, "devices", "revoke", "0" * 32).returncode == 1


def test_real_status_and_doctor(real):
    status = json.loads(hearth(real, "status", "--json").stdout)
    assert status["model"]["file_type"] == "Q4_1" and status["listen"] == "loopback"
    assert "hearthd" in hearth(real, "status").stdout
    report = json.loads(hearth(real, "doctor", "--json").stdout)
    found = {c["name"]: c["result"] for c in report["checks"]}
    assert found["hearthd"] == found["state"] == found["authority"] == found["certificate"] == "ok"
