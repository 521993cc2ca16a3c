"""What every way is asked: inference requests in Triton's own JSON over HTTP.

The same bytes go to every way, so none has a better client.
"""

from __future__ import annotations

import http.client
import json
import select
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

from harness.traffic import Ask, Client, Reply

REQUEST_TIMEOUT_S = 10.0


def body(query: Any, documents: Sequence[Any]) -> bytes:
    """What ``POST /v2/models/<name>/infer`` takes."""
    inputs = [("query", [query]), ("documents", documents)]
    return json.dumps(
        {
            "inputs": [
                {"name": name, "datatype": "BYTES", "shape": [1, len(data)], "data": [json.dumps(one) for one in data]}
                for name, data in inputs
            ]
        }
    ).encode()


class Connection:
    """One kept connection to ``url``, ``http://host:port/path``. For one thread."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._path = parts.path
        self._kept = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=REQUEST_TIMEOUT_S)

    def ask(self, question: bytes) -> int:
        """The version that answered. Raises ``OSError``, ``http.client.HTTPException`` or ``ValueError``."""
        # As usual clients do: a connection that the server has closed meanwhile is not written to.
        if self._kept.sock is not None and select.select([self._kept.sock], [], [], 0)[0]:
            self._kept.close()
        try:
            self._kept.request("POST", self._path, question, {"Content-Type": "application/json"})
            response = self._kept.getresponse()
            told = response.read()
        except (OSError, http.client.HTTPException):
            self._kept.close()
            raise
        if response.status != http.client.OK:
            raise ValueError(f"{response.status}: {told.decode(errors='replace').strip()[:200]}")
        outputs = {output["name"]: output["data"] for output in json.loads(told)["outputs"]}
        if not all(0.0 <= score <= 1.0 for score in outputs["scores"]):
            raise ValueError(f"scores outside of 0..1: {outputs['scores']}")
        return int(outputs["model_version"][0])

    def close(self) -> None:
        self._kept.close()


def asking(url: str, asked: Sequence[bytes]) -> Client:
    """A client that keeps one connection to ``url``, and asks all the questions in turn."""

    @contextmanager
    def connected() -> Iterator[Ask]:
        with closing(Connection(url)) as connection:
            yield lambda number: Reply(connection.ask(asked[number % len(asked)]))

    return Client(url, connected)
