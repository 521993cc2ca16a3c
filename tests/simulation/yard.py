"""What outlives a control plane: the servers, the files, the state directory, time; and what must hold of them.

A :class:`Yard` sees each act of the control plane before it happens and may end the process there. The checks that all
simulations share are in ``tests/support/rules.py``; those here are about what only the whole shows: that no client's
request goes unanswered because of something that Baton did, and that nothing serves that was not proved.
"""

from __future__ import annotations

import errno
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.simulation.crew import Crash, Seen
from tests.simulation.disk import CONFIG, FROZEN, SeenFiles, refusal
from tests.simulation.hands import NAMES
from tests.simulation.servers import REFUSED_KEY, Defects, Server
from tests.support.rules import ALIAS, ENGINE, SPLITTER, Broken, Rules, held, serving
from tests.support.settings import rollout_settings

from baton.app.changes import _previous
from baton.config import ServiceConfig
from baton.controller.health import AGAIN_S
from baton.domain import GATES_OF, Folder, Gate, Kind, Model, ModelState, Outcome, Phase, Rollout, Verdict
from baton.errors import Refused, RepositoryError
from baton.local.guard import FROZEN_S
from baton.plan import Ask, Effect, Reload, Sync
from baton.reasons import Reason, Why
from baton.testing import Behaviour, FakeTriton
from baton.triton.repository import SPLITTER_VERSION

TAKING = (ModelState.READY, ModelState.LOADING, ModelState.UNLOADING)
"""States of a version that is in a server's memory."""


