# SPDX-License-Identifier: Apache-2.0
"""A real hearthd in a temporary home, for tests."""

import base64
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs/examples"))
import python_client  # noqa: E402

BUILD = Path(os.environ.get("HEARTH_TEST_BUILD", ROOT / "build")).absolute()
HEARTHD = BUILD / "hearthd"
MODEL_NAME = "SmolLM2-135M-Instruct-Q4_1"
# Time limits are a quiet machine's, times this; sanitizers slow a box down (tests/run.py --box).
PATIENCE = float(os.environ.get("HEARTH_TEST_PATIENCE", "1"))


class Client(python_client.Client):
    def receive(self, timeout=30):
        return super().receive(timeout * PATIENCE)


python_client.Client = Client


# The end tokens of the default model and of the tiny ones, forbidden: such an answer goes on until its context is full,
# however fast the machine is.
NO_END = [{"token": token, "bias": -100} for token in range(3)]


def model_path():
    """The default model, or None."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = os.environ.get("HEARTH_TEST_SMOLLM2") or f"{cache}/hearth/models/{MODEL_NAME}.gguf"
    return Path(path).resolve() if Path(path).is_file() else None


def free_port():
    """A port nobody uses, outside of the range that outgoing connections take theirs from."""
    while True:
        port = random.randrange(10240, 32768)
        with socket.socket() as s:
            try:
                s.bind(("", port))
                return port
            except OSError:
                continue


class AdminError(Exception):
    pass


class Box:
    """Starts hearthd; `with` ends it. The home survives a restart by stop() and start()."""

    def __init__(self, model=None, args=(), env=None):
        self.folder = tempfile.TemporaryDirectory(prefix="hearth-box-")
        self.home = Path(self.folder.name)
        self.port = free_port()
        self.args = list(args)
        self.process = None
        self.models = self.home / "cache/hearth/models"
        self.models.mkdir(parents=True)
        self.state = self.home / "state/hearth"
        self.log = self.home / "log"
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("HEARTH_", "XDG_"))}
        self.env |= {
            f"XDG_{n}_HOME": str(self.home / n.lower()) for n in ("STATE", "CACHE", "CONFIG", "DATA")
        }
        self.env |= {"XDG_RUNTIME_DIR": str(self.home / "run"), "HOME": str(self.home)} | (env or {})
        if model:
            (self.models / f"{MODEL_NAME}.gguf").symlink_to(model)

    def command(self, *args):
        return [str(HEARTHD), "--port", str(self.port), *self.args, *args]

    def start(self, wait_model=True):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command(), env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 60 * PATIENCE
        while True:
            try:
                status = self.admin("status")
                if not (wait_model and any(self.models.iterdir())) or status["model"]:
                    return self
            except (OSError, ConnectionError):
                pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"hearthd did not start: {self.log_text()}")
            time.sleep(0.05)

    def stop(self):
        """SIGTERM; the exit code."""
        if self.process is None:
            return None
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(20 * PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.process = None
        return code

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()
        self.folder.cleanup()

    def log_text(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def admin_lines(self, cmd, **fields):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(60 * PATIENCE)
            s.connect(str(self.home / "run/hearth/admin.sock"))
            s.sendall(json.dumps({"cmd": cmd, **fields}).encode() + b"\n")
            with s.makefile("rb") as file:
                for line in file:
                    answer = json.loads(line)
                    yield answer
                    if not answer.get("more"):
                        return
        raise ConnectionError("the admin socket was closed")

    def admin(self, cmd, **fields):
        answer = next(self.admin_lines(cmd, **fields))
        if not answer["ok"]:
            raise AdminError(answer["code"], answer["error"])
        return answer

    @property
    def ca_pem(self):
        return (self.state / "tls/ca.crt").read_text()

    def connect(self, **options):
        return python_client.Client(options.pop("host", "localhost"), self.port, self.ca_pem, **options)

    def secret(self, person="owner", **fields):
        answer = self.admin("pair", person=person, **fields)
        return base64.urlsafe_b64decode(answer["secret"] + "=")

    def paired(self, person="owner", name="test", **fields):
        """A paired connection; its token is in .token."""
        client = self.connect()
        answer = client.pair(self.secret(person, create=True, **fields), name)
        client.token, client.device_id = answer.token, answer.welcome.device_id
        return client

    def hello(self, token, **options):
        client = self.connect(**options)
        client.hello(token)
        return client
