"""The load: inference requests in Triton's own JSON over HTTP, on a fixed schedule, every answer written down.

The same bytes go to every way, so none has a better client. Open loop, as in ``demo.traffic``: a request is due at its
time whether or not the one before was answered.
"""

from __future__ import annotations

import http.client
import itertools
import json
import select
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.compare.measure import Answer

REQUEST_TIMEOUT_S = 10.0


def questions(golden: Path, count: int) -> list[bytes]:
    """The first ``count`` text questions of the golden set, as :func:`body` makes them."""
    return [body(query, documents) for query, documents in texts(golden, count)]


def texts(golden: Path, count: int) -> list[tuple[Any, list[Any]]]:
    """Query and documents of the first ``count`` text questions of the golden set."""
    cases = [json.loads(line) for line in golden.read_text().splitlines()]
    plain = [case for case in cases if case["kind"] == "text" and "instruction" not in case][:count]
    return [(case["query"], case["documents"]) for case in plain]


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


class Load:
    """``clients`` threads that together ask ``rate`` times a second, from :meth:`start` until :meth:`stop`."""

    def __init__(self, url: str, asked: Sequence[bytes], *, rate: float, clients: int = 8) -> None:
        self._url, self._asked, self._rate, self._clients = url, asked, rate, clients
        self._answers: list[Answer] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._end = float("inf")
        self._begin = 0.0
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        self._begin = time.monotonic() + 0.1
        self._threads = [
            threading.Thread(target=self._client, args=(number,), daemon=True) for number in range(self._clients)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> list[Answer]:
        """Nothing is due any more; what was due is still asked and waited for. Every answer, by when it was due."""
        self._end = time.monotonic()
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        return sorted(self._answers, key=lambda answer: answer.due)

    def answered(self, version: int) -> bool:
        """Whether a version has answered yet."""
        with self._lock:
            return any(answer.version == version for answer in self._answers)

    def _client(self, number: int) -> None:
        connection = Connection(self._url)
        for turn in itertools.count(number, self._clients):
            due = self._begin + turn / self._rate
            self._stopping.wait(max(0.0, due - time.monotonic()))
            if due >= self._end:
                break
            answer = self._ask(connection, due, self._asked[turn % len(self._asked)])
            with self._lock:
                self._answers.append(answer)
        connection.close()

    @staticmethod
    def _ask(connection: Connection, due: float, question: bytes) -> Answer:
        try:
            version = connection.ask(question)
        except (OSError, http.client.HTTPException, ValueError) as error:
            return Answer(due, time.monotonic(), None, f"{type(error).__name__}: {error}")
        return Answer(due, time.monotonic(), version)
