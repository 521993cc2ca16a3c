"""What can happen to a control plane, its servers and its files, one move at a time."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.simulation.crew import Crash
from tests.simulation.disk import FROZEN
from tests.simulation.hands import UNUSABLE, with_policy
from tests.simulation.plane import SOCKET, Plane
from tests.simulation.yard import Yard
from tests.support.rules import ALIAS, ASKED, ENGINE, SPLITTER, Broken, held, serving

from baton.domain import ModelState, Verdict
from baton.errors import BatonError, Refused
from baton.journal import JOURNAL, Journal
from baton.state_lock import claim
from baton.testing import Behaviour
from baton.triton.key import token_file
from baton.triton.repository import SPLITTER_VERSION

PASSES = (*(0.3, 1.0) * 6, *(3.0, 6.0) * 4, 15.0, 35.0, 70.0, 700.0)
"""Seconds that go by at once."""


@dataclass(frozen=True)
class Move:
    """What happens, and three numbers that choose among what is there."""

    what: str
    a: int
    b: int
    c: int


def make(yard: Yard, happen: Callable[[], None]) -> None:
    """One move, and the check of all that must hold."""
    yard.steps += 1
    try:
        happen()
    except Crash:
        bury(yard)
    yard.verify()


def bury(yard: Yard) -> None:
    """The control plane is no more."""
    plane = yard.plane
    if plane is not None:
        plane.changed()
        plane.rollout()
        yard.rollout  # noqa: B018 - remembered while nobody can read the journal
        plane.close()
    yard.plane, yard.fuse = None, 0
    yard.guarded.clear()


def turn(yard: Yard, number: int) -> None:
    """One of those who can go on does."""
    plane = yard.plane
    if plane is None:
        return
    ready = [j for j in plane.crew.ready() if j is not plane.round]
    if ready:
        plane.crew.go(ready[number % len(ready)])
    else:
        plane.turn()


def loop(yard: Yard, move: Move) -> None:
    if yard.plane is not None:
        yard.plane.turn(scan=move.a % 4 > 0)


def settle(yard: Yard, most: int = 600) -> None:
    """The loop turns and everybody goes on, until nobody can."""
    still = 0
    for _ in range(most):
        if yard.plane is None:
            make(yard, lambda: start(yard))
        make(yard, lambda: loop(yard, Move("loop", 1, 0, 0)))
        while yard.plane is not None and any(j is not yard.plane.round for j in yard.plane.crew.ready()):
            make(yard, lambda: turn(yard, 0))
            still = 0
        done = yard.plane is not None and yard.plane.round.run.dead
        still += done
        if still >= 2:
            return
    raise Broken(f"{most} rounds and no rest: {yard.decision}")


def start(yard: Yard) -> None:
    if yard.plane is None:
        try:
            yard.plane = Plane(yard)
        except BatonError as error:
            yard.say(f"  It does not start: {error}")
        else:
            yard.say("  A control plane begins.")


# Events


def _server(yard: Yard, move: Move) -> Any:
    return list(yard.servers.values())[move.a % len(yard.servers)]


def _version(yard: Yard, move: Move) -> int:
    versions = sorted(yard.files.folders)
    return versions[-1 - min(move.b % 4, len(versions) - 1)] if versions else 1


def calm(yard: Yard, _move: Move) -> None:
    """Nothing happens for a while, and what goes on goes on."""
    settle(yard)
    yard.seconds += 5.0


def time(yard: Yard, move: Move) -> None:
    yard.seconds += PASSES[move.a % len(PASSES)]


def arrive(yard: Yard, move: Move) -> None:
    _arrive(yard, max(yard.files.folders, default=0) + 1 + (move.b % 5 == 0), complete=True)


def arriving(yard: Yard, _move: Move) -> None:
    _arrive(yard, max(yard.files.folders, default=0) + 1, complete=False)


def _arrive(yard: Yard, version: int, *, complete: bool) -> None:
    if not _at_first_sight(yard, version):
        yard.put(version, complete=complete)


def _at_first_sight(yard: Yard, version: int) -> bool:
    """Whether a folder that changes now is taken for what is loaded: nobody can know better without a journal.

    A journal that began anew knows what a server loaded only once that server answered, whatever came before.
    """
    file = yard.root / "state" / JOURNAL
    fresh = not file.exists() or (yard.plane is not None and yard.plane.seen.folders < 0)
    if not fresh:
        with contextlib.closing(Journal(file)) as journal:
            fresh = version not in (journal.notes.loaded().get(ALIAS) or {})
    return fresh and any(version in held(s, ModelState.READY) for s in yard.servers.values())


def change(yard: Yard, move: Move) -> None:
    if not yard.files.folders:
        return
    version = _version(yard, move)
    if not _at_first_sight(yard, version):
        yard.put(version, complete=move.c % 4 > 0)


def remove(yard: Yard, move: Move) -> None:
    yard.folder_changes += 1
    yard.files.folders.pop(_version(yard, move), None)


def unexpected(yard: Yard, _move: Move) -> None:
    # At first sight a control plane takes what is there for what Triton loaded with; it can't know better.
    if yard.plane is None or yard.plane.seen.folders < 0:
        return
    yard.folder_changes += 1
    yard.files.unexpected["junk"] = f"junk-{yard.folder_changes}"


def tidy(yard: Yard, _move: Move) -> None:
    yard.files.unexpected.clear()
    restore(yard)


def restore(yard: Yard) -> None:
    """A person puts the folders of what serves back as they were loaded, bit by bit.

    A server that restarted meanwhile has loaded what stood there then, which Baton can't see: that person has it load
    it again.
    """
    led_to = {yard.files.alias} | yard.direct | {v for s in yard.servers.values() for v in serving(s)}
    if yard.files.alias is None:
        led_to |= yard.files.policy & {v for s in yard.servers.values() for v in held(s, ModelState.READY)}
    for version in led_to - {None}:
        assert version is not None
        slots = [s.models.slots[ENGINE][version] for s in yard.servers.values() if version in held(s, ModelState.READY)]
        known = yard.loaded.get(version) if yard.plane is not None else None
        was = known or next((slot.content for slot in slots), "")
        if was and yard.files.folders.get(version) != was:
            yard.files.folders[version] = was
            yard.folder_changes += 1
        elif version not in yard.files.folders:
            yard.put(version)
        for slot in slots:
            slot.content = yard.files.folders[version]
        yard.since.setdefault(version, yard.wall_now())
        yard.incomplete.discard(version)


def behave(yard: Yard, move: Move) -> None:
    _server(yard, move).versions[_version(yard, move)] = (
        Behaviour(load_error="the weights do not fit"),
        Behaviour(load_s=10.0),
        Behaviour(load_s=math.inf),
        Behaviour(leave_s=5.0),
        Behaviour(leave_s=math.inf),
        Behaviour(answer_s=7.0),
        Behaviour(load_error="CUDA out of memory"),
    )[move.c % 7]


def heal(yard: Yard, _move: Move | None = None) -> None:
    """Loads go well again; one that hangs still needs a restart, as in life."""
    for server in yard.servers.values():
        hung = any(not c.done and c._until == math.inf for c in server._pending)
        yard.upset(server)
        server.versions.clear()
        server.splitter = Behaviour()
        if hung:
            _restart(yard, server)


def _restart(yard: Yard, server: Any) -> None:
    yard.upset(server)
    server.lag = 0.0
    server.restart()


def away(yard: Yard, move: Move) -> None:
    server = _server(yard, move)
    yard.upset(server)
    server.reachable = False


def back(yard: Yard, move: Move) -> None:
    _server(yard, move).reachable = True


def restart(yard: Yard, move: Move) -> None:
    _restart(yard, _server(yard, move))


def refuse(yard: Yard, move: Move) -> None:
    """The key that a server was started with is another one for a while."""
    server = _server(yard, move)
    yard.upset(server)  # what was decided before may still come
    server.refuses_until = yard.seconds + (3.0, 30.0, 300.0)[move.b % 3]


def lose(yard: Yard, move: Move) -> None:
    _server(yard, move).lost_answers = 1


def late(yard: Yard, move: Move) -> None:
    _server(yard, move).lag = (3.0, 15.0, 90.0)[move.b % 3]


def twice(yard: Yard, move: Move) -> None:
    _server(yard, move).twice = True


def gate(yard: Yard, move: Move) -> None:
    verdict = (Verdict.FAIL, Verdict.HOLD, Verdict.HOLD)[move.b % 3]
    yard.gates.setdefault(ASKED[move.a % len(ASKED)], []).append(verdict)


def full(yard: Yard, move: Move) -> None:
    yard.full = 1 + move.a % 6


def freeze(yard: Yard, move: Move) -> None:
    """The control plane's calls on the repository fail: the next ones, or all of them for a while."""
    yard.frozen, seconds = ((1 + move.b, 1.0), (1 + move.b % 12, 60.0), (10**6, (3.0, 30.0, 300.0)[move.b % 3]))[
        move.a % 3
    ]
    yard.frozen_until = yard.seconds + seconds
    yard.frozen_error = FROZEN[move.c % len(FROZEN)]


