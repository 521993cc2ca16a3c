"""The asking side of the API."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlencode

from baton.api.transport import Network, Socket
from baton.api.wire import PREFIX, rebuild, written
from baton.codec import decode
from baton.errors import Unreachable
from baton.verbs import Facade, Verb, answer_of, name_of

T = TypeVar("T")


class ApiClient(Facade):
    """The control plane, asked over the socket at a path, or over the network.

    Every verb raises what the control plane raised, and ``Unreachable`` when none answers.
    """

    def __init__(self, at: Path | Network) -> None:
        self._at = Socket(at) if isinstance(at, Path) else at

    def ask(self, verb: Verb[T]) -> T:
        path, body, given = PREFIX + name_of(type(verb)), None, written(verb)
        if verb.http == "POST":
            body = json.dumps(given).encode()
        elif given:
            path += f"?{urlencode(given)}"
        status, answer = self._exchange(verb.answer_s(), verb.http, path, body)
        try:
            data = json.loads(answer)
            if status != http.client.OK:
                raise rebuild(data if isinstance(data, dict) else {})
            return decode(answer_of(type(verb)), data, foreign=True)
        except ValueError as error:
            raise Unreachable(
                f"What answers on {self._at} is no control plane of Baton ({error}).",
                mend="Check what --state or --server names.",
            ) from None

    def _exchange(self, timeout: float, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        connection = self._at.connection(timeout)
        try:
            connection.request(method, path, body, self._at.headers())
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._at.explain(error, timeout) from None
        finally:
            connection.close()
