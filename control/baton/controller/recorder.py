"""What the journal is told of one service."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from baton.domain import Kind, Outcome, ReleaseStatus, Rollout, VersionRecord
from baton.journal import Journal
from baton.plan import Advance, Effect, End, Halt, Progress, Record, Renew, TakeOver, View
from baton.reasons import Reason, Why, because

log = logging.getLogger(__name__)


class RolloutRecorder:
    """Of one service. Each method may raise what ``Journal`` raises."""

    def __init__(self, service: str, journal: Journal, lease_s: float, clock: Callable[[], float]) -> None:
        self._service = service
        self._journal = journal
        self._lease_s = lease_s
        self._clock = clock

    def log(self, kind: str, why: Why, rollout: Rollout | None, data: Mapping[str, Any] | None = None) -> None:
        """Write down an event."""
        self._journal.events.append(
            self._clock(), kind, why, service=self._service, rollout=rollout.id if rollout else None, data=data
        )

    def adopt(self, view: View) -> None:
        """Write down a version that serves although the journal does not know that it ever came to.

        So it is after the state was lost, and when an older journal was put back. What serves is taken as it is: nobody
        is better off when clients are sent elsewhere because of a record.
        """
        version, known = view.alias, None if view.alias is None else view.records.get(view.alias)
        if version is None or not any(version in s.serving() for s in view.live()):
            return
        if known is not None and known.status in (ReleaseStatus.RELEASED, ReleaseStatus.ADOPTED):
            return
        standing, before = (None, None) if known is None else (known.status, known.reason)
        why = because(Reason.FOUND_SERVING, version=version, standing=standing, before=before)
        folder = view.folders.get(version)
        fingerprint = folder.fingerprint if folder is not None else ""
        log.log(logging.INFO if known is None else logging.WARNING, "%s: %s", self._service, why)
        self.log("adopt", why, None)
        record = VersionRecord(version, ReleaseStatus.ADOPTED, why, fingerprint, loaded=True, at=self._clock())
        self._journal.versions.put(self._service, record)

    def inherit(self, alias: int, policy: frozenset[int]) -> None:
        """The alias is Baton's, and the journal is new: it was lost, perhaps in the middle of a bake.

        Then nobody else knows that what served before is loaded still, and it would stay for ever.
        """
        why = because(Reason.INHERITED, alias=alias)
        for version in sorted(v for v in policy if v < alias):
            self._journal.versions.put(
                self._service, VersionRecord(version, ReleaseStatus.RELEASED, why, "", loaded=True, at=self._clock())
            )

    def write(self, effect: Effect, view: View, rollout: Rollout, doing: Why) -> None:
        """The effects that are nothing but a line in the journal."""
        now = self._clock()
        match effect:
            case Advance(phase, why):
                self._journal.rollouts.advance(rollout, phase, why, now)
            case Halt(stop):
                self._journal.rollouts.halt(rollout, stop, now)
            case Record(result):
                self._journal.rollouts.record(rollout, result, now)
            case Renew():
                self._renew(rollout, now)
            case Progress(seconds, verdict):
                self._journal.rollouts.progress(rollout, seconds, now, doing, verdict)
            case TakeOver(why):
                self._journal.rollouts.take_over(rollout, why, now)
            case End(outcome, why):
                self._end(view, rollout, outcome, why, now)
            case _:
                raise AssertionError(f"nobody carries out {effect}")

    def _renew(self, rollout: Rollout, now: float) -> None:
        away = now - (rollout.renewed_at if rollout.renewed_at is not None else now)
        if away > self._lease_s:
            why = because(Reason.LEASE_LAPSED, lease_s=self._lease_s, away_s=round(away, 3))
            log.warning("%s: %s", self._service, why)
            self.log("lapse", why, rollout, {"away_s": round(away, 3)})
        self._journal.rollouts.renew(rollout, now)

    def _end(self, view: View, rollout: Rollout, outcome: Outcome, why: Why, now: float) -> None:
        folder = view.folders.get(rollout.candidate)
        fingerprint = folder.fingerprint if folder is not None else rollout.fingerprint
        loaded = rollout.candidate in view.loaded

        def stands(version: int, standing: ReleaseStatus, reason: Why) -> VersionRecord:
            return VersionRecord(
                version, standing, reason, fingerprint if version == rollout.candidate else "", loaded, now
            )

        standings: list[VersionRecord] = []
        match outcome:
            case Outcome.LIVE:
                # Ended because it was found serving already: its gates were not all asked.
                found = rollout.stop is not None and rollout.stop.outcome is Outcome.LIVE
                standing = (
                    ReleaseStatus.ADOPTED if found and rollout.candidate == view.alias else ReleaseStatus.RELEASED
                )
                standings.append(stands(rollout.candidate, standing, why))
                if rollout.kind is Kind.ROLLBACK and rollout.previous is not None:
                    standings.append(stands(rollout.previous, ReleaseStatus.WITHDRAWN, rollout.why))
            case Outcome.REJECTED if rollout.kind is not Kind.ROLLBACK:
                standings.append(stands(rollout.candidate, ReleaseStatus.REJECTED, why))
            case Outcome.ROLLED_BACK | Outcome.ABORTED | Outcome.SUPERSEDED if rollout.kind is Kind.ROLLOUT:
                standings.append(stands(rollout.candidate, ReleaseStatus.WITHDRAWN, why))
            case _:
                pass
        self._journal.rollouts.end(rollout, outcome, why, now, standings)