def kill(yard: Yard, _move: Move) -> None:
    bury(yard)


def fuse(yard: Yard, move: Move) -> None:
    yard.fuse, yard.fuse_of_files = 1 + move.a % 12, move.b % 2 == 0
    for _ in range(4):
        if yard.fuse:
            calm(yard, move)


def second(yard: Yard, _move: Move) -> None:
    """A second control plane comes while one is there."""
    if yard.plane is None:
        return
    try:
        with claim(yard.root / "state" / SOCKET):
            pass
    except Refused as error:
        yard.say(f"  {error}")
    else:
        raise Broken("two control planes hold one state directory")


def forget(yard: Yard, _move: Move) -> None:
    """The state directory is lost."""
    bury(yard)
    yard._rollout = None
    yard.files.hands.forget()
    yard.files.changed()
    # What came before Triton's last load, and what after, nobody knows any more.
    yard.files.unexpected.clear()
    for server in yard.servers.values():
        for version, model in server.models.slots.get(ENGINE, {}).items():
            model.content = yard.files.folders.get(version, model.content)
    yard.unknown |= yard.files.policy | {v for s in yard.servers.values() for v in held(s, *ModelState)}
    shutil.rmtree(yard.root / "state", ignore_errors=True)


def keyless(yard: Yard, _move: Move) -> None:
    """The control plane is killed, and the file with the splitters' token is lost."""
    bury(yard)
    token_file(yard.root / "state", ALIAS).unlink(missing_ok=True)


