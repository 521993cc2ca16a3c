"""``ctl doctor``: by role, prints what it finds, mends what is safe, and fails when something would."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.conftest import Ctl, tidy
from tests.unit.docs.test_schema import validator
from tests.unit.facts.recorder import Recorder

from baton import report
from baton.config import Config, load
from baton.doctor import Finding, Fix, Setup, asking, bad, control, good, host, installation, limited
from baton.errors import ConfigError
from baton.facts import Runs, RunsServer
from baton.local import procfs
from baton.triton.config_file import CONFIG


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Setup]:
    """A machine without a fault, with a Triton that answers and an alias; collects how it was looked at."""
    looked: list[Setup] = []
    (tmp_path / "model_repository" / "reranker").mkdir(parents=True)
    (tmp_path / "model_repository" / "reranker" / CONFIG).touch()

    def findings(setup: Setup, key_file: Path) -> list[Finding]:
        looked.append(setup)
        return [good("Python", "3.11"), good("server local", "answers")]

    monkeypatch.setattr(control, "findings", findings)
    monkeypatch.setattr(host, "findings", lambda setup: [limited("memory", "m", "Look.")])
    monkeypatch.setattr(host, "servers_of", lambda config: [])
    monkeypatch.setattr("baton.doctor.servers.answers", lambda server: False)
    monkeypatch.setattr(asking, "findings", lambda asked, services: [good("gRPC", f"{len(asked)} {services[0].name}")])
    return looked


def told(ctl: Ctl, *words: str) -> dict[tuple[str, str], dict[str, Any]]:
    """What it tells as JSON, by role and name."""
    found = json.loads(ctl("doctor", "--output", "json", *words).stdout)
    for one in found:
        validator("Diagnosis").validate(one)
    return {(one["role"], one["name"]): one for one in found}


def test_a_machine_that_is_well(ctl: Ctl, machine: list[Setup], state: Path) -> None:
    done = ctl("doctor")
    assert done.exit_code == 0
    tidy(done.stdout)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["Control plane", "✔ configuration         the defaults; services: reranker"]
    assert lines[2].startswith("⚠ control plane         No control plane runs")
    assert "✔ Python                3.11" in lines
    below = ["", "Triton's machine", "⚠ memory                m", "                        → Look."]
    assert lines[-6:] == [*below, "", "Client", "✔ gRPC                  2 reranker"][-6:]
    (setup,) = machine
    assert setup.ports == {"http": 8000, "grpc": 8001, "metrics": 8002, "console": 9464}
    assert (setup.config.state, setup.starts, setup.runs) == (state, True, False)


def test_roles_that_are_named(ctl: Ctl, machine: list[Setup]) -> None:
    assert {role for role, _ in told(ctl)} == {"control", "triton", "client"}
    assert told(ctl)["client", "gRPC"]["verdict"] == "ok"
    assert set(told(ctl, "--role", "triton")) == {("triton", "memory")}
    assert set(told(ctl, "--role", "client")) == {("client", "gRPC")}
    both = told(ctl, "--role", "client", "--role", "control")
    assert {role for role, _ in both} == {"control", "client"}
    assert ctl("doctor", "--role", "cook").exit_code == 2


def test_an_address_is_asked_as_a_client_asks_it(ctl: Ctl, machine: list[Setup]) -> None:
    found = told(ctl, "gpu:8001", "http://gpu:8000", "gpu:9001")
    assert [one["message"] for one in found.values()] == ["3 reranker"]
    assert told(ctl, "gpu:8001", "--service", "ranker")["client", "gRPC"]["message"] == "1 ranker"
    assert machine == []
    assert ctl("doctor", "gpu").exit_code == 2
    assert ctl("doctor", "gpu:8001", "--role", "control").exit_code == 2


def test_a_server_that_is_configured_is_asked_in_its_own_way(
    ctl: Ctl, machine: list[Setup], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "baton.toml").write_text('[[servers]]\nname = "gpu"\ngrpc = "gpu:8001"\ntls = true\n')
    monkeypatch.setattr(
        asking, "findings", lambda asked, _: [good("gRPC", str([one.tls is not None for one in asked]))]
    )
    assert told(ctl, "gpu:8001", "http://gpu:8001", "b:8001")["client", "gRPC"]["message"] == "[True, False, False]"
    assert told(ctl, "--role", "client")["client", "gRPC"]["message"] == "[True]"


def test_before_a_version_is_live_there_is_no_alias_to_ask(ctl: Ctl, machine: list[Setup], tmp_path: Path) -> None:
    (tmp_path / "model_repository" / "reranker" / CONFIG).unlink()
    assert {name: one["verdict"] for (role, name), one in told(ctl).items() if role == "client"} == {
        "reranker alias": "skipped"
    }
    assert ("client", "gRPC") in told(ctl, "--role", "client"), "asked for, it is asked"


def test_without_a_server_that_answers_no_client_is_tried(
    ctl: Ctl, machine: list[Setup], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "findings", lambda setup, key_file: [])
    assert told(ctl)["client", "alias"]["verdict"] == "skipped"


def test_a_failure_is_code_1(ctl: Ctl, machine: list[Setup], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "findings", lambda setup, key_file: [bad("disk", "full", "Free.")])
    done = ctl("doctor", "--output", "json", "--role", "control")
    assert done.exit_code == 1
    assert json.loads(done.stdout)[-1] == {
        "role": "control", "name": "disk", "verdict": "fail", "ok": False, "message": "full", "mend": "Free.",
        "fixable": False, "fixed": False,
    }  # fmt: skip
    assert "checks failed: disk." in done.stderr


def test_a_user_who_may_not_look_at_all_of_it(ctl: Ctl, machine: list[Setup], monkeypatch: pytest.MonkeyPatch) -> None:
    def findings(setup: Setup, key_file: Path) -> Iterator[Finding]:
        yield good("Python", "3.11")
        raise PermissionError(13, "Permission denied", "/srv/models")

    monkeypatch.setattr(control, "findings", findings)
    found = told(ctl)
    assert found["control", "Python"]["verdict"] == "ok"
    assert found["control", "rights of this user"]["verdict"] == "fail"
    assert "this user may not look at /srv/models" in found["control", "rights of this user"]["message"]
    assert ("triton", "memory") in found


def test_narrow(ctl: Ctl, machine: list[Setup], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baton.cli.doctor.width", lambda _: 40)
    text = ctl("doctor").stdout
    assert max(len(line) for line in text.splitlines()) <= 40
    assert "✔ Python\n    3.11\n" in text


def test_the_configuration_is_checked_too(ctl: Ctl, machine: list[Setup], tmp_path: Path) -> None:
    (tmp_path / "baton.toml").write_text("colour = 'red'\n")
    done = ctl("doctor")
    assert done.exit_code == 1
    assert "✖ configuration         baton.toml: colour: no such key." in done.stdout
    assert "✔ Python" in done.stdout
    assert ("client", "configuration") in told(ctl, "--role", "client")


def test_with_a_control_plane_its_ports_may_be_in_use(served: Recorder, ctl: Ctl, machine: list[Setup]) -> None:
    assert "✔ control plane         runs, and Triton answers" in ctl("doctor").stdout
    assert (machine[0].ports, machine[0].runs) == (None, True)
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
http = "127.0.0.1:9000"
admin_key_file = "/keys/gpu"
[[services]]
name = "ranker"
engine = "ranker_engine"
"""


