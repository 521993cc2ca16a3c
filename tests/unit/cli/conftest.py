from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.unit.controller.plane import Plane
from tests.unit.controller.test_traffic_split import asked
from tests.unit.facts.moments import a_place, serving
from tests.unit.facts.recorder import Recorder

from baton.api import ApiServer
from baton.cli import follow, main
from baton.domain import Phase


@pytest.fixture
def app() -> Recorder:
    return Recorder()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def served(app: Recorder, state: Path) -> Iterator[Recorder]:
    """What a control plane answered, over the socket."""
    with ApiServer(app, state / "baton.sock"):
        yield app


Ctl = Callable[..., Result]


@pytest.fixture
def ctl(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ctl:
    """Runs ``ctl`` piped, in an empty directory, with no BATON_* of the outside."""
    import os

    for name in [n for n in os.environ if n.startswith("BATON_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(follow, "POLL_S", 0.01)

    def run(*args: str, **options: object) -> Result:
        return CliRunner().invoke(main, ["--state", str(state), *args], **options)  # type: ignore[arg-type]

    return run


class World:
    """A real control plane behind the socket, with version 1 live. While ``ctl`` waits, its loop goes round.

    ``meanwhile``: what happens in each of its waits, one after the other.
    """

    def __init__(self, plane: Plane) -> None:
        self.plane, self.place, self.app = plane, plane.place, plane.app
        self.meanwhile: list[Callable[[], object]] = []

    def wait(self, _seconds: float) -> None:
        if self.meanwhile:
            self.meanwhile.pop(0)()
        asked(self.place)
        self.plane.turn()
        self.place.now += 1.0

    def once(self, phase: Phase, act: Callable[[], object]) -> None:
        """Somebody acts as soon as the rollout is in that phase."""

        def look() -> None:
            if self.plane.phase() is phase:
                act()
            else:
                self.meanwhile.append(look)

        self.meanwhile.append(look)

    def new(self, version: int = 2, *, until: Phase | None = None) -> None:
        """A version comes, and its rollout goes on until that phase."""
        self.place.drop(version)
        self.plane.turn()
        if until is not None:
            self.plane.run(lambda: self.plane.phase() is until, until)


@pytest.fixture
def begin(state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., World]]:
    """Starts a control plane with the given settings."""
    with contextlib.ExitStack() as stack:

        def start(**settings: Any) -> World:
            plane = serving(stack.enter_context(a_place(1)), **settings)
            stack.callback(plane.close)
            stack.enter_context(ApiServer(plane.app, state / "baton.sock"))
            world = World(plane)
            monkeypatch.setattr(follow, "time", SimpleNamespace(monotonic=time.monotonic, sleep=world.wait))
            return world

        yield start


def tidy(text: str) -> None:
    """As a pipe wants it: no escape codes, at most 80 columns, nothing trailing."""
    assert "\x1b" not in text
    for line in text.splitlines():
        assert len(line) <= 80, line
        assert line == line.rstrip()
