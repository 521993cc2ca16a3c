"""``ctl doctor``: prints what it finds, and fails when something would."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.conftest import Ctl, tidy
from tests.unit.facts.recorder import Recorder

from baton import report
from baton.config import load
from baton.doctor import Diagnosis
from baton.errors import ConfigError
from baton.facts import Runs, RunsServer


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A machine without a fault; collects how it was looked at."""
    calls: list[dict[str, Any]] = []

    def checks(**how: Any) -> list[Diagnosis]:
        calls.append(how)
        return [Diagnosis("Python", ok=True, message="3.11"), Diagnosis("memory", ok=None, message="m", mend="Look.")]

    monkeypatch.setattr("baton.doctor.checks", checks)
    monkeypatch.setattr("baton.doctor.access", lambda servers, state: asked.append((servers, state)) or [])
    return calls


asked: list[Any] = []
"""Which servers were asked who may load there, and with which state directory."""


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
    assert machine[0]["no_triton"] == ""


def test_a_failure_is_code_1(ctl: Ctl, machine: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine == []
    monkeypatch.setattr("baton.doctor.checks", lambda **_: [Diagnosis("disk", ok=False, message="full", mend="Free.")])
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


def test_with_a_control_plane_its_ports_may_be_in_use(
    served: Recorder, ctl: Ctl, machine: list[dict[str, Any]]
) -> None:
    assert "✔ control plane         runs, and Triton answers" in ctl("doctor").stdout
    assert machine[0]["ports"] is None
    served.feels(live=False)
    assert ctl("doctor").exit_code == 1


def runs(tmp_path: Path, config: str, **changes: Any) -> Runs:
    """What a control plane tells of a configuration file, as ``baton.report.runs`` makes it."""
    file = tmp_path / "elsewhere" / "baton.toml"
    file.parent.mkdir()
    file.write_text(config)
    return replace(report.runs(load(file), file), **changes)


LOCAL = """
repository = "/models"
state = "/var/lib/baton"
[[servers]]
name = "gpu"
grpc = "127.0.0.1:9001"
admin_key_file = "/keys/gpu"
[[services]]
name = "ranker"
engine = "ranker_engine"
"""


def test_beside_a_control_plane_its_own_configuration_is_judged(
    served: Recorder, ctl: Ctl, machine: list[dict[str, Any]], tmp_path: Path
) -> None:
    served.feels(runs=runs(tmp_path, LOCAL))
    (tmp_path / "baton.toml").write_text('repository = "another"\n')
    asked.clear()
    first, *_ = json.loads(ctl("doctor", "--output", "json").stdout)
    file = tmp_path / "elsewhere" / "baton.toml"
    assert first["message"] == f"{file}, as the control plane runs with it; services: ranker"
    assert machine[0]["repository"] == Path("/models")
    assert machine[0]["state"] == Path("/var/lib/baton")
    (((server,), state),) = asked
    assert (server.name, server.grpc, server.admin_key_file) == ("gpu", "127.0.0.1:9001", Path("/keys/gpu"))
    assert state == machine[0]["state"]
    assert machine[0]["no_triton"] == "`ctl serve` uses gpu (127.0.0.1:9001)"


def test_the_triton_of_ctl_up_is_looked_at(
    served: Recorder, ctl: Ctl, machine: list[dict[str, Any]], tmp_path: Path, state: Path
) -> None:
    server = RunsServer("local", "127.0.0.1:9001", str(state / "admin.key"))
    served.feels(runs=runs(tmp_path, LOCAL, state=str(state), servers=(server,)))
    ctl("doctor")
    assert machine[0]["no_triton"] == ""


def test_a_file_that_is_wrong_stays_a_failure_beside_a_control_plane(
    served: Recorder, ctl: Ctl, machine: list[dict[str, Any]], tmp_path: Path
) -> None:
    served.feels(runs=runs(tmp_path, LOCAL))
    (tmp_path / "baton.toml").write_text("colour = 'red'\n")
    done = ctl("doctor")
    assert done.exit_code == 1
    assert "✖ configuration         baton.toml: colour: no such key." in done.stdout
    assert machine[0]["repository"] == Path("/models")


def test_where_triton_is_on_other_machines_none_is_needed_here(
    ctl: Ctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real checks, on a machine that has no Triton at all."""

    def none(*_: object) -> None:
        raise ConfigError("No Triton is installed here.")

    for name in ("find_binary", "find_triton"):
        monkeypatch.setattr(f"baton.doctor.{name}", none)
    monkeypatch.setattr("baton.doctor.MINIMUM_MEMORY", 1 << 60)
    monkeypatch.setattr("baton.doctor.ENGINE_PACKAGES", ("no_such_package",))
    monkeypatch.setattr("baton.doctor.access", lambda *_: [])
    (tmp_path / "baton.toml").write_text('[[servers]]\nname = "gpu"\ngrpc = "10.1.2.3:8001"\n')
    done = ctl("doctor", "--output", "json")
    found = {one["name"]: one for one in json.loads(done.stdout)}
    assert found["Triton"]["message"] == "Baton starts none on this machine: gpu (10.1.2.3:8001) on other machines"
    assert not {"tritonserver", "backends", "memory", "shared memory", "engine packages", "port grpc"} & set(found)
    assert done.exit_code == 0, done.stdout
    (tmp_path / "baton.toml").write_text('[[servers]]\nname = "here"\ngrpc = "127.0.0.1:8001"\n')
    found = {one["name"]: one for one in json.loads(ctl("doctor", "--output", "json").stdout)}
    assert found["tritonserver"]["ok"] is False


def test_another_machines_disks_are_not_looked_at(ctl: Ctl, machine: list[dict[str, Any]], tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text("not-a-token-9d21\n")
    done = ctl("doctor", "--server", "https://127.0.0.1:1", "--token-file", str(token))
    assert "run `ctl doctor` there" in " ".join(done.stdout.split())
    assert machine == []
