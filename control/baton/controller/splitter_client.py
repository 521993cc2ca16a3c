"""Talks to a service's splitters: sends routes, takes reports, and compares what they do with what was asked of them.

A route is sent again and again, each time with what is left of its lease. The answer brings what happened since the
last one: counts, which are kept here, and samples, which go to the ``LiveEvidenceCollector``.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from baton.config import ServiceConfig
from baton.controller.followed import Followed, foreign, locked, now_followed, otherwise, shown
from baton.controller.live_evidence import LiveEvidenceCollector
from baton.domain import Route
from baton.errors import InvalidRequest, NotSteered, TritonError
from baton.facts import Counted, Requests, SplitterStatus
from baton.triton.key import Caps
from baton.triton.port import Tensors, Triton
from baton.triton.repository import CONTROL, REPORT, SPLITTER_VERSION, ServiceFiles

EXCHANGE_TIMEOUT_S = 1.0
EVERY_S = 1.0
"""A route that has not changed is sent this often."""
OBSERVED_OVER_S = 30.0
"""The observed share of traffic is that of the last so many seconds."""
log = logging.getLogger(__name__)


@dataclass
class _Link:
    """One server's splitter, as it last reported."""

    boot: str = ""
    after: int = 0
    at: float | None = None
    sent: Route | None = None
    report: Mapping[str, Any] = field(default_factory=dict)
    counts: deque[tuple[float, int, int]] = field(default_factory=lambda: deque(maxlen=600))
    """When, requests, and those that the candidate answered, since the splitter started."""
    before: Mapping[str, int] = field(default_factory=dict)
    """Its counts when the present stage of the rollout began."""
    asked: set[Followed] = field(default_factory=set)
    """Routes of this control plane that it may follow: those sent since its last answer, and the one before."""
    foreign: Followed | None = None
    """A route that it followed and this control plane did not send."""
    answered: bool = False
    """This process of it has answered before."""
    locked: bool = False
    """It refused a route, and was not loaded again since."""


