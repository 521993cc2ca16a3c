"""One service: what is seen of it, and how the plan's effects are carried out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from baton.config import ServiceConfig
from baton.controller.config_repairer import ConfigRepairer
from baton.controller.content import LOADED, UNEXPECTED, ContentVerifier
from baton.controller.health import UNSEEN, Health, Processes, Question
from baton.controller.model_loader import ModelLoader
from baton.controller.probing import Probing
from baton.controller.recorder import RolloutRecorder
from baton.controller.settings import rollout_settings
from baton.controller.splitter_client import SplitterClient
from baton.controller.tasks import Task, Tasks
from baton.controller.traffic_split import TrafficSplit
from baton.domain import (
    GATES_OF,
    Folder,
    Gate,
    GateResult,
    Kind,
    Model,
    ModelState,
    ModelVersion,
    Outcome,
    Phase,
    Release,
    Rollout,
    Stop,
    Verdict,
    VersionMeta,
)
from baton.errors import BatonError, CheckpointError, Refused, TritonError
from baton.journal import Journal
from baton.local import procfs
from baton.plan import (
    Ask,
    Begin,
    Decision,
    Effect,
    End,
    Reload,
    ServerView,
    SetAlias,
    SetPolicy,
    SetSplitter,
    Sync,
    VerifyContent,
    View,
    plan,
)
from baton.plan.traffic import stepwise
from baton.plan.view import backoff
from baton.probe import Cancelled
from baton.reasons import Reason, Why, because
from baton.triton.port import Index, Tensors, Triton
from baton.triton.repository import SPLITTER_VERSION, ServiceFiles

log = logging.getLogger(__name__)


class Asker(Protocol):
    """Asks a gate about a version; see ``baton.controller.gates``."""

    def ask(self, gate: Gate, rollout: Rollout, cancelled: Callable[[], bool]) -> GateResult:
        """The gate's verdict. May take minutes; ``cancelled`` turns true when nobody wants it any more."""
        ...


class Scan(Protocol):
    """Lists an engine's directory; see ``baton.watch.scan``."""

    def __call__(self) -> list[Folder]: ...


