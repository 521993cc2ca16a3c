"""``ctl push``: what it copies with, and what it follows."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.conftest import Ctl, World, tidy
from tests.unit.facts.moments import gate_says
from tests.unit.facts.recorder import Recorder

import baton.push
from baton.domain import Evidence, Gate, Release, Verdict
from baton.errors import NoRoom
from baton.push import Pushed


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """Stands in for the copy, which has tests of its own; collects what it was asked for."""
    calls: list[dict[str, Any]] = []

    def push(source: Path, repository: Path, engine: str, **how: Any) -> Pushed:
        calls.append({"source": source, "repository": repository, "engine": engine, **how})
        return Pushed(how["floor"] + 1, repository / engine / "4", 12_345_678, 1.25, resumed=True)

    monkeypatch.setattr("baton.push.push", push)
    return calls


@pytest.fixture
def world(begin: Callable[..., World], copied: list[dict[str, Any]], tmp_path: Path, monkeypatch: Any) -> World:
    """The copy is a folder that comes; while the begin of its rollout is expected, the loop goes round."""
    (tmp_path / "baton.toml").write_text('[[services]]\nname = "ranker"\nengine = "ranker_engine"\n')
    world = begin()
    note = baton.push.push

    def push(source: Path, repository: Path, engine: str, **how: Any) -> Pushed:
        world.place.drop(how["floor"] + 1)
        return note(source, repository, engine, **how)

    monkeypatch.setattr("baton.push.push", push)
    monkeypatch.setattr(world.app.loop, "next_round", world.wait)
    return world


def test_beside_a_control_plane_the_rollout_is_followed(world: World, ctl: Ctl, copied: list[dict[str, Any]]) -> None:
    done = ctl("push", "new", "--label", "v3", "--release", "retrained", "--repository", "repo")
    assert done.exit_code == 0, done.output
    assert copied == [
        {
            "source": Path("new"), "repository": Path("repo"), "engine": "ranker_engine", "floor": 1,
            "label": "v3", "release": Release.RETRAINED, "progress": None,
        }
    ]  # fmt: skip
    assert done.stdout.startswith("ranker: version 2 is live, ")
    tidy(done.stdout)
    assert "version 2 was copied to" in done.stderr
    assert "(12.3 MB in 1.2 s, going on with an earlier push)." in " ".join(done.stderr.split())


def test_a_rollout_that_fails_is_code_4(world: World, ctl: Ctl) -> None:
    gate_says(world.place, Gate.OUTPUT, Verdict.FAIL)
    assert ctl("push", "new").exit_code == 4


def test_a_rollout_that_waits_for_evidence_is_not_waited_for(world: World, ctl: Ctl) -> None:
    gate_says(world.place, Gate.WARMUP, Verdict.HOLD, evidence=Evidence(missing="golden"))
    done = ctl("push", "new")
    assert done.exit_code == 0, done.output
    assert "gate warmup does not have enough evidence" in " ".join(done.stdout.split())


def test_paused(world: World, ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baton.cli.push._SLICE_S", 0.01)
    world.app.pause(who="ann")
    done = ctl("push", "new")
    assert done.exit_code == 0
    assert "Baton is paused" in done.stdout


def test_it_has_not_begun_in_time(world: World, ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.app.loop, "next_round", time.sleep)  # nothing goes round
    done = ctl("push", "new", "--timeout", "0.1")
    assert done.exit_code == 6
    text = " ".join(done.stderr.split())
    assert "has not begun in time" in text
    assert text.count("Waiting for the rollout of version 2 to begin.") == 1


def test_it_goes_where_the_running_control_plane_looks(
    world: World, ctl: Ctl, copied: list[dict[str, Any]], tmp_path: Path
) -> None:
    ctl("push", "new", "--no-wait")
    world.wait(0)
    ctl("push", "new", "--no-wait", "--repository", "named")
    world.wait(0)
    world.app.config = replace(world.app.config, repository=Path("/not/on/this/machine"))
    ctl("push", "new", "--no-wait")
    assert [c["repository"] for c in copied] == [world.place.repository, Path("named"), Path("model_repository")]


def test_no_wait(world: World, ctl: Ctl) -> None:
    done = ctl("push", "new", "--no-wait", "--output", "json")
    folder = world.place.repository / "ranker_engine" / "4"
    assert json.loads(done.stdout) == {
        "service": "ranker", "version": 2, "folder": str(folder), "bytes": 12_345_678,
        "seconds": 1.25, "resumed": True, "ignored": "",
    }  # fmt: skip
    assert world.app.journal.rollouts.current("ranker") is None


def test_without_a_control_plane_the_journal_knows_the_numbers(
    ctl: Ctl, copied: list[dict[str, Any]], state: Path
) -> None:
    from baton.journal import Journal

    assert ctl("push", "new").exit_code == 0
    assert not state.exists()
    Journal(state / "journal.db").close()
    with sqlite3.connect(state / "journal.db") as db:
        db.execute("INSERT INTO version VALUES ('reranker', 8, 'rejected', '', '', 0, 0)")
    db.close()
    done = ctl("push", "new")
    assert done.exit_code == 0
    assert [c["floor"] for c in copied] == [0, 8]
    assert done.stdout == "reranker: version 9 is on disk.\n"
    assert "No control plane runs here" in done.stderr


def test_a_service_that_is_not_there(served: Recorder, ctl: Ctl, copied: list[dict[str, Any]]) -> None:
    assert ctl("--service", "other", "push", "new").exit_code == 2
    assert copied == []


def no_room(*_args: Any, **_how: Any) -> Pushed:
    raise NoRoom("new needs 5.0 GiB, 1.0 GiB are free. Nothing was copied.", mend="Make room and push again.")


def test_without_room_it_says_what_could_be_removed(world: World, ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in (2, 3):
        world.place.drop(version)
        world.plane.live(version)
    monkeypatch.setattr("baton.push.push", no_room)
    done = ctl("push", "new")
    assert done.exit_code == 1
    said = " ".join(done.stderr.split())
    assert "Make room and push again. `ctl prune --keep 0` can remove version 1, which frees" in said


def test_without_room_and_with_nothing_to_remove(world: World, ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baton.push.push", no_room)
    assert "No version can be removed" in " ".join(ctl("push", "new").stderr.split())


def test_a_disk_that_is_nearly_full_is_told(world: World, ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    note = baton.push.push
    monkeypatch.setattr("baton.push.push", lambda *given, **how: replace(note(*given, **how), free=20_000_000))
    said = " ".join(ctl("push", "new").stderr.split())
    assert "20.0 MB are free now, so fewer than 2 more versions of this size fit." in said
