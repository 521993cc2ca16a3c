"""Rollouts as stories: ``scenarios/*.txt`` hold commands and everything that follows from them.

Lines that begin with ``>`` are commands, the indented lines below them what happened. ``BATON_REWRITE=1`` writes the
files anew after a change that is meant; read the difference before it is committed.

Commands: ``servers N``, ``policy NAME VALUE...`` and ``adopted`` (version 1 is in use, with no public
name) begin anew · ``serves N`` (brings it live, without a word) ·
``arrive``, ``arriving``, ``change``, ``restore``, ``remove`` ``N`` · ``stray NAME``, ``tidy`` ·
``load N slow|fails|hangs|well SERVER`` · ``gate NAME VERDICT...`` · ``away``, ``back``, ``restart`` ``SERVER`` ·
``crash`` (of the control plane) · ``wait SECONDS``, ``until PHASE`` · ``request``, ``answered`` · ``status`` · and the
verbs of ``ctl``.
"""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

import pytest
from world import ALIAS, Behaviour, World, held, serving

from baton.domain import Gate, ModelState, Phase, Verdict
from baton.errors import Refused
from baton.plan import Policy, plan

STORIES = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))
LOADS = {
    "well": Behaviour(),
    "slow": Behaviour(load_s=10.0),
    "fails": Behaviour(load_error="out of memory"),
    "hangs": Behaviour(load_s=math.inf),
}


class Telling:
    """One story being told."""

    def __init__(self) -> None:
        self.world = World(plan, 1, Policy(load_timeout=60.0, drain_timeout=20.0))
        self.kept: dict[int, str] = {}

    def command(self, line: str) -> list[str]:
        """Carry out one command, then decide and act until nothing more happens; what was said on the way."""
        verb, *words = line.split()
        before = len(self.world.trace)
        if verb == "adopted":
            self.world = World(plan, len(self.world.servers), self.world.policy, adopted=True)
            self.world.now += 60.0
        elif verb not in ("servers", "policy"):
            try:
                getattr(self, f"do_{verb}")(*words)
            except Refused as refusal:
                self.world.say(f"  refused: {refusal}")
            if verb != "until":
                self.world.run()
        elif verb == "servers":
            self.world = World(plan, int(words[0]), self.world.policy)
        else:
            values = {k: {"yes": True, "no": False}.get(v) for k, v in zip(words[::2], words[1::2], strict=True)}
            values = {k: float(w) if v is None else v for (k, v), w in zip(values.items(), words[1::2], strict=True)}
            self.world = World(plan, len(self.world.servers), Policy(**{**self._policy(), **values}))
        return self.world.trace[before:]

    def _policy(self) -> dict[str, object]:
        return {name: getattr(self.world.policy, name) for name in Policy.__dataclass_fields__}

    def do_serves(self, version: str) -> None:
        told = len(self.world.trace)
        self.do_arrive(version)
        while self.world.files.alias != int(version) or self.world.rollout is not None:
            self.world.now += 5.0
            self.world.run()
        del self.world.trace[told:]

    def do_arrive(self, version: str) -> None:
        self.world.files.put(int(version), self.world.now)

    def do_arriving(self, version: str) -> None:
        self.world.files.put(int(version), self.world.now, complete=False)

    def do_change(self, version: str) -> None:
        self.kept[int(version)] = self.world.files.folders[int(version)]
        self.world.files.put(int(version), self.world.now)

    def do_restore(self, version: str) -> None:
        self.world.files.put(int(version), self.world.now)
        self.world.files.folders[int(version)] = self.kept[int(version)]

    def do_remove(self, version: str) -> None:
        del self.world.files.folders[int(version)]

    def do_stray(self, name: str) -> None:
        self.world.files.strays[name] = "there"

    def do_tidy(self) -> None:
        self.world.files.strays.clear()

    def do_load(self, version: str, how: str, server: str = "a") -> None:
        self.world.servers[server].versions[int(version)] = LOADS[how]

    def do_gate(self, name: str, *verdicts: str) -> None:
        self.world.gates[Gate(name)] = [None if v == "unreachable" else Verdict(v) for v in verdicts]

    def do_away(self, server: str) -> None:
        self.world.servers[server].reachable = False

    def do_back(self, server: str) -> None:
        self.world.servers[server].reachable = True

    def do_restart(self, server: str) -> None:
        self.world.servers[server].restart()

    def do_crash(self) -> None:
        self.world.restart_control()

    def do_wait(self, seconds: str) -> None:
        """Time passes in steps of at most five seconds, as the loop looks again and again."""
        end = self.world.now + float(seconds)
        while self.world.now < end:
            self.world.now = min(end, self.world.now + 5.0)
            self.world.run()

    def do_until(self, phase: str) -> None:
        for _ in range(200):
            if self.world.rollout is not None and self.world.rollout.phase is Phase(phase):
                return
            if not self.world.step() and not self.world.poll():
                self.world.now += 1.0
        raise AssertionError(f"never {phase}")

    def do_request(self) -> None:
        stack = contextlib.ExitStack()
        stack.enter_context(self.world.servers["a"].request(ALIAS))
        self.world.requests.append(stack)

    def do_answered(self) -> None:
        self.world.requests.pop().close()

    def do_status(self) -> None:
        world = self.world
        world.say(f"  files: policy {sorted(world.files.policy)}, public name at {world.files.alias}")
        for name, server in world.servers.items():
            if not server.reachable:
                world.say(f"  server {name}: away")
                continue
            leaving = held(server, ModelState.UNLOADING)
            more = f", leaving {sorted(leaving)}" if leaving else ""
            ready = sorted(held(server, ModelState.READY))
            world.say(f"  server {name}: READY {ready}{more}, public name at {sorted(serving(server))}")

    def do_promote(self, version: str | None = None) -> None:
        self.world.promote(None if version is None else int(version))

    def do_rollback(self, version: str | None = None) -> None:
        self.world.rollback(None if version is None else int(version))

    def do_retry(self, version: str) -> None:
        self.world.retry(int(version))

    def do_verify(self, version: str) -> None:
        self.world.check_version(int(version))

    def do_abort(self) -> None:
        self.world.abort()

    def do_pause(self) -> None:
        self.world.paused = True

    def do_resume(self) -> None:
        self.world.paused = False


def tell(text: str) -> str:
    """The story's commands and comments as they stand, with what happens written below each command."""
    telling, lines = Telling(), []
    for line in text.splitlines():
        if line.startswith("> "):
            lines += [line, *(told.rstrip() for told in telling.command(line[2:]))]
        elif not line.startswith("  "):
            lines.append(line)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("story", STORIES, ids=lambda path: path.stem)
def test_scenario(story: Path):
    written = story.read_text()
    told = tell(written)
    if os.environ.get("BATON_REWRITE"):
        story.write_text(told)
    assert told == written or os.environ.get("BATON_REWRITE")


def test_there_are_stories():
    assert len(STORIES) >= 14
