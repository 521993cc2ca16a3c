"""The two ways to a control plane: its socket on this machine, or TLS and a token over the network."""

from __future__ import annotations

import http.client
import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from baton import secret
from baton.api.wire import reachable
from baton.errors import BatonError, ConfigError, Unreachable, UsageError
from baton.state_lock import holder


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with reachable(self._path) as name:
            self.sock.connect(name)


_BROKE_OFF = "Whether it did what was asked is not known: look with `ctl status` before you ask again."


@dataclass(frozen=True, slots=True)
class Socket:
    """The socket in a state directory. Who may open it may act."""

    path: Path

    def connection(self, timeout: float) -> http.client.HTTPConnection:
        return _Connection(self.path, timeout)

    def headers(self) -> dict[str, str]:
        return {}

    def explain(self, error: Exception, timeout: float) -> BatonError:
        state = self.path.parent
        who = f" ({name})" if (name := holder(self.path)) else ""
        if isinstance(error, FileNotFoundError | NotADirectoryError | ConnectionRefusedError):
            text = f"No control plane runs for state directory {state}"
            if not who:
                return Unreachable(f"{text}.", mend="Start one with `ctl up` or `ctl serve`.")
            return Unreachable(
                f"{text}: the last one{who} died, or is only just starting.",
                mend="Try again in a moment; one that stands by takes over within seconds. If there is none, start one "
                "with `ctl up` or `ctl serve`.",
            )
        if isinstance(error, PermissionError):
            text = f"The socket {self.path} belongs to another user."
            return Unreachable(text, mend="Run ctl as the user who runs Baton.")
        if isinstance(error, TimeoutError):
            text = f"The control plane of {state}{who} did not answer within {timeout:g} s."
            return Unreachable(text, mend="Look into its log; one that was stopped (SIGSTOP) goes on with SIGCONT.")
        return Unreachable(f"The control plane of {state} broke off while it answered ({error}).", mend=_BROKE_OFF)

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class Network:
    """A control plane on another machine, whose certificate was checked against its name."""

    host: str
    port: int
    token: str = field(repr=False)
    context: ssl.SSLContext = field(repr=False)

    @classmethod
    def at(cls, server: str, token_file: Path | None, ca: Path | None) -> Network:
        """The way to ``server`` (``https://host:port``). ``ca`` holds what its certificate is checked against.

        Raises:
            UsageError: the address is none, or no token file is named.
            ConfigError: the token file or the certificates can't be used.
        """
        parts = urlsplit(server)
        try:
            port = parts.port
        except ValueError:
            port = None
        plain = not (parts.username or parts.query or parts.fragment or parts.path.strip("/"))
        if parts.scheme != "https" or not parts.hostname or port is None or not plain:
            # The text itself is not shown: a mistake may have put a secret into it.
            raise UsageError("--server is not the address of a control plane.", mend="Write it as https://host:port.")
        if token_file is None:
            raise UsageError(
                f"The control plane at {parts.hostname}:{port} wants a token.",
                mend="Name the file that holds it with --token-file or BATON_TOKEN_FILE.",
            )
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if ca is not None:
            try:
                context.load_verify_locations(ca)
            except OSError as error:  # ssl.SSLError is one
                why = getattr(error, "reason", None) or error.strerror
                raise ConfigError(f"{ca} holds no certificates: {why}.", mend="Name a PEM file with --ca.") from None
        return cls(parts.hostname, port, secret.read(token_file, "token file"), context)

    def connection(self, timeout: float) -> http.client.HTTPConnection:
        return http.client.HTTPSConnection(self.host, self.port, timeout=timeout, context=self.context)

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def explain(self, error: Exception, timeout: float) -> BatonError:
        if isinstance(error, ssl.SSLCertVerificationError):
            return ConfigError(
                f"The certificate of {self} is not to be trusted: {error.verify_message}.",
                mend="Name the file of the authority that signed it with --ca or BATON_CA; and check the address.",
            )
        if isinstance(error, ConnectionRefusedError | socket.gaierror):
            return Unreachable(
                f"No control plane listens at {self} ({error.strerror}).", mend="Check --server, and its [control.api]."
            )
        if isinstance(error, TimeoutError):
            return Unreachable(f"{self} did not answer within {timeout:g} s.", mend="Look into its log.")
        return Unreachable(f"{self} broke off while it answered ({error}).", mend=_BROKE_OFF)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}"
