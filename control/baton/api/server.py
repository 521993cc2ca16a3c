"""The control plane's side of the API: the socket in the state directory."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from baton.api.facade import Facade
from baton.api.handler import Handler
from baton.api.wire import reachable
from baton.errors import Refused

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def claim(path: Path) -> Iterator[None]:
    """Holds the state directory of ``path`` for this process: one control plane may run there, not two.

    The lock belongs to the process and goes with it, however it ends; so a socket that lies there under a lock
    that can be taken is one of the dead, and is removed.

    Raises ``Refused`` when another process holds it.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
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
        self.app, self.token = app, None  # who may open the socket may call
        super().__init__(name, Handler)

    def server_bind(self) -> None:
        # Linux gives the new socket file the descriptor's mode: it is never open to others, not even for a moment.
        os.fchmod(self.socket.fileno(), 0o600)
        super().server_bind()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base class's signature
        # All that is left to go wrong here is a client that went away before its answer.
        _log.debug("a client of the local API went away", exc_info=True)