def test_beside_a_control_plane_its_own_configuration_is_judged(
    served: Recorder, ctl: Ctl, machine: list[Setup], tmp_path: Path
) -> None:
    served.feels(runs=runs(tmp_path, LOCAL))
    (tmp_path / "baton.toml").write_text('repository = "another"\n')
    found = told(ctl)
    file = tmp_path / "elsewhere" / "baton.toml"
    message = f"{file}, as the control plane runs with it; services: ranker"
    assert found["control", "configuration"]["message"] == message
    (setup,) = machine
    assert (setup.config.repository, setup.config.state) == (Path("/models"), Path("/var/lib/baton"))
    (server,) = setup.config.servers
    assert (server.name, server.grpc, server.http) == ("gpu", "127.0.0.1:9001", "127.0.0.1:9000")
    assert server.admin_key_file == Path("/keys/gpu")
    assert [one.engine for one in setup.config.services] == ["ranker_engine"]
    assert not setup.starts
    assert "`ctl serve` uses gpu (127.0.0.1:9001)" in found["triton", "Triton"]["message"]


def test_the_triton_of_ctl_up_is_looked_at(
    served: Recorder, ctl: Ctl, machine: list[Setup], tmp_path: Path, state: Path
) -> None:
    server = RunsServer("local", "127.0.0.1:9001", str(state / "admin.key"))
    served.feels(runs=runs(tmp_path, LOCAL, state=str(state), servers=(server,)))
    assert ("triton", "memory") in told(ctl)
    assert machine[0].starts


def test_a_file_that_is_wrong_stays_a_failure_beside_a_control_plane(
    served: Recorder, ctl: Ctl, machine: list[Setup], tmp_path: Path
) -> None:
    served.feels(runs=runs(tmp_path, LOCAL))
    (tmp_path / "baton.toml").write_text("colour = 'red'\n")
    done = ctl("doctor")
    assert done.exit_code == 1
    assert "✖ configuration         baton.toml: colour: no such key." in done.stdout
    assert machine[0].config.repository == Path("/models")


