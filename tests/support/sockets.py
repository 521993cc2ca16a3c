"""What tests of connections share."""

from __future__ import annotations

import socket


def cut_off(connection: socket.socket) -> bool:
    """Send one more byte; whether the other side has closed the connection."""
    try:
        connection.sendall(b"x")
    except OSError:
        return True
    return False
