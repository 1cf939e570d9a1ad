# SPDX-License-Identifier: Apache-2.0
"""`hearth pull` against a TLS server of our own, which drops, truncates and lies."""

import hashlib
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

import pytest
from gguf_tiny import tiny_model

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("HEARTH_TEST_BUILD", ROOT / "build"))
HEARTH = BUILD / "hearth"
BODY = tiny_model()
SHA = hashlib.sha256(BODY).hexdigest()
SHA_TAG = f'"{SHA}"'
WRONG = "0" * 64


NEW_KEY = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"


def openssl(folder, words):
    subprocess.run(["openssl", *words.split()], cwd=folder, check=True, capture_output=True)


def make_authority(folder, name):
    openssl(folder, f"req -x509 {NEW_KEY} -days 2 -subj /CN={name} -keyout {name}.key -out {name}.crt")
    return folder / f"{name}.crt"


def make_leaf(folder, authority, name, names):
    (folder / f"{name}.ext").write_text(f"subjectAltName={names}\n")
    openssl(folder, f"req {NEW_KEY} -subj /CN={name} -keyout {name}.key -out {name}.csr")
    signer = f"-CA {authority}.crt -CAkey {authority}.key -CAcreateserial -days 2"
    openssl(folder, f"x509 -req -in {name}.csr {signer} -extfile {name}.ext -out {name}.crt")
    return folder / f"{name}.crt", folder / f"{name}.key"


class Server:
    """One TLS listener; `answer(request)` yields byte strings, or None to drop the connection there."""

    def __init__(self, cert, key):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(cert, key)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.requests = []
        self.answer = None
        self.accepting = threading.Thread(target=self.accept, daemon=True)
        self.accepting.start()

    def accept(self):
        while True:
            try:
                plain, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.talk, args=(plain,), daemon=True).start()

    def talk(self, plain):
        try:
            with self.context.wrap_socket(plain, server_side=True) as tls:
                head = b""
                while b"\r\n\r\n" not in head:
                    data = tls.recv(65536)
                    if not data:
                        return
                    head += data
                lines = head.split(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
                request = {"path": lines[0].split()[1]}
                request |= {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines[1:])}
                self.requests.append(request)
                for piece in self.answer(request):
                    if piece is None:
                        break
                    tls.sendall(piece)
                else:
                    tls.unwrap()
        except (OSError, ValueError):
            pass

    def close(self):  # not before the thread is out of it: the next server's socket may get the same number
        self.listener.shutdown(socket.SHUT_RDWR)
        self.accepting.join()
        self.listener.close()


def reply(status, headers=None, body=b""):
    lines = [f"HTTP/1.1 {status} X"] + [f"{k}: {v}" for k, v in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def whole(etag='"v1"', body=BODY, **more):
    return reply(200, {"content-length": len(body), "etag": etag, "accept-ranges": "bytes", **more}, body)


def part(request, etag='"v1"', body=BODY):
    start = int(re.match(r"bytes=(\d+)-$", request["range"])[1])
    where = f"bytes {start}-{len(body) - 1}/{len(body)}"
    return reply(
        206, {"content-length": len(body) - start, "content-range": where, "etag": etag}, body[start:]
    )


def cut(data, share):
    return data[: int(len(data) * share)]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    make_authority(folder, "good")
    make_authority(folder, "other")
    return {
        "folder": folder,
        "ca": folder / "good.crt",
        "other": folder / "other.crt",
        "leaf": make_leaf(folder, "good", "leaf", "DNS:localhost,IP:127.0.0.1"),
        "foreign": make_leaf(folder, "good", "foreign", "DNS:elsewhere.example"),
    }


@pytest.fixture
def server(certificates):
    server = Server(*certificates["leaf"])
    yield server
    server.close()


@pytest.fixture
def home(tmp_path):
    return tmp_path


def environment(home, **more):
    drop = ("SSL_CERT_FILE", "HEARTH_HUB", "HEARTH_HUB_TOKEN")
    keep = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and k not in drop}
    folders = {f"XDG_{n}_HOME": str(home / n.lower()) for n in ("CACHE", "CONFIG", "DATA", "STATE")}
    return keep | folders | {"HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run")} | more


