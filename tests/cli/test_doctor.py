"""``ctl doctor``: prints what it finds, and fails when something would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.api.fake import FakeApp
from tests.cli.conftest import Ctl, tidy

from baton.doctor import Check


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A machine without a fault; collects how it was looked at."""
    calls: list[dict[str, Any]] = []

    def checks(**how: Any) -> list[Check]:
        calls.append(how)
        return [Check("Python", ok=True, message="3.11"), Check("memory", ok=None, message="m", mend="Look.")]

    monkeypatch.setattr("baton.doctor.checks", checks)
    return calls


def test_a_machine_that_is_well(ctl: Ctl, machine: list[dict[str, Any]], state: Path) -> None:
    done = ctl("doctor")
    assert done.exit_code == 0
    tidy(done.stdout)
    lines = done.stdout.splitlines()
    assert lines[0] == "✔ configuration         the defaults; services: reranker"
    assert lines[1].startswith("⚠ control plane         No control plane runs")
    assert "✔ Python                3.11" in lines
    assert "                        → Look." in lines
    assert machine[0]["ports"] == {"http": 8000, "grpc": 8001, "metrics": 8002, "console": 9464}
    assert machine[0]["state"] == state


def test_a_failure_is_code_1(ctl: Ctl, machine: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baton.doctor.checks", lambda **_: [Check("disk", ok=False, message="full", mend="Free.")])
    done = ctl("doctor", "--output", "json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)[-1] == {"name": "disk", "ok": False, "message": "full", "mend": "Free."}
    assert "checks failed: disk." in done.stderr


def test_the_configuration_is_checked_too(ctl: Ctl, machine: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "baton.toml").write_text("colour = 'red'\n")
    done = ctl("doctor")
    assert done.exit_code == 1
    assert "✖ configuration         baton.toml: colour: no such key." in done.stdout
    assert "✔ Python" in done.stdout


def test_with_a_control_plane_its_ports_may_be_in_use(served: FakeApp, ctl: Ctl, machine: list[dict[str, Any]]) -> None:
    assert "✔ control plane         runs, and Triton answers" in ctl("doctor").stdout
    assert machine[0]["ports"] is None
    served.live = False
    assert ctl("doctor").exit_code == 1