class Yard(Rules):
    """``adopted``: version 1 is served already, by the engine alone. ``boot_engine``: servers start with both names.

    ``near``: the control plane can see the servers' processes.
    """

    files: SeenFiles
    servers: dict[str, Server]
    begun_at: int | None = None
    """Where the alias's files led when the present rollout began."""
    led: int | None = None
    """Where a person led them since Baton last did."""
    stops = 0
    """How often a rollout was stopped."""
    rubbish: frozenset[int] = frozenset()
    """Versions that Baton took out of the repository and whose files are still there."""
    pruned = 0
    """How many folders it took out."""

    def __init__(
        self, root: Path, config: ServiceConfig, servers: int, *, adopted: bool, boot_engine: bool, near: bool
    ) -> None:
        self.root, self.config = root, config
        self.near = near
        self.seconds, self.wall = 1_000_000.0, 0.0
        """The servers' time, and how far the control plane's clock is from it."""
        self.fuse = 0
        """The control plane is killed instead of its so-manieth durable act from now; 0: never."""
        self.fuse_of_files = False
        """Only what it does to files counts."""
        self.guarded: dict[tuple[str, str], dict[int, int]] = {}
        """By server and model: versions of which the control plane ends what stands still, each with its load."""
        self.full = 0
        """So many of the next durable writes find no room."""
        self.frozen, self.frozen_until, self.frozen_error = 0, 0.0, FROZEN[0]
        """So many of the control plane's next calls on the repository fail, until then, with this error."""
        self.plane: Any = None
        self.settings, self.steered = rollout_settings(), {}
        self.ordered_live: Verdict | None = Verdict.PASS
        self.gates: dict[Gate, list[Verdict]] = {}
        self.passed: dict[tuple[int, str], set[Gate]] = {}
        self.proved: set[int] = set()
        """Versions that passed every gate, or served before Baton came."""
        self.was_loaded: set[int] = {1}
        """Versions that were READY once; the first is in the policy that a person wrote."""
        self.stopped_at: float | None = None
        self.upsets: defaultdict[str, list[float]] = defaultdict(list)
        """When something other than Baton took a server, or a version from it, away, or made it well."""
        self.blamed: set[str] = set()
        """Servers to which that happened in this move."""
        self.trace: list[str] = []
        self.steps = self.folder_changes = 0
        self.outcomes: list[Outcome] = []
        self.defects = Defects()
        self.since: dict[int, float] = {}
        self.incomplete: set[int] = set()
        (root / "repository" / ENGINE).mkdir(parents=True)
        (root / "repository" / ENGINE / "config.pbtxt").write_text(CONFIG)
        self.files = SeenFiles(root / "repository")
        boot = (ENGINE, ALIAS) if adopted or boot_engine else (ALIAS,)
        self.servers = {name: Server(name, self, boot) for name in ("a", "b", "c")[:servers]}
        self.direct = frozenset({1} if adopted else ())
        if adopted:
            self.put(1)
            for server in self.servers.values():
                server.begin("load", ENGINE)
            self.proved.add(1)
        self.named = self._was_named = False
        """Whether there is to be an alias, and was one on disk."""
        self._answered = dict.fromkeys(self.servers, False)
        self._reloading: set[str] = set()
        self._shown: dict[str, str] = {}
        self._rollout: Rollout | None = None

    # Folders

    def put(self, version: int, content: str | None = None, *, complete: bool = True) -> None:
        """A folder comes or changes; each time it looks new to Triton."""
        self.folder_changes += 1
        self.files.folders[version] = f"{content or f'weights-{self.folder_changes}'}@{self.folder_changes}"
        self.since[version] = self.wall_now()
        (self.incomplete.discard if complete else self.incomplete.add)(version)

    def take_out(self, version: int) -> None:
        """The control plane removes a folder."""
        self._check_prune(version)
        self.say(f"  the folder of version {version} is removed")
        known = self.plane.seen.folders == self.folder_changes
        self.folder_changes += 1
        self.pruned += 1
        self.files.folders.pop(version, None)
        self.rubbish |= {version}
        if known:  # it knows what it did itself
            self.plane.seen = replace(self.plane.seen, folders=self.folder_changes)

    def _check_prune(self, version: int) -> None:
        """What serves, stands by, rolls out, waits to, arrives, or is a rollback's target stays on disk."""
        what = f"version {version} is removed from disk"
        alias, rollout, view = self.files.alias, self.rollout, self.plane.service.view
        self.need(version != alias, f"{what}, and it serves")
        self.need(rollout is None, f"{what} during a {rollout and rollout.kind}")
        for name, server in self.servers.items():
            self.need(version not in serving(server), f"{what}, and the alias on {name} leads to it")
        for name, server in self.looked_at().items():
            self.need(version not in held(server, *TAKING), f"{what}, and {name} holds it")
        if self._knows(self.plane.seen):
            self.need(version not in self.incomplete, f"{what}, and it is still arriving")
            waiting = [f.version for f in view.pending(self.settings)]
            self.need(version not in waiting, f"{what}, and its rollout has not begun")
        asked = view.pruning
        self.need(asked is not None, f"{what}, and nobody asked for it")
        self.need(not self.paused or asked.who is not None, f"{what} although Baton is paused")
        try:
            back = _previous(self.plane.app, self.plane.service, view)
        except Refused:
            back = None
        self.need(version != back, f"{what}, and a rollback goes to it")

    def content(self, version: int) -> str:
        return self.files.folders.get(version, "").partition("@")[0]

    def manifest(self, _service: str, version: int) -> dict[str, str]:
        return {"weights": self.content(version)}

    def scan(self) -> list[Folder]:
        try:
            self.look()
        except OSError as error:
            raise RepositoryError(f"The engine's directory can't be listed: {error.strerror}.") from None
        if self.plane is not None:
            self.plane.seen = replace(self.plane.seen, folders=self.folder_changes)
        found = []
        for v, f in sorted(self.files.folders.items()):
            missing = ("shard",) if v in self.incomplete else ()
            found.append(Folder(str(v), v, f, missing, None, self.since[v], self.since[v], 1))
        for n, f in self.files.unexpected.items():
            found.append(Folder(n, None, f, problem="Not a version number; move it out."))
        return found

    # The control plane as the rules see it

    @property
    def now(self) -> float:  # type: ignore[override]
        return self.wall_now() if self.plane is None else self.plane.clock()

    def wall_now(self) -> float:
        return self.seconds + self.wall

    def server_now(self) -> float:
        return self.seconds

    @property
    def rollout(self) -> Rollout | None:  # type: ignore[override]
        if self.plane is not None:
            self._rollout = self.plane.rollout()
        return self._rollout

    @property
    def jobs(self) -> Collection[Effect]:  # type: ignore[override]
        running: frozenset[Effect] = self.plane.service.tasks.running() if self.plane is not None else frozenset()
        return running - {self.plane.starting} if self.plane is not None else running

    @property
    def unhealthy(self) -> Mapping[tuple[str, int], Any]:  # type: ignore[override]
        """As the present decision knows it: before it acts on that it asks once more."""
        found: Mapping[tuple[str, int], Any] = self.plane.service.view.unhealthy
        return found

    @property
    def loaded(self) -> Mapping[int, str]:  # type: ignore[override]
        return self.plane.journal.notes.loaded().get(ALIAS) or {}

    @property
    def live(self) -> Verdict | None:  # type: ignore[override]
        verdict = self.plane.service.split.verdict
        return None if verdict is None else verdict.verdict

    @property
    def paused(self) -> bool:  # type: ignore[override]
        return bool(self.plane.loop.paused())

    @property
    def unseen(self) -> bool:  # type: ignore[override]
        return bool(self.plane.seen.folders < self.folder_changes)

    @property
    def wrong(self) -> Collection[str]:  # type: ignore[override]
        return self.files.hands.all_wrong()

    @property
    def decision(self) -> Any:  # type: ignore[override]
        return self.plane.service.decision

    # What the control plane does, before it happens

    def _acting(self) -> bool:
        return self.plane is not None and self.plane.crew.current is not None

    def turn(self) -> None:
        """Before a call to a server others may have their turn."""
        if self._acting() and self.plane.crew.current.effect is not None:
            self.plane.crew.pause()

    def upset(self, server: FakeTriton) -> None:
        """Something other than Baton takes a server, or a version from it, away, or makes it well."""
        self.upsets[server.name].append(self.seconds)
        self.blamed.add(server.name)

    def guard(self, server: FakeTriton) -> None:
        """The control plane's guard ends what stands still: it is quicker than Triton's patience."""
        for (name, model), versions in self.guarded.items():
            for version, load in versions.items() if name == server.name else ():
                slot = server.models.slots.get(model, {}).get(version)
                at = None if slot is None else slot.frozen_at
                still = at is not None and self.seconds - at >= FROZEN_S and server.loads[model, version] == load
                if still:
                    self.say(f"  the guard ends {model} {version} on {name}")
                    server.die(model, version)

    def looks_at(self, server: Server) -> None:
        if self._acting() and self.plane.crew.current is self.plane.round:
            known = {**self.plane.seen.servers, server.name: len(self.upsets[server.name])}
            self.plane.seen = replace(self.plane.seen, servers=known)

    def _knows(self, seen: Seen, *servers: str) -> bool:
        """Whether nothing happened to the folders, the files, the rollout and those servers since a decision."""
        now = (self.folder_changes, self.files.hands.edits, self.stops)
        return (seen.folders, seen.edits, seen.stops) == now and all(
            seen.servers.get(n) == len(self.upsets[n]) for n in servers
        )

    def wait(self, condition: Callable[[], bool]) -> None:
        def come() -> bool:
            for server in self.servers.values():
                server.advance()
            return condition()

        self.plane.crew.pause(come)

    def act(self, what: str) -> None:
        """A durable act is about to happen."""
        self.files.changed()
        if self.plane is None:
            return
        self.plane.changed()
        if self.plane.dead:
            raise Crash
        if not self._acting():
            return
        told = what not in ("journal", "call")
        if self.fuse and (told or not self.fuse_of_files):
            self.fuse -= 1
            if not self.fuse:
                self.plane.dead = True
                self.say(f"  The control plane is killed before it can {_words(what)}.")
                raise Crash
        if self.full and what != "call":
            self.full -= 1
            self.say(f"  No room to {_words(what)}.")
            raise refusal(errno.ENOSPC)
        if told:
            self.look()
            self.say(f"    {what}")

    def look(self) -> None:
        """The control plane is about to look at a file, or to change one."""
        if self.frozen and self._acting() and self.seconds < self.frozen_until:
            self.frozen -= 1
            raise refusal(self.frozen_error)

    def called(self, server: Server, verb: str, model: str) -> None:
        """A load or unload call is about to be made."""
        if not self._acting():
            return
        self.act("call")
        self.say(f"    {verb} {model} on {server.name}")
        job = self.plane.crew.current
        effect = job.effect
        if server.away() or not isinstance(effect, Sync | Reload) or not self._knows(job.seen, server.name):
            return
        if model == ALIAS:
            if verb == "load":
                self._check_alias_sync(server)
        elif model == SPLITTER:
            led = verb == "unload" and server.step(ALIAS) == SPLITTER and serving(server)
            self.need(not led, f"the splitter leaves {server.name} under the alias")
        elif isinstance(effect, Sync):
            self._check_engine_sync(server, self.files.policy)
        elif verb == "unload":
            alive = self.answers(server) and server.versions[self.files.alias] == Behaviour()
            # A question that was put before it was well again may have failed just now.
            patience = self.config.health.timeout + AGAIN_S
            late = any(self.seconds - at <= patience for at in self.upsets[server.name])
            self.need(not alive or late, f"the engine is unloaded on {server.name}, where it answers")

    def starting(self, effect: Effect) -> None:
        """An effect begins in the background."""
        if isinstance(effect, Reload):
            self.plane.starting = effect
            self._check_reload(effect.server)
            self.plane.starting = None
        if isinstance(effect, Sync | Ask | Reload):
            self.say(f"  -> {_effect(effect)}")

    def about_to_write(self, what: str, value: Any, *, split: bool = False) -> None:
        """A file of the repository is about to be written, or the loop looks at them."""
        if what == "look":
            if self._acting() and self.plane.crew.current is self.plane.round:
                self.plane.seen = replace(self.plane.seen, edits=self.files.hands.edits, stops=self.stops)
            return
        self.say(
            f"  -> {what}: {sorted(value) if what == 'policy' else value}{' behind the splitter' if split else ''}"
        )
        if what == "policy":
            self._check_policy(value)
        elif what == "splitter":
            self.need(
                not self.files.split or value == self.files.splitter,
                "the splitter's files change under the alias",
            )
        else:
            if self._knows(self.plane.seen, *self.servers):
                self._check_alias(value, split=split)
            self.direct, self.led = frozenset(), None
            self.named = value is not None
            if value is not None and not split:
                self._check_proved(value)
                self._check_answered(value)

    def _check_proved(self, version: int) -> None:
        rollout = self.rollout
        if rollout is not None and version == rollout.candidate and version not in self.proved:
            met = {Gate.LOAD} | self.passed.get((version, rollout.fingerprint), set())
            missing = set(GATES_OF[rollout.kind]) - met
            self.need(not missing, f"version {version} is to serve, and nobody asked {', '.join(sorted(missing))}")
            self.proved.add(version)
        self.need(version in self.proved, f"version {version} is to serve, and was never proved")

    def _check_answered(self, version: int) -> None:
        """What is to get all traffic has answered since it had come the whole way."""
        rollout, answered = self.rollout, self.plane.service.health.answered()
        if rollout is None or (version, rollout.kind) != (rollout.candidate, Kind.ROLLOUT) or rollout.previous is None:
            return
        for name in self.answering():
            fresh = answered.get((name, version), 0.0) >= rollout.phase_since
            self.need(fresh, f"version {version} is to serve, and was not asked on {name} since its way ended")

    def noted(self, model: Model, text: str | None) -> None:
        """The journal keeps the last usable text of a file."""
        self.files.hands.known[NAMES[model]] = text

    def began(self, rollout: Rollout) -> None:
        self.stopped_at, self.begun_at = None, self.files.alias
        self.say(f"  {rollout.kind} of version {rollout.candidate} begins, from {rollout.previous}, by {rollout.who}")
        if rollout.candidate in self.direct and rollout.why.reason is not Reason.ADOPTED:
            self.direct = frozenset()

    def ends(self, rollout: Rollout, outcome: Outcome, why: Why) -> None:
        self.say(f"  the {rollout.kind} of version {rollout.candidate} ends {outcome}: {why}")
        self.stopped_at = self.seconds
        # One that is aborted may be tried again; its reason names the servers that did not answer.
        blamed = REFUSED_KEY in str(why) and outcome is not Outcome.ABORTED
        self.need(not blamed, f"a refused key is held against version {rollout.candidate}: {why}")
        if outcome not in (Outcome.LIVE, Outcome.VERIFIED):
            at = self.files.alias
            # Or where a person led it; or the rollout began in place of a version that is lost.
            instead = rollout.previous is None and at == self.begun_at
            theirs = at is not None and at == self.led
            self.need(at == rollout.previous or instead or theirs, f"{outcome}, but the alias is at {at}")

    def answering(self) -> dict[str, FakeTriton]:
        return {n: s for n, s in self.servers.items() if not s.away() and not s.refuses()}

    def looked_at(self) -> dict[str, FakeTriton]:
        return {n: s for n, s in self.answering().items() if self._knows(self.plane.seen, n)}

    # What must hold after every step

    def verify(self) -> None:
        for server in self.servers.values():
            server.advance()
        if self.defects.found:
            raise Broken(self.defects.found[0])
        super().verify()
        for server in self.servers.values():
            self.was_loaded |= held(server, ModelState.READY)
        named = (
            self.files.policy - self.was_loaded - self.unknown - ({self.rollout.candidate} if self.rollout else set())
        )
        self.need(not named or ENGINE in self.wrong, f"the policy names {named}, which never loaded")
        lost = self.files.hands.lost_mark()
        self.need(not lost, f"an edit by hand is lost from the engine's file: {lost}")
        self._check_restart()
        reloading = {effect.server for effect in self.jobs if isinstance(effect, Reload)}
        for name, server in self.servers.items():
            answers = self.answers(server)
            # The last call of a reload may be what takes the version out, its answer lost.
            excused = name in self.blamed | reloading | self._reloading or self.files.alias is None
            excused = excused or self._leads_to_the_dead(server)
            unseen = self.plane is None or self.plane.oldest() < self.folder_changes
            lost = self._answered[name] and not answers
            self.need(not lost or excused or unseen, f"requests on {name} find nobody: {self.shown(server)}")
            # What is slower than the health's patience is as good as dead, and may be loaded again.
            patience = self.config.health.timeout
            self._answered[name] = answers and all(server.versions[v].answer_s <= patience for v in serving(server))
        self._reloading = reloading
        self._tell()
        self.blamed.clear()

    def _leads_to_the_dead(self, server: FakeTriton) -> bool:
        """What died after it was asked is found a moment later, and a way back asks nobody."""
        slots = (
            server.models.slots.get(ENGINE, {}).get(self.files.alias),
            server.models.slots.get(SPLITTER, {}).get(SPLITTER_VERSION),
        )
        return any(s is not None and s.state is ModelState.READY and not s.answers for s in slots)

    def _check_restart(self) -> None:
        """What a server that starts now finds on disk works, whenever the control plane died."""
        alias = self.files.alias
        if alias is None:
            self._was_named = self._was_named and self.named
            self.need(not self._was_named, "the alias is gone from the disk: a restart serves nothing")
            return
        self._was_named = True
        if ALIAS in self.wrong:
            return
        files = self.files.read(ALIAS)
        whole = files is not None and files.policy <= set(files.folders)
        self.need(whole, f"the alias on disk lacks the folder of version {alias}: a restart serves nothing")
        behind = not self.files.split or self.files.read(SPLITTER) is not None or SPLITTER in self.wrong
        self.need(behind, "the alias on disk leads to a splitter that is not there")

    def answers(self, server: Server) -> bool:
        """Whether a client's request to the alias would be answered there now, in whatever time."""
        if server.away() or not serving(server):
            return False
        step = server.models.files[ALIAS].step
        assert step is not None
        version = step[1]
        if step[0] == SPLITTER:
            splitter = server.models.splitters.get(SPLITTER)
            if splitter is None:
                return False
            version = splitter.stable
        slot = server.models.slots.get(ENGINE, {}).get(version)
        return slot is not None and slot.state is ModelState.READY and slot.answers

    def _check_share(self, name: str, server: FakeTriton) -> None:
        """A share of traffic is a lease: it never lasts longer, and after a stop it is not renewed."""
        splitter = server.models.splitters.get(SPLITTER)
        if splitter is None or not splitter.weight():
            return
        left = splitter._until - self.seconds
        lease = self.settings.lease
        self.need(left <= lease + 1e-6, f"{name} holds a lease of {left:.0f} s, longer than {lease:g} s")
        rollout = self.rollout
        on_its_way = rollout is not None and rollout.stop is None and rollout.candidate == splitter.candidate()
        if on_its_way or self.plane is None:
            return
        since = self.seconds - (self.stopped_at if self.stopped_at is not None else self.seconds)
        self.need(since <= lease, f"{name} sends {splitter.weight():g} % to a stopped candidate, after {since:.0f} s")

    def settled(self) -> None:
        super().settled()
        self.need(not self.rubbish, f"what was removed is not deleted: {self.rubbish}")
        self.need(not self.wrong, f"what a person broke is not put back: {set(self.wrong)}")
        self.need(self.decision.phase in (Phase.STEADY, Phase.EMPTY), f"it never rests: {self.decision}")
        for server in self.servers.values():
            well = self.files.alias is None or self.answers(server)
            self.need(well, f"at the end requests on {server.name} find nobody: {self.shown(server)}")

    # The story

    def say(self, line: str) -> None:
        self.trace.append(line.replace(str(self.root), ""))

    def shown(self, server: Server) -> str:
        """A server in a few words."""
        if server.away():
            return "does not answer"
        slots = server.models.slots.get(ENGINE, {})
        engine = [
            f"{v} {'DEAD' if s.dead else s.state if s.answers else 'FROZEN'}"
            for v, s in sorted(slots.items())
            if s.state is not ModelState.UNAVAILABLE
        ]
        led = serving(server)
        step = server.models.files[ALIAS].step if led else None
        leads = f"; the alias leads to {step[0]} {', '.join(map(str, led))}" if step else ""
        share = (
            f" with {self.weight(server):g} % for {server.models.splitters[SPLITTER].candidate()}"
            if self.weight(server)
            else ""
        )
        return f"{', '.join(engine) or 'nothing loaded'}{leads}{share}"

    def _tell(self) -> None:
        for name, server in self.servers.items():
            shown = self.shown(server)
            if self._shown.get(name) != shown:
                self._shown[name] = shown
                self.say(f"      {name}: {shown}")


def _words(what: str) -> str:
    return {"journal": "write its journal", "call": "call a server"}.get(what, what)


def _effect(effect: Effect) -> str:
    match effect:
        case Sync(server, model):
            return f"sync {model} on {server}"
        case Ask(gate):
            return f"ask gate {gate}"
        case Reload(server):
            return f"load the engine again on {server}"
        case _:
            return str(effect)
