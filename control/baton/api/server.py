"""The control plane's side of the local API."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import parse_qsl, urlsplit

from baton.api.facade import Facade
from baton.api.wire import CALLS, MAX_BODY, PREFIX, STATUS, arguments, body, error_data, reachable
from baton.errors import BatonError, Refused, UsageError

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def claim(path: Path) -> Iterator[None]:
    """Holds the state directory of ``path`` for this process: one control plane may run there, not two.

    The lock belongs to the process and goes with it, however it ends; so a socket that lies there under a lock
    that can be taken is one of the dead, and is removed.

    Raises ``Refused`` when another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 32).decode(errors="replace").strip()
            raise Refused(
                f"A control plane already runs for state directory {path.parent}"
                f"{f' (process {holder})' if holder else ''}.",
                mend="Stop it first, or give another --state directory.",
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        path.unlink(missing_ok=True)
        yield
    finally:
        os.close(handle)


class ApiServer:
    """Serves a facade on the socket ``path``, from ``start()`` to ``stop()``; also a context manager.

    ``claimed``: the caller holds the :func:`claim` already, taken before it opened the journal.
    Raises ``Refused`` from ``start()`` when a living control plane has the socket.
    """

    def __init__(self, app: Facade, path: Path, *, claimed: bool = False) -> None:
        self._app, self._path, self._claimed = app, path, claimed
        self._stack = contextlib.ExitStack()

    def start(self) -> Self:
        with contextlib.ExitStack() as stack:
            if not self._claimed:
                stack.enter_context(claim(self._path))
            with reachable(self._path) as name:
                server = _Server(name, self._app)
            stack.callback(self._path.unlink, missing_ok=True)
            stack.callback(server.server_close)
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="api", daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            self._stack = stack.pop_all()
        return self

    def stop(self) -> None:
        """Takes no more calls and removes the socket. A call that waits is not waited for."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, name: str, app: Facade) -> None:
        self.app = app
        super().__init__(name, _Handler)

    def server_bind(self) -> None:
        # Linux gives the new socket file the descriptor's mode: it is never open to others, not even for a moment.
        os.fchmod(self.socket.fileno(), 0o600)
        super().server_bind()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base class's signature
        # All that is left to go wrong here is a client that went away before its answer.
        _log.debug("a client of the local API went away", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "baton"
    sys_version = ""
    timeout: ClassVar[float] = 30.0  # a client that says nothing does not hold a thread for ever

    def do_GET(self) -> None:
        self._serve("GET", lambda: dict(parse_qsl(urlsplit(self.path).query)))

    def do_POST(self) -> None:
        self._serve("POST", self._body)

    def _serve(self, verb: str, given: Callable[[], Any]) -> None:
        name = urlsplit(self.path).path.removeprefix(PREFIX)
        try:
            if not self.path.startswith(PREFIX) or name not in CALLS:
                return self._answer(404, error_data(UsageError(f"The local API has no path {self.path[:200]!r}.")))
            if CALLS[name].verb != verb:
                return self._answer(405, error_data(UsageError(f"{name} is asked by {CALLS[name].verb}.")))
            positional, named = arguments(name, given())
            return self._answer(200, getattr(self.server.app, name)(*positional, **named))
        except BatonError as error:
            return self._answer(STATUS.get(error.exit_code, 500), error_data(error))
        except Exception:  # noqa: BLE001 - no call may end the server, and none may show a traceback
            _log.exception("the call %s failed: a defect of Baton, please report it", name)
            failure = BatonError(
                f"The control plane failed at {name}: a defect of Baton.", mend="Its log holds the details."
            )
            return self._answer(500, error_data(failure))

    def _body(self) -> Any:
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or len(length) > len(str(MAX_BODY)) + 10:
            raise UsageError("The request's Content-Length is not a number.")
        if int(length) > MAX_BODY:
            # The rest is not read; answering and closing is all that is left.
            self.close_connection = True
            raise UsageError(f"The request is too large: {length} bytes, {MAX_BODY} are allowed.")
        return body(self.rfile.read(int(length)))

    def _answer(self, status: int, data: Any) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "local"  # a unix socket's peer has no address

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        _log.debug(format, *args)
