"""One call: a request of HTTP and JSON, the facade's answer to it, and what a client may cost."""

from __future__ import annotations

import contextlib
import hmac
import http
import io
import json
import logging
import socket
import ssl
import time
from http.server import BaseHTTPRequestHandler
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

from baton.api.facade import Facade
from baton.api.wire import CALLS, MAX_BODY, PREFIX, STATUS, arguments, body, error_data
from baton.errors import BatonError, Refused, UsageError

_log = logging.getLogger(__name__)
REQUEST_S = 10.0
"""Seconds for the whole of a request, from the connection on, TLS included: who dribbles holds no thread for long."""
_ANSWER_S = 30.0


class Server(Protocol):
    """What a handler needs of its server."""

    app: Facade
    token: bytes | None
    """What a caller has to show; None: whoever can connect may call."""


class Handler(BaseHTTPRequestHandler):
    server: Server  # type: ignore[assignment]
    server_version = "baton"
    sys_version = ""
    rbufsize = 0  # setup() puts a buffer of its own before the socket

    def setup(self) -> None:
        due = time.monotonic() + REQUEST_S
        self.request.settimeout(REQUEST_S)
        super().setup()
        if isinstance(self.connection, ssl.SSLSocket):
            # Here, in the connection's own thread, and not where connections are accepted.
            self.connection.do_handshake()
        self.rfile = io.BufferedReader(_InTime(self.rfile, self.connection, due))

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def _serve(self, verb: str) -> None:
        status, data = self._call(verb) if self._may_call() else self._denied()
        self._answer(status, data)

    def _may_call(self) -> bool:
        if self.server.token is None:
            return True
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        # In the same time whatever is wrong with it.
        same = hmac.compare_digest(given.strip().encode(errors="replace"), self.server.token)
        return scheme.lower() == "bearer" and same

    def _denied(self) -> tuple[int, Any]:
        # What is left unread when the connection closes can cost the client its answer.
        with contextlib.suppress(UsageError):
            self._body()
        _log.warning("a call from %s was refused: its token is missing or wrong", self.address_string())
        refusal = Refused(
            "The control plane refused the call: its token is missing or wrong.",
            mend="Name the file that holds the control plane's token with --token-file or BATON_TOKEN_FILE.",
        )
        return http.HTTPStatus.UNAUTHORIZED, error_data(refusal)

    def _call(self, verb: str) -> tuple[int, Any]:
        name = urlsplit(self.path).path.removeprefix(PREFIX)
        try:
            if not self.path.startswith(PREFIX) or name not in CALLS:
                return 404, error_data(UsageError(f"The local API has no path {self.path[:200]!r}."))
            if CALLS[name].verb != verb:
                return 405, error_data(UsageError(f"{name} is asked by {CALLS[name].verb}."))
            given = self._body() if verb == "POST" else dict(parse_qsl(urlsplit(self.path).query))
            positional, named = arguments(name, given)
            return 200, getattr(self.server.app, name)(*positional, **named)
        except BatonError as error:
            return STATUS.get(error.exit_code, 500), error_data(error)
        except Exception:  # noqa: BLE001 - no call may end the server, and none may show a traceback
            _log.exception("the call %s failed: a defect of Baton, please report it", name)
            failure = BatonError(
                f"The control plane failed at {name}: a defect of Baton.", mend="Its log holds the details."
            )
            return 500, error_data(failure)

    def _body(self) -> Any:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers:
            # It would be taken for a request without parameters, and those have a meaning.
            raise UsageError("The request's length has to be told by Content-Length.")
        if not length.isdecimal() or len(length) > len(str(MAX_BODY)) + 10:
            raise UsageError("The request's Content-Length is not a number.")
        if int(length) > MAX_BODY:
            # The rest is not read; answering and closing is all that is left.
            raise UsageError(f"The request is too large: {length} bytes, {MAX_BODY} are allowed.")
        try:
            sent = self.rfile.read(int(length))
        except TimeoutError:
            raise UsageError(f"The request did not arrive within {REQUEST_S:g} s.") from None
        except OSError:
            raise UsageError("The request broke off.") from None
        return body(sent)

    def _answer(self, status: int, data: Any) -> None:
        answer = json.dumps(data).encode()
        self.connection.settimeout(_ANSWER_S)
        self.send_response(status)
        if status == http.HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def address_string(self) -> str:
        # A unix socket's peer has no address.
        return str(self.client_address[0]) if isinstance(self.client_address, tuple) else "local"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        _log.debug(format, *args)


class _InTime(io.RawIOBase):
    """A connection's incoming bytes, until ``due`` on the monotonic clock. After that reading raises ``TimeoutError``.

    A socket's own timeout begins anew with every byte, and ends nothing that goes on slowly.
    """

    def __init__(self, raw: Any, connection: socket.socket, due: float) -> None:
        self._raw, self._connection, self._due = raw, connection, due

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        left = self._due - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
