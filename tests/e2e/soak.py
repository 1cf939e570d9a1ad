# SPDX-License-Identifier: Apache-2.0
"""64 clients at once, most of them honest: 8 ask one question after the other, one never reads, one floods, one loses
its connection every second, or every 64 events, and resumes, the others are there and ping. Prints one JSON object;
exit code 1 if an honest answer was not whole and in order, or memory grew.

  HEARTH_TEST_BUILD=build python3 tests/e2e/soak.py [--seconds 300]
"""

import argparse
import json
import logging
import os
import socket
import sys
import threading
import time

from hearthbox import Box, model_path
from websockets.exceptions import ConnectionClosed, WebSocketException

CLIENTS, ASKERS = 64, 8
RESUME_EVENTS = 64  # so that a fast box does not end an answer before it was ever resumed
LAST = ("response_completed", "response_incomplete", "response_failed")
ENDS = (ConnectionClosed, WebSocketException, ConnectionError, OSError, TimeoutError)
DEAF_S = 240  # in which who never reads has been sent more than every buffer holds
GROWTH_KIB_S, GROWTH_MIB = 64, 24  # of resident memory, in the second half


def percentile(values, share):
    values = sorted(values)
    return round(values[min(len(values) - 1, int(len(values) * share))], 1) if values else None


def cut(client):
    """Ends the connection without a farewell. Not close(): the library's thread would go on with whoever gets the
    descriptor next."""
    socket.socket.shutdown(client.socket.socket, socket.SHUT_RDWR)


class Answer:
    """The events of one answer, checked as they come: seq without a gap, deltas that add up to the text."""

    def __init__(self, response_id):
        self.id, self.seq, self.text, self.done, self.item_done = response_id, 0, "", False, None

    def take(self, event):
        if event.response_id != self.id:
            raise AssertionError("an event of another answer")
        which = event.WhichOneof("event")
        if which == "response_snapshot":
            if not event.response_snapshot.text.startswith(self.text):
                raise AssertionError("a snapshot that does not go on where we were")
            self.text, self.done = event.response_snapshot.text, event.response_snapshot.finished
        elif event.seq != self.seq + 1:
            raise AssertionError(f"seq {event.seq} after {self.seq}")
        self.seq = event.seq
        if which == "output_text_delta":
            self.text += event.output_text_delta.delta
        elif which == "output_text_done":
            self.item_done = event.output_text_done.text
        elif which == "response_failed":
            raise AssertionError(f"failed: {event.response_failed.error.message}")
        elif which in LAST:
            self.done = True
            if self.text and self.item_done != self.text:
                raise AssertionError("the deltas do not add up to the text")


