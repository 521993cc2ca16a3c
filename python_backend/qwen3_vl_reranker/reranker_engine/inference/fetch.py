"""Downloads media over HTTPS, only from hosts that the operator allowed.

A client that may choose an address could use this machine to reach its internal network (SSRF). So the host must be in
the allow list, its name is resolved once, all resolved addresses are checked, and the connection goes to a checked
address. A name that resolves to another address a moment later has no effect (DNS rebinding). Redirects are not
followed, proxy variables of the environment are ignored, and one deadline covers the whole download.
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
    """Download the body of an HTTPS URL.

    Args:
        reference: The URL.
        allowed: Hosts in lower case; ``host:port`` for a port other than 443. Addresses that are not public (loopback,
            private, link-local) are refused unless they are in this list as well.
        max_bytes: The largest body, in bytes.
        seconds: Time limit for name resolution, connection and body together.

    Raises:
        InputError: The URL is not allowed, the body is too large, or the download failed or took too long.
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
        # The handshake comes later, under the deadline. The certificate is checked against the host's name.
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
    """(host, port, path with query) of an allowed URL."""
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
    """The first address of a host. All addresses of its name must be public or allowed by the operator."""
    found = [ipaddress.ip_address(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for address in found:
        if not public(address) and str(address) not in allowed:
            raise InputError("refers to a host whose address is not public; the operator must allow the address, too")
    return found[0]


class _Deadline(threading.Timer):
    """Ends a download after a time. A timeout per read is not enough: a server may send one byte every few seconds."""

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
            with suppress(OSError):  # already closed
                # Not SSLSocket.shutdown: it drops the TLS session that another thread is reading from.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