def pull(home, certificates, *words, ca="ca", timeout=60, **env):
    return subprocess.run(
        [HEARTH, "pull", "--ca", certificates[ca], "--timeout", "2", *words],
        env=environment(home, **env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def models(home):
    folder = home / "cache/hearth/models"
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def has_model(home, name="tiny.gguf"):
    return (home / "cache/hearth/models" / name).read_bytes() == BODY


def url(server, path="/tiny.gguf", host="localhost"):
    return f"https://{host}:{server.port}{path}"


def test_whole_file(server, home, certificates):
    server.answer = lambda request: [whole()]
    done = pull(home, certificates, url(server), "--sha256", SHA)
    assert done.returncode == 0, done.stderr
    assert has_model(home) and models(home) == ["tiny.gguf"]
    assert SHA in done.stdout and "verified" in done.stdout
    assert done.stderr == "", "no bars when stderr is not a terminal"
    again = pull(home, certificates, url(server), "--sha256", SHA)
    assert again.returncode == 0 and len(server.requests) == 1, "nothing is fetched twice"


def test_address_instead_of_name(server, home, certificates):
    server.answer = lambda request: [whole()]
    done = pull(home, certificates, url(server, host="127.0.0.1"), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["sha256"] == SHA and told["verified"] is False and told["fetched"] is True


def test_chunked_body(server, home, certificates):
    pieces = [BODY[i : i + 70001] for i in range(0, len(BODY), 70001)] + [b""]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces)
    server.answer = lambda request: [reply(200, {"transfer-encoding": "chunked"}) + chunks]
    done = pull(home, certificates, url(server), "--sha256", SHA)
    assert done.returncode == 0, done.stderr
    assert has_model(home)


def test_dropped_connection_is_resumed(server, home, certificates):
    def answer(request):
        if "range" not in request:
            return [cut(whole(), 0.4), None]
        if len(server.requests) == 2:
            return [cut(part(request), 0.5), None]
        return [part(request)]

    server.answer = answer
    done = pull(home, certificates, url(server), "--sha256", SHA)
    assert done.returncode == 0, done.stderr
    assert has_model(home) and models(home) == ["tiny.gguf"]
    starts = [int(r["range"][6:-1]) for r in server.requests[1:]]
    assert len(starts) == 2 and 0 < starts[0] < starts[1] < len(BODY)
    assert all(r["if-range"] == '"v1"' for r in server.requests[1:])


def test_resumed_by_a_later_command(server, home, certificates):
    def down(request):
        return [cut(whole(), 0.5), None] if "range" not in request else [None]

    server.answer = down
    first = pull(home, certificates, url(server))
    assert first.returncode == 75 and "pull again" in first.stderr and len(first.stderr.splitlines()) == 1
    assert models(home) == ["tiny.gguf.part", "tiny.gguf.part.json"]
    server.answer = lambda request: [part(request)]
    second = pull(home, certificates, url(server), "--sha256", SHA)
    assert second.returncode == 0, second.stderr
    assert has_model(home) and models(home) == ["tiny.gguf"]
    assert int(server.requests[-1]["range"][6:-1]) > len(BODY) // 4


def test_killed_and_resumed(server, home, certificates):
    killed = threading.Event()

    def slow(request):
        yield cut(whole(), 0.5)
        killed.wait(90)

    server.answer = slow
    process = subprocess.Popen(
        [HEARTH, "pull", "--ca", certificates["ca"], url(server)],
        env=environment(home),
        stdin=subprocess.DEVNULL,
    )
    part_file = home / "cache/hearth/models/tiny.gguf.part"
    deadline = time.monotonic() + 60
    while not part_file.exists() or part_file.stat().st_size <= len(BODY) // 4:
        assert time.monotonic() < deadline, "its first half does not come"
        time.sleep(0.02)
    process.kill()
    process.wait()
    killed.set()
    server.answer = lambda request: [part(request)]
    done = pull(home, certificates, url(server), "--sha256", SHA)
    assert done.returncode == 0, done.stderr
    assert has_model(home) and "range" in server.requests[-1]


def test_changed_file_begins_anew(server, home, certificates):
    old = bytes(len(BODY))

    def answer(request):
        if len(server.requests) == 1:
            return [cut(whole('"v0"', old), 0.6), None]
        assert request["if-range"] == '"v0"'
        return [whole('"v1"')]  # the ETag is another: the whole file, status 200

    server.answer = answer
    done = pull(home, certificates, url(server), "--sha256", SHA)
    assert done.returncode == 0, done.stderr
    assert has_model(home)


@pytest.mark.parametrize("lie", ["other-start", "other-total", "other-etag"])
def test_a_part_that_does_not_fit_begins_anew(server, home, certificates, lie):
    def answer(request):
        if len(server.requests) == 1:
            return [cut(whole(), 0.5), None]
        if len(server.requests) > 2:
            return [whole()]
        start, total, etag = int(request["range"][6:-1]), len(BODY), '"v1"'
        if lie == "other-start":
            start -= 1000
        if lie == "other-total":
            total += 1000
        if lie == "other-etag":
            etag = '"v2"'
        body = bytes(total - start)
        headers = {
            "content-length": len(body),
            "content-range": f"bytes {start}-{total - 1}/{total}",
            "etag": etag,
        }
        return [reply(206, headers, body)]

    server.answer = answer
    done = pull(home, certificates, url(server), "--sha256", SHA)
    assert done.returncode == 0, done.stderr
    assert has_model(home)
    assert "range" not in server.requests[2]


def test_bytes_of_another_address_are_not_gone_on_with(server, home, certificates):
    """Same name, same length, same ETag: the first half of another file is no beginning of this one."""
    server.answer = lambda request: [cut(whole(body=bytes(len(BODY))), 0.5), None] if "range" not in request else [None]
    assert pull(home, certificates, url(server, "/a/tiny.gguf")).returncode == 75
    server.requests.clear()
    server.answer = lambda request: [part(request) if "range" in request else whole()]
    done = pull(home, certificates, url(server, "/b/tiny.gguf"))
    assert done.returncode == 0, done.stderr
    assert has_model(home) and "range" not in server.requests[0]


@pytest.mark.parametrize("how", ["longer", "shorter", "weak", "no-note"])
def test_a_part_file_that_cannot_be_gone_on_with(server, home, certificates, how):
    etag = 'W/"v1"' if how == "weak" else '"v1"'
    server.answer = lambda request: [cut(whole(etag), 0.5), None] if "range" not in request else [None]
    assert pull(home, certificates, url(server)).returncode == 75
    file = home / "cache/hearth/models/tiny.gguf.part"
    if how == "longer":  # than the file that was told
        file.write_bytes(BODY + b"x")
    if how == "shorter":
        file.write_bytes(b"")
    if how == "no-note":
        file.with_name("tiny.gguf.part.json").unlink()
    server.requests.clear()
    server.answer = lambda request: [part(request, etag) if "range" in request else whole(etag)]
    done = pull(home, certificates, url(server), "--sha256", SHA)
    assert done.returncode == 0, done.stderr
    assert has_model(home) and models(home) == ["tiny.gguf"] and "range" not in server.requests[0]


@pytest.mark.parametrize("known", [True, False])
def test_a_whole_part_file(server, home, certificates, known):
    """Killed before the rename: with its SHA-256 nobody is asked; without, the server must still have the same."""
    server.answer = lambda request: [cut(whole(SHA_TAG), 0.5), None] if "range" not in request else [None]
    assert pull(home, certificates, url(server)).returncode == 75
    (home / "cache/hearth/models/tiny.gguf.part").write_bytes(BODY)
    server.requests.clear()
    server.answer = lambda request: [part(request, SHA_TAG)]
    done = pull(home, certificates, url(server), *(["--sha256", SHA] if known else []))
    assert done.returncode == 0, done.stderr
    assert has_model(home) and models(home) == ["tiny.gguf"] and "verified" in done.stdout
    assert [r["range"] for r in server.requests] == ([] if known else [f"bytes={len(BODY) - 1}-"])


def test_a_range_that_is_not_there_any_more(server, home, certificates):
    def answer(request):
        if len(server.requests) == 1:
            return [cut(whole(), 0.5), None]
        return [reply(416, {"content-length": 0})] if "range" in request else [whole()]

    server.answer = answer
    done = pull(home, certificates, url(server), "--sha256", SHA)
    assert done.returncode == 0, done.stderr
    assert has_model(home) and "range" in server.requests[1] and "range" not in server.requests[2]


def test_more_than_promised_in_a_part(server, home, certificates):
    """A part that ends later than the file, and chunks that have no end told."""
    def answer(request):
        if "range" not in request:
            return [cut(whole(), 0.5), None]
        start = int(request["range"][6:-1])
        where = {"content-range": f"bytes {start}-{len(BODY) - 1}/{len(BODY)}", "etag": '"v1"'}
        body = BODY[start:] + b"x" * 5000
        return [reply(206, where | {"transfer-encoding": "chunked"}) + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)]

    server.answer = answer
    done = pull(home, certificates, url(server), "--sha256", SHA)
    assert done.returncode == 65 and "more than it said" in done.stderr and "tiny.gguf" not in models(home)


def test_truncated_for_ever(server, home, certificates):
    server.answer = lambda request: [cut(whole(), 0.3)] if "range" not in request else [None]
    done = pull(home, certificates, url(server), "--sha256", SHA)
    assert done.returncode == 75 and len(done.stderr.splitlines()) == 1
    assert "tiny.gguf" not in models(home)


def test_wrong_hash_is_thrown_away(server, home, certificates):
    server.answer = lambda request: [whole()]
    done = pull(home, certificates, url(server), "--sha256", WRONG)
    assert done.returncode == 65 and SHA in done.stderr
    assert models(home) == []


def test_more_than_promised(server, home, certificates):
    # lies about the length upwards are truncation; downwards the rest is never read
    body = BODY[:-4096]
    server.answer = lambda request: [reply(200, {"content-length": len(body), "etag": '"v1"'}, BODY)]
    done = pull(home, certificates, url(server), "--sha256", SHA)
    assert done.returncode == 65 and models(home) == []


def test_no_model_in_the_file(server, home, certificates):
    server.answer = lambda request: [whole(body=b"<html>sign in first</html>" * 100)]
    done = pull(home, certificates, url(server))
    assert done.returncode == 65 and len(done.stderr.splitlines()) == 1
    assert models(home) == []


def test_absurd_length(server, home, certificates):
    server.answer = lambda request: [reply(200, {"content-length": 1 << 50, "etag": '"v1"'})]
    done = pull(home, certificates, url(server))
    assert done.returncode == 65 and "no model" in done.stderr


def test_disk_full_is_said_before(server, home, certificates):
    server.answer = lambda request: [reply(200, {"content-length": (1 << 40) - 1, "etag": '"v1"'})]
    done = pull(home, certificates, url(server))
    assert done.returncode == 74 and "disk is full" in done.stderr and len(done.stderr.splitlines()) == 1


def test_disk_full_while_writing(server, home, certificates):
    server.answer = lambda request: [
        reply(200, {"etag": '"v1"', "transfer-encoding": "chunked"}) + b"%x\r\n%s\r\n" % (len(BODY), BODY)
    ]
    limited = ["bash", "-c", 'ulimit -f 512; trap "" XFSZ; exec "$@"', "x", HEARTH]
    done = subprocess.run(
        [*limited, "pull", "--ca", certificates["ca"], url(server)],
        env=environment(home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 74 and "cannot write" in done.stderr and len(done.stderr.splitlines()) == 1


def test_silent_server(server, home, certificates):
    def answer(request):
        yield cut(whole(), 0.2)
        time.sleep(30)

    server.answer = answer
    started = time.monotonic()
    done = pull(home, certificates, url(server))
    assert done.returncode == 75 and time.monotonic() - started < 40


def test_server_error_is_tried_again(server, home, certificates):
    server.answer = lambda request: (
        [reply(busy[len(server.requests) - 1], {"content-length": 0})] if len(server.requests) < 3 else [whole()]
    )
    for busy in ((503, 500), (429, 408)):
        server.requests.clear()
        done = pull(home, certificates, url(server, f"/{busy[0]}.gguf"))
        assert done.returncode == 0, done.stderr
        assert len(server.requests) == 3


@pytest.mark.parametrize("status,code", [(404, 66), (403, 77), (401, 77), (418, 69)])
def test_refusals(server, home, certificates, status, code):
    server.answer = lambda request: [reply(status, {"content-length": 5}, b"no..\n")]
    done = pull(home, certificates, url(server))
    assert done.returncode == code and str(status) in done.stderr and len(done.stderr.splitlines()) == 1
    assert len(server.requests) == 1


def test_untrusted_authority(server, home, certificates):
    server.answer = lambda request: [whole()]
    done = pull(home, certificates, url(server), ca="other")
    assert done.returncode == 77 and "not trusted" in done.stderr
    assert server.requests == [] and models(home) in ([], ["tiny.gguf.part"])


def test_the_systems_authorities(server, home, certificates):
    """The system's whole bundle can be read; it vouches for those it holds and for nobody else."""
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if not bundle.exists():
        pytest.skip("no system certificate authorities here")
    server.answer = lambda request: [whole()]
    plain = subprocess.run(
        [HEARTH, "pull", url(server)],
        env=environment(home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert plain.returncode == 77 and "not trusted" in plain.stderr
    both = home / "both.crt"
    both.write_text(bundle.read_text() + certificates["ca"].read_text())
    env = environment(home, SSL_CERT_FILE=str(both))
    done = subprocess.run(
        [HEARTH, "pull", url(server)], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_certificate_of_another_host(home, certificates):
    server = Server(*certificates["foreign"])
    server.answer = lambda request: [whole()]
    done = pull(home, certificates, url(server))
    server.close()
    assert done.returncode == 77 and server.requests == []


def test_nobody_listens(home, certificates):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    done = pull(home, certificates, f"https://localhost:{port}/tiny.gguf")
    assert done.returncode == 69 and "cannot be reached" in done.stderr and len(done.stderr.splitlines()) == 1


def test_redirects_are_followed_and_bounded(server, home, certificates):
    def answer(request):
        n = int(request["path"].split("=")[1]) if "=" in request["path"] else 0
        if n < server.hops:
            return [reply(302, {"location": f"/next?hop={n + 1}", "content-length": 0})]
        return [whole()]

    server.answer, server.hops = answer, 5
    assert pull(home, certificates, url(server)).returncode == 0
    server.hops = 6
    done = pull(home, certificates, url(server, "/again.gguf"))
    assert done.returncode == 69 and "redirects" in done.stderr


@pytest.mark.parametrize(
    "location", ["http://localhost/x", "ftp://localhost/x", "https://user:word@localhost/x", "", "https://"]
)
def test_redirects_that_are_refused(server, home, certificates, location):
    server.answer = lambda request: [reply(302, {"location": location, "content-length": 0})]
    done = pull(home, certificates, url(server))
    assert done.returncode == 69 and "redirected" in done.stderr


def hub(server, request, sha=SHA, etag_of_storage='"storage"'):
    if request["path"].startswith("/owner/repo/resolve/main/"):
        return [
            reply(
                302,
                {
                    "location": f"https://127.0.0.1:{server.port}/blob?sig=1",
                    "x-linked-etag": f'"{sha}"',
                    "content-length": 0,
                },
            )
        ]
    return [part(request, etag_of_storage) if "range" in request else whole(etag_of_storage)]


def test_hub_hash_is_verified(server, home, certificates):
    server.answer = lambda request: hub(server, request)
    done = pull(home, certificates, "hf:owner/repo/tiny.gguf", HEARTH_HUB=url(server, ""))
    assert done.returncode == 0, done.stderr
    assert "verified" in done.stdout and has_model(home)
    server.answer = lambda request: hub(server, request, WRONG)
    done = pull(home, certificates, "hf:owner/repo/other.gguf", HEARTH_HUB=url(server, ""))
    assert done.returncode == 65 and models(home) == ["tiny.gguf"]


def test_credentials_stay_with_their_origin(server, home, certificates):
    server.answer = lambda request: hub(server, request)
    done = pull(
        home,
        certificates,
        "hf:owner/repo/tiny.gguf",
        HEARTH_HUB=url(server, ""),
        HEARTH_HUB_TOKEN="secret-token",
    )
    assert done.returncode == 0, done.stderr
    first, second = server.requests
    assert first["authorization"] == "Bearer secret-token"
    assert "authorization" not in second, "another host must not see the token"
    done = pull(home, certificates, url(server, "/plain.gguf"), HEARTH_HUB_TOKEN="secret-token")
    assert "authorization" not in server.requests[-1], "a plain URL is not the hub"


def test_two_at_once(server, home, certificates):
    refused = threading.Event()

    def slow(request):
        yield cut(whole(), 0.5)
        refused.wait(60)
        yield whole()[len(cut(whole(), 0.5)) :]

    server.answer = slow
    first = subprocess.Popen(
        [HEARTH, "pull", "--ca", certificates["ca"], url(server)],
        env=environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    while not server.requests:
        time.sleep(0.05)
    second = pull(home, certificates, url(server))
    refused.set()
    assert second.returncode == 75 and "another hearth" in second.stderr
    assert first.wait(30) == 0 and has_model(home)


@pytest.mark.parametrize(
    "what,code",
    [
        ("http://localhost/x.gguf", 2),
        ("https://localhost/", 2),
        ("hf:owner/file", 2),
        ("hf:a/../b/c", 2),
        ("nothing-here", 66),
    ],
)
def test_wrong_words(home, certificates, what, code):
    done = pull(home, certificates, what)
    assert done.returncode == code and len(done.stderr.splitlines()) == 1 and models(home) == []


def test_a_file_of_this_machine(home, certificates):
    file = home / "mine.gguf"
    file.write_bytes(BODY)
    done = pull(home, certificates, str(file), "--sha256", SHA)
    assert done.returncode == 0, done.stderr
    assert has_model(home, "mine.gguf")
    assert pull(home, certificates, str(file)).returncode == 0
    other = home / "other" / "mine.gguf"  # another model does not take the place of one that is here
    other.parent.mkdir()
    shutil.copy(file, other)
    assert "is here already" in pull(home, certificates, str(other)).stdout
    shutil.copy(ROOT / "tests/golden/tiny-qwen2.gguf", other)
    done = pull(home, certificates, str(other))
    assert done.returncode == 73 and "is here already: 'hearth models rm" in done.stderr
    assert has_model(home, "mine.gguf")
    done = pull(home, certificates, str(file), "--sha256", WRONG, "--name", "b.gguf")
    assert done.returncode == 65 and models(home) == ["mine.gguf"]
    file.write_bytes(b"not a model")
    done = pull(home, certificates, str(file), "--name", "c.gguf")
    assert done.returncode == 65 and "c.gguf" not in models(home)
    done = pull(home, certificates, str(file), "--name", "../c.gguf")
    assert done.returncode == 2


def test_damaged_default_is_noticed(home, certificates):
    """Without pip the catalogue cannot help, but a damaged file is not taken for the model."""
    folder = home / "cache/hearth/models"
    folder.mkdir(parents=True)
    (folder / "SmolLM2-135M-Instruct-Q4_1.gguf").write_bytes(b"GGUF")
    empty = home / "bin"
    empty.mkdir()
    done = subprocess.run(
        [HEARTH, "pull", "default"],
        env=environment(home, PATH=str(empty)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 69 and "pip" in done.stderr and len(done.stderr.splitlines()) == 1
    assert models(home) == ["SmolLM2-135M-Instruct-Q4_1.gguf"], "no temporary folder is left"
