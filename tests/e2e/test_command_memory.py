# SPDX-License-Identifier: Apache-2.0
"""Memory runs out in a command: allocation after allocation fails once. What it asks the box then is all or nothing
(without its person, its name or its scopes it would be another request), and so is the JSON that it prints."""

import json
import socket
import subprocess
import threading

import pytest
from test_chat import environment, home  # noqa: F401  (fixture)
from test_memory import BUILD, TINY, Control

COMMANDS = [
    (["adapter", "use", "mine", "--person", "ann", "--scale", "0.5"], "adapters.use"),
    (["adapter", "off", "--person", "ann"], "adapters.use"),
    (["token", "create", "--person", "ann", "--name", "editor", "--scope", "chat", "--scope", "train"], "token.create"),
    (["train", "stop", "mine", "--discard"], "train.stop"),
]
JSON = [["people", "list"], ["pull", "--list"], ["models", "list"], ["doctor"]]
POINTS = 60
# escapes: jansson alone would end the program where it has no memory for what is behind a backslash
PEOPLE = [{"name": f"\n{i}\t" * 9, "n_devices": i, "n_conversations": 1, "id": "0" * 32} for i in range(3)]
ANSWER = {"ok": True, "people": PEOPLE}


class Admin:
    """The box's admin socket: keeps what it is asked, and says yes."""

    def __init__(self, folder):
        folder.mkdir(parents=True)
        self.asked = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(folder / "admin.sock"))
        self.listener.listen()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            try:
                with connection, connection.makefile("rw") as lines:
                    for line in lines:
                        self.asked.append(json.loads(line))
                        lines.write(json.dumps(ANSWER) + "\n")
                        lines.flush()
            except OSError:  # it was gone before its answer came
                pass

    def wait(self):
        """Until what came before is read: one connection is served after the other."""
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(self.listener.getsockname())
            s.sendall(b'{"cmd":"wait"}\n')
            s.makefile("rb").readline()


def faulty(home, words):  # noqa: F811
    library = str((BUILD / "tests/failing_malloc.so").resolve())
    env = environment(home, LD_PRELOAD=library, HEARTH_FAIL_CONTROL=str(home / "control"))
    return subprocess.run([BUILD / "hearth", *words], env=env, capture_output=True, text=True, timeout=20)


@pytest.mark.parametrize("words, what", COMMANDS, ids=[" ".join(c[0][:2]) for c in COMMANDS])
def test_a_request_is_whole_or_not_made(home, words, what):  # noqa: F811
    admin, control = Admin(home / "run/hearth"), Control(home / "control")

    def run():
        return faulty(home, words)

    run()
    whole, total = admin.asked.pop(), control.count
    assert whole["cmd"] == what and total > 20, (whole, total)
    refused = 0
    for n in range(1, total + 1, max(1, total // POINTS)):
        control.fail(n)
        done = run()
        admin.wait()
        asked = [r for r in admin.asked if r["cmd"] == what]
        assert asked in ([], [whole]), f"allocation {n} of {total}: {asked}"
        refused += not asked
        assert done.returncode >= 0, f"allocation {n}: {done}"
        admin.asked.clear()
    assert refused > 0
    admin.listener.close()


def shape(text):
    """What a JSON text holds, without the values that change."""

    def of(value):
        if isinstance(value, dict):
            return {k: of(v) for k, v in value.items()}
        return [of(v) for v in value] if isinstance(value, list) else type(value).__name__

    return of(json.loads(text))


@pytest.mark.parametrize("words", JSON, ids=" ".join)
def test_json_is_whole_or_an_error(home, words):  # noqa: F811
    (home / "cache/hearth/models").mkdir(parents=True)
    for name in ("one", "two"):
        (home / f"cache/hearth/models/{name}.gguf").symlink_to(TINY)
    admin, control = Admin(home / "run/hearth"), Control(home / "control")
    done = faulty(home, [*words, "--json"])
    whole, total, code = shape(done.stdout), control.count, done.returncode
    refused = 0
    for n in range(1, total + 1, max(1, total // POINTS)):
        control.fail(n)
        done = faulty(home, [*words, "--json"])
        assert done.returncode >= 0, f"allocation {n} of {total}: {done}"
        if done.stdout:
            assert shape(done.stdout) == whole, f"allocation {n} of {total}: {done}"
        else:
            assert done.returncode not in (0, code) and done.stderr, f"allocation {n} of {total}: {done}"
            refused += 1
    assert refused > 0
    admin.listener.close()