def clock(yard: Yard, move: Move) -> None:
    """The machine's clock is set, in half of the cases while the control plane is away."""
    if move.b % 2:
        bury(yard)
    yard.wall += (-3600.0, 3600.0, -20.0, 20.0)[move.a % 4]


def die(yard: Yard, move: Move) -> None:
    server = _server(yard, move)
    if SPLITTER in server.models.splitters and move.c % 2:
        yard.upset(server)
        server.die(SPLITTER, SPLITTER_VERSION)
        yard.say(f"  the splitter's process on {server.name} ends")
        return
    there = sorted(held(server, ModelState.READY))
    alias = yard.files.alias
    chosen = alias if alias in there and move.b % 3 else there[move.b % len(there)] if there else None
    if chosen is not None:
        yard.upset(server)
        server.die(ENGINE, chosen)


def _processes(server: Any) -> list[tuple[str, int]]:
    """The models and versions on a server that are READY: each has a process."""
    models = ((m, v, s) for m in (ENGINE, SPLITTER) for v, s in sorted(server.models.slots.get(m, {}).items()))
    return [(m, v) for m, v, s in models if s.state is ModelState.READY and not s.dead]


def stand(yard: Yard, move: Move) -> None:
    """The process of a model stands still."""
    server = _server(yard, move)
    there = _processes(server)
    if there and not server.away():
        yard.upset(server)
        model, version = there[move.b % len(there)]
        yard.say(f"  {model} {version} on {server.name} stands still")
        server.freeze(model, version)


def wake(yard: Yard, move: Move) -> None:
    """What stands still goes on, on one server, with clients that ask it all the time."""
    server = _server(yard, move)
    aborted = server.aborted
    seen = yard.plane is not None and yard.plane.seen.servers.get(server.name) == len(yard.upsets[server.name])
    for model, slots in list(server.models.slots.items()):
        for version, slot in list(slots.items()):
            if slot.frozen_at is None or server.aborted != aborted:  # one that went on took all others with it
                continue
            yard.upset(server)
            yard.say(f"  {model} {version} on {server.name} goes on")
            led = model == SPLITTER or version in serving(server) or yard.weight(server) > 0
            server.wake(model, version, busy=led and bool(serving(server)))
    could = yard.near and seen and not server.away()
    yard.need(server.aborted == aborted or not could, f"a process that went on took {server.name} down")


