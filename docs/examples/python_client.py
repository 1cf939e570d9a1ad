#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A small client of a Hearth box: pairs, asks, prints the answer while it is written.

    python_client.py pair 'https://mybox.local:8443/#pair=…&fp=…'
        once; keeps the token in ~/.hearth-client.json
    python_client.py ask 'What is the capital of France?'

Needs Python 3.9, the packages websockets and protobuf, and protoc for proto/hearth/v1/hearth.proto.
The protocol is told in docs/protocol.md; this file is meant to be read next to it.
"""

import argparse
import base64
import hashlib
import json
import os
import ssl
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from websockets.sync.client import connect

PROTO = Path(__file__).resolve().parents[2] / "proto"
SETTINGS = Path.home() / ".hearth-client.json"


def load_schema(folder=PROTO):
    """The messages of hearth.v1 by name, straight from the .proto file."""
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary, "hearth.pb")
        subprocess.run(
            ["protoc", f"--descriptor_set_out={out}", "-I", str(folder), "hearth/v1/hearth.proto"], check=True
        )
        files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    names = [message.name for message in files.file[0].message_type]
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"hearth.v1.{name}"))
        for name in names
    }


SCHEMA = load_schema()
ClientFrame, ServerFrame = SCHEMA["ClientFrame"], SCHEMA["ServerFrame"]


def der_value(data, at):
    """(start of the content, end) of the DER value at `at`."""
    length, start = data[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        length, start = int.from_bytes(data[start : start + count], "big"), start + count
    return start, start + length


def public_key_sha256(certificate):
    """SHA-256 of a DER certificate's SubjectPublicKeyInfo: the box's identity."""
    at, _ = der_value(certificate, 0)  # Certificate
    at, _ = der_value(certificate, at)  # TBSCertificate
    if certificate[at] == 0xA0:  # version
        _, at = der_value(certificate, at)
    for _ in range(5):  # serial, algorithm, issuer, validity, subject
        _, at = der_value(certificate, at)
    _, end = der_value(certificate, at)
    return hashlib.sha256(certificate[at:end]).digest()


def fetch_authority(base_url, fingerprint):
    """Downloads the box's certificate authority. Only the pairing link's fingerprint makes it believable."""
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    with urllib.request.urlopen(f"{base_url}/hearth-ca.crt", context=unverified, timeout=10) as reply:
        certificate = reply.read()
    if not public_key_sha256(certificate).hex().startswith(fingerprint) or len(fingerprint) < 32:
        raise SystemExit("this is not the box that the pairing link came from")
    return ssl.DER_cert_to_PEM_cert(certificate)


class RequestFailed(Exception):
    """The box answered with an Error."""

    def __init__(self, error):
        super().__init__(f"{error.code}: {error.message}")
        self.code = error.code


class Client:
    """One connection. Frames out with send, frames in with receive; call does both."""

    def __init__(self, host, port, ca_pem, **options):
        context = ssl.create_default_context(cadata=ca_pem)
        options.setdefault("max_size", 1 << 20)
        options.setdefault("max_queue", None)
        at = f"[{host}]" if ":" in host else host
        self.connection = connect(
            f"wss://{at}:{port}/ws",
            ssl=context,
            subprotocols=["hearth.v1"],
            compression=None,
            open_timeout=10,
            **options,
        )
        self.socket = self.connection.__enter__()

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, body, request_id=None, **fields):
        """Sends one request and returns its id."""
        frame = ClientFrame(request_id=request_id or os.urandom(16))
        message = getattr(frame, body)
        message.SetInParent()
        message.MergeFrom(type(message)(**fields))
        self.socket.send(frame.SerializeToString())
        return frame.request_id

    def receive(self, timeout=30):
        return ServerFrame.FromString(self.socket.recv(timeout))

    def call(self, body, **fields):
        """The answer to one request, as the message inside the frame."""
        request_id = self.send(body, **fields)
        while True:
            frame = self.receive()
            if frame.request_id == request_id:
                kind = frame.WhichOneof("body")
                if kind == "error":
                    raise RequestFailed(frame.error)
                return getattr(frame, kind)

    def pair(self, secret, device_name, client="python-client"):
        return self.call("pair", secret=secret, device_name=device_name, client=client)

    def hello(self, token, client="python-client"):
        return self.call("hello", token=token, client=client)

    def events(self, timeout=120):
        """The events of an answer, up to and including its last."""
        last = ("response_completed", "response_incomplete", "response_failed")
        while True:
            frame = self.receive(timeout)
            kind = frame.WhichOneof("body")
            if kind == "error":
                raise RequestFailed(frame.error)
            if kind != "event":
                continue
            yield frame.event
            which = frame.event.WhichOneof("event")
            if which in last or (which == "response_snapshot" and frame.event.response_snapshot.finished):
                return

    def ask(self, text, **fields):
        """Asks, and yields the pieces of the answer."""
        self.call("chat", text=text, **fields)
        for event in self.events():
            which = event.WhichOneof("event")
            if which == "output_text_delta":
                yield event.output_text_delta.delta
            elif which == "response_failed":
                raise RequestFailed(event.response_failed.error)


def parse_link(link):
    """host, port, secret, fingerprint of a link. The secret stands behind '#': no server sees it."""
    url = urllib.parse.urlsplit(link)
    fields = dict(urllib.parse.parse_qsl(url.fragment))
    secret = base64.urlsafe_b64decode(fields["pair"] + "=" * (-len(fields["pair"]) % 4))
    return url.hostname, url.port or 443, secret, fields["fp"]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("pair").add_argument("link")
    commands.add_parser("ask").add_argument("text")
    args = parser.parse_args()
    if args.command == "pair":
        host, port, secret, fingerprint = parse_link(args.link)
        at = f"[{host}]" if ":" in host else host
        ca = fetch_authority(f"https://{at}:{port}", fingerprint)
        with Client(host, port, ca) as client:
            paired = client.pair(secret, device_name="python")
        settings = {"host": host, "port": port, "ca": ca, "token": paired.token.hex()}
        with open(SETTINGS, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            json.dump(settings, file)
        print(f"paired as {paired.welcome.person}")
        return
    settings = json.loads(SETTINGS.read_text())
    with Client(settings["host"], settings["port"], settings["ca"]) as client:
        client.hello(bytes.fromhex(settings["token"]))
        for piece in client.ask(args.text):
            print(piece, end="", flush=True)
        print()


if __name__ == "__main__":
    sys.exit(main())
