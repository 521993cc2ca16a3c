"""The control plane's probes, called synthetic requests in the docs, for a split in which clients send too few.

A probe is a real request. It is sent, answered and timed like a client's, with two differences. It is recorded apart,
since it says nothing about clients. And the control plane says which version it goes to, since at a small weight chance
would hardly ever pick the candidate.

No client may get either by choosing an id. So each probe is announced by a control request that carries the token,
with a random id. The first request with that id is the probe; every other request is a client's, whatever its id.
"""

from __future__ import annotations

import hmac
import threading
from typing import Any

from .route import InvalidControl

PREFIX = "baton-"
STABLE, CANDIDATE = "stable", "candidate"
MAX_ID = 200


class ExpectedProbe:
    """The probe that was announced last and has not come yet. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._expected: tuple[str, str] | None = None

    def expect(self, request_id: str, to: str) -> None:
        """Announce a probe. An earlier one that has not come is forgotten."""
        with self._lock:
            self._expected = request_id, to

    def claim(self, request_id: str) -> str | None:
        """The version that the probe goes to, ``stable`` or ``candidate``. None: the request is a client's."""
        if not request_id.startswith(PREFIX):
            return None
        with self._lock:
            if self._expected is None or not hmac.compare_digest(
                request_id.encode(errors="replace"), self._expected[0].encode(errors="replace")
            ):
                return None
            to, self._expected = self._expected[1], None
            return to


def parse_probe(given: Any) -> tuple[str, str]:
    """The id and the version of an announced probe, from decoded JSON.

    Raises:
        InvalidControl: a key is missing, unknown or wrong.
    """
    if not isinstance(given, dict) or set(given) != {"id", "to"}:
        raise InvalidControl("probe must be an object with the keys id and to, and no other")
    request_id, to = given["id"], given["to"]
    if not isinstance(request_id, str) or not request_id.startswith(PREFIX) or len(request_id) > MAX_ID:
        raise InvalidControl(f"probe.id must be a text of at most {MAX_ID} characters that begins with {PREFIX!r}")
    if to not in (STABLE, CANDIDATE):
        raise InvalidControl(f"probe.to must be {STABLE!r} or {CANDIDATE!r}")
    return request_id, to