class Soak:
    def __init__(self, box, seconds):
        self.box, self.end = box, time.monotonic() + seconds
        self.lock = threading.Lock()
        self.ttft_ms, self.errors, self.counts, self.rss_kib = [], [], {}, []
        self.token = {}

    def going(self):
        return time.monotonic() < self.end

    def count(self, what, n=1):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + n

    def fail(self, who, error):
        with self.lock:
            self.errors.append(f"{who}: {error}")

    def client(self, i, **options):
        """A connection from an address of its own: a box serves only some to each."""
        sock = socket.create_connection(("127.0.0.1", self.box.port), 10, source_address=(f"127.0.1.{i + 1}", 0))
        client = self.box.connect(sock=sock, **options)
        client.hello(self.token[i])
        return client

    def pair_all(self):
        for i in range(CLIENTS):
            client = self.box.paired(f"person{i % 6}", f"device{i}")
            self.token[i] = client.token
            client.close()

    # ---- who asks

    def ask(self, client, text, n_tokens, **fields):
        sampling = {"max_tokens": {"value": n_tokens}, "temperature": {"value": 0.7}}
        return client.call("chat", text=text, sampling=sampling, overflow=1, **fields)

    def asker(self, i):
        client, conversation, n = self.client(i), b"", 0
        while self.going():
            started = time.monotonic()
            accepted = self.ask(client, f"Tell me something about the number {n}.", 24, conversation_id=conversation)
            answer = Answer(accepted.response_id)
            while not answer.done:
                frame = client.receive(120)
                if frame.WhichOneof("body") != "event":
                    raise AssertionError(str(frame))
                before = answer.text
                answer.take(frame.event)
                if answer.text and not before:
                    with self.lock:
                        self.ttft_ms.append((time.monotonic() - started) * 1000)
            self.count("answers")
            n += 1
            conversation = b"" if n % 5 == 0 else accepted.conversation_id
        client.close()

    def resumer(self, i):
        while self.going():
            client = self.client(i)
            accepted = self.ask(client, "Write a long story about a lighthouse.", 400)
            answer, since, seq = Answer(accepted.response_id), time.monotonic(), 0
            while not answer.done:
                if time.monotonic() - since > 1 or answer.seq >= seq + RESUME_EVENTS:
                    cut(client)
                    client, since, seq = self.client(i), time.monotonic(), answer.seq
                    client.send("resume", response_id=answer.id, after_seq=answer.seq)
                    self.count("resumed")
                try:
                    frame = client.receive(0.5)
                except TimeoutError:
                    continue
                which = frame.WhichOneof("body")
                if which == "event":
                    answer.take(frame.event)
                elif which == "done":
                    answer.done = True
                else:
                    raise AssertionError(str(frame))
            self.count("answers_resumed")
            client.close()

    def idler(self, i):
        client = self.client(i)
        while self.going():
            if client.call("ping", payload=b"%d" % i).payload != b"%d" % i:
                raise AssertionError("another's pong")
            self.count("pings")
            time.sleep(1)
        client.close()

    # ---- who does not behave

    def deaf(self, i):
        """Asks for one long conversation again and again and reads none of it, until it is closed as too slow."""
        while self.going():
            try:
                client = self.client(i, max_queue=1, ping_interval=None)
                accepted = self.ask(client, "Write a long story about a train. " * 150, 8)
                while self.going():
                    client.send("get_conversation", conversation_id=accepted.conversation_id)
                    time.sleep(0.03)
                cut(client)
            except ENDS:
                self.count("deaf_closed")
                time.sleep(0.2)

    def flooder(self, i):
        while self.going():
            try:
                client = self.client(i)
                while self.going():
                    for _ in range(100):
                        client.send("get_status")
                    self.count("flood_frames", 100)
            except ENDS:
                self.count("flooder_closed")
                time.sleep(0.2)

    # ---- memory

    def watch(self):
        pid = self.box.process.pid
        while self.going():
            with open(f"/proc/{pid}/status") as file:
                kib = next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))
            self.rss_kib.append((time.monotonic(), kib))
            time.sleep(0.25)

    def growth(self):
        """KiB a second by least squares, and KiB in all, over the second half."""
        half = self.rss_kib[len(self.rss_kib) // 2 :]
        n = len(half)
        mean_t, mean_k = sum(t for t, _ in half) / n, sum(k for _, k in half) / n
        top = sum((t - mean_t) * (k - mean_k) for t, k in half)
        slope = top / (sum((t - mean_t) ** 2 for t, _ in half) or 1)
        return slope, half[-1][1] - half[0][1]

    # ---- all

    def guarded(self, run, i):
        try:
            run(i)
        except (AssertionError, *ENDS) as error:
            if self.going() or isinstance(error, AssertionError):
                self.fail(run.__name__, f"{type(error).__name__} {error}")

    def run(self):
        roles = [self.asker] * ASKERS + [self.deaf, self.flooder, self.resumer]
        roles += [self.idler] * (CLIENTS - len(roles))
        threads = [threading.Thread(target=self.guarded, args=(role, i)) for i, role in enumerate(roles)]
        threads.append(threading.Thread(target=self.watch))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=max(1, self.end - time.monotonic()) + 180)
            if thread.is_alive():
                self.fail("thread", "did not end")

    def report(self, seconds):
        slope, grown = self.growth()
        if self.box.process.poll() is not None:
            self.fail("box", "it ended")
        wanted = ["answers", "answers_resumed", "resumed", "pings"]
        if seconds >= DEAF_S:
            wanted.append("deaf_closed")
        for what in wanted:
            if not self.counts.get(what):
                self.fail("soak", f"no {what}")
        if slope > GROWTH_KIB_S and grown > GROWTH_MIB * 1024:
            self.fail("memory", f"grew by {grown} KiB, {slope:.1f} KiB a second")
        return {
            "seconds": seconds,
            "clients": CLIENTS,
            **dict(sorted(self.counts.items())),
            "first_token_ms": {f"p{p}": percentile(self.ttft_ms, p / 100) for p in (50, 90, 99)},
            "rss_mib": round(self.rss_kib[-1][1] / 1024, 1),
            "rss_slope_kib_s": round(slope, 1),
            "rss_growth_kib": grown,
            "errors": self.errors,
        }


def soak(seconds, args=()):
    """Runs it; the report."""
    # A small cache: it fills in the first half, so that the second shows what grows without end.
    box = Box(model_path(), args=["--sessions", "8", "--ctx", "2048", *args])
    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # who cuts connections is told nothing
    with box:
        run = Soak(box, seconds)
        run.pair_all()
        run.end = time.monotonic() + seconds
        run.run()
        return run.report(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300)
    args = parser.parse_args()
    if not model_path():
        print("soak: no model; tools/fetch-test-models gets it", file=sys.stderr)
        return 69
    report = soak(args.seconds)
    json.dump(report, sys.stdout, indent=2)
    ttft = report["first_token_ms"]
    print(
        f"\nsoak: {report['answers']} answers whole and in order, {report['resumed']} resumptions, "
        f"{len(report['errors'])} errors, "
        f"first token p50 {ttft['p50']:.0f} ms, p90 {ttft['p90']:.0f}, p99 {ttft['p99']:.0f}, "
        f"memory {report['rss_mib']} MiB, {report['rss_growth_kib'] / 1024:+.1f} in the second half"
    )
    return 1 if report["errors"] else 0


if __name__ == "__main__":
    os.chdir(os.path.dirname(os.path.abspath(__file__)))
    sys.exit(main())
