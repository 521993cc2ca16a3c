"""An HTTP server whose clients can use up neither its places nor the process's descriptors.

A connection carries one request. It has a thread, a time limit for the request and one for the answer. When all places
are taken, the oldest connection whose request is not complete is closed to make room for the newest. So connections
that stay idle or send slowly keep nobody out.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any, Self

REQUEST_S = 10.0
"""Seconds for the whole of a request, from the connection on, TLS included."""
ANSWER_S = 30.0
"""Seconds in which the whole of an answer has to be taken."""
_SPENT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_REST_S = 0.1
_ROOM_S = 1.0
"""Seconds in which the thread of a connection that was cut off ends."""
_SAY_EVERY_S = 60.0
_log = logging.getLogger(__name__)


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Answers at most ``places`` connections at a time, each in a thread of its own."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: Any, handler: type[Handler], places: int) -> None:
        self._places, self._free = places, threading.BoundedSemaphore(places)
        self._lock = threading.Lock()
        self._incomplete: dict[Any, None] = {}
        """Connections whose request is not complete, the oldest first."""
        self._said = -_SAY_EVERY_S
        super().__init__(address, handler)

    def request_is_complete(self, request: Any) -> None:
        """The whole request is here: from now on its connection is not closed to make room for another."""
        with self._lock:
            self._incomplete.pop(request, None)

    def get_request(self) -> Any:
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in _SPENT:
                self._say(f"a client has to wait: {error.strerror}.")
                self._make_room()
                # It stays in the kernel's queue, and the selector would tell of it again at once, for ever.
                time.sleep(_REST_S)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self._say(
                f"all {self._places} connections are taken. Those without a complete request are closed, the oldest "
                "first, to make room; whoever asks at once is answered."
            )
            if not (self._make_room() and self._free.acquire(timeout=_ROOM_S)):
                self.shutdown_request(request)
                return
        with self._lock:
            self._incomplete[request] = None
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no more threads
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def shutdown_request(self, request: Any) -> None:
        self.request_is_complete(request)  # before its descriptor can be another one's
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base class's signature
        # Scanners, clients without TLS, and ones that went away before their answer; what else there is, is a defect.
        level = logging.DEBUG if isinstance(sys.exception(), OSError) else logging.ERROR
        _log.log(level, "a connection from %s broke off", peer_name(client_address), exc_info=True)

    def _make_room(self) -> bool:
        """Closes the oldest connection whose request is not complete; False when there is none."""
        with self._lock:
            if (oldest := next(iter(self._incomplete), None)) is None:
                return False
            del self._incomplete[oldest]
            with contextlib.suppress(OSError):  # it went away by itself
                # Not the method of a TLS socket, which would pull the ground from under the thread that reads.
                socket.socket.shutdown(oldest, socket.SHUT_RDWR)
        return True

    def _say(self, what: str) -> None:
        """Not for each connection of a flood: that would fill the disk."""
        now = time.monotonic()
        if now - self._said >= _SAY_EVERY_S:
            self._said = now
            place = self.server_address
            _log.warning("%s: %s", ":".join(map(str, place[:2])) if isinstance(place, tuple) else place, what)


class Served:
    """A server that answers in a thread of its own, from ``start()`` to ``stop()``; also a context manager."""

    def __init__(self) -> None:
        self.server: Server | None = None
        self._thread = threading.Thread()

    def open(self) -> Server:
        """The server, listening. Called by ``start()``, which raises what it raises."""
        raise NotImplementedError

    def start(self) -> Self:
        self.server = server = self.open()
        self._thread = threading.Thread(
            target=server.serve_forever, args=(0.05,), name=type(self).__name__, daemon=True
        )
        self._thread.start()
        return self

    def stop(self) -> None:
        """Takes no more calls. One that waits is not waited for."""
        if self.server is not None:
            self.server.shutdown()
            self._thread.join()
            self.server.server_close()
            self.server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def family(host: str) -> socket.AddressFamily:
    """Of a host's address, without brackets."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class Handler(BaseHTTPRequestHandler):
    """One request and its answer, each within its time."""

    server: Server
    server_version = "baton"
    sys_version = ""

    def setup(self) -> None:
        self._timed = _Timed(self.request, time.monotonic() + REQUEST_S)
        super().setup()
        self.rfile.close()
        self.rfile, self.wfile = io.BufferedReader(self._timed), self._timed  # type: ignore[assignment]

    def answer(self, status: int, kind: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """The whole of the answer. Raises ``OSError`` when it is not taken in time."""
        self._timed.due = time.monotonic() + ANSWER_S
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def address_string(self) -> str:
        return peer_name(self.client_address)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        _log.debug(format, *args)


class _Timed(io.RawIOBase):
    """A connection's bytes, until ``due`` on the monotonic clock. After that all raises ``TimeoutError``.

    A socket's own timeout begins anew with every byte, and ends nothing that goes on slowly. The end of what comes in
    raises ``ConnectionResetError``: what was sent by then is no request, though it may look like one.
    """

    def __init__(self, connection: socket.socket, due: float) -> None:
        self._connection, self.due = connection, due

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        self._wait_no_longer()
        count = self._connection.recv_into(buffer)
        if not count:
            raise ConnectionResetError(errno.ECONNRESET, "The request broke off.")
        return count

    def write(self, data: Any, /) -> int:
        left = memoryview(data)
        while left:
            self._wait_no_longer()
            left = left[self._connection.send(left) :]
        return len(data)

    def _wait_no_longer(self) -> None:
        left = self.due - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)


def peer_name(address: Any) -> str:
    """The host of a peer's address; a unix socket's has none."""
    return str(address[0]) if isinstance(address, tuple) else "the socket"
