# SPDX-License-Identifier: Apache-2.0
"""Memory runs out in a running hearthd: over a connection, a greeting and a question, allocation after allocation fails
once (TLS, libwebsockets, SQLite and jansson included). That client may be turned away; the daemon lives and the next
one is answered."""

import mmap
import os
import struct
import time

import pytest
from hearthbox import BUILD, ROOT, Box

TINY = ROOT / "tests/golden/tiny-qwen2-q4_1.gguf"
POINTS = int(os.environ.get("HEARTH_TEST_MEMORY_POINTS", "120"))


class Control:
    """How many allocations there were, and which one fails."""

    def __init__(self, path):
        path.write_bytes(bytes(16))
        with path.open("r+b") as file:
            self.map = mmap.mmap(file.fileno(), 16)

    def fail(self, n):
        self.map[:] = struct.pack("<QQ", 0, n)

    @property
    def count(self):
        return struct.unpack("<QQ", self.map[:])[0]


def question(box, token):
    client = box.connect()
    try:
        client.hello(token)
        client.call("chat", text="hello", sampling={"max_tokens": {"value": 4}})
        last = [event.WhichOneof("event") for event in client.events(timeout=8)][-1]
    finally:
        client.close()
    if last != "response_incomplete":  # cut by max_tokens
        raise RuntimeError(last)


@pytest.mark.long
def test_every_allocation_of_a_question(tmp_path):
    sweep(tmp_path, None)


def test_allocations_of_a_question(tmp_path):
    sweep(tmp_path, POINTS)


def sweep(folder, points):
    library = BUILD / "tests/failing_malloc.so"
    control = Control(folder / "control")
    env = {"LD_PRELOAD": str(library.resolve()), "HEARTH_FAIL_CONTROL": str(folder / "control")}
    with Box(model=TINY, env=env) as box:
        client = box.paired()
        client.close()
        for _ in range(3):  # caches fill
            question(box, client.token)
        control.fail(0)
        question(box, client.token)
        total = control.count
        assert total > 500, "the library was not loaded"
        step = max(1, total // points) if points else 1
        refused = 0
        for n in range(1, total + 1, step):
            control.fail(n)
            try:
                question(box, client.token)
            except Exception:  # whatever this client sees, as long as it is only this one
                refused += 1
            control.fail(0)
            assert box.process.poll() is None, f"allocation {n} of {total}: hearthd died\n{box.log_text()[-2000:]}"
            for attempt in range(3):  # the address waits a moment after failed greetings
                try:
                    question(box, client.token)
                    break
                except Exception as error:
                    why = f"after allocation {n} of {total} nobody is answered any more: {error!r}"
                    assert attempt < 2, f"{why}\n{box.log_text()[-2000:]}"
                    time.sleep(1)
        assert refused > 0
        print(f"{total} allocations, every {step}th failed once, {refused} clients turned away")
        assert box.stop() == 0
