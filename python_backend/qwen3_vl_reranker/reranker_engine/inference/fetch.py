"""Fetches media by https from hosts that the operator allowed, and from nowhere else.

Whoever may name an address makes this machine a client inside its own network. So the host must stand in the list, its
name is resolved once, the addresses are checked, and the connection goes to a checked address: a name that resolves to
something else a moment later changes nothing. Redirects are not followed, no proxy of the environment is asked, and one
deadline holds for all of it.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import urllib.parse
from contextlib import suppress
from typing import TYPE_CHECKING

from .addresses import Address, public
from .errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

HTTPS_PORT = 443


def fetch(reference: str, allowed: Sequence[str], max_bytes: int, seconds: float) -> bytes:
    """The body of an https address.

    Args:
        reference: The address.
        allowed: Hosts in lower case; ``host:port`` for another port than 443. Addresses that are not public (loopback,
            private, link-local) are refused unless they stand here, too.
        max_bytes: The longest body.
        seconds: For name, connection and body together.

    Raises:
        InputError: It is not allowed, too large, too slow, or cannot be fetched.
    """
    host, port, path = _parts(reference, allowed)
    if seconds <= 0:
        raise InputError("cannot be fetched (the time for all downloads of a request is over)")
    deadline = _Deadline(seconds)
    try:
        return _get(host, port, path, _checked_address(host, port, allowed), max_bytes, seconds, deadline)
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, InputError) and not deadline.over:
            raise
        cause = f"not within {seconds:.0f} s" if deadline.over else str(error) or type(error).__name__
        raise InputError(f"cannot be fetched ({cause})") from error
    finally:
        deadline.cancel()


def _get(
    host: str, port: int, path: str, address: Address, max_bytes: int, seconds: float, deadline: _Deadline
) -> bytes:
    with (
        socket.create_connection((str(address), port), timeout=seconds) as raw,
        # The handshake comes after: the deadline must hold for it, too. The name is the host's, and so is checked.
        ssl.create_default_context().wrap_socket(raw, server_hostname=host, do_handshake_on_connect=False) as secure,
    ):
        deadline.watch(secure)
        secure.do_handshake()
        connection = http.client.HTTPConnection(host, port, timeout=seconds)
        connection.sock = secure
        name = f"[{host}]" if ":" in host else host
        connection.request("GET", path, headers={"Host": name if port == HTTPS_PORT else f"{name}:{port}"})
        with connection.getresponse() as response:
            if response.status != http.client.OK:
                more = "; redirects are not followed" if 300 <= response.status < 400 else ""  # noqa: PLR2004
                raise InputError(f"cannot be fetched (the host answered {response.status}{more})")
            data = response.read(max_bytes + 1)
            if deadline.over or (response.length and len(data) <= max_bytes):
                raise InputError("cannot be fetched (it ends early)")
            return data


def _parts(reference: str, allowed: Sequence[str]) -> tuple[str, int, str]:
    """(host, port, path with query) of an allowed address."""
    try:
        parts = urllib.parse.urlsplit(reference)
        host, port = parts.hostname or "", HTTPS_PORT if parts.port is None else parts.port
    except ValueError as error:
        raise InputError(f"is no address ({error})") from error
    named = host in allowed if port == HTTPS_PORT else f"{host}:{port}" in allowed
    if parts.scheme != "https" or not named:
        raise InputError("refers to an address that this server does not allow; send the bytes instead")
    if parts.username is not None or parts.password is not None:
        raise InputError("refers to an address with a user name or a password, which are not sent; send the bytes")
    path = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
    query = urllib.parse.quote(parts.query, safe="/%:@!$&'()*+,;=~?")
    return host, port, path + (f"?{query}" if query else "")


def _checked_address(host: str, port: int, allowed: Sequence[str]) -> Address:
    """The first address of a host; each that its name leads to must be public, or named by the operator."""
    found = [ipaddress.ip_address(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for address in found:
        if not public(address) and str(address) not in allowed:
            raise InputError("refers to a host whose address is not public; the operator must allow the address, too")
    return found[0]


class _Deadline(threading.Timer):
    """Ends a download: a timeout of each read would not do, as a server may send a byte every few seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds, self._end)
        self.daemon = True
        self.over = False
        self._socket: socket.socket | None = None
        self.start()

    def watch(self, one: socket.socket) -> None:
        self._socket = one
        if self.over:
            self._end()

    def _end(self) -> None:
        self.over = True
        if self._socket is not None:
            with suppress(OSError):  # it is closed already
                # Not SSLSocket's own: that takes the session away from under the thread that reads.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
