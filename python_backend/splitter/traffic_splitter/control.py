"""Control requests: the token is checked, a route is put in force, and what happened is reported."""

from __future__ import annotations

import hmac
import json
import os
import secrets
from typing import Any, NoReturn

from .dispatch import Splitter
from .route import InvalidControl, parse_route

LARGEST = 65536
"""Bytes of a control request; more is not parsed."""


class Control:
    """Answers one JSON object with another one. Called from one thread."""

    def __init__(self, splitter: Splitter, token: str) -> None:
        if not token:
            raise ValueError("the token is empty; write the secret into the version folder's file 'token'")
        self._splitter = splitter
        self._token = token.encode()
        self.boot = secrets.token_hex(8)

    def answer(self, raw: bytes) -> str:
        """Never waits for a version.

        Raises:
            InvalidControl: the request is refused, and the route in force stays.
        """
        asked = _decode(raw)
        token = asked.pop("token", None)
        if not isinstance(token, str) or not hmac.compare_digest(token.encode(errors="replace"), self._token):
            raise InvalidControl("the token is missing or wrong")
        after, boot = asked.pop("after", 0), asked.pop("boot", None)
        if type(after) is not int or after < 0:
            raise InvalidControl("after must be a whole number of at least 0")
        if boot is not None and not isinstance(boot, str):
            raise InvalidControl("boot must be a text")
        route = asked.pop("route", None)
        if asked:
            raise InvalidControl(f"unknown key {next(iter(asked))[:40]!r}; known are token, route, after, boot")
        if route is not None:
            self._splitter.follow(parse_route(route, stable=self._splitter.stable, tensors=self._splitter.tensors))
        return self._report(after if boot == self.boot else 0)

    def _report(self, after: int) -> str:
        splitter = self._splitter
        route = splitter.lease.current()
        samples, newest, lost = splitter.ledger.newer(after)
        head: dict[str, Any] = {
            "boot": self.boot,
            "pid": os.getpid(),
            "stable": splitter.stable,
            "route": None,
            "lapses": splitter.lease.lapses,
            "breaker": {"state": splitter.breaker.state, "opened": splitter.breaker.opened},
            "deadline_s": None,
            "counts": splitter.ledger.counts(),
            "next": newest,
            "lost": lost,
        }
        if route is not None:
            head["deadline_s"] = round(splitter.patience.deadline_s(route.deadline_s), 3)
            head["route"] = {
                "candidate": route.candidate,
                "weight": route.weight,
                "shadow": route.shadow,
                "lease_left_s": round(splitter.lease.left_s(), 3),
            }
        return f'{json.dumps(head)[:-1]}, "samples": {samples}}}'


def _decode(raw: bytes) -> dict[str, Any]:
    if len(raw) > LARGEST:
        raise InvalidControl(f"at most {LARGEST} bytes are taken, not {len(raw)}")
    try:
        asked = json.loads(raw, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict):
        # Not a word of what was sent: it may hold the token.
        raise InvalidControl("one JSON object is expected")
    return asked


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
