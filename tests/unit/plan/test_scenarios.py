"""Rollouts as stories: ``scenarios/*.txt`` hold commands and everything that follows from them.

Lines that begin with ``>`` are commands, the indented lines below them what happened. ``BATON_REWRITE=1`` writes the
files anew after a change that is meant; read the difference before it is committed.

Commands: ``servers N``, ``policy NAME VALUE...``, ``steps STEP...`` (``5%for10s``, ``50%over20s``, ``pause``) and
``shadow PERCENT SECONDS`` (the way of traffic) and ``adopted`` (version 1 is in use, with no alias) begin anew ·
``serves N`` (brings it live, without a word), ``meets N`` (gives it its first share of traffic, without a word) ·
``arrive``, ``arriving``, ``change``, ``restore``, ``remove`` ``N`` · ``stray NAME``, ``tidy`` ·
``load N slow|fails|lacks|hangs|well SERVER`` · ``gate NAME VERDICT...`` · ``away``, ``back``, ``restart`` ``SERVER`` ·
``crash`` (of the control plane), ``gone SECONDS`` (until it starts again) · ``live VERDICT`` (of the live analysis;
``none``: nothing yet) · ``splitter well|fails SERVER`` · ``wait SECONDS``, ``until PHASE`` · ``request``,
``answered`` · ``status`` · and the verbs of ``ctl``.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.settings import rollout_settings
from tests.unit.plan.world import ALIAS, SPLITTER, Behaviour, World, held, serving

from baton.domain import Gate, ModelState, Phase, Step, Verdict
from baton.errors import Refused
from baton.plan import plan
from baton.testing import FakeTriton

STORIES = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))
LOADS = {
    "well": Behaviour(),
    "slow": Behaviour(load_s=10.0),
    "fails": Behaviour(load_error="the weights do not fit"),
    "lacks": Behaviour(
        load_error="Internal: ModuleNotFoundError: No module named 'torch'\n\nAt:\n  model.py(3): <module>\n"
    ),
    "hangs": Behaviour(load_s=math.inf),
}


class Telling:
    """One story being told."""

    def __init__(self) -> None:
        self.world = World(plan, 1, rollout_settings(load_timeout=60.0, drain_timeout=20.0))
        self.kept: dict[int, str] = {}

    def command(self, line: str) -> list[str]:
        """Carry out one command, then decide and act until nothing more happens; what was said on the way."""
        verb, *words = line.split()
        before = len(self.world.trace)
        if verb == "adopted":
            self.world = World(plan, len(self.world.servers), self.world.settings, adopted=True)
            self.world.now += 60.0
        elif verb not in ("servers", "policy", "steps", "shadow"):
            try:
                getattr(self, f"do_{verb}")(*words)
            except Refused as refusal:
                self.world.say(f"  refused: {refusal}")
            if verb != "until":
                self.world.run()
        elif verb == "servers":
            self.world = World(plan, int(words[0]), self.world.settings)
        elif verb == "steps":
            self._anew(steps=tuple(map(step_of, words)))
        elif verb == "shadow":
            self._anew(shadow_share=float(words[0]), shadow_for=float(words[1]))
        else:
            values = {k: {"yes": True, "no": False}.get(v) for k, v in zip(words[::2], words[1::2], strict=True)}
            values = {k: float(w) if v is None else v for (k, v), w in zip(values.items(), words[1::2], strict=True)}
            self._anew(**values)
        return self.world.trace[before:]

    def _anew(self, **settings: object) -> None:
        self.world = World(plan, len(self.world.servers), replace(self.world.settings, **settings))

    def do_serves(self, version: str) -> None:
        told = len(self.world.trace)
        self.do_arrive(version)
        while self.world.files.alias != int(version) or self.world.rollout is not None:
            self.world.now += 5.0
            self.world.run()
        del self.world.trace[told:]

    def do_meets(self, version: str) -> None:
        told = len(self.world.trace)
        self.do_arrive(version)
        while not all(map(self.world.weight, self.world.servers.values())):
            self.world.now += 1.0
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
        self.world.files.unexpected[name] = "there"

    def do_tidy(self) -> None:
        self.world.files.unexpected.clear()

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

    def do_gone(self, seconds: str) -> None:
        self.world.restart_control()
        self.world.now += float(seconds)
        for name, server in self.world.servers.items():
            self.world.say(f"  meanwhile on server {name}: {share(self.world, server)}")

    def do_live(self, verdict: str) -> None:
        self.world.live = None if verdict == "none" else Verdict(verdict)

    def do_splitter(self, how: str, server: str = "a") -> None:
        self.world.servers[server].splitter = LOADS[how]

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
        way = " by way of the splitter" if world.files.split else ""
        world.say(f"  files: policy {sorted(world.files.policy)}, alias at {world.files.alias}{way}")
        for name, server in world.servers.items():
            if not server.reachable:
                world.say(f"  server {name}: away")
                continue
            leaving = held(server, ModelState.UNLOADING)
            more = f", leaving {sorted(leaving)}" if leaving else ""
            ready = sorted(held(server, ModelState.READY))
            splits = f", {share(world, server)}" if server.step(ALIAS) == SPLITTER else ""
            world.say(f"  server {name}: READY {ready}{more}, alias at {sorted(serving(server))}{splits}")

    def do_promote(self, version: str | None = None, *more: str) -> None:
        full = "--full" in (version, *more)
        self.world.promote(None if version in (None, "--full") else int(version), full=full)

    def do_rollback(self, version: str | None = None) -> None:
        self.world.rollback(None if version is None else int(version))

    def do_retry(self, version: str) -> None:
        self.world.retry(int(version))

    def do_verify(self, version: str) -> None:
        self.world.check_version(int(version))

    def do_abort(self) -> None:
        self.world.abort()

    def do_pause(self) -> None:
        self.world.pause()

    def do_resume(self) -> None:
        self.world.paused = False


def step_of(word: str) -> Step:
    """A traffic step as a story writes it."""
    if word == "pause":
        return Step(pause=True)
    weight, how, seconds = re.fullmatch(r"([\d.]+)%(for|over)([\d.]+)s", word).groups()
    return Step(float(weight), **{{"for": "hold", "over": "over"}[how]: float(seconds)})


def share(world: World, server: FakeTriton) -> str:
    """The candidate's share of the requests that a server's splitter gets now."""
    weight = world.weight(server)
    return f"{weight:.3g} % to the candidate" if weight else "stable alone"


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
