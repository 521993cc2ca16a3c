"""Control requests: checks the token, puts a route in force, and reports what happened."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from typing import Any, NoReturn

from .dispatch import Splitter
from .probes import parse_probe
from .route import Caps, InvalidControl, Route, parse_route

MAX_REQUEST_BYTES = 65536
"""A control request with more bytes is not parsed."""
NO_TOKEN = ""
"""In place of a hash: every token is wrong."""
_SHA256 = re.compile("[0-9a-f]{64}")


class Control:
    """Answers one JSON object with another one. Not thread-safe.

    ``token_sha256`` is the hash of the token, in lower-case hexadecimal digits, or :data:`NO_TOKEN`. The token is 32
    random bytes as text, too many to guess, so the hash needs no salt and need not be slow.
    """

    def __init__(self, splitter: Splitter, token_sha256: str, caps: Caps) -> None:
        if token_sha256 != NO_TOKEN and not _SHA256.fullmatch(token_sha256):
            raise ValueError("parameters: token_sha256 must be 64 hexadecimal digits, the SHA-256 of the token")
        self._splitter = splitter
        self._sha256 = token_sha256
        self._caps = caps
        self.boot = secrets.token_hex(8)

    def answer(self, raw: bytes) -> str:
        """The report. Never waits for a version.

        Raises:
            InvalidControl: the request is refused, and the route in force stays.
        """
        asked = _decode(raw)
        token = asked.pop("token", None)
        if not isinstance(token, str) or not self._known(token):
            raise InvalidControl("the token is missing or wrong")
        after, boot = asked.pop("after", 0), asked.pop("boot", None)
        if type(after) is not int or after < 0:
            raise InvalidControl("after must be a whole number of at least 0")
        if boot is not None and not isinstance(boot, str):
            raise InvalidControl("boot must be a text")
        route, probe = asked.pop("route", None), asked.pop("probe", None)
        if asked:
            raise InvalidControl(f"unknown key {next(iter(asked))[:40]!r}; known are token, route, probe, after, boot")
        announced = None if probe is None else parse_probe(probe)
        splitter = self._splitter
        before = self._shown(splitter.lease.current())
        if route is not None:
            splitter.apply(parse_route(route, stable=splitter.stable, tensors=splitter.tensors, caps=self._caps))
        if announced is not None:
            splitter.expected_probe.expect(*announced)
        return self._report(after if boot == self.boot else 0, before)

    def _known(self, token: str) -> bool:
        digest = hashlib.sha256(token.encode(errors="replace")).hexdigest()
        return hmac.compare_digest(digest, self._sha256)

    def _shown(self, route: Route | None) -> dict[str, Any] | None:
        if route is None:
            return None
        return {
            "candidate": route.candidate,
            "weight": route.weight,
            "shadow": route.shadow,
            "contents": route.contents,
            "lease_left_s": round(self._splitter.lease.left_s(), 3),
        }

    def _report(self, after: int, before: dict[str, Any] | None) -> str:
        splitter = self._splitter
        route = splitter.lease.current()
        samples, newest, lost = splitter.samples.since(after)
        head: dict[str, Any] = {
            "boot": self.boot,
            "pid": os.getpid(),
            "stable": splitter.stable,
            "route": self._shown(route),
            "before": before,
            "lapses": splitter.lease.lapses,
            "breaker": {"state": splitter.breaker.state, "opened": splitter.breaker.opened},
            "deadline_s": None,
            "counts": splitter.samples.counts(),
            "calls": splitter.calls.report(),
            "next": newest,
            "lost": lost,
        }
        if route is not None:
            head["deadline_s"] = round(splitter.deadline.seconds(route.deadline_s), 3)
        return f'{json.dumps(head)[:-1]}, "samples": {samples}}}'


def _decode(raw: bytes) -> dict[str, Any]:
    if len(raw) > MAX_REQUEST_BYTES:
        raise InvalidControl(f"at most {MAX_REQUEST_BYTES} bytes are taken, not {len(raw)}")
    try:
        asked = json.loads(raw, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict):
        # The error quotes nothing of the request, which may hold the token.
        raise InvalidControl("one JSON object is expected")
    return asked


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
