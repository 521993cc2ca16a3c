"""``ctl push``: what it copies with, and what it follows."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from tests.unit.api.fake import FakeApp, ended, live
from tests.unit.cli.conftest import Ctl, tidy

from baton.domain import Release
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


def test_with_a_control_plane_the_rollout_is_followed(served: FakeApp, ctl: Ctl, copied: list[dict[str, Any]]) -> None:
    done = ctl("push", "new", "--label", "v3", "--release", "retrained", "--repository", "repo")
    assert done.exit_code == 0, done.output
    assert copied == [
        {
            "source": Path("new"), "repository": Path("repo"), "engine": "qwen3_vl_reranker", "floor": 3,
            "label": "v3", "release": Release.RETRAINED, "progress": None,
        }
    ]  # fmt: skip
    assert [c for c in served.calls if c[0] == "expect"] == [("expect", "reranker", 4, 10.0)]
    assert done.stdout == "reranker: version 2 (v2.1.0) is live, 42 s after it began.\n"
    tidy(done.stdout)
    assert "version 4 is in place" in done.stderr
    assert "12.3 MB in 1.2 s, resumed." in " ".join(done.stderr.split())


def test_what_it_waits_for_is_told(served: FakeApp, ctl: Ctl, copied: list[dict[str, Any]]) -> None:
    served.expected = [None, None, 7]
    done = ctl("push", "new")
    assert done.exit_code == 0
    assert done.stderr.count("Waiting for the rollout of version 4 to begin.") == 1


def test_a_rollout_that_fails_is_code_4(served: FakeApp, ctl: Ctl, copied: list[dict[str, Any]]) -> None:
    served.story = [ended("rejected", "output")]
    assert ctl("push", "new").exit_code == 4


def test_paused(served: FakeApp, ctl: Ctl, copied: list[dict[str, Any]]) -> None:
    served.expected = [None]
    served.page["paused"] = True
    done = ctl("push", "new")
    assert done.exit_code == 0
    assert "Baton is paused" in done.stdout


def test_it_has_not_begun_in_time(served: FakeApp, ctl: Ctl, copied: list[dict[str, Any]]) -> None:
    served.expected = [None]
    done = ctl("push", "new", "--timeout", "0.1")
    assert done.exit_code == 6
    assert "has not begun in time" in done.stderr


def test_it_goes_where_the_running_control_plane_looks(
    served: FakeApp, ctl: Ctl, copied: list[dict[str, Any]], tmp_path: Path
) -> None:
    served.story = [live()]
    served.page["repository"] = str(tmp_path)
    ctl("push", "new")
    ctl("push", "new", "--repository", "named")
    served.page["repository"] = "/not/on/this/machine"
    ctl("push", "new")
    assert [c["repository"] for c in copied] == [tmp_path, Path("named"), Path("model_repository")]


def test_no_wait(served: FakeApp, ctl: Ctl, copied: list[dict[str, Any]]) -> None:
    served.story = [live()]
    done = ctl("push", "new", "--no-wait", "--output", "json")
    assert json.loads(done.stdout) == {
        "service": "reranker", "version": 4, "folder": "model_repository/qwen3_vl_reranker/4", "bytes": 12_345_678,
        "seconds": 1.25, "resumed": True, "ignored": "",
    }  # fmt: skip
    assert not [c for c in served.calls if c[0] == "expect"]


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


def test_a_service_that_is_not_there(served: FakeApp, ctl: Ctl, copied: list[dict[str, Any]]) -> None:
    assert ctl("--service", "other", "push", "new").exit_code == 2
    assert copied == []