def test_where_triton_is_on_other_machines_none_is_needed_here(
    ctl: Ctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real checks, on a machine that has no Triton at all."""

    def none(*_: object) -> None:
        raise ConfigError("No Triton is installed here.", mend="Install it.")

    for name in ("find_binary", "find_triton"):
        monkeypatch.setattr(installation, name, none)
    monkeypatch.setattr(host, "MINIMUM_MEMORY", 1 << 60)
    monkeypatch.setattr("baton.doctor.servers.answers", lambda server: False)  # another test's Triton might
    monkeypatch.setattr(procfs, "servers", lambda: iter(()))
    monkeypatch.setattr("baton.doctor.servers.look", lambda *_: [])
    (tmp_path / "baton.toml").write_text(
        '[[servers]]\nname = "gpu"\ngrpc = "10.1.2.3:8001"\n[control]\nmetrics = "127.0.0.1:0"\n'
    )
    done = ctl("doctor", "--output", "json")
    found = {one["name"]: one for one in json.loads(done.stdout)}
    message = "Baton starts none on this machine: gpu (10.1.2.3:8001) on other machines"
    assert found["Triton"]["message"].startswith(message)
    assert not {"tritonserver", "backends", "memory", "shared memory", "engine packages", "port grpc"} & set(found)
    assert done.exit_code == 0, done.stdout
    assert told(ctl, "--role", "triton")["triton", "tritonserver"]["ok"] is False
    (tmp_path / "baton.toml").write_text('[[servers]]\nname = "here"\ngrpc = "127.0.0.1:8001"\n')
    assert told(ctl)["triton", "tritonserver"]["ok"] is False


def test_another_machines_disks_are_not_looked_at(ctl: Ctl, machine: list[Setup], tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text("not-a-token-9d21\n")
    done = ctl("doctor", "--server", "https://127.0.0.1:1", "--token-file", str(token))
    assert "run `ctl doctor` there" in " ".join(done.stdout.split())
    assert machine == []


@pytest.fixture
def broken(tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A real place with faults that can be mended, and one that can't."""
    state.mkdir(exist_ok=True)
    state.chmod(0o755)
    (tmp_path / "model_repository").mkdir(exist_ok=True)
    monkeypatch.setattr("baton.doctor.servers.look", lambda *_: [])
    monkeypatch.setattr("baton.doctor.files.MINIMUM_WATCHES", 1 << 40)
    monkeypatch.setattr(control, "ports", lambda wanted: [])  # another test's control plane may have them
    return Config()


def test_fix_mends_what_is_safe(ctl: Ctl, broken: Config, tmp_path: Path, state: Path) -> None:
    before = ctl("doctor", "--role", "control")
    assert "`ctl doctor --fix` mends: state private, qwen3_vl_reranker config." in before.stderr
    assert state.stat().st_mode & 0o777 == 0o755
    engine = tmp_path / "model_repository" / "qwen3_vl_reranker" / CONFIG
    assert not engine.exists()
    done = ctl("doctor", "--role", "control", "--fix")
    assert done.exit_code == 0, done.output
    steps = done.stderr.index("--fix will do this"), done.stderr.index("✔ Let only its owner open")
    assert steps == tuple(sorted(steps)), "it is told before it is done"
    assert "✔ state private         Mended." in done.stdout
    assert engine.is_file()
    assert state.stat().st_mode & 0o777 == 0o700
    assert "Left to you: control plane, file watches." in done.stderr
    again = ctl("doctor", "--role", "control", "--fix")
    assert "There is nothing that --fix can mend without harm." in again.stderr


def test_fix_tells_programs_what_it_did(ctl: Ctl, broken: Config) -> None:
    found = told(ctl, "--role", "control")
    assert (found["control", "state private"]["fixable"], found["control", "state private"]["fixed"]) == (True, False)
    found = told(ctl, "--role", "control", "--fix")
    assert (found["control", "state private"]["verdict"], found["control", "state private"]["fixed"]) == ("ok", True)
    assert not found["control", "file watches"]["fixed"]


def test_beside_a_control_plane_its_files_are_its_own(
    served: Recorder, ctl: Ctl, broken: Config, tmp_path: Path, state: Path
) -> None:
    served.feels(runs=None)
    done = ctl("doctor", "--role", "control", "--fix")
    assert done.exit_code == 1, done.output
    assert "A control plane already runs" in " ".join(done.stderr.split())
    assert not (tmp_path / "model_repository" / "qwen3_vl_reranker").exists()
    assert state.stat().st_mode & 0o777 == 0o700, "a mode is closed beside it, too"


def test_nothing_is_mended_by_a_wrong_configuration(ctl: Ctl, broken: Config, tmp_path: Path, state: Path) -> None:
    (tmp_path / "baton.toml").write_text("colour = 'red'\n")
    done = ctl("doctor", "--fix")
    assert "Nothing was mended" in done.stderr
    assert state.stat().st_mode & 0o777 == 0o755


def test_a_fix_that_fails_is_told(ctl: Ctl, machine: list[Setup], monkeypatch: pytest.MonkeyPatch) -> None:
    def act() -> None:
        raise OSError(30, "Read-only file system")

    one = limited("state private", "open", "chmod", fix=Fix("Close it", act))
    monkeypatch.setattr(control, "findings", lambda setup, key_file: [one])
    done = ctl("doctor", "--fix", "--role", "control")
    assert "✖ Close it: [Errno 30] Read-only file system" in done.stderr
    assert "Mended" not in done.stdout


def test_on_a_terminal_it_asks_first(ctl: Ctl, broken: Config, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baton.cli.follow.can_ask", lambda: True)
    done = ctl("doctor", "--fix", "--role", "control", input="n\n")
    assert "Nothing was done." in done.stderr
    assert state.stat().st_mode & 0o777 == 0o755
    assert ctl("doctor", "--fix", "--role", "control", "--yes").exit_code == 0
