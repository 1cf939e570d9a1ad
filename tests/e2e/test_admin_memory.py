# SPDX-License-Identifier: Apache-2.0
"""Memory runs out while hearthd makes an answer at its admin socket, its reserve used up: allocation after allocation
fails once. What comes back is the whole answer, an error, or the connection's end; never an answer that lacks some."""

import json
import socket

import pytest
from hearthbox import BUILD, Box
from test_memory import TINY, Control

# what differs from one answer to the next
MOVING = {"uptime_ms", "rss_bytes", "memory_budget_bytes", "memory_held_bytes", "last_seen_ms"}
MOVING |= {"connected", "connected_devices"}


class Line:
    """One connection to the admin socket, whose reserve is used up."""

    def __init__(self, box, control):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(str(box.home / "run/hearth/admin.sock"))
        self.file = self.socket.makefile("rb")
        self.ask({"cmd": "status"})  # let in, which fills the reserve
        control.fail(1)
        self.ask({"cmd": "status"})
        control.fail(0)

    def ask(self, request):
        """The answer's lines; None behind the last that came before it hung up."""
        lines = []
        try:
            self.socket.sendall(json.dumps(request).encode() + b"\n")
            while not lines or lines[-1].get("more"):
                line = self.file.readline()
                if not line:
                    return [*lines, None]
                lines.append(steady(json.loads(line)))
        except ConnectionError:
            return [*lines, None]
        return lines

    def close(self):
        self.file.close()
        self.socket.close()


def steady(value):
    if isinstance(value, dict):
        return {k: steady(v) for k, v in value.items() if k not in MOVING}
    return [steady(v) for v in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("admin")
    control = Control(folder / "control")
    library = (BUILD / "tests/failing_malloc.so").resolve()
    with Box(model=TINY, env={"LD_PRELOAD": str(library), "HEARTH_FAIL_CONTROL": str(folder / "control")}) as box:
        client = box.paired()
        client.call("chat", text="hello", sampling={"max_tokens": {"value": 4}})
        list(client.events(timeout=20))
        client.close()
        yield box, control


@pytest.mark.parametrize(
    "request_",
    [
        {"cmd": "status"},
        {"cmd": "models"},
        {"cmd": "people.list"},
        {"cmd": "devices.list"},
        {"cmd": "conversations.list", "person": "owner"},
        {"cmd": "conversations.export", "person": "owner"},
        {"cmd": "adapters.list"},
        {"cmd": "train.status"},
    ],
    ids=lambda r: r["cmd"],
)
def test_an_answer_is_whole_or_an_error(faulty, request_):
    box, control = faulty
    line = Line(box, control)
    whole = line.ask(request_)
    assert whole[-1]["ok"] is True, whole
    control.fail(0)
    assert line.ask(request_) == whole
    total = control.count
    assert total > 10
    refused = 0
    for n in range(1, total + 1):
        control.fail(n)
        answer = line.ask(request_)
        control.fail(0)
        where = f"allocation {n} of {total}"
        assert box.process.poll() is None, f"{where}: hearthd died\n{box.log_text()[-2000:]}"
        if answer == whole:
            continue
        refused += 1
        last = answer.pop()
        assert answer == whole[: len(answer)], f"{where}: {answer}"
        assert last is None or last["ok"] is False, f"{where}: {last}"
        if last is None:
            line.close()
            line = Line(box, control)
    assert refused > 0
    line.close()
