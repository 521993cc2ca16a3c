"""The asking side of the API."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

from baton.api.facade import caller
from baton.api.transport import Network, Socket
from baton.api.wire import CALLS, PREFIX, rebuild
from baton.codec import decode
from baton.errors import Unreachable
from baton.facts import (
    ControlHealth,
    Paused,
    RolloutFacts,
    RolloutStory,
    Status,
    Ticket,
    VersionOnDisk,
)

T = TypeVar("T")

ANSWER_TIMEOUT = 60.0
"""Seconds in which the control plane answers a call that does not wait for anything."""
HASHING_TIMEOUT = 3600.0


class ApiClient:
    """The facade, asked over the socket at a path, or over the network.

    Every method raises what the control plane raised, and ``Unreachable`` when none answers.
    """

    def __init__(self, at: Path | Network) -> None:
        self._at = Socket(at) if isinstance(at, Path) else at

    def status(self, service: str | None = None) -> Status:
        return self._ask(Status, "status", service=service)

    def versions(self, service: str | None = None) -> tuple[VersionOnDisk, ...]:
        return self._ask(tuple[VersionOnDisk, ...], "versions", service=service)

    def history(self, service: str | None = None, limit: int = 50) -> tuple[RolloutFacts, ...]:
        return self._ask(tuple[RolloutFacts, ...], "history", service=service, limit=limit)

    def rollout(self, number: int) -> RolloutStory:
        return self._ask(RolloutStory, "rollout", id=number)

    def promote(
        self, service: str | None, version: int | None, *, full: bool = False, who: str | None = None
    ) -> Ticket:
        return self._ask(Ticket, "promote", service=service, version=version, full=full, who=who or caller())

    def rollback(self, service: str | None, to: int | None, *, who: str | None = None) -> Ticket:
        return self._ask(Ticket, "rollback", service=service, to=to, who=who or caller())

    def abort(self, service: str | None, *, who: str | None = None) -> Ticket:
        return self._ask(Ticket, "abort", service=service, who=who or caller())

    def retry(
        self, service: str | None, version: int | None, *, release: str | None = None, who: str | None = None
    ) -> Ticket:
        # Of the version that serves, it hashes the whole folder first.
        return self._ask(
            Ticket, "retry", HASHING_TIMEOUT, service=service, version=version, release=release, who=who or caller()
        )

    def verify(self, service: str | None, version: int, *, who: str | None = None) -> Ticket:
        return self._ask(Ticket, "verify", service=service, version=version, who=who or caller())

    def pause(self, *, who: str | None = None) -> Paused:
        return self._ask(Paused, "pause", who=who or caller())

    def resume(self, *, who: str | None = None) -> Paused:
        return self._ask(Paused, "resume", who=who or caller())

    def expect(self, service: str | None, version: int, timeout_s: float) -> Ticket:
        return self._ask(
            Ticket, "expect", timeout_s + ANSWER_TIMEOUT, service=service, version=version, timeout_s=timeout_s
        )

    def health(self) -> ControlHealth:
        return self._ask(ControlHealth, "health")

    def _ask(self, kind: type[T], name: str, timeout: float = ANSWER_TIMEOUT, /, **arguments: Any) -> T:
        given = {k: v for k, v in arguments.items() if v is not None}
        verb, path, body = CALLS[name].verb, PREFIX + name, None
        if verb == "POST":
            body = json.dumps(given).encode()
        elif given:
            path += f"?{urlencode(given)}"
        status, answer = self._exchange(timeout, verb, path, body)
        try:
            data = json.loads(answer)
            if status != http.client.OK:
                raise rebuild(data if isinstance(data, dict) else {})
            return decode(kind, data, foreign=True)
        except ValueError as error:
            raise Unreachable(f"What answers on {self._at} is no control plane of Baton ({error}).") from None

    def _exchange(self, timeout: float, verb: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        connection = self._at.connection(timeout)
        try:
            connection.request(verb, path, body, self._at.headers())
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._at.explain(error, timeout) from None
        finally:
            connection.close()
