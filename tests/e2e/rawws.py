# SPDX-License-Identifier: Apache-2.0
"""A WebSocket written byte by byte, so that a test can break any rule."""

import os
import socket
import ssl
import struct

from hearthbox import PATIENCE

BINARY, TEXT, CONTINUE, CLOSE, PING, PONG = 2, 1, 0, 8, 9, 10


def tls_socket(box, source=None, name="localhost", timeout=15):
    plain = socket.create_connection(
        ("127.0.0.1", box.port), timeout * PATIENCE, source_address=(source, 0) if source else None
    )
    context = ssl.create_default_context(cadata=box.ca_pem)
    return context.wrap_socket(plain, server_hostname=name)


def http(box, path="/", method="GET", headers=(), host=None, source=None):
    """Status, headers and body of one plain request."""
    with tls_socket(box, source) as s:
        lines = [f"{method} {path} HTTP/1.1"]
        if host != "":
            lines.append(f"Host: {host or f'localhost:{box.port}'}")
        s.sendall("\r\n".join([*lines, "Connection: close", *headers, "", ""]).encode())
        data = b""
        try:
            while chunk := s.recv(65536):
                data += chunk
        except OSError:
            pass
    head, _, body = data.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    fields = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in rest)}
    return int(first.split()[1]) if first else 0, fields, body


def upgrade_headers(origin=None, protocol="hearth.v1"):
    lines = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    lines.append("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
    return (
        lines
        + ([f"Origin: {origin}"] if origin else [])
        + ([f"Sec-WebSocket-Protocol: {protocol}"] if protocol else [])
    )


class RawSocket:
    """An upgraded connection; frames go out as they are given."""

    def __init__(self, box, source=None):
        self.s = tls_socket(box, source)
        lines = ["GET /ws HTTP/1.1", f"Host: localhost:{box.port}", *upgrade_headers(), "", ""]
        self.s.sendall("\r\n".join(lines).encode())
        reply = b""
        while not reply.endswith(b"\r\n\r\n"):
            byte = self.s.recv(1)
            if not byte:
                raise ConnectionError(reply)
            reply += byte
        assert b" 101 " in reply.split(b"\r\n")[0], reply
        self.head = reply

    def frame(self, payload, opcode=BINARY, final=True, announced=None, masked=True):
        """announced: the length in the header, where it is to differ from the payload's."""
        length = len(payload) if announced is None else announced
        out = bytes([(0x80 if final else 0) | opcode])
        bit = 0x80 if masked else 0
        if length < 126:
            out += bytes([bit | length])
        elif length < 65536:
            out += bytes([bit | 126]) + struct.pack(">H", length)
        else:
            out += bytes([bit | 127]) + struct.pack(">Q", length)
        mask = os.urandom(4) if masked else b""
        if masked:
            whole = int.from_bytes(payload, "big") ^ int.from_bytes(
                (mask * (len(payload) // 4 + 1))[: len(payload)], "big"
            )
            payload = whole.to_bytes(len(payload), "big")
        self.s.sendall(out + mask + payload)

    def exactly(self, n):
        data = b""
        while len(data) < n:
            chunk = self.s.recv(n - len(data))
            if not chunk:
                raise ConnectionError
            data += chunk
        return data

    def read(self):
        """(opcode, payload) of the next frame."""
        first, second = self.exactly(2)
        length = second & 0x7F
        if length == 126:
            length = struct.unpack(">H", self.exactly(2))[0]
        elif length == 127:
            length = struct.unpack(">Q", self.exactly(8))[0]
        return first & 0x0F, self.exactly(length)

    def close_code(self):
        """Reads on until the box closes: its code, or None if it just hung up."""
        try:
            while True:
                opcode, payload = self.read()
                if opcode == CLOSE:
                    return struct.unpack(">H", payload[:2])[0] if len(payload) >= 2 else 1005
        except (ConnectionError, OSError):
            return None

    def close(self):
        self.s.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