class SplitterClient:
    """Of one service. All methods may be called from any thread; times are seconds since the epoch."""

    def __init__(
        self,
        config: ServiceConfig,
        files: ServiceFiles,
        servers: Mapping[str, Triton],
        evidence: LiveEvidenceCollector,
    ) -> None:
        self._config = config
        self._files = files
        self._servers = servers
        self._evidence = evidence
        self._lock = threading.Lock()
        self._links = {name: _Link() for name in servers}
        self._caps = Caps.of(config.traffic)

    def begin_counts(self) -> None:
        """A stage of a rollout begins: from now on count anew."""
        with self._lock:
            for link in self._links.values():
                link.before = dict(link.report.get("counts", {}))
                link.counts.clear()

    def steered(self, server: str) -> float | None:
        """When the server's splitter last answered."""
        with self._lock:
            return self._links[server].at

    def outstanding(self, server: str) -> Mapping[int, int] | None:
        """The server's splitter's calls under way, by version, by its last report.

        None without a report since it was last told that stable alone answers: calls may still begin.
        """
        with self._lock:
            link = self._links[server]
            if link.at is None or link.sent is not None:
                return None
            calls = link.report.get("calls", {})
            return {int(version): one["begun"] - one["ended"] for version, one in calls.items()}

    def due(self, server: str, route: Route | None, now: float) -> bool:
        """Whether a route is to be sent to the server's splitter: it changed, or the last one was sent a while ago."""
        with self._lock:
            link = self._links[server]
            every = min(EVERY_S, self._config.traffic.lease / 4)  # a short lease must not end between two of them
            return link.at is None or link.sent != route or now - link.at >= every

    def forget(self, server: str) -> None:
        """The server's splitter is gone."""
        with self._lock:
            self._links[server] = _Link()

    def exchange(self, server: str, route: Route | None, lease_s: float, salt: str, now: float) -> None:
        """Send the route, or that the stable version alone answers, and take the report.

        Raises:
            NotSteered: the splitter refuses the token, or what is asked: it was loaded with other files.
            TritonError: its process is gone.
            TimedOut: it does not answer within a second.
            Unreachable: the server does not answer.
        """
        asked = self._asked(route) | {"lease_s": min(max(lease_s, 0.001), self._caps.lease_s), "salt": salt}
        with self._lock:
            self._links[server].asked.add(Followed.of(asked))
        try:
            answer = self._control(server, route=asked)
        except InvalidRequest as error:
            with self._lock:
                self._links[server].locked = True
            raise NotSteered(f"it takes no route from this control plane: {error}.") from None
        try:
            report = json.loads(bytes(answer[REPORT].reshape(-1)[0]))
            self._take(server, route, report, now)
            self._compare(server, asked, report["before"])
        except (KeyError, ValueError, TypeError) as error:
            raise TritonError(f"The splitter's report can't be read: {type(error).__name__}: {error}.") from None

    def _asked(self, route: Route | None) -> dict[str, Any]:
        """The part of a route that the configuration and the plan decide."""
        traffic = self._config.traffic
        return {
            "candidate": None if route is None else route.candidate,
            "weight": 0.0 if route is None else route.weight,
            "shadow": 0.0 if route is None else route.shadow,
            "deadline_s": traffic.deadline,
            "compare": traffic.compare,
            "kinds": list(traffic.kinds),
            "contents": traffic.contents,
        }

    def _compare(self, server: str, asked: Mapping[str, Any], before: Mapping[str, Any] | None) -> None:
        """Warn when the splitter followed a route until now that this control plane did not send."""
        with self._lock:
            link = self._links[server]
            known, link.asked, link.locked = link.asked, {Followed.of(asked)}, False
            # A control plane that has just started does not know what the one before it sent.
            found = None if before is None or not link.answered else Followed.of(before)
            link.answered = True
            if found is None or found in known or found == link.foreign:
                return
            link.foreign = found
        log.warning("%s: %s", self._config.name, foreign(server, found))

    def locked(self, server: str) -> bool:
        """Whether the server's splitter refused a route and was not loaded again since."""
        with self._lock:
            return self._links[server].locked

    def unlock(self, server: str) -> None:
        """The server's splitter was loaded again: it is another process."""
        with self._lock:
            link = self._links[server]
            link.locked, link.answered = False, False

    def announce(self, server: str, request_id: str, to: str) -> None:
        """Tell the server's splitter that the next request of that id is Baton's own, and where to send it.

        ``to``: ``stable``, or ``candidate`` where that has a share of traffic. Raises as :meth:`exchange`.
        """
        self._control(server, probe={"id": request_id, "to": to})

    def _control(self, server: str, **asked: Any) -> Tensors:
        with self._lock:
            link = self._links[server]
            asked |= {"token": self._files.token(), "boot": link.boot, "after": link.after}
        value = np.array([json.dumps(asked).encode()], dtype=np.object_)
        shaped = value.reshape(1, 1) if self._files.batches() else value
        return self._servers[server].infer(
            self._config.splitter, SPLITTER_VERSION, {CONTROL: shaped}, EXCHANGE_TIMEOUT_S
        )

    def _take(self, server: str, route: Route | None, report: Mapping[str, Any], now: float) -> None:
        counts = report["counts"]
        with self._lock:
            link = self._links[server]
            known = link.boot == report["boot"]
            link.answered &= known
            if not known:
                link.counts.clear()
                link.before = {}
            live = counts["requests"] > (link.report["counts"]["requests"] if known else 0)
            link.boot, link.after, link.at, link.sent, link.report = report["boot"], report["next"], now, route, report
            link.counts.append((now, counts["requests"], counts["candidate"]))
        self._evidence.add(report["samples"], report["boot"], now, live=live)

    def counted(self, now: float) -> Counted:
        """What the splitters of all servers did in this stage of the rollout."""
        with self._lock:
            links = [k for k in self._links.values() if k.at is not None]
            counts = [{n: c - k.before.get(n, 0) for n, c in k.report["counts"].items()} for k in links]
            requests = answered = 0
            for link in links:
                old = next((c for c in link.counts if now - c[0] <= OBSERVED_OVER_S), None)
                if old is not None:
                    requests += link.counts[-1][1] - old[1]
                    answered += link.counts[-1][2] - old[2]
            states = [k.report["breaker"]["state"] for k in links]
        return Counted(
            observed=round(100 * answered / requests, 2) if requests else None,
            requests=Requests(*(sum(c[role] for c in counts) for role in ("stable", "candidate"))),
            shadowed=sum(c["shadowed"] for c in counts),
            synthetic=sum(c.get("own", 0) for c in counts),
            breaker="open" if "open" in states else "half_open" if "half_open" in states else "closed",
        )

    def status(self, now: float) -> tuple[SplitterStatus, ...]:
        """What each server's splitter does now, by its last report."""
        with self._lock:
            return tuple(shown(name, k.report, now - k.at) for name, k in self._links.items() if k.at is not None)

    def deviations(self, now: float) -> list[str]:
        """Where a splitter does, or did, something else than it was asked for, each in a sentence."""
        found = []
        with self._lock:
            for name, link in self._links.items():
                if link.foreign is not None:
                    found.append(foreign(name, link.foreign))
                if link.locked:
                    found.append(locked(name))
                elif link.sent is not None and link.at is not None:
                    does, _ = now_followed(link.report, now - link.at)
                    asked = Followed.of(self._asked(link.sent))
                    found += [otherwise(name, does, asked)] if does != asked else []
        return found

    def tripped(self) -> bool:
        """Whether some splitter keeps requests from the candidate since it failed too often in a row."""
        with self._lock:
            return any(k.report and k.report["breaker"]["state"] != "closed" for k in self._links.values())
