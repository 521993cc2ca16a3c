"""Whole pages of ``ctl status``, as they were looked at and found good: ``pages/MOMENT-COLUMNS.txt``.

After a change that is meant, write them anew with ``python -m tests.unit.cli.test_pages``, and look at the difference.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.facts.moments import MOMENTS, moment
from tests.unit.facts.recorder import Recorder

from baton.cli.output import gate_lines, plain
from baton.cli.render import status_lines
from baton.domain import Gate, GateResult, Kind, Verdict
from baton.evidence import LiveEvidence
from baton.facts import Requests

FOLDER = Path(__file__).with_name("pages")
WHOLE = (
    *("empty", "steady", "one of two servers is away", "loading", "waiting for a golden set"),
    *("a pause step", "paused", "ended rejected by Triton", "ended rolled back"),
    *("it runs in less than was asked for", "memory alarms", "memory holds", "something lies beside the versions"),
    "ended while a gate held",
)
PAGES = [(name, columns) for name in WHOLE for columns in (40, 80)] + [("a pause step", 160)]


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")


def file(name: str, columns: int) -> Path:
    return FOLDER / f"{name.replace(' ', '-')}-{columns}.txt"


def drawn(name: str, columns: int, rows: int | None = None, **changes: Any) -> list[str]:
    return [plain(line) for line in status_lines(Recorder(name).changed(**changes), columns, rows)]


def gate_of(name: str, gate: Gate) -> GateResult:
    return next(one for one in moment(name).status.services[0].gates if one.gate is gate)


def whole(name: str, columns: int) -> list[str]:
    """The page, with the same traffic at every try: how much of it was reported by then depends on the machine."""
    service = moment(name).status.services[0]
    if (traffic := service.traffic) is None:
        return drawn(name, columns)
    splitters = tuple(replace(one, lease_left_s=12.0) for one in traffic.splitters)
    counted = replace(
        traffic, observed=21.7, requests=Requests(63, 17), splitters=splitters, lease_left_s=12.0, waiting_for=""
    )
    gates = tuple(gate for gate in service.gates if gate.gate is not Gate.LIVE)
    return drawn(name, columns, traffic=counted, gates=gates)


def test_every_page_is_looked_at() -> None:
    assert sorted(FOLDER.iterdir()) == sorted(file(*page) for page in PAGES)


@pytest.mark.parametrize(("name", "columns"), PAGES)
def test_page(name: str, columns: int) -> None:
    assert "\n".join(whole(name, columns)) + "\n" == file(name, columns).read_text()


@pytest.mark.parametrize(
    "name", ["steady", "shadowing", "a pause step", "ended rolled back", "live fails by many errors"]
)
def test_a_low_terminal_gets_what_matters(name: str) -> None:
    whole = drawn(name, 80)
    assert drawn(name, 80, len(whole)) == whole
    low = drawn(name, 80, len(whole) - 1)
    assert "  ✔ integrity, compatibility, capacity, load, warmup, output, invariance," in low
    assert len(low) < len(whole) - 5
    assert any("serving" in line for line in low)
    lowest = drawn(name, 80, 10)
    assert lowest[:9] == low[:9]
    assert lowest[9] == f"… {len(low) - 9} more lines: make the window taller"
    # What a person has to read is told in full wherever there is room.
    said = " ".join(" ".join(low).split()).lower()
    for gate in moment(name).status.services[0].gates:
        assert gate.verdict is not Verdict.FAIL or gate.message.lower().rstrip(".") in said
    if (hidden := sum(v.state in {"on_disk", "rejected"} for v in moment(name).status.services[0].versions)) > 0:
        assert f"  {hidden} on disk only: `ctl versions`" in low


def test_a_rollout_that_has_not_begun_to_move_traffic() -> None:
    lines = drawn("validating", 100)
    assert "Step:         0/1" in lines
    assert "Next:         100 %" in lines
    assert not [line for line in lines if line.startswith("ActualWeight")]


def test_a_verification_moves_no_traffic() -> None:
    rollout = moment("validating").status.services[0].rollout
    assert rollout is not None
    lines = drawn("validating", 80, rollout=replace(rollout, kind=Kind.CHECK))
    assert not [line for line in lines if line.startswith(("Step", "Next", "SetWeight"))]


def test_a_way_back_has_no_steps_ahead() -> None:
    lines = drawn("a way back", 80)
    assert not [line for line in lines if line.startswith("Next")]
    assert [line for line in lines if line.startswith("SetWeight")]


def test_a_lease_that_runs_out_and_one_that_is_not_known() -> None:
    traffic = moment("shifting").status.services[0].traffic
    assert traffic is not None

    def lease(left: float | None) -> list[str]:
        lines = drawn("shifting", 80, traffic=replace(traffic, lease_left_s=left))
        return [line for line in lines if line.startswith("Lease")]

    assert lease(13.2) == lease(None) == []
    assert lease(-2.0) == ["Lease:        0 s left of 15 s; then the stable version gets all traffic"]


def test_an_alarm_is_no_failure() -> None:
    alarm = gate_of("memory alarms", Gate.MEMORY)
    assert plain(gate_lines(alarm, 80)[0]).split()[:3] == ["⚠", "memory", "alarm"]
    failed = gate_of("latency fails", Gate.LATENCY)
    assert plain(gate_lines(failed, 80)[0]).split()[:3] == ["✖", "latency", "fail"]


@pytest.mark.parametrize("name", ["memory holds", "memory rose in steps", "ended while a gate held"])
@pytest.mark.parametrize("columns", [40, 80, 160])
def test_a_hold_that_nothing_waits_for_is_one_quiet_line(name: str, columns: int) -> None:
    status = moment(name).status
    held = {str(gate.gate) for gate in status.services[0].gates if gate.verdict is Verdict.HOLD}
    lines = status_lines(status, columns)
    found = [index for index, line in enumerate(lines) if set(plain(line).split()) & held]
    assert len(held) == len(found) == 1
    assert not {style for _, style in lines[found[0]]} - {"", "dim"}
    assert plain(lines[found[0] + 1]) == "Versions:" or plain(lines[found[0] + 1]).split()[0] in "·✔✖"


def test_a_hold_that_a_rollout_waits_for_is_told_in_full() -> None:
    status = moment("waiting for a golden set").status
    (held,) = [gate for gate in status.services[0].gates if gate.verdict is Verdict.HOLD]
    said = " ".join(" ".join(plain(line) for line in status_lines(status, 80)).split())
    assert held.message in said


def test_a_live_gate_without_checks_tells_its_message() -> None:
    found = [name for name in MOMENTS if name.startswith("live lost")]
    for name in found:
        gate = gate_of(name, Gate.LIVE)
        if not (isinstance(gate.evidence, LiveEvidence) and gate.evidence.checks):
            assert "".join(gate.message.split()) in "".join("".join(map(plain, gate_lines(gate, 80))).split())
    assert found


if __name__ == "__main__":
    os.environ["TZ"] = "UTC"
    for page in PAGES:
        file(*page).write_text("\n".join(whole(*page)) + "\n")
    sys.stdout.flush()
    os._exit(0)  # without waiting for what the moments left behind
