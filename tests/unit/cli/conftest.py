from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.unit.facts.recorder import Recorder

from baton.api import ApiServer
from baton.cli import follow, main


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


def tidy(text: str) -> None:
    """As a pipe wants it: no escape codes, at most 80 columns, nothing trailing."""
    assert "\x1b" not in text
    for line in text.splitlines():
        assert len(line) <= 80, line
        assert line == line.rstrip()
