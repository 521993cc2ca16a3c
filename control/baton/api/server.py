"""The control plane's side of the API: the socket in the state directory."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from baton.api.handler import Server
from baton.api.wire import reachable
from baton.httpd import Served
from baton.state_lock import claim
from baton.verbs import Facade

MOST_CONNECTIONS = 128
"""At a time, of the user that runs Baton; some wait for hours."""


class ApiServer(Served):
    """Serves a facade on the socket ``path``, from ``start()`` to ``stop()``; also a context manager.

    ``claimed``: the caller holds the :func:`~baton.state_lock.claim` already, taken before it opened the journal.
    Raises ``Refused`` from ``start()`` when a living control plane has the socket.
    """

    def __init__(self, app: Facade, path: Path, *, claimed: bool = False) -> None:
        super().__init__()
        self._app, self._path, self._claimed = app, path, claimed
        self._stack = contextlib.ExitStack()

    def open(self) -> Server:
        with contextlib.ExitStack() as stack:
            if not self._claimed:
                stack.enter_context(claim(self._path))
            with reachable(self._path) as name:
                server = _Server(name, self._app, None, MOST_CONNECTIONS)
            stack.callback(_remove, self._path, self._path.stat())
            self._stack = stack.pop_all()
        return server

    def stop(self) -> None:
        """Takes no more calls and removes the socket. A call that waits is not waited for."""
        super().stop()
        self._stack.close()


def _remove(path: Path, ours: os.stat_result) -> None:
    """Take away the socket, unless it is one that another control plane has put in its place."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(path.stat(), ours):
            path.unlink()


class _Server(Server):
    """Its places are its own, and those of strangers are bounded elsewhere: no flood of them is felt here."""

    address_family = socket.AF_UNIX
    allow_reuse_address = False

    def server_bind(self) -> None:
        # Linux gives the new socket file the descriptor's mode: it is never open to others, not even for a moment.
        os.fchmod(self.socket.fileno(), 0o600)
        super().server_bind()
