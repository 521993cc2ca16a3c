"""What must hold after every step, whatever fails: one statement of it for every simulation.

``World`` (``tests/unit/plan``) drives the pure plan alone; ``tests/simulation`` drives the whole control plane. Both
show what is there by the attributes below, and call the checks where an act is about to happen and after each step.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from baton.domain import GATES_OF, Gate, Kind, ModelState, Outcome, Phase, Rollout, Verdict
from baton.errors import Unreachable
from baton.plan import Decision, Effect, Reload, RolloutSettings, Sync
from baton.plan.steps import further, position
from baton.plan.traffic import position_of
from baton.testing import FakeTriton

ENGINE, ALIAS, SPLITTER = "engine", "public", "public_splitter"
ASKED = (
    Gate.INTEGRITY,
    Gate.COMPATIBILITY,
    Gate.CAPACITY,
    Gate.WARMUP,
    Gate.OUTPUT,
    Gate.INVARIANCE,
    Gate.LATENCY,
)
"""The gates that a simulation may have fail."""
SPLIT = frozenset({Phase.SHADOWING, Phase.SHIFTING, Phase.WAITING})


class Broken(AssertionError):
    """Something that must hold did not."""


class Files(Protocol):
    """The service's part of the repository, as it lies there now."""

    @property
    def policy(self) -> frozenset[int]: ...
    @property
    def alias(self) -> int | None: ...
    @property
    def split(self) -> bool: ...
    @property
    def splitter(self) -> int | None: ...
    @property
    def folders(self) -> Mapping[int, str]:
        """Version folders, with what stands for their content to Triton."""
        ...

    @property
    def unexpected(self) -> Mapping[str, str]: ...


