"""A whole world around the pure plan, in memory: files, servers, a journal, operators, and everything that fails.

It carries out the plan's effects as the engine does, one by one in one thread, and checks after each what must hold
whatever happens. Servers are ``FakeTriton`` over files in memory; time passes when it is told to.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from tests.support.rules import ALIAS, ENGINE, SPLIT, SPLITTER, Broken, Rules, held, serving

from baton.domain import (
    FILE_GATES,
    NO_EVIDENCE,
    Evidence,
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
    ReleaseStatus,
    Rollout,
    Stop,
    Verdict,
    VersionRecord,
)
from baton.errors import BatonError, InvalidRequest, NotSteered, Refused, RepositoryError, TritonError, Unreachable
from baton.lifecycle import ALLOWED
from baton.plan import (
    Advance,
    Ask,
    Begin,
    Decision,
    Effect,
    End,
    Failure,
    Halt,
    Progress,
    Record,
    Reload,
    Renew,
    RolloutSettings,
    ServerView,
    SetAlias,
    SetPolicy,
    SetSplitter,
    Steer,
    Sync,
    TakeOver,
    Unhealthy,
    View,
    route,
)
from baton.plan.traffic import before_traffic, position_of
from baton.plan.view import backoff
from baton.reasons import Reason, Why, because
from baton.testing import Behaviour, Call, FakeTriton, ModelFiles
from baton.triton.words import machine

ASKED_EVERY_S = 5.0
MOST_AT_ONCE = 60
"""Effects of one rollout in a row without time passing: more means that the plan runs in circles."""


class MemoryFiles:
    """The service's part of the repository."""

    def __init__(self) -> None:
        self.policy: frozenset[int] = frozenset()
        self.alias: int | None = None
        self.split = False
        self.splitter: int | None = None
        self.key: dict[str, str] = {}
        """What the splitter's files say of the token and of what may be asked."""
        self.folders: dict[int, str] = {}
        self.incomplete: set[int] = set()
        self.since: dict[int, float] = {}
        self.unexpected: dict[str, str] = {}
        self.changes = 0

    def read(self, model: str) -> ModelFiles | None:
        if model == ENGINE:
            return ModelFiles(self.policy, dict(self.folders), dict(self.unexpected))
        if model == SPLITTER:
            if self.splitter is None:
                return None
            splits = {"engine": ENGINE, "stable": str(self.splitter), **self.key}
            return ModelFiles(frozenset({1}), {1: str(self.key)}, {}, None, splits, f"stable {self.splitter}")
        if self.alias is None:
            return None
        return ModelFiles(
            frozenset({self.alias}), {self.alias: ""}, {}, (SPLITTER, 1) if self.split else (ENGINE, self.alias)
        )

    def put(self, version: int, now: float, *, complete: bool = True) -> None:
        self.changes += 1
        self.folders[version] = f"content-{self.changes}"
        self.since[version] = now
        (self.incomplete.discard if complete else self.incomplete.add)(version)

    def scan(self) -> dict[int, Folder]:
        return {
            v: Folder(str(v), v, f, ("shard",) if v in self.incomplete else (), None, self.since[v], self.since[v], 1)
            for v, f in self.folders.items()
        }


@dataclass
class Job:
    """A Sync, an Ask or a Reload under way."""

    effect: Sync | Ask | Reload
    deadline: float
    rollout: int = 0
    call: Call | None = None
    calls_left: int = 0
    wanted: frozenset[int] = frozenset()
    then: list[tuple[str, str]] = field(default_factory=list)
    """Of a Reload: the calls that are still to come, as verb and model."""


