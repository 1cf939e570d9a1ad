# SPDX-License-Identifier: Apache-2.0
"""A real hearthd in a temporary folder, the admin requests that the page's tests need, kinds of screens."""
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "docs/examples"), str(ROOT / "tests/e2e")]
import python_client  # noqa: E402,F401
from hearthbox import free_port  # noqa: E402

DEFAULT_MODEL = "SmolLM2-135M-Instruct-Q4_1.gguf"
ROOM_PX = 44  # the least width and height of what a finger must hit
DESKTOP = {"viewport": {"width": 1280, "height": 800}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True,
         "device_scale_factor": 2}
START_S = 60
STOP_S = 20


def build_dir():
    path = Path(os.environ.get("HEARTH_TEST_BUILD", "build"))
    return path if path.is_absolute() else ROOT / path


def chromium_path():
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


class Box:
    def __init__(self, folder, model):
        self.folder, self.model, self.port, self.process = Path(folder), model, free_port(), None
        self.log = self.folder / "hearthd.log"

    def start(self):
        for name in ("state", "models", "run"):
            (self.folder / name).mkdir(mode=0o700, exist_ok=True)
        command = [str(build_dir() / "hearthd"), "--foreground", "--state", str(self.folder / "state"),
                   "--models", str(self.folder / "models"), "--runtime", str(self.folder / "run"),
                   "--model", str(self.model), "--port", str(self.port), "--listen", "loopback"]
        env = {k: v for k, v in os.environ.items() if not k.startswith("HEARTH_")}
        env.update(HOME=str(self.folder), XDG_CONFIG_HOME=str(self.folder / "config"))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=env)
        deadline = time.monotonic() + START_S
        while True:
            assert self.process.poll() is None, f"hearthd ended: {self.last_words()}"
            try:
                if self.admin("status")["model"]:
                    return self
            except OSError:
                pass
            assert time.monotonic() < deadline, f"no model after {START_S} s: {self.last_words()}"
            time.sleep(0.1)

    def last_words(self):
        return self.log.read_text(errors="replace")[-2000:]

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def admin(self, cmd, **fields):
        """One request over the admin socket (docs/admin.md)."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(30)
            s.connect(str(self.folder / "run" / "admin.sock"))
            s.sendall(json.dumps({"cmd": cmd, **fields}).encode() + b"\n")
            answer = json.loads(s.makefile("rb").readline())
        assert answer["ok"], answer
        return answer

    def pair(self, person, scopes=None):
        """A pairing link that opens on this machine."""
        answer = self.admin("pair", person=person, create=True, **({"scopes": scopes} if scopes else {}))
        host = f"https://localhost:{self.port}/"
        return next(link for link in answer["links"] if link.startswith(host))

    def conversation(self, person):
        """The newest conversation of a person, with its turns."""
        newest = self.admin("conversations.list", person=person)["conversations"][0]
        return self.admin("conversations.show", person=person, id=newest["id"])["conversation"]

    @property
    def origin(self):
        return f"https://localhost:{self.port}"

    @property
    def ca(self):
        return Path(self.admin("status")["ca_file"])
