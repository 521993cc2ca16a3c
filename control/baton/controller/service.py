"""One service: what is seen of it, what is decided, and what is done about it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from baton.config import ServiceConfig
from baton.controller.actor import Actor
from baton.controller.config_repairer import ConfigRepairer
from baton.controller.health import Health
from baton.controller.live_evidence import LiveEvidenceCollector
from baton.controller.model_loader import ModelLoader
from baton.controller.ports import Checks, Ports
from baton.controller.probing import Probing
from baton.controller.recorder import RolloutRecorder
from baton.controller.settings import rollout_settings
from baton.controller.splitter_client import SplitterClient
from baton.controller.tasks import Tasks
from baton.controller.traffic_split import TrafficSplit
from baton.controller.view_builder import ViewBuilder, splitter_state
from baton.domain import (
    GATES_OF,
    Gate,
    GateResult,
    Kind,
    ModelState,
    Outcome,
    Phase,
    Removed,
    Rollout,
    Stop,
    Verdict,
    VersionMeta,
)
from baton.local import procfs
from baton.plan import Ask, Decision, Prune, Upkeep, View, plan
from baton.plan.traffic import stepwise
from baton.plan.view import backoff
from baton.reasons import Reason, Why, because
from baton.triton.port import Index
from baton.triton.repository import SPLITTER_VERSION


class Service:
    """Observes, decides and acts for one service, under the loop's lock unless a method says otherwise."""

    def __init__(self, config: ServiceConfig, ports: Ports, checks: Checks) -> None:
        self.config = config
        self.name = config.name
        self.files = ports.files
        self._ports = ports
        self.tasks = Tasks(config.name, ports.clock, ports.wake)
        self.settings = rollout_settings(config)
        self._recorder = RolloutRecorder(config, ports)
        self.live_evidence = LiveEvidenceCollector(config)
        self.splitter_client = SplitterClient(config, ports.files, ports.servers, self.live_evidence)
        probing = Probing(
            config, ports, checks.golden, self.splitter_client, self.live_evidence, self.settings, self.tasks
        )
        self.split = TrafficSplit(ports, self.splitter_client, self.live_evidence, probing, self.settings, self.tasks)
        self.health = Health(config, ports, checks.question, self.tasks, self._log_health)
        configs = ConfigRepairer(ports.files, ports.journal, ports.clock, partial(self._recorder.log_now, "mend"))
        self._views = ViewBuilder(config, ports, configs, self.splitter_client, self.split, self.health, self.tasks)
        self._actor = Actor(
            config, ports, checks, self.tasks, ModelLoader(config, ports), self._recorder, configs,
            self.splitter_client, self.health,
        )  # fmt: skip
        self._round_began = procfs.uptime()
        self.view: View | None = None
        """The service as it was last seen."""
        self.blind = False
        """It could not be seen when it was last looked at; ``decision`` says why."""
        self.decision = Decision(Phase.EMPTY, because(Reason.STARTING))

    # Observing

    def scan(self) -> None:
        """List the engine's directory. Called without the loop's lock: a network file system may be slow."""
        self._views.scan()

    def begin_round(self) -> None:
        """The servers' indexes are about to be read."""
        self._views.begin_round()
        self._round_began = procfs.uptime()

    def observe(self, indexes: Mapping[str, Index | str], *, paused: bool) -> View:
        """What is to be seen of the service now. Changes nothing; see ``baton.controller.view_builder``.

        ``indexes``: each server's repository index, or why there is none.
        """
        self.blind = True
        view = self._views.build(indexes, paused=paused)
        if not view.repairs:
            self.view, self.blind = view, False
        return view

    def meta(self, version: int, fingerprint: str) -> tuple[VersionMeta, str]:
        """What the version's folder says of itself, and what is wrong with that."""
        return self._recorder.meta(version, fingerprint)

    # Deciding and acting

    def guard(self, indexes: Mapping[str, Index | str]) -> None:
        """Have the processes of what is loaded guarded: one that stands still is ended before it can wake."""
        begun = (ModelState.READY, ModelState.UNLOADING)
        for server, index in indexes.items():
            if not isinstance(index, str):
                engines = [v for v, m in index.get(self.config.engine, {}).items() if m.state in begun]
                splitters = [SPLITTER_VERSION] if splitter_state(index, self.config) in begun else []
                self._ports.engines.guard(server, engines, self._round_began)
                self._ports.splitters.guard(server, splitters, self._round_began)

    def step(self, view: View) -> bool:
        """Decide once and act once. True when something changed at once, so that it is worth looking again."""
        decision = plan(view, self.settings)
        effect, rollout = decision.effect, view.rollout
        upkeep = bool(view.repairs) or isinstance(effect, Upkeep)
        if not upkeep:
            self._views.just_started = False
            self._go_on(view)
        if effect is None:
            self.decision = decision
            return False
        if not backoff(view.failed.get(effect), view.now) and self._actor.act(effect, view, decision.why):
            if isinstance(effect, Prune):
                self._views.forget(effect.version)
            if not upkeep:  # what is over in a moment need not be shown
                self.decision = decision
            return True
        self.decision = decision
        failure = self.tasks.failed().get(effect)
        if failure is not None and effect not in self.tasks.running():
            # A person wants to read why it can't be done, and not what would be done.
            phase = Phase.DEGRADED if rollout is None else decision.phase
            self.decision = Decision(phase, because(Reason.TROUBLE, error=failure.message))
        return False

    def _go_on(self, view: View) -> None:
        """What is done all the time, and never by decision."""
        rollout = view.rollout
        if rollout is not None and (rollout.stop is not None or rollout.phase is Phase.ROLLING_BACK):
            self._actor.stop_asking()
        self.split.judge(view)
        self.split.steer(view)
        self.health.watch(view)
        self._actor.verify_content(view, self.settings.settle)
        self._actor.delete_removed(view)

    def _log_health(self, why: Why, data: Mapping[str, Any]) -> None:
        self._recorder.log_now("health", why, data)
        self._ports.wake()

    # What persons ask for

    def begin(
        self, view: View, kind: Kind, version: int, previous: int | None, who: str, why: Why, *,
        promoted: bool = False, full: bool = False,
    ) -> Rollout:  # fmt: skip
        """Open a rollout for a version on disk; see :meth:`RolloutRecorder.begin`."""
        rollout = self._recorder.begin(view, kind, version, previous, who, why, promoted=promoted, full=full)
        self.tasks.forget_failures()
        return rollout

    def halt(self, rollout: Rollout, outcome: Outcome, who: str, why: Why) -> None:
        """Turn the rollout back. The gates that are being asked are called off at once."""
        self._ports.journal.rollouts.halt(rollout, Stop(outcome, who, why), self._ports.clock())
        self._actor.stop_asking()
        self._ports.wake()

    def removed(self) -> Mapping[int, Removed]:
        """The versions that were removed from disk, and when."""
        return self._ports.journal.notes.removed().get(self.name) or {}

    def deleting(self) -> tuple[int, ...]:
        """The removed versions whose files are still to be deleted."""
        return self._ports.remover.left()

    def gates_of(self, rollout: Rollout) -> list[GateResult]:
        """Every gate of the rollout with its verdict so far."""
        asking = {e.gate for e in self.tasks.running() if isinstance(e, Ask)}
        shown = []
        gates = GATES_OF[rollout.kind]
        if stepwise(rollout, self.settings):
            gates = (*gates, Gate.LIVE)
        for gate in gates:
            result = rollout.gates.get(gate)
            if gate is Gate.LIVE and self.split.verdict is not None:
                result = self.split.verdict
            if gate in asking or (gate is Gate.LOAD and rollout.phase is Phase.LOADING and result is None):
                result = GateResult(gate, Verdict.RUNNING, "being asked")
            shown.append(result or GateResult(gate, Verdict.PENDING, "not asked yet"))
        return shown
