"""One control plane in the yard: the real loop, service, tasks, journal and facade, put together as ``build`` does."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from tests.simulation.crew import Crew, Job, Lock, Seen
from tests.simulation.disk import ToldConnection, ToldFiles
from tests.simulation.servers import QUESTION, Asker, Processes, Remover
from tests.simulation.yard import Yard
from tests.support.rules import ALIAS, ENGINE, SPLITTER

from baton.app import App
from baton.clock import ForwardClock
from baton.config import Config, ServerConfig
from baton.controller.loop import Loop
from baton.controller.ports import Checks, Ports
from baton.controller.service import Service
from baton.domain import Gate, GateResult, Model, Outcome, Phase, Release, Rollout, Stop, VersionMeta, VersionRecord
from baton.errors import BatonError
from baton.journal import JOURNAL, Journal, Note
from baton.journal.database import Database
from baton.journal.notes import Notes
from baton.journal.rollouts import Rollouts
from baton.plan import Effect
from baton.reasons import Why
from baton.state_lock import claim
from baton.triton.key import Caps, Key, token_file
from baton.triton.port import Triton
from baton.triton.quarantine import QuarantineTriton

SOCKET = "control.sock"


class ToldJournal(Journal):
    """The real journal on a real file. What it is about to write down is checked first."""

    def __init__(self, yard: Yard) -> None:
        super().__init__(yard.root / "state" / JOURNAL)
        self.database.connection = ToldConnection(self.database.connection, yard.act)  # type: ignore[assignment]
        self.notes = ToldNotes(self.database, yard)
        self.rollouts = ToldRollouts(self.database, self.notes, yard)


class ToldNotes(Notes):
    def __init__(self, database: Database, yard: Yard) -> None:
        super().__init__(database)
        self._yard = yard

    def config_text(self, model: Model) -> Note[str]:
        note = super().config_text(model)
        put = note.put

        def told(service: str, value: str | None) -> None:
            put(service, value)
            self._yard.noted(model, value)

        note.put = told  # type: ignore[method-assign]
        return note


class ToldRollouts(Rollouts):
    def __init__(self, database: Database, notes: Notes, yard: Yard) -> None:
        super().__init__(database, notes)
        self._yard = yard

    def begin(self, rollout: Rollout) -> Rollout:
        opened = super().begin(rollout)
        self._yard.began(opened)
        return opened

    def advance(self, rollout: Rollout, phase: Phase, why: Why, at: float) -> None:
        if phase is Phase.SHIFTING:
            self._yard._check_shadow(rollout)
        super().advance(rollout, phase, why, at)

    def halt(self, rollout: Rollout, stop: Stop, at: float) -> None:
        super().halt(rollout, stop, at)
        self._yard.say(f"  the rollout is stopped by {stop.who}: {stop.why}")
        self._yard.stops += 1
        if self._yard.stopped_at is None:
            self._yard.stopped_at = self._yard.seconds

    def renew(self, rollout: Rollout, at: float) -> None:
        self._yard.need(rollout.stop is None, "the lease of a stopped candidate is renewed")
        super().renew(rollout, at)

    def progress(self, rollout: Rollout, seconds: float, at: float, why: Why, result: GateResult | None) -> None:
        self._yard._check_progress(rollout, seconds)
        super().progress(rollout, seconds, at, why, result)

    def take_over(self, rollout: Rollout, why: Why, at: float) -> None:
        self._yard._check_take_over(rollout)
        super().take_over(rollout, why, at)
        self._yard.say(f"  the candidate takes over: {why}")

    def record(self, rollout: Rollout, result: GateResult, at: float) -> None:
        super().record(rollout, result, at)
        self._yard.say(f"  gate {result.gate}: {result.verdict}")

    def end(self, rollout: Rollout, outcome: Outcome, why: Why, at: float, records: list[VersionRecord]) -> None:
        self._yard.ends(rollout, outcome, why)
        super().end(rollout, outcome, why, at, records)
        self._yard.outcomes.append(outcome)


class Plane:
    """A control plane that runs, until it is killed or stops.

    Raises:
        Refused: another one holds the state directory.
        JournalError: the state directory can't be written.
    """

    def __init__(self, yard: Yard) -> None:
        self.yard = yard
        self.dead = False
        self.starting: Effect | None = None
        """An effect that is about to begin: it stands in the books already."""
        self.seen = Seen()
        self.round: Job | None = None
        self.clock = ForwardClock(yard.wall_now)
        self._held = contextlib.ExitStack()
        self._held.enter_context(claim(yard.root / "state" / SOCKET))
        with contextlib.ExitStack() as opened:
            opened.push(self._held)
            self.journal = ToldJournal(yard)
            opened.pop_all()
        self.crew = Crew(yard.starting, lambda: self.seen)
        key = Key(token_file(yard.root / "state", ALIAS), Caps.of(yard.config.traffic))
        files = ToldFiles(yard.root / "repository", yard.about_to_write, key)
        processes = {model: Processes(model, yard) for model in (ENGINE, SPLITTER)}

        def given_up(server: str, model: str, version: int) -> None:
            processes[model].end(server, version)

        servers = {name: QuarantineTriton(server, given_up) for name, server in yard.servers.items()}
        ports = Ports(
            files,
            servers,
            self.journal,
            yard.scan,
            Remover(yard),
            lambda version: VersionMeta(str(version)),
            self.clock,
            lambda: None,
            processes[ENGINE],
            processes[SPLITTER],
        )
        self.service = Service(yard.config, ports, Checks(Asker(yard, servers), _ask))
        yard.settings = self.service.settings
        self.service.tasks._pool = self.crew  # type: ignore[assignment]
        self.service.live_evidence.judge = self._judge  # type: ignore[method-assign]
        self.loop = Loop([self.service], servers, self.journal, self.clock, threading.Event(), 1.0)
        self.loop._pool = self.crew  # type: ignore[assignment]
        self.loop.lock = Lock(self.crew)  # type: ignore[assignment]
        named = tuple(ServerConfig(name, "127.0.0.1:1") for name in yard.servers)
        config = Config(yard.root / "repository", yard.root / "state", servers=named, services=(yard.config,))
        self.app = App(config, self.loop, self.journal, yard.manifest, lambda _service: {}, lambda _service: {})
        self._rollout: Rollout | None = None
        self._fresh = False

    def _judge(self, _now: float, _release: Release, *, shadow_only: bool) -> GateResult:
        verdict = self.yard.ordered_live
        if verdict is None:
            raise BatonError("There is no word of live traffic.")
        return GateResult(Gate.LIVE, verdict, f"live traffic says {verdict}.")

    def changed(self) -> None:
        self._fresh = False

    def rollout(self) -> Rollout | None:
        """The rollout under way, as the journal has it."""
        if not self._fresh:
            self._rollout, self._fresh = self.journal.rollouts.current(ALIAS), True
        return self._rollout

    def oldest(self) -> int:
        """The oldest state of the folders that something which is under way knows."""
        return min([self.seen.folders, *(job.seen.folders for job in self.crew._jobs)])

    def turn(self, *, scan: bool = True) -> None:
        """The loop goes on: to its next stop, or around once more."""
        if self.round is None or self.round.run.dead:
            self.round = self.crew.spawn("loop", lambda: self.loop.once(scan=scan))
        before = self.service.decision
        self.crew.go(self.round)
        after = self.service.decision
        if (before.phase, before.message) != (after.phase, after.message):
            self.yard.say(f"  [{after.phase}] {after.message}")

    def verb(self, label: str, work: Any) -> None:
        """A person asks for something; others may have their turn in the middle."""

        def ask() -> None:
            try:
                work(self.app)
            except BatonError as error:
                self.yard.say(f"  {label}: {error}")

        self.crew.spawn(label, ask)

    def close(self) -> None:
        """As a killed process leaves it."""
        self.dead = True
        self.crew.kill()
        self.journal.close()
        self._held.close()


def _ask(server: Triton, version: int, timeout_s: float) -> None:
    server.infer(ENGINE, version, QUESTION, timeout_s)
