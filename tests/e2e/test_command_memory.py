# SPDX-License-Identifier: Apache-2.0
"""Memory runs out in a command that asks the box: allocation after allocation fails once. What is asked then is all or
nothing: without its person, its name or its scopes it would be another request."""

import json
import signal
import socket
import subprocess
import threading

import pytest
from test_chat import environment, home  # noqa: F401  (fixture)
from test_memory import BUILD, Control

COMMANDS = [
    (["adapter", "use", "mine", "--person", "ann", "--scale", "0.5"], "adapters.use"),
    (["adapter", "off", "--person", "ann"], "adapters.use"),
    (["token", "create", "--person", "ann", "--name", "editor", "--scope", "chat", "--scope", "train"], "token.create"),
    (["train", "stop", "mine", "--discard"], "train.stop"),
]
POINTS = 60


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
                        lines.write('{"ok":true}\n')
                        lines.flush()
            except OSError:  # it was gone before its answer came
                pass

    def wait(self):
        """Until what came before is read: one connection is served after the other."""
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(self.listener.getsockname())
            s.sendall(b'{"cmd":"wait"}\n')
            s.makefile("rb").readline()


@pytest.mark.parametrize("words, what", COMMANDS, ids=[" ".join(c[0][:2]) for c in COMMANDS])
def test_a_request_is_whole_or_not_made(home, words, what):  # noqa: F811
    admin, control = Admin(home / "run/hearth"), Control(home / "control")
    env = environment(
        home,
        LD_PRELOAD=str((BUILD / "tests/failing_malloc.so").resolve()),
        HEARTH_FAIL_CONTROL=str(home / "control"),
    )

    def run():
        return subprocess.run([BUILD / "hearth", *words], env=env, capture_output=True, text=True, timeout=20)

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
        # jansson itself ends a program that has no memory behind a backslash
        assert done.returncode >= 0 or done.returncode == -signal.SIGABRT, f"allocation {n}: {done}"
        admin.asked.clear()
    assert refused > 0
    admin.listener.close()
