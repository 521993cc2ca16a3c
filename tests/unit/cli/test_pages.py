"""Whole pages of ``ctl status``, as they were looked at and found good: ``pages/NAME-COLUMNS.txt``.

After a change that is meant, look at the difference and write the new page there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.moments import MEMORY, PAGES, PASSED, live, page, traffic, version

from baton.cli.output import gate_lines, plain
from baton.cli.render import status_lines
from baton.codec import decode
from baton.domain import GateResult
from baton.facts import Status

FOLDER = Path(__file__).with_name("pages")
FILES = sorted(FOLDER.glob("*.txt"))


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")


def lines_of(shown: dict[str, Any], columns: int) -> list[str]:
    return [plain(line) for line in status_lines(decode(Status, shown), columns)]


def gate_of(told: dict[str, Any], columns: int = 80) -> list[str]:
    return [plain(line) for line in gate_lines(decode(GateResult, told), columns)]


def drawn(name: str, columns: int, rows: int | None = None) -> list[str]:
    return [plain(line) for line in status_lines(decode(Status, PAGES[name]), columns, rows)]


def test_every_page_is_looked_at() -> None:
    assert {path.stem.rpartition("-")[0] for path in FILES} == set(PAGES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_page(path: Path) -> None:
    name, _, columns = path.stem.rpartition("-")
    assert "\n".join(drawn(name, int(columns))) + "\n" == path.read_text()


@pytest.mark.parametrize("columns", [40, 53, 80, 160])
@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_wider_than_the_terminal(name: str, columns: int) -> None:
    assert [line for line in drawn(name, columns) if len(line) > columns] == []


@pytest.mark.parametrize("name", PAGES)
def test_a_low_terminal_gets_what_matters(name: str) -> None:
    whole = drawn(name, 80)
    assert drawn(name, 80, len(whole)) == whole
    low = drawn(name, 80, len(whole) - 1)
    assert "  ✔ integrity, compatibility, capacity, load, warmup, output, invariance," in low
    assert len(low) < len(whole) - 5
    assert any("serving" in line for line in low)
    assert "  1 on disk only: `ctl versions`" in low
    lowest = drawn(name, 80, 12)
    assert lowest[:11] == low[:11]
    assert lowest[11] == f"… {len(low) - 11} more lines: make the window taller"
    # What a person has to read is told in full wherever there is room.
    said = " ".join(" ".join(low).split())
    assert all(gate["message"] in said for gate in PAGES[name]["services"][0]["gates"] if gate["verdict"] == "fail")


def test_a_rollout_that_has_not_begun_to_move_traffic() -> None:
    early = page(
        phase="loading", weight=0, traffic=None, gates=PASSED[:3],
        step={"index": 0, "count": 4, "name": "", "left_s": None},
    )  # fmt: skip
    lines = lines_of(early, 100)
    assert "Step:         0/4" in lines
    assert "Next:         shadow 25 % for 30 s, 5 % for 30 s, to 50 % over 90 s, pause, 100 %" in lines
    assert not [line for line in lines if line.startswith("ActualWeight")]


def test_a_verification_moves_no_traffic() -> None:
    rollout = page()["services"][0]["rollout"] | {"kind": "check"}
    lines = lines_of(page(rollout=rollout, weight=0, traffic=None), 80)
    assert not [line for line in lines if line.startswith(("Step", "Next", "SetWeight"))]


def test_a_way_back_has_no_steps_ahead() -> None:
    rollout = page()["services"][0]["rollout"] | {"kind": "rollback"}
    lines = lines_of(page(rollout=rollout, phase="loading", traffic=None), 80)
    assert not [line for line in lines if line.startswith("Next")]
    assert [line for line in lines if line.startswith("SetWeight")]


def test_nothing_is_lost_where_memory_is_not_known() -> None:
    known = page()["services"][0]["versions"]
    bare = page(versions=[{k: v for k, v in one.items() if k != "memory"} for one in known])
    assert "  └─ ✔ 1 v2.0.0  serving    95 %" in lines_of(bare, 80)
    assert "  └─ · 4  on_disk" in lines_of(page(versions=[version(4, "4", "on_disk")]), 80)


def test_a_lease_that_runs_out_and_one_that_is_not_known() -> None:
    def lease(left: float | None) -> list[str]:
        shown = page(traffic=traffic(lease_left_s=left))
        return [line for line in lines_of(shown, 80) if line.startswith("Lease")]

    assert lease(13.2) == lease(None) == []
    assert lease(-2.0) == ["Lease:        0 s left of 15 s; then the stable version gets all traffic"]


def test_an_alarm_is_no_failure() -> None:
    failed = {**MEMORY, "verdict": "fail"}
    assert gate_of(failed)[0].split()[:3] == ["⚠", "memory", "alarm"]
    assert gate_of({**failed, "name": "latency"})[0].split()[:3] == ["✖", "latency", "fail"]


def test_a_live_gate_without_checks_tells_its_message() -> None:
    lost = live("fail", {"name": "errors", "verdict": "fail", "observed": None, "limit": None, "message": "Lost."})
    lost["evidence"] = {}
    assert gate_of(lost) == ["  ✖ live          fail     Lost."]
