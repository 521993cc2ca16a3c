"""Requests over HTTP that no client of good will sends."""

from __future__ import annotations

import socket
from collections.abc import Iterable

INFER = "/v2/models/reranker/infer"
ONE_BYTE_CHUNKS = ("Transfer-Encoding: chunked\r\n", [b"1\r\nx\r\n" * 10_000] * 100 + [b"0\r\n\r\n"])
"""6 MB, a million chunks: Triton 24.10 keeps 16 bytes of its stack for each."""
_FORM = b"a=b&" * (18 * 2**18)
FORM = (f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(_FORM)}\r\n", [_FORM])
"""18 MiB."""
_DEEP = b'{"inputs":' + b"[" * 2_000_000
DEEP = (f"Content-Type: application/json\r\nContent-Length: {len(_DEEP)}\r\n", [_DEEP])
"""2 MB of JSON, a level for each byte."""


def post(port: int, path: str, headers: str, parts: Iterable[bytes]) -> bytes:
    """What is answered on 127.0.0.1, as far as one packet goes; empty when the connection breaks."""
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        try:
            connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
            for part in parts:
                connection.sendall(part)
        except OSError:  # refused before its end: what was said to that may still be read
            pass
        try:
            return connection.recv(4096)
        except OSError:
            return b""
