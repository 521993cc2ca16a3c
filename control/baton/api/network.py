"""The same API over TCP, for other machines: only under TLS, and only for who shows the token."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from baton.api.handler import Server
from baton.errors import ConfigError, Refused
from baton.httpd import Served, family
from baton.verbs import Facade

MOST_CONNECTIONS = 64
"""At a time: strangers who ask faster than they are answered can keep others from this door, never from the socket."""


class NetworkServer(Served):
    """Serves a facade on ``address`` (``host:port``; port 0 takes a free one) from ``start()`` to ``stop()``.

    ``certificate`` and ``key`` are PEM files, the key without a passphrase; both are read by ``start()``. ``token``
    is what every call has to show as ``Authorization: Bearer``.

    Raises ``ConfigError`` from ``start()`` when the files are no certificate and its key, and ``Refused`` when the
    address can't be opened.
    """

    def __init__(self, app: Facade, address: str, *, certificate: Path, key: Path, token: str) -> None:
        super().__init__()
        self._app, self._address, self._token = app, address, token
        self._certificate, self._key = certificate, key

    def open(self) -> Server:
        context = _context(self._certificate, self._key)
        host, _, port = self._address.rpartition(":")
        try:
            return _Server(host.strip("[]"), int(port), self._app, context, self._token.encode())
        except (OSError, OverflowError) as error:
            raise Refused(
                f"The API's address {self._address} can't be opened: {error}.",
                mend="Choose another one in [control.api] listen.",
            ) from None

    @property
    def address(self) -> str:
        """``host:port`` where it listens."""
        if self.server is None:
            return self._address
        return f"{self._address.rpartition(':')[0]}:{self.server.server_address[1]}"


def _context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # A passphrase would be asked for on the terminal; the empty one makes such a key an error instead.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:  # ssl.SSLError is one
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"{certificate} and {key} are no certificate and its key: {why}.",
            mend="[control.api] needs both as PEM files, the key without a passphrase.",
        ) from None
    return context


class _Server(Server):
    def __init__(self, host: str, port: int, app: Facade, context: ssl.SSLContext, token: bytes) -> None:
        self._context = context
        self.address_family = family(host)
        super().__init__((host, port), app, token, MOST_CONNECTIONS)

    def get_request(self) -> Any:
        plain, address = super().get_request()
        try:
            # The handshake waits for the client, so it is the handler's: nothing may wait where connections come in.
            return self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False), address
        except OSError:  # it went away at once
            plain.close()
            raise