@dataclass
class World(Rules):
    """``plan`` is what is under test. ``gates`` holds verdicts for gates to come, by gate; PASS when there is none."""

    files: MemoryFiles = field(init=False, repr=False, compare=False)
    servers: dict[str, FakeTriton] = field(init=False, repr=False, compare=False)
    plan: Callable[[View, RolloutSettings], Decision]
    servers_count: int = 1
    settings: RolloutSettings = field(default_factory=RolloutSettings)
    adopted: bool = False
    """Whether version 1 is served already, by the engine alone: clients ask it directly until an alias exists."""

    def __post_init__(self) -> None:
        self.now = 0.0
        self.files = MemoryFiles()
        self.servers = {
            name: FakeTriton(name, self.files, clock=lambda: self.now, boot=(ALIAS,))
            for name in "ab c".replace(" ", "")[: self.servers_count]
        }
        self.rollout: Rollout | None = None
        self.history: list[Rollout] = []
        self.records: dict[int, VersionRecord] = {}
        self.loaded: dict[int, str] = {}
        self.known_unexpected: dict[str, str] | None = None
        self.paused = False
        self.jobs: dict[Effect, Job] = {}
        self.failed: dict[Effect, Failure] = {}
        self.gates: dict[Gate, list[Verdict | None]] = {}
        self.live: Verdict | None = Verdict.PASS
        """What the live analysis says whenever it is asked; None: nothing yet."""
        self.steered: dict[str, float] = {}
        self.token = "token-0"
        """The control plane's own, as its state directory holds it."""
        self.locked: set[str] = set()
        """Servers whose splitter refused it, and was not loaded again since."""
        self.followed: dict[str, bool] = {}
        """By server: whether the splitter was last told of a candidate."""
        self.unhealthy: dict[tuple[str, int], Unhealthy] = {}
        self.asked_at = -math.inf
        self.leaving: dict[tuple[str, int], float] = {}
        self.disk_full = 0
        self.requests: list[contextlib.ExitStack] = []
        self.decision = Decision(Phase.EMPTY, because(Reason.STARTING))
        self.trace: list[str] = []
        self.steps = 0
        self.direct = frozenset({1} if self.adopted else set())
        if self.adopted:
            self.files.put(1, self.now)
            self.files.policy = self.direct
            for server in self.servers.values():
                server._boot = (ENGINE, ALIAS)
                server.begin("load", ENGINE)

    # Seeing

    def _look_for_the_dead(self) -> None:
        """What serves is asked every five seconds: until then a dead version is unknown.

        What was taken out is forgotten, and asked anew when it is there again.
        """
        here = {(n, v) for n, s in self.answering().items() for v in held(s, ModelState.READY)}
        self.unhealthy = {key: unhealthy for key, unhealthy in self.unhealthy.items() if key in here}
        if self.now - self.asked_at < ASKED_EVERY_S:
            return
        self.asked_at = self.now
        dead = {(n, v) for n, v in here if self.servers[n].models.slots[ENGINE][v].dead}
        self.unhealthy = {key: self.unhealthy.get(key, Unhealthy(self.now, "its process is gone")) for key in dead}

    def _leaving_since(self, name: str, engine: Mapping[int, ModelVersion]) -> dict[int, float]:
        leaving = {v for v, m in engine.items() if m.state is ModelState.UNLOADING}
        self.leaving = {k: at for k, at in self.leaving.items() if k[0] != name or k[1] in leaving}
        return {v: self.leaving.setdefault((name, v), self.now) for v in leaving}

    def view(self) -> View:
        self._look_for_the_dead()
        servers = []
        for name, server in self.servers.items():
            index = self._index(server)
            if index is None:
                servers.append(ServerView(name, live=False))
                continue
            retiring = self.rollout is not None and self.rollout.phase is Phase.RETIRING
            states = [m.state for m in index.get(SPLITTER, {}).values() if m.state is not ModelState.UNAVAILABLE]
            if not states:
                self.steered.pop(name, None)
                self.followed.pop(name, None)
                self.locked.discard(name)
            servers.append(
                ServerView(
                    name,
                    live=True,
                    engine=index.get(ENGINE, {}),
                    alias=index.get(ALIAS, {}),
                    split=bool(states) and server.step(ALIAS) == SPLITTER,
                    splitter=states[0] if states else None,
                    steered=self.steered.get(name),
                    locked=name in self.locked,
                    outstanding=None
                    if self.followed.get(name, True)
                    else {v: slot.requests for v, slot in server.models.slots.get(ENGINE, {}).items()},
                    inflight=server.inflight(ENGINE) if retiring else None,
                    leaving_since=self._leaving_since(name, index.get(ENGINE, {})),
                )
            )
        folders = self.files.scan()
        for seen in servers:
            for v in seen.ready():
                if v in folders and v not in self.loaded:
                    self.loaded[v] = folders[v].fingerprint
        if self.known_unexpected is None:
            self.known_unexpected = dict(self.files.unexpected)
        return View(
            service="public",
            now=self.now,
            version_policy=self.files.policy,
            alias=self.files.alias,
            split=self.files.split,
            splitter=self.files.splitter,
            keyed=self.files.key == key_of(self.token),
            servers=tuple(servers),
            folders=folders,
            unexpected=tuple(
                Folder(n, None, f, problem="Not a version number; move it out.")
                for n, f in self.files.unexpected.items()
            ),
            records=dict(self.records),
            loaded=dict(self.loaded),
            known_unexpected=dict(self.known_unexpected),
            rollout=self.rollout,
            running=frozenset(self.jobs),
            failed=dict(self.failed),
            paused=self.paused,
            live_gate=self._live_gate(),
            unhealthy=dict(self.unhealthy),
        )

    def _live_gate(self) -> GateResult | None:
        if self.live is None or self.rollout is None or self.rollout.progressed_at is None:
            return None
        return GateResult(Gate.LIVE, self.live, f"live traffic says {self.live}.")

    # Deciding and acting

    def step(self) -> bool:
        """One decision and its effect. True when something changed at once."""
        self.steps += 1
        view = self.view()
        before = self.decision
        self.decision = self.plan(view, self.settings)
        if before.why != self.decision.why or before.phase != self.decision.phase:  # a sentence is made of few
            shown, last = (f"  [{one.phase}] {one.message}" for one in (self.decision, before))
            if shown != last:
                self.say(shown)
        effect = self.decision.effect
        if self.rollout is not None and (self.rollout.stop is not None or self.rollout.phase is Phase.ROLLING_BACK):
            self.jobs = {e: j for e, j in self.jobs.items() if not isinstance(e, Ask)}
        self._steer(view)
        if effect is None or backoff(self.failed.get(effect), self.now):
            self.verify()
            return False
        changed = self._act(effect)
        self.verify()
        return changed

    def _steer(self, view: View) -> None:
        """Send every splitter its route, as baton.controller.service does."""
        rollout, wanted, lease = view.rollout, route(view, self.settings), 0.0
        if rollout is not None and rollout.renewed_at is not None:
            lease = rollout.renewed_at + self.settings.lease - self.now
        if lease <= 0:
            wanted = None
        for server in view.live():
            if server.splitter is not ModelState.READY or view.splitter is None:
                continue
            if server.locked or not view.keyed:
                continue
            asked = {
                "candidate": None if wanted is None else wanted.candidate,
                "weight": 0.0 if wanted is None else wanted.weight,
                "lease_s": lease,
            }
            control = json.dumps({"token": self.token, "route": asked}).encode()
            try:
                tensor = np.array([[control]], dtype=np.object_)
                self.servers[server.name].infer(SPLITTER, 1, {"baton_control": tensor}, 1.0)
            except InvalidRequest as error:
                self.locked.add(server.name)
                self._note(Steer(server.name), NotSteered(str(error)))
            except BatonError as error:
                self._note(Steer(server.name), error)
            else:
                self.failed.pop(Steer(server.name), None)
                self.steered[server.name] = self.now
                self.followed[server.name] = wanted is not None
                stopped = rollout is None or rollout.stop is not None
                weight = self.weight(self.servers[server.name])
                self.need(not (stopped and weight), f"{server.name} still sends {weight} % to a stopped candidate")

    def run(self) -> None:
        """Decide and act, and let calls and gates end, until nothing more happens at this moment."""
        steps, ended = 0, len(self.history)
        while steps < MOST_AT_ONCE:
            moved = self.step()
            if not self.poll() and not moved:
                return
            steps = steps + 1 if len(self.history) == ended else 0
            ended = len(self.history)
        raise Broken(f"{MOST_AT_ONCE} steps and no rest: {self.decision}")

    def poll(self) -> bool:
        """Let the jobs that are due end. True when one did."""
        ended = False
        for effect, job in list(self.jobs.items()):
            if effect not in self.jobs:
                continue
            try:
                if isinstance(effect, Ask):
                    done = self._poll_ask(job)
                else:
                    done = self._poll_reload(job) if isinstance(effect, Reload) else self._poll_sync(job)
            except BatonError as error:
                self._note(effect, error)
                done = True
            if done:
                self.jobs.pop(effect, None)
                ended = True
            self.verify()
        return ended

    def _note(self, effect: Effect, error: BatonError) -> None:
        count = self.failed[effect].count + 1 if effect in self.failed else 1
        words = error.words if isinstance(error, TritonError) else ""
        since = self.failed[effect].since if effect in self.failed else self.now
        self.failed[effect] = Failure(self.now, count, str(error), bool(words), words, since, machine(words))
        self.say(f"  failed: {told(effect)}: {error}")

    def _act(self, effect: Effect) -> bool:
        self.say(f"  -> {told(effect)}")
        match effect:
            case Sync(_, model):
                job = Job(effect, self.now + (self.settings.load_timeout if model is Model.ENGINE else 30.0))
                self.jobs[effect] = job
                try:
                    self._begin_sync(job)
                except BatonError as error:
                    del self.jobs[effect]
                    self._note(effect, error)
                return False
            case Reload(name):
                self._check_reload(name)
                self._remember(self.files.policy)
                self.jobs = {e: j for e, j in self.jobs.items() if not isinstance(e, Ask)}
                calls = [("unload", ENGINE), ("load", ENGINE), ("load", ALIAS)]
                self.jobs[effect] = Job(effect, self.now + self.settings.load_timeout, then=calls)
                return False
            case Ask():
                assert self.rollout is not None
                self.jobs[effect] = Job(effect, math.inf, self.rollout.id)
                return False
            case _:
                try:
                    self._at_once(effect)
                except BatonError as error:
                    self._note(effect, error)
                    return False
                self.failed.pop(effect, None)
                return True

    def _at_once(self, effect: Effect) -> None:  # noqa: C901, PLR0912, PLR0915 - one case an effect
        match effect:
            case Begin(kind, candidate, previous, who, why):
                self.begin(kind, candidate, previous, who, why)
                return
            case SetPolicy(versions):
                self._disk()
                self._check_policy(versions)
                self.files.policy = versions
                return
            case SetAlias(version, split):
                self._disk()
                self._check_alias(version, split=split)
                self.files.alias, self.files.split = version, split
                self.direct = frozenset()
                return
            case SetSplitter(stable):
                self._disk()
                renewed = stable == self.files.splitter
                self.need(not self.files.split or renewed, "the splitter's files change under the alias")
                self.files.splitter = stable
                self.files.changes += 1
                self.token = f"token-{self.files.changes}"
                self.files.key = {} if stable is None else key_of(self.token)
                return
            case _:
                pass
        rollout = self.rollout
        assert rollout is not None
        match effect:
            case Advance(phase, _):
                self.need((rollout.phase, phase) in ALLOWED, f"{rollout.phase} to {phase} is not in the lifecycle")
                if phase is Phase.SHIFTING:
                    self._check_shadow(rollout)
                moved = self.now if phase is Phase.BAKING else rollout.moved_at
                self.rollout = replace(rollout, phase=phase, phase_since=self.now, moved_at=moved)
                if rollout.phase is Phase.SHADOWING:
                    self.rollout = replace(self.rollout, progress=0.0, progressed_at=None)
            case Renew():
                self._disk()
                self.need(rollout.stop is None, "the lease of a stopped candidate is renewed")
                self.rollout = replace(rollout, renewed_at=self.now)
            case Progress(seconds, result):
                self._check_progress(rollout, seconds)
                self.rollout = replace(rollout, progress=rollout.progress + seconds, progressed_at=self.now)
                if result is not None:
                    self._record(result)
            case TakeOver():
                self._check_take_over(rollout)
                self.rollout = replace(rollout, full=True)
            case Halt(stop):
                self.halt(stop)
            case Record(result):
                self._record(result)
            case End(outcome, why):
                self._end(rollout, outcome, why)
            case _:
                raise AssertionError(effect)

    def _disk(self) -> None:
        if self.disk_full:
            self.disk_full -= 1
            raise RepositoryError("no space left on device")

    def begin(
        self, kind: Kind, candidate: int, previous: int | None, who: str, why: Why, *, promoted: bool = False
    ) -> None:
        folder = self.files.scan().get(candidate)
        if folder is None:
            raise Refused(f"There is no folder of version {candidate}.")
        self.need(self.rollout is None, "a second rollout begins")
        phase = Phase.LOADING if kind is Kind.ROLLBACK else Phase.VERIFYING
        self.need((None, phase) in ALLOWED, "begins in a phase that is not in the lifecycle")
        self.failed.clear()
        if candidate in self.direct and why.reason is not Reason.ADOPTED:
            self.direct = frozenset()  # a person takes it through its gates like any other version
        self.rollout = Rollout(
            id=len(self.history) + 1,
            service="public",
            kind=kind,
            candidate=candidate,
            previous=previous,
            phase=phase,
            who=who,
            why=why,
            release=Release.EQUIVALENT,
            label=str(candidate),
            fingerprint=folder.fingerprint,
            started_at=self.now,
            phase_since=self.now,
            promoted=promoted,
        )

    def halt(self, stop: Stop) -> None:
        assert self.rollout is not None
        if self.rollout.stop is None:
            self.rollout = replace(self.rollout, stop=stop)

    def _record(self, result: GateResult) -> None:
        assert self.rollout is not None
        self.rollout = replace(
            self.rollout,
            gates={**self.rollout.gates, result.gate: result},
            gate_times={**self.rollout.gate_times, result.gate: self.now},
        )

    def _end(self, rollout: Rollout, outcome: Outcome, why: Why) -> None:
        self.need((rollout.phase, None) in ALLOWED, f"a rollout ends in {rollout.phase}")
        if rollout.stop is not None and rollout.stop.gate is not None and outcome is Outcome.REJECTED:
            verdict = rollout.gates[rollout.stop.gate].verdict
            self.need(verdict is Verdict.FAIL, f"refused by a gate that says {verdict}: that is no evidence")
        if outcome not in (Outcome.LIVE, Outcome.VERIFIED):
            self.need(self.files.alias == rollout.previous, f"{outcome}, but the alias is at {self.files.alias}")
        folder = self.files.scan().get(rollout.candidate)
        fingerprint = folder.fingerprint if folder is not None else rollout.fingerprint
        loaded = rollout.candidate in self.loaded

        def stands(version: int, standing: ReleaseStatus) -> None:
            own = fingerprint if version == rollout.candidate else ""
            self.records[version] = VersionRecord(version, standing, why, own, loaded, self.now)

        match outcome:
            case Outcome.LIVE:
                stands(rollout.candidate, ReleaseStatus.RELEASED)
                if rollout.kind is Kind.ROLLBACK and rollout.previous is not None:
                    stands(rollout.previous, ReleaseStatus.WITHDRAWN)
            case Outcome.REJECTED if rollout.kind is not Kind.ROLLBACK:
                stands(rollout.candidate, ReleaseStatus.REJECTED)
            case Outcome.ROLLED_BACK | Outcome.ABORTED | Outcome.SUPERSEDED if rollout.kind is Kind.ROLLOUT:
                stands(rollout.candidate, ReleaseStatus.WITHDRAWN)
            case _:
                pass
        self.history.append(replace(rollout, ended_at=self.now, outcome=outcome, ended_why=why))
        self.rollout = None
        self.failed.clear()

    # Jobs

    def _begin_sync(self, job: Job) -> None:
        assert isinstance(job.effect, Sync)
        server = self.servers[job.effect.server]
        if job.effect.model is Model.SPLITTER:
            verb = "unload" if self.files.splitter is None else "load"
            led = server.reachable and server.step(ALIAS) == SPLITTER and serving(server)
            self.need(verb == "load" or not led, f"the splitter leaves {server.name} under the alias")
            job.call, job.wanted = server.begin(verb, SPLITTER), frozenset({1} if verb == "load" else ())
            return
        if job.effect.model is Model.ALIAS:
            self._check_alias_sync(server)
            if self.files.alias is None:
                job.call, job.calls_left, job.wanted = server.begin("unload", ALIAS), 0, frozenset()
                return
            job.call, job.calls_left = server.begin("load", ALIAS), 1
            job.wanted = frozenset({self.files.alias})
            return
        wanted = self.files.policy
        self._check_engine_sync(server, wanted)
        self._remember(wanted)
        job.call, job.wanted = server.begin("load" if wanted else "unload", ENGINE), wanted

    def _remember(self, wanted: frozenset[int]) -> None:
        ready: set[int] = set()
        for server in self.answering().values():
            ready |= held(server, ModelState.READY)
        loaded = {v: f for v, f in self.loaded.items() if v in wanted and v in ready}
        loaded |= {v: self.files.folders[v] for v in wanted if v in self.files.folders and v not in loaded}
        self.loaded = loaded
        self.known_unexpected = dict(self.files.unexpected)

    def _poll_sync(self, job: Job) -> bool:
        assert isinstance(job.effect, Sync)
        assert job.call is not None
        server = self.servers[job.effect.server]
        server.advance()
        if not server.reachable:
            raise Unreachable(f"server {server.name} does not answer")
        if not job.call.done:
            if self.now >= job.deadline:
                raise Unreachable("took too long")
            return False
        if server.lost_answers:
            server.lost_answers -= 1
            raise Unreachable("the answer was lost")
        if job.call.error is not None:
            raise job.call.error
        if job.calls_left:
            job.calls_left -= 1
            if self.files.alias is None:
                raise TritonError("failed to load")
            job.call = server.begin("load", ALIAS)
            return self._poll_sync(job)
        model = {Model.ENGINE: ENGINE, Model.ALIAS: ALIAS, Model.SPLITTER: SPLITTER}[job.effect.model]
        self._look_after(server, model, job.wanted)
        self.failed.pop(job.effect, None)
        if job.effect.model is Model.SPLITTER:
            self.locked.discard(server.name)
        return True

    def _look_after(self, server: FakeTriton, model: str, wanted: frozenset[int]) -> None:
        """Triton's OK does not mean loaded, nor dropped."""
        states = server.index().get(model, {})
        for v in sorted(wanted):
            if v not in states or states[v].state is not ModelState.READY:
                shown = f"{states[v].state}: {states[v].reason}" if v in states else "not in the repository index"
                raise TritonError(f"{model} version {v} is {shown} after the load call.")
        stayed = held(server, ModelState.READY) - wanted
        if stayed and wanted and model == ENGINE:
            raise TritonError(f"{model} version {min(stayed)} is still READY after the load call.")

    def _poll_reload(self, job: Job) -> bool:
        assert isinstance(job.effect, Reload)
        server, alias = self.servers[job.effect.server], self.files.alias
        server.advance()
        if not server.reachable:
            raise Unreachable(f"server {server.name} does not answer")
        if job.call is None:
            slot = server.models.slots.get(ENGINE, {}).get(alias or 0)
            if slot is not None and slot.state is ModelState.READY and not slot.dead:
                self.unhealthy.pop((server.name, alias or 0), None)  # it came back by itself
                self.failed.pop(job.effect, None)
                return True
        elif not job.call.done:
            if self.now >= job.deadline:
                raise Unreachable("took too long")
            return False
        elif job.call.error is not None:
            raise job.call.error
        if job.then:
            verb, model = job.then.pop(0)
            job.call = server.begin(verb, model)
            return self._poll_reload(job)
        if alias not in held(server, ModelState.READY):
            raise TritonError(f"version {alias} is not READY after it was loaded again.")
        self.unhealthy.pop((server.name, alias or 0), None)
        self.failed.pop(job.effect, None)
        return True

    def _poll_ask(self, job: Job) -> bool:
        assert isinstance(job.effect, Ask)
        gate, rollout = job.effect.gate, self.rollout
        if rollout is None or rollout.id != job.rollout:
            return True
        verdicts = self.gates.get(gate, [])
        verdict = verdicts.pop(0) if verdicts else Verdict.PASS
        if verdict is None:
            raise Unreachable("a server went away in the middle of the gate")
        evidence = NO_EVIDENCE
        if verdict is Verdict.HOLD:
            before = rollout.gates.get(gate)
            evidence = Evidence(attempts=1 + (before.evidence.attempts or 1) if before is not None else 1)
        self.failed.pop(job.effect, None)
        self.say(f"  gate {gate}: {verdict}")
        self._record(GateResult(gate, verdict, f"gate {gate} says {verdict}.", evidence=evidence))
        return True

    def say(self, line: str) -> None:
        self.trace.append(line)

    # What persons ask for (the refusals of baton.app, as far as they matter to the plan)

    def abort(self, who: str = "ann") -> None:
        if self.rollout is None:
            raise Refused("No rollout is under way.")
        outcome = Outcome.ABORTED if before_traffic(self.rollout) else Outcome.ROLLED_BACK
        self.halt(Stop(outcome, who, because(Reason.ABORTED, who=who)))

    def rollback(self, to: int | None, who: str = "ann") -> None:
        view = self.view()
        rollout = view.rollout
        if rollout is not None:
            if (to is not None and to != rollout.previous) or rollout.previous is None:
                raise Refused("A rollout is under way.")
            outcome = Outcome.ABORTED if before_traffic(rollout) else Outcome.ROLLED_BACK
            self.halt(Stop(outcome, who, because(Reason.ASKED_BACK, who=who)))
            return
        served = [r.candidate for r in self.history if r.outcome is Outcome.LIVE]
        before = [
            v
            for v in reversed(served)
            if v != view.alias
            and v in view.folders
            and not (v in view.records and view.records[v].status is ReleaseStatus.WITHDRAWN)
        ]
        target = to if to is not None else next(iter(before), None)
        if target is None or target == view.alias:
            raise Refused("No earlier version is known to have served.")
        if target not in view.folders or not view.folders[target].complete:
            raise Refused(f"Version {target} is not on disk, or not whole.")
        record = view.records.get(target)
        if target > (view.alias or 0) and (record is None or record.status is ReleaseStatus.REJECTED):
            raise Refused(f"Version {target} never served.")
        self.begin(Kind.ROLLBACK, target, view.alias, who, because(Reason.ASKED_BACK, who=who), promoted=True)

    def pause(self) -> None:
        self.paused = True
        if self.rollout is not None:
            self.rollout = replace(self.rollout, promoted=False)

    def promote(self, version: int | None, who: str = "ann", *, full: bool = False) -> None:
        view = self.view()
        rollout = view.rollout
        if rollout is not None:
            if version not in (None, rollout.candidate) or rollout.kind is not Kind.ROLLOUT:
                raise Refused("A rollout is under way.")
            if rollout.stop is not None or (not before_traffic(rollout) and rollout.phase not in SPLIT):
                raise Refused("It is on its way back, or serves already.")
            if rollout.phase is Phase.WAITING and rollout.held() is not None:
                raise Refused("A gate has not enough evidence.")
            pause = rollout.progressed_at is not None and position_of(rollout, self.settings).pause
            self.rollout = replace(
                rollout, promoted=True, full=rollout.full or full, approvals=rollout.approvals + pause
            )
            return
        waiting = view.pending(self.settings)
        if version is None and not waiting:
            raise Refused("No new version is complete on disk.")
        chosen = version if version is not None else max(f.version or 0 for f in waiting)
        self._startable(view, chosen, again=False)
        self.begin(Kind.ROLLOUT, chosen, view.alias, who, because(Reason.PROMOTED), promoted=True)

    def retry(self, version: int, who: str = "ann") -> None:
        view = self.view()
        rollout = view.rollout
        if rollout is not None and rollout.candidate == version and rollout.phase is Phase.WAITING and rollout.held():
            gates = {g: r for g, r in rollout.gates.items() if r.verdict is not Verdict.HOLD}
            self.rollout = replace(rollout, gates=gates)
            return
        if rollout is not None:
            raise Refused("A rollout is under way.")
        self._startable(view, version, again=True)
        self.records.pop(version, None)
        self.begin(Kind.ROLLOUT, version, view.alias, who, because(Reason.TRIED_AGAIN))

    def check_version(self, version: int, who: str = "ann") -> None:
        view = self.view()
        if view.rollout is not None or version == view.alias:
            raise Refused("A rollout is under way, or it serves.")
        if version not in view.folders or view.folders[version].missing:
            raise Refused("It is not there, or not whole.")
        self.begin(Kind.CHECK, version, view.alias, who, because(Reason.VERIFICATION), promoted=True)

    def _startable(self, view: View, version: int, *, again: bool) -> None:
        if view.alias is not None and version <= view.alias:
            raise Refused("It serves already, or is lower than what serves.")
        if version not in view.folders or view.folders[version].missing:
            raise Refused("It is not there, or not whole.")
        record = view.records.get(version)
        if record is not None and record.status is ReleaseStatus.REJECTED and not again:
            raise Refused("It was refused.")
        if (reason := view.loads_blocked()) is not None:
            raise Refused(reason)

    def restart_control(self, *, token_lost: bool = False) -> None:
        """The control plane ends and starts again: what is not in the journal is forgotten.

        ``token_lost``: the file that held the splitters' token, too.
        """
        if token_lost:
            self.token = f"token-{self.token}"
        self.locked.clear()
        self.jobs.clear()
        self.failed.clear()
        self.steered.clear()
        self.followed.clear()
        self.unhealthy.clear()
        self.leaving.clear()
        self.asked_at = -math.inf