def live(yard: Yard, move: Move) -> None:
    yard.ordered_live = (Verdict.PASS, Verdict.PASS, Verdict.HOLD, None, Verdict.FAIL)[move.a % 5]


def splitter(yard: Yard, move: Move) -> None:
    _server(yard, move).splitter = Behaviour(load_error="no such backend") if move.b % 2 else Behaviour(load_s=10.0)


def edit(yard: Yard, move: Move) -> None:
    """A person edits a ``config.pbtxt``. What Baton never saw in a usable state it can't put back: that stays out."""
    hands, files = yard.files.hands, yard.files
    model = (ENGINE, ENGINE, ALIAS, SPLITTER)[move.a % 4]
    text = hands.text(model)
    if text is None or hands.wrong(model) or not hands.known.get(model):
        return
    kind = move.b % 10
    if kind < 5 or model == SPLITTER:
        one = UNUSABLE[model][move.c % len(UNUSABLE[model])]
        yard.say(f"  by hand: {model}, {one.__name__}")
        hands.spoil(model, one)
    elif model == ENGINE and kind < 8:
        yard.say("  by hand: another parameter and instance group")
        hands.mark(move.c)
    elif model == ENGINE:
        others = sorted({v for s in yard.servers.values() for v in held(s, ModelState.READY)} - {files.alias})
        versions = (999,) if move.c % 2 or not others else tuple(others)
        if files.alias is None or frozenset(versions) == files.policy:
            return
        yard.say(f"  by hand: the policy names {versions}")
        hands.spoil(ENGINE, with_policy(versions), usable=True)
    else:
        ready = set.intersection(*(held(s, ModelState.READY) for s in yard.servers.values())) & files.policy
        if ENGINE in yard.wrong or not ready - {files.alias}:
            return
        version = min(ready - {files.alias})
        yard.say(f"  by hand: the alias leads to version {version}")
        files.flip(version)
        hands.edits += 1
        yard.led = version
        yard.proved.add(version)
    files.changed()


def _verb(what: str, ask: Callable[[Any, int | None, str], Any]) -> Callable[[Yard, Move], None]:
    def happen(yard: Yard, move: Move) -> None:
        if yard.plane is None:
            return
        who, version = ("ann", "bob")[move.c % 2], None if move.a % 2 else _version(yard, move)
        yard.plane.verb(f"{who}: {what} {version or ''}".strip(), lambda app: ask(app, version, who))

    return happen


def prune(yard: Yard, move: Move) -> None:
    if yard.plane is not None:
        asked = {"keep": move.b % 3, "dry_run": move.a % 8 == 0, "who": ("ann", "bob")[move.c % 2]}
        yard.plane.verb(f"prune {asked}", lambda app: app.prune(None, **asked))


HAPPENS: dict[str, Callable[[Yard, Move], None]] = {
    "loop": loop, "task": lambda y, m: turn(y, m.a), "calm": calm, "time": time, "arrive": arrive,
    "arriving": arriving, "change": change, "remove": remove, "unexpected": unexpected, "tidy": tidy, "behave": behave,
    "heal": heal, "away": away, "back": back, "restart": restart, "lose": lose, "late": late, "twice": twice,
    "gate": gate, "full": full, "kill": kill, "fuse": fuse, "start": lambda y, _m: start(y), "second": second,
    "forget": forget, "keyless": keyless, "clock": clock, "die": die, "live": live, "splitter": splitter, "edit": edit,
    "freeze": freeze, "refuse": refuse, "stand": stand, "wake": wake, "prune": prune,
    "abort": _verb("abort", lambda app, _v, who: app.abort(None, who=who)),
    "rollback": _verb("rollback", lambda app, v, who: app.rollback(None, v, who=who)),
    "promote": _verb("promote", lambda app, v, who: app.promote(None, v, full=False, who=who)),
    "skip": _verb("promote --full", lambda app, _v, who: app.promote(None, None, full=True, who=who)),
    "pause": _verb("pause", lambda app, _v, who: app.pause(who=who)),
    "resume": _verb("resume", lambda app, _v, who: app.resume(who=who)),
    "retry": _verb("retry", lambda app, v, who: app.retry(None, v, release=None, who=who)),
    "verify": _verb("verify", lambda app, v, who: app.verify(None, v or 1, who=who)),
}  # fmt: skip
