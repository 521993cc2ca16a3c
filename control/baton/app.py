"""The facade: one method a verb. ``ctl``, the local API and the metrics are faces of it.

Everything a method returns is one of ``baton.facts``. Every refusal is a ``BatonError`` that says what to do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from baton import __version__, report
from baton.clock import ForwardClock
from baton.config import Config
from baton.controller.build import build
from baton.controller.content import ContentVerifier
from baton.controller.engine_info import ByServer
from baton.controller.loop import Loop
from baton.controller.memory import VersionMemory
from baton.controller.service import Service
from baton.domain import Kind, Outcome, Phase, Release, ReleaseStatus, Rollout
from baton.errors import BatonError, Refused, RepositoryError, Unreachable
from baton.facts import ControlHealth, Paused, RolloutFacts, RolloutStory, Status, Ticket, VersionOnDisk
from baton.journal import Journal
from baton.plan import View
from baton.plan.traffic import before_traffic, position_of
from baton.reasons import Reason, because

STALE_AFTER_S = 30.0


class App:
    """All methods may be called from any thread."""

    def __init__(
        self,
        config: Config,
        loop: Loop,
        journal: Journal,
        manifest: Callable[[str, int], dict[str, str]],
        memory: Callable[[str], Mapping[int, VersionMemory]],
        engines: Callable[[str], Mapping[int, ByServer]],
    ) -> None:
        self.config = config
        self.source: Path | None = None
        """The file that ``config`` was read from."""
        self._loop = loop
        self._journal = journal
        self._manifest = manifest
        self._memory = memory
        self._engines = engines
        self._services = {s.name: s for s in loop.services}

    # What is

    def status(self, service: str | None = None) -> Status:
        """What ``ctl status`` shows."""
        wanted = [self._service(service)] if service is not None else list(self._services.values())
        with self._loop.lock:
            return Status(
                version=__version__,
                paused=self._loop.paused(),
                repository=str(self.config.repository.absolute()),
                servers=tuple(report.server(s, self._loop, wanted) for s in self.config.servers),
                services=tuple(
                    report.service(s, self._last(s), self._loop.loop_at, self._memory(s.name), self._engines(s.name))
                    for s in wanted
                ),
            )

    def versions(self, service: str | None = None) -> tuple[VersionOnDisk, ...]:
        """Versions on disk with their labels, metadata and state, and what lies beside them by mistake."""
        wanted = [self._service(service)] if service is not None else list(self._services.values())
        with self._loop.lock:
            return tuple(row for s in wanted for row in report.versions(s))

    def history(self, service: str | None = None, limit: int = 50) -> tuple[RolloutFacts, ...]:
        """Every rollout, newest first."""
        name = None if service is None else self._service(service).name
        found = self._journal.rollouts.newest(service=name, limit=limit)
        return tuple(report.rollout(rollout, self._services) for rollout in found)

    def rollout(self, number: int) -> RolloutStory:
        """One rollout with its events.

        Raises:
            Refused: there is none of that number.
        """
        found = self._journal.rollouts.get(number)
        if found is None:
            raise Refused(because(Reason.NO_ROLLOUT, number=number), mend="`ctl history` lists them.")
        return report.story(found, self._services, self._journal.events.newest(rollout=number))

    def health(self) -> ControlHealth:
        """Whether the control plane can do its work, and what it runs with."""
        runs = report.runs(self.config, self.source)
        try:
            self._journal.check()
        except BatonError as error:
            return ControlHealth(live=False, ready=False, message=str(error), runs=runs)
        age = self._loop.clock() - self._loop.loop_at
        live = self._loop.loop_at == 0.0 or age < STALE_AFTER_S
        silent = [i for i in self._loop.indexes.values() if isinstance(i, str)]
        answering = len(silent) < len(self._loop.indexes)
        message = "ok" if live else f"The control loop has not run for {age:.0f} s."
        if live and not answering:
            message = " ".join(silent) or "Starting."
        return ControlHealth(live=live, ready=live and answering, message=message, runs=runs)

    def acting(self) -> bool:
        """Whether this process acts, and does not stand by."""
        return True

    def loop_at(self) -> float:
        """When the loop last went round, in seconds since the epoch."""
        return self._loop.loop_at

    def counts(self) -> dict[tuple[str, str], int]:
        """Rollouts by service and outcome, over the life of the journal."""
        return self._journal.rollouts.counts()

    # What persons ask for

    def promote(self, service: str | None, version: int | None, *, full: bool, who: str) -> Ticket:
        """Start a version's rollout, or let one that waits go on: past the wait, and past the pause step it stands at.

        ``full`` skips the shadow and the traffic steps that remain, and no gate that is asked before them.
        """
        one = self._service(service)
        with self._loop.lock:
            view, rollout = self._look(one)
            if rollout is not None:
                if version not in (None, rollout.candidate) or rollout.kind is not Kind.ROLLOUT:
                    raise _busy(rollout)
                if rollout.stop is not None or rollout.phase is Phase.ROLLING_BACK:
                    why = because(Reason.ROLLED_BACK) if rollout.stop is None else rollout.stop.why
                    raise Refused(because(Reason.ON_ITS_WAY_BACK, version=rollout.candidate, why=why))
                if rollout.phase in report.MOVED:
                    raise Refused(because(Reason.SERVES_ALREADY, version=rollout.candidate))
                if rollout.phase is Phase.WAITING and (held := rollout.held()) is not None:
                    raise Refused(
                        because(Reason.NOT_PROMOTED, version=rollout.candidate, gate=held.gate, said=held.message),
                        mend=f"`ctl retry {rollout.candidate}` runs the gate again, `ctl abort` ends the rollout.",
                    )
                pause = rollout.progressed_at is not None and position_of(rollout, one.settings).pause
                self._journal.rollouts.promote(rollout, who, self._loop.clock(), full=full, approve=pause)
                self._loop.wake()
                return _ticket(rollout, "live", f"The rollout of version {rollout.candidate} continues.")
            chosen = version if version is not None else self._next(one, view)
            self._startable(view, chosen)
            used = view.alias is None and any(chosen in s.ready() for s in view.live())
            why = because(Reason.ADOPTED if used else Reason.PROMOTED)
            opened = one.begin(view, Kind.ROLLOUT, chosen, view.stable(), who, why, promoted=True, full=full)
            self._loop.wake()
            return _ticket(opened, "live", f"The rollout of version {chosen} begins.")

    def rollback(self, service: str | None, to: int | None, *, who: str) -> Ticket:
        """Back to the previous version, or a named one, at once."""
        one = self._service(service)
        with self._loop.lock:
            view, rollout = self._look(one)
            if rollout is not None:
                if to is not None and to != rollout.previous:
                    raise _busy(rollout)
                if rollout.previous is None:
                    raise Refused(because(Reason.NONE_EARLIER), mend="`ctl abort` ends this rollout.")
                one.halt(rollout, _outcome_of_stop(rollout), who, because(Reason.ASKED_BACK, who=who))
                return _ticket(rollout, "ended", f"Back to version {rollout.previous}.")
            target = to if to is not None else self._previous(one, view)
            if target == view.alias:
                raise Refused(because(Reason.SERVES_ALREADY, version=target))
            if target not in view.folders or not view.folders[target].complete:
                raise Refused(because(Reason.NOT_WHOLE, version=target), mend="`ctl versions` lists what is.")
            record = view.records.get(target)
            if target > (view.alias or 0) and (record is None or record.status is ReleaseStatus.REJECTED):
                raise Refused(
                    because(Reason.NEVER_SERVED, version=target),
                    mend=f"`ctl promote {target}` starts its rollout.",
                )
            why = because(Reason.ASKED_BACK, who=who)
            opened = one.begin(view, Kind.ROLLBACK, target, view.alias, who, why, promoted=True)
            self._loop.wake()
            return _ticket(opened, "live", f"Version {target} is loaded again, then the alias moves.")

    def abort(self, service: str | None, *, who: str) -> Ticket:
        """Stop the running rollout and return to the stable version."""
        one = self._service(service)
        with self._loop.lock:
            rollout = self._journal.rollouts.current(one.name)
            if rollout is None:
                raise Refused(because(Reason.NONE_UNDER_WAY, service=one.name))
            one.halt(rollout, _outcome_of_stop(rollout), who, because(Reason.ABORTED, who=who))
            return _ticket(rollout, "ended", f"Rollout of version {rollout.candidate} is being stopped.")

    def retry(self, service: str | None, version: int | None, *, release: str | None, who: str) -> Ticket:
        """Try a refused or withdrawn version again, if need be declared anew; or accept a live folder as unchanged."""
        one = self._service(service)
        with self._loop.lock:
            view, _ = self._look(one)
        if version is not None and version == view.alias:
            return self._accept(one, view, version, who)
        with self._loop.lock:
            view, rollout = self._look(one)  # again: the loop may have gone on in between
            if rollout is not None:
                return self._ask_again(rollout, version, release, who)
            decided = [
                r for r in view.records.values() if r.status in (ReleaseStatus.REJECTED, ReleaseStatus.WITHDRAWN)
            ]
            if version is None and not decided:
                raise Refused(because(Reason.NOTHING_TO_RETRY, service=one.name))
            chosen = version if version is not None else max(decided, key=lambda r: r.at).version
            if release is not None:
                self._journal.notes.release(chosen).put(one.name, Release(release))
            self._startable(view, chosen, again=True)
            self._journal.versions.forget(one.name, chosen, who, self._loop.clock())
            why = because(Reason.TRIED_AGAIN, release=release)
            opened = one.begin(view, Kind.ROLLOUT, chosen, view.stable(), who, why, promoted=False)
            self._loop.wake()
            return _ticket(opened, "live", f"Version {chosen} is {why}.")

    def _ask_again(self, rollout: Rollout, version: int | None, release: str | None, who: str) -> Ticket:
        """Ask the gates of a rollout that waits for evidence once more."""
        if rollout.phase is not Phase.WAITING or rollout.held() is None or version not in (None, rollout.candidate):
            raise _busy(rollout)
        if release not in (None, rollout.release):
            raise Refused(
                because(Reason.JUDGED_AS, version=rollout.candidate, release=rollout.release),
                mend=f"`ctl abort`, then `ctl retry {rollout.candidate} --release {release}`.",
            )
        why = because(Reason.HELD_ASKED_AGAIN, version=rollout.candidate)
        opened = self._journal.rollouts.drop_holds(rollout, who, why, self._loop.clock())
        self._loop.wake()
        return _ticket(opened, "live", str(why))

    def verify(self, service: str | None, version: int, *, who: str) -> Ticket:
        """Every gate on a version, with no traffic and no promotion."""
        one = self._service(service)
        with self._loop.lock:
            view, rollout = self._look(one)
            if rollout is not None:
                raise _busy(rollout)
            if version == view.alias:
                raise Refused(because(Reason.GATES_BEHIND, version=version))
            self._on_disk(view, version)
            opened = one.begin(view, Kind.CHECK, version, view.alias, who, because(Reason.VERIFICATION), promoted=True)
            self._loop.wake()
            return _ticket(opened, "ended", f"Version {version} is checked by every gate.")

    def pause(self, *, who: str) -> Paused:
        """Freeze what goes on by itself. Rollback, abort and what a person starts still work."""
        return self._pause(who, paused=True)

    def resume(self, *, who: str) -> Paused:
        """Let it go on."""
        return self._pause(who, paused=False)

    def expect(self, service: str | None, version: int, timeout_s: float) -> Ticket:
        """Wait until the rollout of a pushed version has begun; ``rollout`` is null when it has not."""
        one = self._service(service)
        deadline = time.monotonic() + timeout_s
        while True:
            for rollout in self._journal.rollouts.newest(service=one.name):
                if rollout.candidate == version and rollout.kind is Kind.ROLLOUT:
                    return _ticket(rollout, "live", f"The rollout of version {version} has begun.")
            left = deadline - time.monotonic()
            if left <= 0:
                return Ticket(one.name, None, "live", one.decision.message)
            self._loop.next_round(left)

    # Helpers

    def _service(self, name: str | None) -> Service:
        return self._services[self.config.service(name).name]

    def _last(self, service: Service) -> Rollout | None:
        return next(iter(self._journal.rollouts.newest(service=service.name, limit=1)), None)

    def _look(self, service: Service) -> tuple[View, Rollout | None]:
        """The service as it is now.

        Raises:
            Unreachable: the loop has not looked yet.
            RepositoryError: a file of the service is broken, and not restored yet.
        """
        if service.view is None:
            raise Unreachable(because(Reason.JUST_STARTED), mend="Try again in a moment.")
        view = service.observe(self._loop.indexes, paused=self._loop.paused())
        if view.repairs:
            raise RepositoryError(str(because(Reason.CONFIG_BROKEN, error=view.repairs[0].problem)))
        return view, view.rollout

    def _pause(self, who: str, *, paused: bool) -> Paused:
        with self._loop.lock:
            why = because(Reason.PAUSED if paused else Reason.RESUMED)
            self._journal.events.append(self._loop.clock(), "pause" if paused else "resume", why, who=who)
            for service in self._services.values() if paused else ():
                if (rollout := self._journal.rollouts.current(service.name)) is not None:
                    self._journal.rollouts.freeze(rollout)
            self._loop.set_paused(paused)
        return Paused(paused=paused, message=str(why))

    def _next(self, service: Service, view: View) -> int:
        waiting = view.pending(service.settings)
        if not waiting:
            raise Refused(because(Reason.NOTHING_NEW), mend="`ctl push DIR` brings one.")
        return max(f.version or 0 for f in waiting)

    def _on_disk(self, view: View, version: int) -> None:
        folder = view.folders.get(version)
        if folder is None:
            raise Refused(because(Reason.NO_SUCH_FOLDER, version=version), mend="`ctl versions` lists what is there.")
        if folder.missing:
            raise Refused(because(Reason.ARRIVING, version=version, lacks=folder.missing[0]))

    def _startable(self, view: View, version: int, *, again: bool = False) -> None:
        if view.alias is not None and version == view.alias:
            raise Refused(because(Reason.SERVES_ALREADY, version=version))
        if view.alias is not None and version < view.alias:
            raise Refused(
                because(Reason.LOWER, version=version, serves=view.alias),
                mend=f"`ctl rollback --to {version}` goes back.",
            )
        # First: a folder that was cut off for good was refused, and is not "still arriving".
        if (refusal := view.refused(version)) is not None and not again:
            raise Refused(
                because(Reason.WAS_REFUSED, version=version, why=refusal.reason),
                mend=f"`ctl retry {version}` tries again.",
            )
        self._on_disk(view, version)
        if (blocked := view.loads_blocked()) is not None:
            raise Refused(blocked)

    def _previous(self, service: Service, view: View) -> int:
        """The version that served before the present one and was not taken back itself."""
        for version in self._journal.rollouts.served(service.name):
            record = view.records.get(version)
            withdrawn = record is not None and record.status is ReleaseStatus.WITHDRAWN
            if version != view.alias and not withdrawn and version in view.folders:
                return version
        lower = sorted(v for v, f in view.folders.items() if v < (view.alias or 0) and f.complete)
        listed = f"On disk are {', '.join(map(str, lower))}: name one with --to." if lower else None
        raise Refused(because(Reason.NONE_KNOWN_EARLIER), mend=listed)

    def _accept(self, service: Service, view: View, version: int, who: str) -> Ticket:
        """The folder of the live version was changed: prove that its content is what serves, then go on.

        Hashes the whole folder, outside of the loop's lock.
        """
        folder = view.folders.get(version)
        if folder is None:
            raise Refused(because(Reason.LIVE_FOLDER_GONE, version=version), mend="Put it back first.")
        if view.loaded.get(version) == folder.fingerprint:
            raise Refused(because(Reason.UNCHANGED, version=version))
        proof = ContentVerifier(
            service.name, self._journal, lambda number: self._manifest(service.name, number), self._loop.clock
        )
        proof.accept(version, folder, who)
        self._loop.wake()
        message = (
            f"The folder of version {version} holds the files that serve. The next load call loads them once more."
        )
        return Ticket(service.name, None, "ended", message)


def _ticket(rollout: Rollout, until: Literal["live", "ended"], message: str) -> Ticket:
    return Ticket(rollout.service, rollout.id, until, message)


def _busy(rollout: Rollout) -> Refused:
    return Refused(
        because(Reason.BUSY, kind=rollout.kind, version=rollout.candidate, phase=rollout.phase),
        mend="Wait for its end, or `ctl abort` it.",
    )


def _outcome_of_stop(rollout: Rollout) -> Outcome:
    return Outcome.ABORTED if before_traffic(rollout) else Outcome.ROLLED_BACK


@contextmanager
def open_app(config: Config, held: Callable[[], None] = lambda: None) -> Iterator[App]:
    """Start the control plane in this process, and stop it at the end.

    ``held`` raises when the state directory is not this process's any more.
    """
    wake = threading.Event()
    parts = build(config, clock=ForwardClock(), wake=wake, held=held)
    parts.start()
    try:
        yield App(config, parts.loop, parts.journal, parts.manifest, parts.memory.of, parts.engines.of)
    finally:
        parts.close()
