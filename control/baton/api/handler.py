"""One call: a request of HTTP and JSON, the answer to its verb, and what a client may cost."""

from __future__ import annotations

import contextlib
import hmac
import http
import json
import logging
import ssl
from typing import Any
from urllib.parse import parse_qsl

from baton import httpd
from baton.api.wire import MAX_BODY, PREFIX, STATUS, body, error_data, read
from baton.codec import encode
from baton.errors import BatonError, Refused, UsageError
from baton.verbs import VERBS, Facade

_log = logging.getLogger(__name__)


class Server(httpd.Server):
    """Of the API. ``token`` is what a caller has to show; None: whoever can connect may call."""

    def __init__(self, address: Any, app: Facade, token: bytes | None, places: int) -> None:
        self.app, self.token = app, token
        super().__init__(address, Handler, places)


class Handler(httpd.Handler):
    server: Server

    def setup(self) -> None:
        super().setup()
        if isinstance(self.request, ssl.SSLSocket):
            # Here, in the connection's own thread, and not where connections are accepted.
            self.request.settimeout(httpd.REQUEST_S)
            self.request.do_handshake()

    def do_GET(self) -> None:  # noqa: N802 - the base class's way to name it
        self._serve("GET")

    def do_POST(self) -> None:  # noqa: N802 - as above
        self._serve("POST")

    def _serve(self, method: str) -> None:
        status, data = self._call(method) if self._may_call() else self._denied()
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

    def _call(self, method: str) -> tuple[int, Any]:
        # Not by urlsplit, which raises where what stands for a host is none.
        path, _, query = self.path.partition("?")
        name = path.removeprefix(PREFIX)
        try:
            if not self.path.startswith(PREFIX) or name not in VERBS:
                return 404, error_data(UsageError(f"The local API has no path {self.path[:200]!r}."))
            if VERBS[name].http != method:
                return 405, error_data(UsageError(f"{name} is asked by {VERBS[name].http}."))
            given = self._body() if method == "POST" else dict(parse_qsl(query))
            self.server.request_is_complete(self.request)
            return 200, self.server.app.ask(read(name, given))
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
            raise UsageError("The request needs a Content-Length.")
        if not length.isdecimal() or len(length) > len(str(MAX_BODY)) + 10:
            raise UsageError("The request's Content-Length is not a number.")
        if int(length) > MAX_BODY:
            # The rest is not read; answering and closing is all that is left.
            raise UsageError(f"The request is too large: {length} bytes, {MAX_BODY} are allowed.")
        try:
            sent = self.rfile.read(int(length))
        except TimeoutError:
            raise UsageError(f"The request did not arrive within {httpd.REQUEST_S:g} s.") from None
        except OSError:
            raise UsageError("The request broke off.") from None
        return body(sent)

    def _answer(self, status: int, data: Any) -> None:
        scheme = {"WWW-Authenticate": "Bearer"} if status == http.HTTPStatus.UNAUTHORIZED else None
        self.answer(status, "application/json", json.dumps(encode(data)).encode(), scheme)
