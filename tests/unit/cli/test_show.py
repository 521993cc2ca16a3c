"""status, versions, history: what they print."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.cli.conftest import Ctl, World, tidy
from tests.unit.facts.moments import moment
from tests.unit.facts.recorder import Recorder

from baton import verbs
from baton.cli.lists import versions_lines
from baton.cli.output import figures, plain
from baton.codec import encode
from baton.config import LiveConfig, TrafficConfig
from baton.domain import Gate, Phase, Step, Verdict, VersionState
from baton.errors import Unreachable
from baton.facts import Status
from baton.reasons import Reason


def test_status_at_rest(served: Recorder, ctl: Ctl) -> None:
    served.at("one of two servers is away")
    done = ctl("status")
    assert done.exit_code == 0
    assert done.stderr == ""
    tidy(done.stdout)
    lines = done.stdout.splitlines()
    assert lines[0] == "Name:         ranker"
    assert "Stable:       1" in lines
    assert "Servers:      ✔ a (127.0.0.1:1)  live, in sync" in lines
    assert "              ✖ b (127.0.0.1:1)  no answer" in lines
    assert "└─ ✔ 1 serving" in [" ".join(line.split()) for line in lines]
    assert "Paused" not in done.stdout
    assert "Weight" not in done.stdout
    served.at("steady")
    assert ctl("status").stdout.splitlines()[1] == "Status:       ✔ Healthy (steady)"


def test_status_in_a_rollout(served: Recorder, ctl: Ctl) -> None:
    served.at("live fails by many errors")
    done = ctl("status", "ranker")
    tidy(done.stdout)
    lines = done.stdout.splitlines()
    assert "  ✔ integrity     pass     passed" in lines
    assert any(line.startswith("  ✖ live          fail ") for line in lines)
    # What failed is told in full, whatever its length.
    said = " ".join(done.stdout.split()).lower()
    failed = [gate for gate in served.told.status.services[0].gates if gate.verdict is Verdict.FAIL]
    assert failed
    assert all(gate.message.lower().rstrip(".") in said for gate in failed)
    assert served.calls[-1] == verbs.Status("ranker")
    served.at("validating")
    lines = ctl("status").stdout.splitlines()
    assert "Status:       ◌ Progressing (validating)" in lines
    assert "Step:         0/1" in lines
    assert "SetWeight:    0 %" in lines
    assert "  ◌ latency       running  being asked" in lines


def test_status_paused(served: Recorder, ctl: Ctl) -> None:
    served.at("paused")
    done = ctl("status")
    assert "Status:       ॥ Paused (shifting)" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("Paused:       on")


CONTRACT: dict[str, Any] = {
    "paused": bool,
    "servers": {"name": str, "grpc": str, "live": bool, "in_sync": bool},
    "services": {
        "name": str, "engine": str, "phase": str, "message": str, "stable": int, "candidate": int, "weight": float,
        "step": dict, "gates": list, "versions": list, "updated_at": str,
    },
}  # fmt: skip


def test_status_json_holds_every_promised_key(served: Recorder, ctl: Ctl) -> None:
    page = json.loads(ctl("--output", "json", "status").stdout)
    assert page == encode(served.told.status)
    assert isinstance(page["paused"], bool)
    for part in ("servers", "services"):
        for key, kind in CONTRACT[part].items():
            assert isinstance(page[part][0][key], kind), key
    service = page["services"][0]
    assert {"index", "count"} <= set(service["step"])
    assert {"name", "verdict", "observed", "limit", "message"} <= set(service["gates"][0])
    assert {"version", "label", "state"} <= set(service["versions"][0])


def test_the_options_may_stand_behind_the_verb(served: Recorder, ctl: Ctl, state: Path) -> None:
    assert json.loads(ctl("status", "--output", "json", "--service", "reranker").stdout) == encode(served.told.status)
    assert served.calls[-1] == verbs.Status("reranker")
    assert ctl("--state", "/nowhere", "status", "--state", str(state)).exit_code == 0


def test_flag_before_environment_before_file(
    served: Recorder, ctl: Ctl, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from baton.cli import main

    (tmp_path / "baton.toml").write_text(f'state = "{state}"\n')
    assert CliRunner().invoke(main, ["status"]).exit_code == 0
    monkeypatch.setenv("BATON_STATE", "/nowhere")
    assert CliRunner().invoke(main, ["status"]).exit_code == 5
    assert ctl("status").exit_code == 0
    monkeypatch.setenv("BATON_OUTPUT", "json")
    assert json.loads(ctl("status").stdout) == encode(served.told.status)
    assert ctl("--output", "table", "status").stdout.startswith("Name:")


def test_a_broken_file_keeps_nobody_from_acting(served: Recorder, ctl: Ctl, tmp_path: Path) -> None:
    (tmp_path / "baton.toml").write_text("state = \n")
    assert ctl("pause").exit_code == 0


def test_no_control_plane(ctl: Ctl, state: Path) -> None:
    done = ctl("status")
    assert done.exit_code == 5
    assert done.stdout == ""
    text = " ".join(done.stderr.split())
    assert text == f"Error: No control plane runs for state directory {state}. Start one with `ctl up` or `ctl serve`."


def test_versions(served: Recorder, ctl: Ctl) -> None:
    served.at("something lies beside the versions")
    done = ctl("versions")
    assert done.exit_code == 0
    tidy(done.stdout)
    lines = done.stdout.splitlines()
    assert lines[0] == "ranker"
    assert lines[1].split() == ["VERSION", "LABEL", "RELEASE", "STATE", "SIZE", "TRAINED"]
    assert lines[2].split() == ["1", "1", "equivalent", "serving", "1", "B", "-"]
    assert lines[3].split()[:2] == ["-", "2a"]
    assert "    Not a version number; move it out." in lines
    assert json.loads(ctl("versions", "ranker", "--output", "json").stdout) == encode(served.told.versions)
    assert served.calls[-1] == verbs.Versions("ranker")


def test_what_a_version_says_of_itself() -> None:
    (row,) = moment("steady").versions
    row = replace(row, metrics={"ndcg@10": 0.71}, notes="a note")
    assert [plain(line) for line in versions_lines((row,), 80)][3:] == ["    ndcg@10 0.71", "    a note"]


def test_history(served: Recorder, ctl: Ctl) -> None:
    served.at("a way back")
    done = ctl("history", "--limit", "7")
    assert done.exit_code == 0
    assert served.calls[-1] == verbs.History(None, 7)
    tidy(done.stdout)
    text = " ".join(done.stdout.split())
    assert "2 → 1 (loading)" in text or "2 → 1 (" in text
    assert "by ann@host via ctl: rolled back by ann@host via ctl" in text
    assert "✔ integrity ✔ compatibility" in text
    served.at("output fails")
    text = " ".join(ctl("history").stdout.split())
    assert "rejected" in text
    assert f"✖ output {figures(served.told.history[0].gates[-1])}" in text
    assert json.loads(ctl("history", "--output", "json").stdout) == encode(served.told.history)


def test_empty_lists(served: Recorder, ctl: Ctl) -> None:
    served.at("empty")
    assert "no version" in ctl("versions").stdout
    assert "no rollout" in ctl("history").stdout
    assert json.loads(ctl("history", "--output", "json").stdout) == []


Turn = str | Status | BaseException


def _watch(served: Recorder, monkeypatch: pytest.MonkeyPatch, *turns: Turn) -> None:
    """Each turn is a moment, a status, or what is raised in its place; after the last one somebody presses Ctrl-C."""
    left = list(turns)

    def sleep(_: float) -> None:
        if not left:
            raise KeyboardInterrupt
        turn = left.pop(0)
        served.error = turn if isinstance(turn, BaseException) else None
        if isinstance(turn, str):
            served.at(turn)
        elif isinstance(turn, Status):
            served.told = replace(served.told, status=turn)

    monkeypatch.setattr("baton.cli.status.time", SimpleNamespace(sleep=sleep))


def test_watch_piped_prints_changes_only(served: Recorder, ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Unreachable("It is away.")
    served.at("steady")
    _watch(served, monkeypatch, "steady", "steady", "validating", gone, gone, "validating", "steady")
    done = ctl("status", "--watch")
    assert done.exit_code == 130
    assert done.stdout.count("Name:") == 3
    assert done.stderr.count("It is away.") == 1
    tidy(done.stdout)


def test_watch_piped_does_not_print_what_merely_counts(begin: Callable[..., World], ctl: Ctl, monkeypatch: Any) -> None:
    """Traffic goes on at one step: requests, shares, times and leases move in every second."""
    world = begin(
        traffic=TrafficConfig(steps=(Step(20.0, hold=60.0),), shadow_share=0.0), live=LiveConfig(min_requests=3)
    )
    world.new(until=Phase.SHIFTING)
    for _ in range(12):
        world.wait(0)
    seen: list[Status] = []

    def sleep(_: float) -> None:
        world.wait(0)
        seen.append(world.app.status())
        if len(seen) == 20:
            raise KeyboardInterrupt

    monkeypatch.setattr("baton.cli.status.time", SimpleNamespace(sleep=sleep))
    printed = ctl("status", "--watch").stdout.count("Name:")
    assert len({encode_text(one) for one in seen}) == 20
    assert printed <= 3


def encode_text(status: Status) -> str:
    return json.dumps(encode(status))


def _changed(name: str) -> Status:
    """The status of a rollout that shifts, with one thing that is news."""
    recorder = Recorder("a pause step")
    service = recorder.told.status.services[0]
    traffic, live = service.traffic, next(gate for gate in service.gates if gate.gate is Gate.LIVE)
    assert traffic is not None
    others = tuple(gate for gate in service.gates if gate is not live)
    first, *versions = service.versions
    alarm = next(gate for gate in moment("memory alarms").status.services[0].gates if gate.gate is Gate.MEMORY)
    memory = moment("memory alarms").status.services[0].versions[0].memory
    changes: dict[str, dict[str, Any]] = {
        "phase": {"phase": Phase.SHIFTING},
        "reason": {"code": Reason.SPLITTER_SILENT},
        "weight": {"weight": 50.0},
        "candidate": {"candidate": 3},
        "breaker": {"traffic": replace(traffic, breaker="open")},
        "lease": {"traffic": replace(traffic, lease_left_s=2.0)},
        "traffic ends": {"traffic": None},
        "evidence": {"waits_for": moment("too little traffic").status.services[0].waits_for},
        "step": {"step": replace(service.step, index=3)},
        "another gate": {"gates": (*service.gates, alarm)},
        "verdict": {"gates": (*others, replace(live, verdict=Verdict.HOLD))},
        "memory": {"versions": (replace(first, memory=memory), *versions)},
        "state": {"versions": (replace(first, state=VersionState.STANDBY), *versions)},
        "problem": {"problems": ("tmp lies beside the versions.",)},
    }
    return recorder.changed(**changes[name])


NEWS = [
    *("phase", "reason", "weight", "candidate", "breaker", "lease", "traffic ends", "evidence", "step"),
    *("another gate", "verdict", "memory", "state", "problem"),
]


@pytest.mark.parametrize("name", NEWS)
def test_watch_piped_prints_what_is_news(
    served: Recorder, ctl: Ctl, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    served.at("a pause step")
    _watch(served, monkeypatch, "a pause step", _changed(name), _changed(name))
    done = ctl("status", "--watch")
    assert done.stdout.count("Name:") == 2
    tidy(done.stdout)


def test_watch_piped_tells_a_ramp_in_tenths(served: Recorder, ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    served.told = replace(served.told, status=served.changed(weight=5.0))
    _watch(served, monkeypatch, *(served.changed(weight=5.0 + tenth / 10) for tenth in range(451)))
    assert ctl("status", "--watch").stdout.count("Name:") == 6


def test_watch_json_is_one_object_a_line(served: Recorder, ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    served.at("steady")
    _watch(served, monkeypatch, "steady", "validating")
    pages = [json.loads(line) for line in ctl("status", "--watch", "--output", "json").stdout.splitlines()]
    assert [p["services"][0]["phase"] for p in pages] == ["steady", "validating"]


def test_watch_needs_a_control_plane_to_begin_with(ctl: Ctl) -> None:
    assert ctl("status", "--watch").exit_code == 5


def on_terminal(*args: str, env: dict[str, str]) -> str:
    """What ``ctl`` writes to a terminal of 80 columns."""
    main, other = pty.openpty()
    read: list[bytes] = []

    def drain() -> None:
        while True:
            try:
                data = os.read(main, 4096)
            except OSError:  # the last writer closed it
                return
            if not data:
                return
            read.append(data)

    reader = threading.Thread(target=drain)
    reader.start()
    code = "import sys; from baton.cli import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *args], stdout=other, stderr=other, stdin=subprocess.DEVNULL, check=False,
        timeout=30, env={**os.environ, "TERM": "xterm", "COLUMNS": "80", **env},
    )  # fmt: skip
    os.close(other)
    reader.join()
    os.close(main)
    assert done.returncode == 0
    return b"".join(read).decode()


def test_colour_on_a_terminal_and_none_when_not_wanted(served: Recorder, state: Path) -> None:
    args = ("--state", str(state), "status")
    served.at("steady")
    assert "\x1b[32m✔ Healthy" in on_terminal(*args, env={})
    plain = on_terminal(*args, env={"NO_COLOR": "1"})
    assert "\x1b[3" not in plain
    assert "✔ Healthy" in plain
