"""A state directory is its owner's alone, whoever is the first to need it."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bench.compare import report
from bench.compare.measure import Moments
from demo import up
from harness import rig
from harness.traffic import Request

from baton.api import SOCKET, claim
from baton.durable import open_private
from baton.journal import JOURNAL, Journal
from baton.local.assemble import assemble
from baton.local.find import find_triton


@pytest.fixture(autouse=True)
def _usual_mask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    state = tmp_path / ".baton"
    for module in (rig, up, report):
        monkeypatch.setattr(module, "STATE", state)
    return state


def by_claim(state: Path, _patch: pytest.MonkeyPatch) -> None:
    with claim(state / SOCKET):
        pass


def by_journal(state: Path, _patch: pytest.MonkeyPatch) -> None:
    Journal(state / JOURNAL).close()


def by_backends(state: Path, _patch: pytest.MonkeyPatch) -> None:
    assemble(find_triton(None), [], state)


def by_make_up(_state: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(os, "execv", lambda *_: None)
    patch.setattr("sys.argv", ["up"])
    up.main()


def by_make_demo(state: Path, patch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise InterruptedError

    patch.setattr(subprocess, "Popen", stop)
    with pytest.raises(InterruptedError), rig.Rig(state / "demo", Path("baton.toml")):
        pass


def by_make_bench(state: Path, _patch: pytest.MonkeyPatch) -> None:
    at = Moments(0.0, 1.0, 2.0, 4.0, 1.5, 1.5)
    report.figure({"(e) Baton": ([Request(0.5, 0.6, 1), Request(2.0, 2.1, 2)], at)}, state / "bench" / "updates.svg")


@pytest.mark.parametrize("make", [by_claim, by_journal, by_backends, by_make_up, by_make_demo, by_make_bench])
def test_it_is_made_for_its_owner_alone(
    make: Callable[[Path, pytest.MonkeyPatch], None], state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(state, monkeypatch)
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir() if path.is_file()}


def test_the_journal_is_its_owners_alone_whatever_the_umask(state: Path) -> None:
    os.umask(0)
    state.mkdir(mode=0o755)
    names = [JOURNAL, f"{JOURNAL}-wal", f"{JOURNAL}-shm"]
    journal = Journal(state / JOURNAL)
    journal.notes.loaded().put("ranker", {1: "f"})
    assert modes(state) == dict.fromkeys(names, 0o600)
    for name in names:  # as an earlier Baton left them that was killed
        (state / name).chmod(0o644)
    Journal(state / JOURNAL).close()
    assert modes(state) == {name: 0o600 for name in names if (state / name).exists()}
    journal.close()


def test_a_log_is_its_owners_alone(tmp_path: Path) -> None:
    os.umask(0)
    log = tmp_path / "triton.log"
    log.write_text("before\n")
    for _ in range(2):
        with open_private(log) as file:
            file.write(b"after\n")
    assert (log.read_text(), modes(tmp_path)) == ("before\nafter\nafter\n", {"triton.log": 0o600})


def test_one_that_is_there_keeps_its_mode(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state.mkdir(mode=0o750)
    by_journal(state, monkeypatch)
    assert stat.S_IMODE(state.stat().st_mode) == 0o750