class Service:
    """Sees, decides and acts for one service, under the loop's lock unless a method says otherwise."""

    def __init__(
        self,
        config: ServiceConfig,
        files: ServiceFiles,
        servers: Mapping[str, Triton],
        journal: Journal,
        asker: Asker,
        scan: Scan,
        read_meta: Callable[[int], VersionMeta],
        clock: Callable[[], float],
        wake: Callable[[], None],
        question: Question | None = None,
        processes: Processes = UNSEEN,
        splitters: Processes = UNSEEN,
        proof: ContentVerifier | None = None,
        golden: Sequence[Tensors] = (),
    ) -> None:
        self.config = config
        self.files = files
        self.name = config.name
        self._servers = servers
        self._journal = journal
        self._asker = asker
        self._scan = scan
        self._read_meta = read_meta
        self._clock = clock
        self._wake = wake
        self._proof = proof
        self.tasks = Tasks(config.name, clock, wake)
        self.settings = rollout_settings(config)
        self._loader = ModelLoader(config, files, servers, journal)
        self._recorder = RolloutRecorder(config.name, journal, config.traffic.lease, clock)
        self.steering = SplitterClient(config, files, servers)
        probing = Probing(config, servers, golden, self.steering, self.settings, self.tasks, clock)
        self.split = TrafficSplit(self.steering, probing, splitters, self.settings, self.tasks, clock)
        self.health = Health(config, servers, question, processes, self.tasks, clock, self._tell_health)
        self._processes, self._splitters = processes, splitters
        self._as_of = procfs.uptime()
        self._repairer = ConfigRepairer(files, journal, clock, self._tell_mended)
        self._begun: frozenset[Effect] = frozenset()
        self._leaving: dict[tuple[str, int], float] = {}
        self._gone: set[tuple[str, int]] = set()
        self._entries: list[Folder] | None = None
        """None until the directory could be listed: what was never seen is not gone."""
        self._metas: dict[int, tuple[str, VersionMeta, str]] = {}
        self.view: View | None = None
        self.blind = False
        """It could not be seen when it was last looked at; ``decision`` says why."""
        self.decision = Decision(Phase.EMPTY, because(Reason.STARTING))

    # Seeing

    def scan(self) -> list[Folder]:
        """Look at the engine's directory. Called without the loop's lock: a network file system may be slow."""
        self._entries = self._scan()
        return self._entries

    def look(self) -> None:
        """The servers' indexes are about to be read: calls that run now may change what they show, also if they end."""
        self._begun = frozenset(e for e in self.tasks.running() if isinstance(e, Sync | Reload))
        self._as_of = procfs.uptime()

    def observe(self, indexes: Mapping[str, Index | str], *, paused: bool) -> View:
        """Put together what is seen. ``indexes``: each server's repository index, or why there is none."""
        self.blind = True
        # Before the journal is read: what ends meanwhile has its result there, or still counts as running.
        running = self.tasks.running() | self._begun
        entries = self.scan() if self._entries is None else self._entries
        now, rollout = self._clock(), self._journal.open_rollout(self.name)
        if rollout is not None and now < max(rollout.phase_since, rollout.progressed_at or 0, rollout.renewed_at or 0):
            rollout = self._journal.set_back(rollout, now)
        if self.view is None and rollout is not None and rollout.phase is Phase.WAITING and rollout.held() is not None:
            rollout = self._journal.ask_again(rollout, "baton", because(Reason.STARTED_AGAIN), now)
        folders = {f.version: f for f in entries if f.version is not None and f.problem is None}
        unexpected = tuple(f for f in entries if f.problem is not None)
        servers = tuple(self._server_view(name, index, rollout) for name, index in indexes.items())
        known = self._journal.memo(self.name, LOADED)
        loaded = {int(v): f for v, f in (known or {}).items()}
        known_unexpected = self._journal.memo(self.name, UNEXPECTED)
        # First sight: what Triton serves already, it loaded from what is there. Nothing is disturbed.
        news = {v: folders[v].fingerprint for s in servers for v in s.ready() if v in folders and v not in loaded}
        if news:
            loaded |= news
            self._journal.set_memo(self.name, LOADED, loaded)
        if known_unexpected is None:
            known_unexpected = {s.name: s.fingerprint for s in unexpected}
            self._journal.set_memo(self.name, UNEXPECTED, known_unexpected)
        version_policy = self._repairer.policy()
        alias, split = self._repairer.alias_and_split()
        if known is None and alias is not None:
            self._recorder.inherit(alias, version_policy)
        self.view = View(
            service=self.name,
            now=now,
            version_policy=version_policy,
            alias=alias,
            split=split,
            splitter=self._repairer.splitter(),
            keyed=self.files.keyed(),
            servers=servers,
            folders=folders,
            unexpected=unexpected,
            records=self._journal.version_records(self.name),
            loaded=loaded,
            known_unexpected=known_unexpected,
            rollout=rollout,
            running=running,
            failed=self.tasks.failed(),
            paused=paused,
            live_gate=self.split.judge(rollout, now),
            unhealthy=self.health.unhealthy(),
            answered=self.health.answered(),
        )
        self.blind = False
        return self.view

    def _server_view(self, name: str, index: Index | str, rollout: Rollout | None) -> ServerView:
        if isinstance(index, str):
            return ServerView(name, live=False, reason=index)
        states = [m.state for m in index.get(self.config.splitter, {}).values()]
        splitter = next((s for s in states if s is not ModelState.UNAVAILABLE), None)
        split = False
        if splitter is None:
            self.steering.forget(name)
        else:
            try:
                split = self._servers[name].step(self.config.name) == self.config.splitter
            except BatonError as error:
                return ServerView(name, live=False, reason=str(error))
        inflight = None
        if rollout is not None and rollout.phase is Phase.RETIRING:
            try:
                inflight = self._servers[name].inflight(self.config.engine)
            except BatonError as error:
                log.warning("%s", error)
        engine = index.get(self.config.engine, {})
        begun = (ModelState.READY, ModelState.UNLOADING)
        self._processes.guard(name, [v for v, m in engine.items() if m.state in begun], self._as_of)
        self._splitters.guard(name, [SPLITTER_VERSION] if splitter in begun else [], self._as_of)
        return ServerView(
            name,
            live=True,
            engine=engine,
            alias=index.get(self.config.name, {}),
            split=split,
            splitter=splitter,
            steered=self.steering.steered(name),
            locked=self.steering.locked(name),
            outstanding=self.steering.outstanding(name),
            inflight=inflight,
            leaving_since=self._leaving_since(name, engine),
            emptied=self._emptied(name, engine),
        )

    def _leaving_since(self, name: str, engine: Mapping[int, ModelVersion]) -> dict[int, float]:
        """When each version that is UNLOADING was first seen so, by this control plane."""
        leaving = {v for v, m in engine.items() if m.state is ModelState.UNLOADING}
        self._leaving = {k: at for k, at in self._leaving.items() if k[0] != name or k[1] in leaving}
        return {v: self._leaving.setdefault((name, v), self._clock()) for v in leaving}

    def _emptied(self, name: str, engine: Mapping[int, ModelVersion]) -> frozenset[int]:
        """Versions that are UNLOADING though their processes, which were seen, have all ended."""
        leaving = {v for v, m in engine.items() if m.state is ModelState.UNLOADING}
        known = {v for n, v in self._gone if n == name} & leaving
        gone = {v for v in leaving - known if self._processes.lost(name, v) and not self._processes.running(name, v)}
        self._gone = {k for k in self._gone if k[0] != name} | {(name, v) for v in known | gone}
        return frozenset(known | gone)

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

    # Deciding and acting

    def step(self, view: View) -> bool:
        """Decide once and act once. True when something changed at once, so that it is worth looking again."""
        if view.rollout is None:
            self._recorder.adopt(view)
        self.decision = plan(view, self.settings)
        effect = self.decision.effect
        rollout = view.rollout
        if rollout is not None and (rollout.stop is not None or rollout.phase is Phase.ROLLING_BACK):
            self.tasks.cancel(lambda e: isinstance(e, Ask))
        self.split.steer(view)
        self.health.watch(view)
        self._prove(view)
        if effect is None:
            return False
        if not backoff(view.failed.get(effect), view.now) and self._act(effect, view):
            return True
        failure = self.tasks.failed().get(effect)
        if failure is not None and effect not in self.tasks.running():
            # What can't be done is what a person wants to read, and not what would be done.
            phase = Phase.DEGRADED if rollout is None else self.decision.phase
            self.decision = Decision(phase, because(Reason.TROUBLE, error=failure.message))
        return False

    def _act(self, effect: Effect, view: View) -> bool:
        rollout = view.rollout
        match effect:
            case Sync():
                call = because(Reason.LOAD_CALL, model=self._loader.name(effect.model), server=effect.server)
                self._recorder.log("sync", call, rollout)
                self.tasks.start(effect, lambda _task: self._sync(effect, view))
                return False
            case Reload(server):
                self._reload(effect, server, view)
                return False
            case Ask():
                assert rollout is not None  # noqa: S101 - the plan asks gates only about a rollout
                asked = because(Reason.GATE_ASKED, gate=effect.gate, version=rollout.candidate)
                self._recorder.log("ask", asked, rollout)
                self.tasks.start(effect, lambda task: self._ask(effect.gate, rollout, task))
                return False
            case _:
                return self.tasks.attempt(effect, lambda: self._at_once(effect, view))

    def _prove(self, view: View) -> None:
        """Know what serves by its content, and accept its folder by itself when only its times have changed."""
        version, proof = view.alias, self._proof
        folder = None if version is None else view.folders.get(version)
        if proof is None or version is None or folder is None or view.now - folder.quiet_since < self.settings.settle:
            return
        effect = VerifyContent(version, folder.fingerprint)
        if effect in view.failed or effect in view.running or version not in view.loaded:
            return
        if view.loaded[version] != folder.fingerprint:
            self.tasks.start(effect, lambda _task: proof.accept(version, folder, "baton"))
        elif not proof.known(version):
            self.tasks.start(effect, lambda _task: proof.learn(version))

    def _reload(self, effect: Reload, server: str, view: View) -> None:
        version = view.alias
        assert version is not None  # noqa: S101 - the plan asks for it where a version serves

        def load() -> None:
            self._loader.sync(Sync(server, Model.ENGINE), view)
            self._loader.sync(Sync(server, Model.ALIAS), view)

        # A gate that is being asked would blame its candidate for what is taken away under it.
        self.tasks.cancel(lambda e: isinstance(e, Ask))
        why = because(Reason.ENGINE_RELOADED, model=self.config.engine, server=server, version=version)
        self._recorder.log("reload", why, view.rollout)
        self.tasks.start(effect, lambda _task: self.health.reload(server, version, load))

    def _at_once(self, effect: Effect, view: View) -> None:
        match effect:
            case Begin():
                self.begin(view, effect.kind, effect.candidate, effect.previous, effect.who, effect.why)
            case SetPolicy(versions):
                self._recorder.log("policy", because(Reason.POLICY_WRITTEN, versions=versions), view.rollout)
                self.files.set_policy(versions)
            case SetAlias(version, split):
                self._recorder.log("alias", because(Reason.ALIAS_WRITTEN, version=version, split=split), view.rollout)
                if version is None:
                    self._repairer.let_go("alias")
                self.files.set_alias(version, split=split)
            case SetSplitter(stable):
                self._recorder.log("splitter", because(Reason.SPLITTER_WRITTEN, stable=stable), view.rollout)
                if stable is None:
                    self._repairer.let_go("splitter")
                self.files.set_splitter(stable)
            case _:
                assert view.rollout is not None  # noqa: S101 - the rest is about a rollout
                self._recorder.write(effect, view, view.rollout, self.decision.why)
                if isinstance(effect, End):
                    self.tasks.forget_failures()
                    self.files.tidy_alias()

    def begin(
        self, view: View, kind: Kind, version: int, previous: int | None, who: str, why: Why, *,
        promoted: bool = False, full: bool = False,
    ) -> Rollout:  # fmt: skip
        """Open a rollout for a version on disk.

        ``promoted``: a person asked for it, and it waits for nobody; ``full``: and it takes all traffic at once.

        Raises:
            Refused: one is under way, or the folder is not there.
        """
        folder = view.folders.get(version)
        if folder is None:
            raise Refused(because(Reason.NO_SUCH_FOLDER, version=version), mend="`ctl versions` lists what is there.")
        meta, wrong = self.meta(version, folder.fingerprint)
        release = Release(self._journal.memo(self.name, f"release:{version}", meta.release))
        now = self._clock()
        self.tasks.forget_failures()
        asked = Rollout(
            id=0,
            service=self.name,
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
        rollout = self._journal.begin(asked)
        if wrong:
            self._journal.record(rollout, GateResult(Gate.INTEGRITY, Verdict.FAIL, wrong), now)
        return rollout

    # In the background

    def _sync(self, effect: Sync, view: View) -> None:
        try:
            self._loader.sync(effect, view)
        except TritonError as error:
            before = view.failed.get(effect)
            if before is None or before.words != error.words:  # the same words every 30 s would fill the journal
                model = self._loader.name(effect.model)
                why = because(Reason.LOAD_REFUSED, model=model, server=effect.server, error=str(error))
                self._recorder.log("refused", why, view.rollout, {"triton": error.words})
            raise
        if effect.model is Model.SPLITTER:
            self.steering.unlock(effect.server)

    def _ask(self, gate: Gate, rollout: Rollout, task: Task) -> None:
        result = self._asker.ask(gate, rollout, task.cancel.is_set)
        if task.cancel.is_set():
            raise Cancelled("Nobody wants the verdict any more.")
        if result.verdict is Verdict.HOLD:
            before = rollout.gates.get(gate)
            attempts = 1 + (before.evidence.attempts or 1) if before is not None else 1
            result = replace(result, evidence=replace(result.evidence, attempts=attempts))
        current = self._journal.open_rollout(self.name)
        if current is not None and current.id == rollout.id:
            self._journal.record(current, result, self._clock())

    def _tell_health(self, why: Why, data: Mapping[str, Any]) -> None:
        self._recorder.log("health", why, self._journal.open_rollout(self.name), data)
        self._wake()

    def _tell_mended(self, why: Why, data: Mapping[str, Any]) -> None:
        self._recorder.log("mend", why, self._journal.open_rollout(self.name), data)

    # What persons ask for

    def halt(self, rollout: Rollout, outcome: Outcome, who: str, why: Why) -> None:
        """Turn the rollout back. The gates that are being asked are called off at once."""
        self._journal.halt(rollout, Stop(outcome, who, why), self._clock())
        self.tasks.cancel(lambda e: isinstance(e, Ask))
        self._wake()

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
