"""Writes what happens to one service's rollouts and versions into the journal."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from baton.config import ServiceConfig
from baton.controller.ports import Ports
from baton.controller.settings import rollout_settings
from baton.domain import (
    Gate,
    GateResult,
    Kind,
    Outcome,
    Phase,
    Pruning,
    ReleaseStatus,
    Removed,
    Rollout,
    Verdict,
    VersionMeta,
    VersionRecord,
)
from baton.errors import BatonError, CheckpointError, Refused
from baton.plan import (
    Advance,
    AskAgain,
    Effect,
    End,
    Halt,
    Progress,
    Record,
    Renew,
    SetBackClock,
    TakeOver,
    View,
)
from baton.plan.prune import after
from baton.reasons import Reason, Why, because

MOST_REMOVED = 1_000
"""So many removed versions are remembered, the newest."""
log = logging.getLogger(__name__)


class RolloutRecorder:
    """Of one service. Each method may raise what ``Journal`` raises."""

    def __init__(self, config: ServiceConfig, ports: Ports) -> None:
        self._service = config.name
        self._lease_s = config.traffic.lease
        self._journal = ports.journal
        self._clock = ports.clock
        self._read_meta = ports.read_meta
        self._settings = rollout_settings(config)
        self._metas: dict[int, tuple[str, VersionMeta, str]] = {}

    def log(
        self, kind: str, why: Why, rollout: Rollout | None, data: Mapping[str, Any] | None = None, *, who: str = "baton"
    ) -> None:
        """Write an event."""
        number = rollout.id if rollout else None
        self._journal.events.append(self._clock(), kind, why, who=who, service=self._service, rollout=number, data=data)

    def log_now(self, kind: str, why: Why, data: Mapping[str, Any]) -> None:
        """Write an event of the rollout under way, if there is one."""
        self.log(kind, why, self._journal.rollouts.current(self._service), data)

    def meta(self, version: int, fingerprint: str) -> tuple[VersionMeta, str]:
        """What the version's folder says of itself, and what is wrong with that; read again when the folder changes."""
        known = self._metas.get(version)
        if known is None or known[0] != fingerprint:
            try:
                known = (fingerprint, self._read_meta(version), "")
            except CheckpointError as error:
                known = (fingerprint, VersionMeta(label=str(version)), str(error))
            self._metas[version] = known
        return known[1:]

    def begin(
        self, view: View, kind: Kind, version: int, previous: int | None, who: str, why: Why, *,
        promoted: bool = False, full: bool = False,
    ) -> Rollout:  # fmt: skip
        """Open a rollout for a version on disk.

        ``promoted``: a person asked for it, and it waits for no approval; ``full``: it takes all traffic at once.

        Raises:
            Refused: one is under way, or the folder is not there.
        """
        folder = view.folders.get(version)
        if folder is None:
            raise Refused(because(Reason.NO_SUCH_FOLDER, version=version))
        meta, wrong = self.meta(version, folder.fingerprint)
        release = self._journal.notes.release(version).get(self._service) or meta.release
        now = self._clock()
        asked = Rollout(
            id=0,
            service=self._service,
            kind=kind,
            candidate=version,
            previous=previous,
            phase=Phase.LOADING if kind is Kind.ROLLBACK else Phase.VERIFYING,
            who=who,
            why=why,
            release=release,
            label=meta.label,
            fingerprint=folder.fingerprint,
            started_at=now,
            phase_since=now,
            promoted=promoted,
            full=full,
        )
        self.end_pruning()
        rollout = self._journal.rollouts.begin(asked)
        if wrong:
            self._journal.rollouts.record(rollout, GateResult(Gate.INTEGRITY, Verdict.FAIL, wrong), now)
        return rollout

    def adopt(self, view: View) -> None:
        """Record that the alias's version serves, although the journal does not know how it came to."""
        version = view.alias
        assert version is not None  # noqa: S101 - one serves
        known, folder = view.records.get(version), view.folders.get(version)
        status, before = (None, None) if known is None else (known.status, known.reason)
        why = because(Reason.FOUND_SERVING, version=version, standing=status, before=before)
        log.log(logging.INFO if known is None else logging.WARNING, "%s: %s", self._service, why)
        self.log("adopt", why, None)
        self._stand(version, ReleaseStatus.ADOPTED, why, folder.fingerprint if folder is not None else "")

    def record_loaded(self, view: View) -> None:
        """Record the fingerprints of the folders that Triton has loaded, and of the unexpected entries beside them.

        What is recorded already stands: a load call that began meanwhile knows better. A new journal beside an alias is
        one that was lost, perhaps while the version before was kept loaded. The versions below the alias's are recorded
        as released then: otherwise none of them would ever be unloaded.
        """
        notes = self._journal.notes
        recorded = notes.loaded().get(self._service)
        if recorded is None and view.alias is not None:
            why = because(Reason.INHERITED, alias=view.alias)
            for version in sorted(v for v in view.version_policy if v < view.alias):
                self._stand(version, ReleaseStatus.RELEASED, why, "")
        notes.loaded().put(self._service, {**view.loaded, **(recorded or {})})
        if notes.unexpected().get(self._service) is None:
            notes.unexpected().put(self._service, view.known_unexpected)

    def _stand(self, version: int, status: ReleaseStatus, why: Why, fingerprint: str) -> None:
        record = VersionRecord(version, status, why, fingerprint, loaded=True, at=self._clock())
        self._journal.versions.put(self._service, record)

    def write(self, effect: Effect, view: View, rollout: Rollout, doing: Why) -> None:
        """Carry out an effect that only changes the rollout's record."""
        now = self._clock()
        match effect:
            case Advance(phase, why):
                self._journal.rollouts.advance(rollout, phase, why, now)
            case SetBackClock():
                self._journal.rollouts.cap_times(rollout, now)
            case AskAgain():
                self._journal.rollouts.drop_holds(rollout, "baton", because(Reason.STARTED_AGAIN), now)
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
                raise AssertionError(f"no code carries out {effect}")

    # Version folders on disk

    def prune(self, version: int, size: int, asked: Pruning) -> None:
        """Write down that a version's folder is about to be removed, whose bytes are ``size``."""
        why = because(Reason.PRUNED, version=version, bytes=size, keep=asked.keep, who=asked.who)
        self.log("prune", why, None, {"version": version, "bytes": size}, who=asked.who or "baton")
        removed = self._journal.notes.removed()
        known = {**(removed.get(self._service) or {}), version: Removed(self._clock(), size)}
        newest = sorted(known.items(), key=lambda one: one[1].at)[-MOST_REMOVED:]
        removed.put(self._service, dict(newest))

    def not_pruned(self, version: int, error: BatonError) -> None:
        """It could not be removed."""
        self.log("prune", because(Reason.NOT_PRUNED, version=version, error=str(error)), None, {"version": version})
        removed = self._journal.notes.removed()
        known = removed.get(self._service) or {}
        removed.put(self._service, {v: one for v, one in known.items() if v != version})

    def done_pruning(self, version: int, asked: Pruning) -> None:
        """It is gone, or can't be removed for now: the others are left to be removed."""
        left = replace(asked, versions=tuple(v for v in asked.versions if v != version))
        self._journal.notes.pruning().put(self._service, left)

    def end_pruning(self) -> None:
        """Nothing more is to be removed."""
        if self._journal.notes.pruning().get(self._service) is not None:
            self._journal.notes.pruning().put(self._service, None)

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

        def decided(version: int, status: ReleaseStatus, reason: Why) -> VersionRecord:
            known = view.records.get(version)
            before = "" if known is None else known.fingerprint
            seen = fingerprint if version == rollout.candidate else before
            return VersionRecord(version, status, reason, seen, loaded, now)

        records: list[VersionRecord] = []
        match outcome:
            case Outcome.LIVE:
                # Ended because it was found serving already: its gates were not all asked.
                found = rollout.stop is not None and rollout.stop.outcome is Outcome.LIVE
                status = ReleaseStatus.ADOPTED if found and rollout.candidate == view.alias else ReleaseStatus.RELEASED
                records.append(decided(rollout.candidate, status, why))
                if rollout.kind is Kind.ROLLBACK and rollout.previous is not None:
                    records.append(decided(rollout.previous, ReleaseStatus.WITHDRAWN, rollout.why))
            case Outcome.REJECTED if rollout.kind is not Kind.ROLLBACK:
                records.append(decided(rollout.candidate, ReleaseStatus.REJECTED, why))
            case Outcome.ROLLED_BACK | Outcome.ABORTED | Outcome.SUPERSEDED if rollout.kind is Kind.ROLLOUT:
                records.append(decided(rollout.candidate, ReleaseStatus.WITHDRAWN, why))
            case _:
                pass
        due = None
        if outcome is Outcome.LIVE and rollout.stop is None:
            served = (rollout.candidate, rollout.previous, *self._journal.rollouts.served(self._service))
            withdrawn = {r.version for r in records if r.status is ReleaseStatus.WITHDRAWN}
            due = after(view, rollout.candidate, self._settings, [v for v in served if v is not None], withdrawn)
        # Also nothing: a try to end that was killed may have been for another outcome.
        self._journal.notes.pruning().put(self._service, due)
        self._journal.rollouts.end(rollout, outcome, why, now, records)
