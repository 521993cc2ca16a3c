"""status, versions, history: what they print."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.unit.api.fake import HISTORY, VERSIONS, FakeApp, rolling, status, told
from tests.unit.cli.conftest import Ctl, tidy
from tests.unit.cli.moments import ERRORS, FEW, MEMORY, live, page, traffic, usage, version

from baton.errors import Unreachable
from baton.facts import RolloutFacts, Status, VersionOnDisk


def test_status_at_rest(served: FakeApp, ctl: Ctl) -> None:
    done = ctl("status")
    assert done.exit_code == 0
    assert done.stderr == ""
    tidy(done.stdout)
    lines = done.stdout.splitlines()
    assert lines[0] == "Name:         reranker"
    assert lines[1] == "Status:       ✔ Healthy (steady)"
    assert "Stable:       1 (v2.0.0)" in lines
    assert "Servers:      ✔ local (127.0.0.1:8001)  live, in sync" in lines
    assert "              ✖ other (10.0.0.2:8001)  no answer" in lines
    assert "└─ ✔ 1 v2.0.0 serving" in [" ".join(line.split()) for line in lines]
    assert "Paused" not in done.stdout
    assert "Weight" not in done.stdout


def test_status_in_a_rollout(served: FakeApp, ctl: Ctl) -> None:
    served.page = rolling()
    done = ctl("status", "reranker")
    tidy(done.stdout)
    lines = done.stdout.splitlines()
    assert "Status:       ◌ Progressing (validating)" in lines
    assert "Step:         0/3" in lines
    assert "SetWeight:    0 %" in lines
    assert "  ✔ integrity     pass     3 files, 12 MB, every hash matches" in lines
    assert "  ✖ output        fail     0.588 (limit 0.001)" in lines
    assert "  ⚠ invariance    hold     0 (limit 0.005)  2 of 8 pairs answered" in lines
    assert "  ◌ latency       running  1.02 (limit 1.15)  40 of 200 samples" in lines
    assert "  · warmup        pending" in lines
    # What failed is told in full, whatever its length.
    assert "far above the tolerance." in " ".join(done.stdout.split())
    assert served.calls[-1] == ("status", "reranker")


def test_status_paused(served: FakeApp, ctl: Ctl) -> None:
    served.page = rolling() | {"paused": True}
    done = ctl("status")
    assert "Status:       ॥ Paused (validating)" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("Paused:       on")


CONTRACT = {
    "paused": bool,
    "servers": {"name": str, "grpc": str, "live": bool, "in_sync": bool},
    "services": {
        "name": str, "engine": str, "phase": str, "message": str, "stable": int, "candidate": int, "weight": int,
        "step": dict, "gates": list, "versions": list, "updated_at": str,
    },
}  # fmt: skip


def test_status_json_holds_every_promised_key(served: FakeApp, ctl: Ctl) -> None:
    served.page = rolling()
    page = json.loads(ctl("--output", "json", "status").stdout)
    assert page == told(Status, served.page)
    assert isinstance(page["paused"], bool)
    for part in ("servers", "services"):
        for key, kind in CONTRACT[part].items():
            assert isinstance(page[part][0][key], kind), key
    service = page["services"][0]
    assert {"index", "count"} <= set(service["step"])
    assert {"name", "verdict", "observed", "limit", "message"} <= set(service["gates"][0])
    assert {"version", "label", "state"} <= set(service["versions"][0])


def test_the_options_may_stand_behind_the_verb(served: FakeApp, ctl: Ctl, state: Path) -> None:
    assert json.loads(ctl("status", "--output", "json", "--service", "reranker").stdout) == told(Status, served.page)
    assert served.calls[-1] == ("status", "reranker")
    assert ctl("--state", "/nowhere", "status", "--state", str(state)).exit_code == 0


def test_flag_before_environment_before_file(
    served: FakeApp, ctl: Ctl, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from baton.cli import main

    (tmp_path / "baton.toml").write_text(f'state = "{state}"\n')
    assert CliRunner().invoke(main, ["status"]).exit_code == 0
    monkeypatch.setenv("BATON_STATE", "/nowhere")
    assert CliRunner().invoke(main, ["status"]).exit_code == 5
    assert ctl("status").exit_code == 0
    monkeypatch.setenv("BATON_OUTPUT", "json")
    assert json.loads(ctl("status").stdout) == told(Status, served.page)
    assert ctl("--output", "table", "status").stdout.startswith("Name:")


def test_a_broken_file_keeps_nobody_from_acting(served: FakeApp, ctl: Ctl, tmp_path: Path) -> None:
    (tmp_path / "baton.toml").write_text("state = \n")
    assert ctl("pause").exit_code == 0


def test_no_control_plane(ctl: Ctl, state: Path) -> None:
    done = ctl("status")
    assert done.exit_code == 5
    assert done.stdout == ""
    text = " ".join(done.stderr.split())
    assert text == f"Error: No control plane runs for state directory {state}. Start one with `ctl up` or `ctl serve`."


def test_versions(served: FakeApp, ctl: Ctl) -> None:
    done = ctl("versions")
    assert done.exit_code == 0
    tidy(done.stdout)
    lines = done.stdout.splitlines()
    assert lines[0] == "reranker"
    assert lines[1].split() == ["VERSION", "LABEL", "RELEASE", "STATE", "SIZE", "TRAINED"]
    assert lines[2].split() == ["1", "v2.0.0", "equivalent", "serving", "12.3", "MB", "2026-01-01"]
    assert "    ndcg@10 0.71" in lines
    assert "    a note" in lines
    assert json.loads(ctl("versions", "reranker", "--output", "json").stdout) == told(
        tuple[VersionOnDisk, ...], VERSIONS
    )
    assert served.calls[-1] == ("versions", "reranker")


def test_history(served: FakeApp, ctl: Ctl) -> None:
    done = ctl("history", "--limit", "7")
    assert done.exit_code == 0
    assert served.calls[-1] == ("history", None, 7)
    tidy(done.stdout)
    text = " ".join(done.stdout.split())
    assert "1 → 2 rejected 1m 00s" in text
    assert "by carol@host via ctl: promoted" in text
    assert "✔ integrity ✖ output 0.588 (limit 0.001)" in text
    assert "(verifying)" in text
    assert json.loads(ctl("history", "--output", "json").stdout) == told(tuple[RolloutFacts, ...], HISTORY)


def test_empty_lists(served: FakeApp, ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeApp, "versions", lambda *_: ())
    monkeypatch.setattr(FakeApp, "history", lambda *_: ())
    assert "no version" in ctl("versions").stdout
    assert "no rollout" in ctl("history").stdout
    assert json.loads(ctl("history", "--output", "json").stdout) == []


def _watch(served: FakeApp, monkeypatch: pytest.MonkeyPatch, *turns: object) -> None:
    """Each turn replaces the page (or is raised by it); after the last one somebody presses Ctrl-C."""
    left = list(turns)

    def sleep(_: float) -> None:
        if not left:
            raise KeyboardInterrupt
        turn = left.pop(0)
        if isinstance(turn, BaseException):
            served.error = turn
        else:
            served.error, served.page = None, turn

    monkeypatch.setattr("baton.cli.status.time.sleep", sleep)


def test_watch_piped_prints_changes_only(served: FakeApp, ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Unreachable("It is away.")
    _watch(served, monkeypatch, status(), status(), rolling(), gone, gone, rolling(), status())
    done = ctl("status", "--watch")
    assert done.exit_code == 130
    assert done.stdout.count("Name:") == 3
    assert done.stderr.count("It is away.") == 1
    tidy(done.stdout)


def _counting(left: float, **changes: Any) -> dict[str, Any]:
    """A page on which all that may move does."""
    said = f"Version 2 has 5 % of traffic; {left} s more of it."
    moved = traffic(
        observed=4.6 - left / 100, requests={"stable": 800 - int(left), "candidate": 39}, lease_left_s=left,
        eta_s=100 + left, waiting_for=f"evidence: {30 - int(left)} of 30 requests",
    )  # fmt: skip
    errors = {**ERRORS, "observed": left / 1000, "message": f"{left} of 39 answers failed."}
    versions = [version(1, "v2.0.0", "serving", usage(412_000_000 + int(left), left / 1000))]
    step = {"index": 1, "count": 4, "name": "5 % for 30 s", "left_s": left}
    parts = {"message": said, "traffic": moved, "gates": [live("pass", errors)], "versions": versions, "step": step}
    return page(**parts | changes)


def test_watch_piped_does_not_print_what_merely_counts(
    served: FakeApp, ctl: Ctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.page = _counting(12.0)
    renewing = "Renewing the lease of the traffic split."
    _watch(
        served, monkeypatch, _counting(11.0), _counting(10.5, message=renewing), _counting(9.0),
        _counting(8.5, message=renewing), _counting(8.0),
    )  # fmt: skip
    assert ctl("status", "--watch").stdout.count("Name:") == 2


CHANGES: list[dict[str, Any]] = [
    {"phase": "waiting"},
    {"message": "The splitter on server local does not answer."},
    {"weight": 10.0},
    {"candidate": 3},
    {"traffic": traffic(breaker="open")},
    {"traffic": traffic(waiting_for="a lease")},
    {"traffic": traffic(lease_left_s=2.0)},
    {"traffic": None},
    {"step": {"index": 2, "count": 4, "name": "to 50 % over 90 s", "left_s": 12.0}},
    {"gates": [live("pass", ERRORS), {**MEMORY, "verdict": "fail"}]},
    {"gates": [live("hold", ERRORS, FEW)]},
    {"gates": [live("pass", ERRORS, FEW)]},
    {"versions": [version(1, "v2.0.0", "serving", usage(412_000_000, 0.08, "fail"))]},
    {"versions": [version(1, "v2.0.0", "standby", usage(412_000_000, 0.012))]},
    {"problems": ["tmp lies beside the versions."]},
]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: next(iter(changes)))
def test_watch_piped_prints_what_is_news(
    served: FakeApp, ctl: Ctl, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    before: dict[str, Any] = {
        "traffic": traffic(), "gates": [live("pass", ERRORS)],
        "versions": [version(1, "v2.0.0", "serving", usage(412_000_000, 0.012))],
    }  # fmt: skip
    served.page = page(**before)
    _watch(served, monkeypatch, page(**before), page(**before | changes), page(**before | changes))
    done = ctl("status", "--watch")
    assert done.stdout.count("Name:") == 2
    tidy(done.stdout)


def test_watch_piped_tells_a_ramp_in_tenths(served: FakeApp, ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    served.page = page(weight=5.0)
    _watch(served, monkeypatch, *(page(weight=5.0 + tenth / 10) for tenth in range(451)))
    assert ctl("status", "--watch").stdout.count("Name:") == 6


def test_watch_json_is_one_object_a_line(served: FakeApp, ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    _watch(served, monkeypatch, status(), rolling())
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


def test_colour_on_a_terminal_and_none_when_not_wanted(served: FakeApp, state: Path) -> None:
    args = ("--state", str(state), "status")
    assert "\x1b[32m✔ Healthy" in on_terminal(*args, env={})
    plain = on_terminal(*args, env={"NO_COLOR": "1"})
    assert "\x1b[3" not in plain
    assert "✔ Healthy" in plain
