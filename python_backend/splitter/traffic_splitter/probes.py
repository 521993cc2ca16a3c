"""The control plane's own requests, which stand in where no clients ask: known by an id that nobody else can know.

They go the way of all requests and are answered like all. Told apart from a client's they must be, for they say
nothing of what clients ask; and they come so seldom that chance would hardly ever send one to the candidate, so the
control plane says which way each takes. A client must get neither by choosing an id. So each of them is announced
first, by a control request under the token, with an id that was drawn for it; the first request with that id is it,
and once. Any other id, whatever it begins with, is a client's.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Mapping
from typing import Any

from .route import InvalidControl
from .samples import Ledger

PREFIX = "baton-"
STABLE, CANDIDATE = "stable", "candidate"
MOST_ID = 200


class Announced:
    """The next request of the control plane's own; safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next: tuple[str, str] | None = None

    def expect(self, request_id: str, to: str) -> None:
        """Take the next request of that id for one of them. What was announced before and never came is forgotten."""
        with self._lock:
            self._next = request_id, to

    def claim(self, request_id: str) -> str | None:
        """Which way the request is to go, ``stable`` or ``candidate``; None: it is a client's."""
        if not request_id.startswith(PREFIX):
            return None
        with self._lock:
            if self._next is None or not hmac.compare_digest(
                request_id.encode(errors="replace"), self._next[0].encode(errors="replace")
            ):
                return None
            to, self._next = self._next[1], None
            return to


class Own:
    """The ledger as it is for them: they are counted as ``own`` and as nothing else, and their samples are marked."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def count(self, *names: str) -> None:
        if "requests" in names:
            self._ledger.count("own")

    def add(self, sample: Mapping[str, Any]) -> None:
        self._ledger.add({**sample, "own": True})


def parse_probe(given: Any) -> tuple[str, str]:
    """The id and the way of an announced request, out of decoded JSON.

    Raises:
        InvalidControl: a key is missing, unknown or wrong.
    """
    if not isinstance(given, dict) or set(given) != {"id", "to"}:
        raise InvalidControl("probe must be an object with the keys id and to, and no other")
    request_id, to = given["id"], given["to"]
    if not isinstance(request_id, str) or not request_id.startswith(PREFIX) or len(request_id) > MOST_ID:
        raise InvalidControl(f"probe.id must be a text of at most {MOST_ID} characters that begins with {PREFIX!r}")
    if to not in (STABLE, CANDIDATE):
        raise InvalidControl(f"probe.to must be {STABLE!r} or {CANDIDATE!r}")
    return request_id, to
