"""TLS to Triton's gRPC: whom a client trusts, and why no connection comes about.

gRPC tells most faults of a connection by one status and a text. So after a failure Baton makes a handshake of its own:
Python's ``ssl`` gives the cause as a value.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

from baton.errors import BatonError, ConfigError, Unreachable

C = TypeVar("C")
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4" + bytes(5)
"""What an HTTP/2 client says first, with settings that change nothing. A gRPC server says its own at once."""
_PATIENCE_S = 1.0
_EXPIRED, _NOT_YET, _NAME, _ADDRESS = 10, 9, 62, 64  # X509_V_ERR_..., as OpenSSL numbers them
_UNKNOWN = (18, 19, 20, 21)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tls:
    """How a server is checked. Without ``ca_file`` the machine's list of authorities counts.

    ``server_name``: the name in its certificate, where that is not the one of its address.
    """

    ca_file: Path | None = None
    server_name: str | None = None

    @property
    def source(self) -> Path:
        """The file of authorities; the machine's own may be a directory."""
        paths = ssl.get_default_verify_paths()
        return self.ca_file or Path(paths.cafile or paths.capath or paths.openssl_cafile)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why there is no connection, as the second half of a sentence whose subject is the server; and what to do."""

    cause: str
    mend: str


class Trust:
    """Whom a client trusts. Raises ``ConfigError`` when the authorities of ``tls`` can't be used."""

    def __init__(self, tls: Tls | None) -> None:
        self.tls = tls
        if tls is not None:
            self._seen = _signature(tls.source)
            self._authorities = _read(tls.source)

    def changed(self) -> bool:
        """Whether the file holds other authorities than at the last look. One that can't be used changes nothing."""
        if self.tls is None or (seen := _signature(self.tls.source)) == self._seen:
            return False
        self._seen, before = seen, self._authorities
        try:
            self._authorities = _read(self.tls.source)
        except ConfigError as error:
            _log.warning("%s What was read before stays in force.", error)
        return self._authorities != before

    def credentials(self) -> tuple[Any, list[tuple[str, str]]]:
        """What gRPC takes: credentials, and channel options."""
        if self.tls is None:
            return None, []
        import grpc

        named = [] if self.tls.server_name is None else [("grpc.ssl_target_name_override", self.tls.server_name)]
        return grpc.ssl_channel_credentials(self._authorities), named

    def trouble(self, address: str) -> Trouble | None:
        """Why the server at ``address`` (``host:port``) can't be spoken to, where that is a matter of TLS."""
        if self.tls is None:
            return _wants_tls(address)
        try:
            self.certificate_ends(address)
        except ssl.SSLCertVerificationError as error:
            return _untrusted(error, self.tls, address)
        except ssl.SSLError as error:
            return _no_tls(error)
        except _WantsCertificate:
            return Trouble(
                "ends the connection after the handshake, as one does that wants a certificate of its clients",
                "Start it without --grpc-use-ssl-mutual: Baton has none to show.",
            )
        except OSError:  # nobody is there, or nobody speaks
            pass
        return None

    def explained(self, error: BatonError, who: str, address: str) -> BatonError:
        """The error of a call; where TLS is why the server was not reached, one that says so."""
        if not isinstance(error, Unreachable) or (trouble := self.trouble(address)) is None:
            return error
        return Unreachable(f"{who} {trouble.cause}.", mend=trouble.mend)

    def certificate_ends(self, address: str) -> datetime:
        """Make a handshake with a gRPC server; when its certificate ends. Raises ``OSError`` and its kinds."""
        assert self.tls is not None  # noqa: S101 - without it there is no certificate
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as gRPC: an authority need not be a root
        context.load_verify_locations(cadata=self._authorities.decode())
        context.set_alpn_protocols(["h2"])
        host, port = host_and_port(address)
        with (
            socket.create_connection((host, port), timeout=_PATIENCE_S) as plain,
            context.wrap_socket(plain, server_hostname=self.tls.server_name or host) as encrypted,
        ):
            shown = encrypted.getpeercert() or {}
            # Since TLS 1.3 it is known only after the handshake whether the server wants a certificate of ours.
            encrypted.sendall(_HELLO)
            if not encrypted.recv(1):
                raise _WantsCertificate
            return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(shown["notAfter"])), UTC)


class Connection(Generic[C]):
    """A gRPC client, made by ``make`` of credentials and channel options, and made anew when the authorities change.

    Their file is looked at before each use. A call that is under way ends on the client that it began with.
    """

    def __init__(self, tls: Tls | None, make: Callable[[Any, list[tuple[str, str]]], C]) -> None:
        self.trust, self._make = Trust(tls), make
        self._client: C | None = None
        self._lock = threading.Lock()

    def client(self) -> C:
        with self._lock:
            # The old one is let go, not closed: that would cancel what others ask by it at this moment.
            if self.trust.changed() or self._client is None:
                self._client = self._make(*self.trust.credentials())
            return self._client

    def close(self, end: Callable[[C], None]) -> None:
        """May be called twice."""
        with self._lock:
            if self._client is not None:
                end(self._client)
                self._client = None


def is_loopback(address: str) -> bool:
    """Whether ``host:port`` can be reached on this machine alone."""
    host, _ = host_and_port(address)
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _WantsCertificate(OSError):
    pass


def _wants_tls(address: str) -> Trouble | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is said but hello
    context.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection(host_and_port(address), timeout=_PATIENCE_S) as plain, context.wrap_socket(plain):
            return Trouble("speaks TLS, and was spoken to in plain text", "Set tls for it, and ca_file.")
    except OSError:
        return None


def _untrusted(error: ssl.SSLCertVerificationError, tls: Tls, address: str) -> Trouble:
    new = "Give it a new one and start it again: Triton reads its certificate only then."
    if error.verify_code == _EXPIRED:
        return Trouble("shows a certificate that has expired", new)
    if error.verify_code == _NOT_YET:
        return Trouble("shows a certificate that is not valid yet", "Set the clocks of both machines.")
    if error.verify_code in {_NAME, _ADDRESS}:
        return Trouble(
            f"shows a certificate that is not for {tls.server_name or host_and_port(address)[0]}",
            "Say with server_name which name it has, or give it a certificate with this one (subjectAltName).",
        )
    if error.verify_code in _UNKNOWN:
        return Trouble(
            f"shows a certificate of an authority that is not in {tls.source}",
            "Name the file with its authority's certificate in ca_file.",
        )
    return Trouble(f"shows a certificate that is not accepted: {error.verify_message}", new)


def _no_tls(error: ssl.SSLError) -> Trouble:
    if error.reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}:
        return Trouble(
            "speaks plain text, and was spoken to in TLS",
            "Start it with --grpc-use-ssl=1 --grpc-server-cert=FILE --grpc-server-key=FILE, or leave out tls.",
        )
    return Trouble(f"breaks off the handshake: {error.reason}", "Compare its certificate and key with ca_file.")


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of ``host:port``; an IPv6 address without its brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _signature(source: Path) -> tuple[int, ...] | None:
    try:
        found = source.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _read(source: Path) -> bytes:
    """The certificates in a file, or in all files of the machine's directory, without what stands between them."""
    files = sorted(source.glob("*.0")) if source.is_dir() else [source]
    try:
        text = b"\n".join(file.read_bytes() for file in files)
        found = b"\n".join(_CERTIFICATE.findall(text))
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=found.decode("ascii"))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or "there is no certificate in it"
        raise ConfigError(
            f"The authorities in {source} can't be used: {why}.",
            mend="Name a PEM file with the certificate of the authority that signed Triton's in ca_file.",
        ) from None
    return found