class Rules:
    """The checks. A subclass shows the state."""

    now: float
    settings: RolloutSettings
    servers: Mapping[str, FakeTriton]
    files: Files
    rollout: Rollout | None
    decision: Decision
    jobs: Collection[Effect]
    """What runs in the background."""
    unhealthy: Mapping[tuple[str, int], Any]
    """By server and version: those that are known not to answer."""
    loaded: Mapping[int, str]
    """What Baton noted of the folders as Triton loaded them."""
    steered: Mapping[str, float]
    live: Verdict | None
    """What the live analysis says."""
    paused: bool
    direct: frozenset[int]
    """Versions that clients ask without an alias, from before Baton came."""
    unknown: frozenset[int] = frozenset()
    """Versions that were there when the state directory was lost: nobody can tell whose they are, and they stay."""
    wrong: Collection[str] = ()
    """Models whose ``config.pbtxt`` says exactly what a person's bad edit left there."""
    unseen: bool = False
    """Whether folders changed since Baton last looked at them."""
    check: bool = True

    def server_now(self) -> float:
        """The time as the servers' clocks have it."""
        return self.now

    def answering(self) -> dict[str, FakeTriton]:
        return {n: s for n, s in self.servers.items() if s.answers()}

    def looked_at(self) -> dict[str, FakeTriton]:
        """Those of them that were seen, as they are now, when the present decision was made."""
        return self.answering()

    def _index(self, server: FakeTriton) -> Any:
        try:
            return server.index()
        except Unreachable:
            return None

    def weight(self, server: FakeTriton) -> float:
        """The candidate's share that the server's splitter follows now."""
        splitter = server.models.splitters.get(SPLITTER)
        return 0.0 if splitter is None else splitter.weight()

    def need(self, condition: object, what: str) -> None:
        if self.check and not condition:
            raise Broken(what)

    def _check_policy(self, versions: frozenset[int]) -> None:
        self.need(self._named(versions), f"the policy {set(versions)} lacks the alias's version {self.files.alias}")
        for name, server in self.looked_at().items():
            lost = serving(server) - versions
            self.need(not lost, f"the policy {set(versions)} drops {lost}, which the alias on {name} leads to")

    def _named(self, versions: frozenset[int]) -> bool:
        """Whether a policy names the alias's version, or need not: it is READY nowhere, and what comes does without.

        A person goes back from it, or a new version comes in place of one that is lost.
        """
        alias, rollout = self.files.alias, self.rollout
        if alias is None or alias in versions:
            return True
        ready = any(alias in held(s, ModelState.READY) for s in self.answering().values())
        without = rollout is not None and (rollout.kind is Kind.ROLLBACK or rollout.previous is None)
        return without and not ready

    def _check_progress(self, rollout: Rollout, seconds: float) -> None:
        """The way goes on only where live traffic is content, never past a pause, and never for a stopped candidate."""
        self.need(rollout.stop is None, "a stopped candidate goes on")
        if not seconds:
            return
        self.need(self.live is Verdict.PASS, f"it goes on although live traffic says {self.live}")
        self.need(rollout.promoted or not self.paused, "it goes on although Baton is paused")
        self.need(not position_of(rollout, self.settings).pause, "it goes on past a pause step")
        if rollout.phase is not Phase.SHADOWING:
            most = further(self.settings.steps, rollout.progress, rollout.approvals, seconds) - rollout.progress
            self.need(seconds <= most, "it jumps over the end of a step")
        since = self.now - rollout.phase_since
        self.need(seconds <= since, f"it goes on by {seconds} s after {since} s: a person's time to decide counts")
        self.need(seconds <= 2 * self.settings.interval, f"it goes on by {seconds} s at once")

    def _check_take_over(self, rollout: Rollout) -> None:
        """All traffic at once, unasked, is for a candidate that clients have met, and only where stable is dead."""
        self.need(rollout.phase in (Phase.SHIFTING, Phase.WAITING), f"it takes over in {rollout.phase}")
        share = rollout.progressed_at is not None and position_of(rollout, self.settings).weight > 0
        self.need(share and rollout.stop is None, "it takes over without a share")
        self.need(self.live is not Verdict.FAIL, "it takes over although live traffic fails")
        unhealthy = {version for _, version in self.unhealthy}
        self.need(rollout.previous in unhealthy, "it takes over although the stable version answers")
        self.need(rollout.candidate not in unhealthy, "a version takes over that does not answer")

    def _stepwise(self, rollout: Rollout) -> bool:
        """Whether its traffic comes by steps: it is no first version, no way back, and nobody said ``--full``."""
        return rollout.kind is Kind.ROLLOUT and rollout.previous is not None and not rollout.full

    def _check_shadow(self, rollout: Rollout) -> None:
        """Where a shadow is asked for, traffic comes only after it."""
        settings = self.settings
        shadowed = settings.shadow_share > 0 and settings.shadow_for > 0
        paused = rollout.phase is Phase.WAITING and rollout.progressed_at is not None
        if not self._stepwise(rollout) or not shadowed or paused:
            return
        mirrored = rollout.progress if rollout.phase is Phase.SHADOWING else 0.0
        self.need(mirrored >= settings.shadow_for, f"traffic comes after {mirrored} s of shadow")

    def _check_way(self, rollout: Rollout) -> None:
        """All traffic comes when the way is behind the candidate, or a person skips the rest of it."""
        steps = self.settings.steps
        if self._stepwise(rollout) and steps:
            where = position(steps, rollout.progress, rollout.approvals)
            self.need(rollout.progressed_at is not None, "all traffic moves before any")
            self.need(where.index == len(steps), f"all traffic moves in step {where.index + 1} of {len(steps)}")

    def _check_alias(self, version: int | None, *, split: bool) -> None:
        rollout = self.rollout
        if not split and self.files.split and version == self.files.alias:
            return  # back from the splitter to the version that it answers with
        if split:
            assert rollout is not None, "only a rollout splits traffic"
            self.need(version == rollout.previous == self.files.alias, "the split is not before the stable version")
            self.need(rollout.stop is None, "traffic is split after the candidate was stopped")
            self.need(rollout.phase in (Phase.SHADOWING, Phase.SHIFTING), f"traffic is split in {rollout.phase}")
            for name, server in self.answering().items():
                loaded = server.models.is_ready(SPLITTER, 1)
                self.need(loaded, f"the alias moves to the splitter, not READY on {name}")
            passed = {g for g, r in rollout.gates.items() if r.verdict is Verdict.PASS}
            self.need(set(GATES_OF[rollout.kind]) <= passed, "live traffic meets a candidate whose gates are open")
        assert rollout is not None, "only a rollout moves the alias"
        if version is None:
            self.need(rollout.previous is None, "the alias is taken away although there is a version to go to")
            return
        self.need(version in self.files.policy, f"the alias moves to {version}, which the policy does not name")
        self.need(bool(self.answering()), "the alias moves unseen")
        for name, server in self.answering().items():
            self.need(version in held(server, ModelState.READY), f"the alias moves to {version}, not READY on {name}")
        if version == rollout.candidate:
            self.need(rollout.stop is None, "the candidate gains the alias after it was stopped")
            self.need(rollout.phase is Phase.SHIFTING, f"the alias moves in {rollout.phase}")
            self._check_way(rollout)
            met = rollout.progressed_at is not None
            self.need(not (met and self.live is Verdict.FAIL), "all traffic moves although live traffic says fail")
            passed = {g for g, r in rollout.gates.items() if r.verdict is Verdict.PASS}
            open_gates = set(GATES_OF[rollout.kind]) - passed
            self.need(not open_gates, f"live without {open_gates}")
            if rollout.kind is Kind.ROLLOUT:
                for name, server in self.answering().items():
                    content = server.models.slots[ENGINE][version].content
                    self.need(content == rollout.fingerprint, f"what {name} loaded is not what the gates met")
        else:
            self.need(version == rollout.previous, f"the alias moves to {version}, which is neither old nor new")

    def _check_alias_sync(self, server: FakeTriton) -> None:
        if not server.reachable:
            return
        alias = self.files.alias
        if alias is None:
            return
        self.need(
            alias in held(server, ModelState.READY), f"the alias is loaded on {server.name} without version {alias}"
        )
        behind = not self.files.split or server.models.is_ready(SPLITTER, 1)
        self.need(behind, f"the alias is loaded on {server.name} without the splitter that it leads to")
        rollout = self.rollout
        stop = None if rollout is None else rollout.stop
        if rollout is not None and stop is not None and stop.outcome is not Outcome.LIVE and alias == rollout.candidate:
            # It may where the old version can't come back on some server: then all go on with the one that can.
            back = all(rollout.previous in held(s, ModelState.READY) for s in self.answering().values())
            self.need(not back or alias in serving(server), "a stopped candidate gains traffic")

    def _check_reload(self, name: str) -> None:
        """Only where what serves was found dead, one server at a time, and nothing else is loading there."""
        alias = self.files.alias
        self.need((name, alias) in self.unhealthy, f"the engine is unloaded on {name}, where version {alias} answers")
        self.need(self.files.policy == {alias}, f"version {alias} is reloaded together with {set(self.files.policy)}")
        others = {e for e in self.jobs if isinstance(e, Reload) or (isinstance(e, Sync) and e.server == name)}
        self.need(not others, f"the engine is unloaded on {name} during {others}")
        changed = self.loaded.get(alias or 0) != self.files.folders.get(alias or 0)
        self.need(not changed or self.unseen, f"what is loaded on {name} again is not what served")

    def _check_engine_sync(self, server: FakeTriton, wanted: frozenset[int]) -> None:
        if not server.reachable:
            return
        shown = serving(server)
        dropped = (self.direct & held(server, ModelState.READY)) - wanted
        self.need(not dropped, f"version {dropped} is dropped while clients ask it directly")
        self.need(shown <= wanted, f"a load call on {server.name} drops {shown - wanted}, which its alias leads to")
        slots = server.models.slots.get(ENGINE, {})
        files = server.models.files.get(ENGINE)
        unexpected = files is not None and any(files.unexpected.get(n) != f for n, f in self.files.unexpected.items())
        for v in shown & set(slots):  # behind a splitter that a restart brought back there may be no version yet
            slot = slots[v]
            known = self.loaded.get(v) == slot.content
            changed = self.files.folders.get(v) != slot.content
            self.need(not (known and changed), f"version {v} serves on {server.name} and is reloaded or dropped")
            self.need(not unexpected, f"an unexpected entry reloads version {v}, which serves on {server.name}")
        rollout = self.rollout
        if rollout is not None and rollout.phase is Phase.RETIRING:
            for v in held(server, ModelState.READY) - wanted:
                drained = not slots[v].requests or self.now - rollout.phase_since > self.settings.drain_timeout
                self.need(drained, f"version {v} is dropped while requests are under way")

    def verify(self) -> None:
        """What must hold after every step."""
        if ENGINE not in self.wrong:
            self.need(self._named(self.files.policy), f"the policy lacks the alias's version {self.files.alias}")
        self.need(len(self.files.policy - self.unknown) <= 2, f"the policy names {set(self.files.policy)}")
        for name, server in self.servers.items():
            self._check_share(name, server)
            slots = server.models.slots.get(ENGINE, {})
            taking = []
            for v, slot in slots.items():
                if slot.state is ModelState.UNAVAILABLE:
                    continue
                late = (
                    slot.state is ModelState.UNLOADING
                    and self.server_now() - slot.idle_since > self.settings.drain_timeout
                )
                # Its process has ended: it takes nothing, whatever Triton calls it.
                ended = slot.state is ModelState.UNLOADING and slot.dead
                if not late and not ended:
                    taking.append(v)
            self.need(len(set(taking) - self.unknown) <= 2, f"server {server.name} holds {taking}")

    def _check_share(self, name: str, server: FakeTriton) -> None:
        """A share of traffic belongs to the candidate of a rollout that reached the split."""
        weight = self.weight(server)
        if not weight or not server.reachable or self.steered.get(name) != self.now:
            return
        rollout = self.rollout
        legitimate = (
            rollout is not None
            and rollout.phase in (Phase.SHIFTING, Phase.WAITING, Phase.BAKING, Phase.ROLLING_BACK)
            and rollout.candidate == server.models.splitters[SPLITTER].candidate()
        )
        self.need(legitimate, f"{name} sends {weight} % to a candidate in {rollout and rollout.phase}")

    def settled(self) -> None:
        """What must hold at the end, with servers answering and nothing in the way."""
        self.need(self.rollout is None, f"a rollout never ends: {self.decision}")
        self.need(not self.files.split and self.files.splitter is None, "a splitter is left in the files")
        for name, server in self.servers.items():
            left = [s for s in server.models.slots.get(SPLITTER, {}).values() if s.state is not ModelState.UNAVAILABLE]
            # One that failed a request after its process ended is never let go by Triton.
            self.need(
                all(s.stuck and s.state is ModelState.UNLOADING for s in left), f"{name} still holds the splitter"
            )
        self.need(not self.jobs, f"still running: {set(self.jobs)}")
        alias = self.files.alias
        wanted = set() if alias is None else {alias}
        named = self.files.policy - self.unknown | wanted
        self.need(
            alias is None or (named == wanted and wanted <= self.files.policy),
            f"the policy names {set(self.files.policy)}",
        )
        for name, server in self.servers.items():
            self.need(serving(server) == wanted, f"the alias on {name} leads to {serving(server)}, not {wanted}")
            dead = [v for v in wanted if server.models.slots[ENGINE][v].dead]
            self.need(not dead, f"version {dead} serves on {name}, and its process is gone: {self.decision}")
            extra = held(server, ModelState.READY, ModelState.LOADING) - wanted - self.direct - self.unknown
            self.need(not extra, f"{name} still holds {extra}")


def held(server: FakeTriton, *states: ModelState) -> set[int]:
    return {v for v, s in server.models.slots.get(ENGINE, {}).items() if s.state in states}


def serving(server: FakeTriton) -> set[int]:
    return {v for v, s in server.models.slots.get(ALIAS, {}).items() if s.state is ModelState.READY}
