"""This machine's own ports."""

from __future__ import annotations

import socket
import urllib.request

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fetch(url: str | urllib.request.Request, body: bytes | None = None, *, timeout_s: float = 60.0) -> str:
    """What is answered, asked without a proxy. Raises ``OSError``; for an error's status, that is an ``HTTPError``."""
    with _OPENER.open(url, body, timeout=timeout_s) as answer:
        text: str = answer.read().decode()
    return text


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at this moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