def key_of(token: str) -> dict[str, str]:
    """What the splitter's files say of a token; anything may be asked."""
    digest = hashlib.sha256(token.encode()).hexdigest()
    return {"token_sha256": digest, "max_weight": "100", "max_shadow": "100", "max_lease_s": "3600"}


def told(effect: Effect) -> str:  # noqa: C901, PLR0912 - one case an effect
    """An effect in a few words."""
    match effect:
        case Begin(kind, candidate, previous):
            return f"begin {kind} of {candidate}, previous {previous}"
        case Advance(phase, _):
            return f"advance to {phase}"
        case End(outcome, why):
            return f"end: {outcome}: {why}"
        case Halt(stop):
            return f"halt: {stop.outcome} by {stop.who}"
        case Record(result):
            return f"record {result.gate}: {result.verdict}"
        case Ask(gate):
            return f"ask {gate}"
        case SetPolicy(versions):
            return f"policy {sorted(versions)}"
        case SetAlias(version, split):
            return f"alias {version}" + (" behind the splitter" if split else "")
        case SetSplitter(stable):
            return "no splitter" if stable is None else f"splitter of stable {stable}"
        case Renew():
            return "renew the lease"
        case Progress(seconds):
            return f"go on by {seconds:g} s" if seconds else "begin the way"
        case TakeOver():
            return "all traffic to the candidate, for the stable version is dead"
        case Steer(server):
            return f"steer {server}"
        case Reload(server):
            return f"load again on {server}"
        case Sync(server, model):
            return f"sync {model} on {server}"


__all__ = ["FILE_GATES", "Behaviour", "Broken", "World", "held", "serving", "told"]
