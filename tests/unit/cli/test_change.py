"""The verbs that change something: what they ask for, how they wait, and with which code they end."""

from __future__ import annotations

import json

import pytest
from tests.unit.api.fake import STORY, FakeApp, ended, gate, live, rollout, told
from tests.unit.cli.conftest import Ctl, tidy

from baton.api import caller
from baton.cli import follow, output
from baton.errors import GateFailed, Refused, TritonError, Unreachable
from baton.facts import RolloutStory

WHO = caller()


def _said(text: str) -> str:
    return " ".join(text.split())


def test_promote_waits_until_traffic_has_moved(served: FakeApp, ctl: Ctl) -> None:
    done = ctl("promote", "2", "--full")
    assert done.exit_code == 0
    assert served.calls[0] == ("promote", None, 2, True, WHO)
    assert done.stdout == "reranker: version 2 (v2.1.0) is live, 42 s after it began.\n"
    tidy(done.stderr)
    lines = done.stderr.splitlines()
    assert lines == [
        "It begins.",
        "00:00:00  rollout of version 2: promoted",
        "00:00:00  ✔ integrity     pass     3 files, 12 MB, every hash matches",
        "00:00:00  verifying to validating: the files are whole",
    ]


def test_a_rollout_that_no_client_met_says_so(served: FakeApp, ctl: Ctl) -> None:
    synthetic = gate("live", "pass", 1.0, 1.5, "Synthetic: 41 golden requests, no live traffic.")
    synthetic["evidence"] = {
        "checks": [], "samples": {"stable": 20, "candidate": 21, "pairs": 0}, "worst": [], "synthetic": 41,
    }  # fmt: skip
    served.story = [live(gates=[synthetic])]
    done = ctl("promote", "2")
    assert done.exit_code == 0
    assert done.stdout.endswith("42 s after it began. No live traffic came: golden requests stood in for it.\n")


def test_the_service_is_passed_on(served: FakeApp, ctl: Ctl) -> None:
    ctl("--service", "a", "promote")
    ctl("promote", "--service", "b")
    assert [c[:3] for c in served.calls if c[0] == "promote"] == [("promote", "a", None), ("promote", "b", None)]


def test_json_prints_the_rollout(served: FakeApp, ctl: Ctl) -> None:
    done = ctl("--output", "json", "promote")
    assert json.loads(done.stdout) == told(RolloutStory, live())


HELD = gate("warmup", "hold", None, None, "Service reranker has no golden set.")
SKIPPED = gate("output", "pass", None, None, "There is no stable version to compare with.") | {"skipped": True}


@pytest.mark.parametrize(
    ("args", "story", "code", "text"),
    [
        (["promote"], ended("live", "", phase="retiring"), 0, "version 2 (v2.1.0) is live."),
        (["promote"], ended("rejected", "output: 0.588 > 0.001."), 4, "was rejected: output: 0.588 > 0.001."),
        (["promote"], ended("rolled_back", "errors"), 4, "was rolled back: errors."),
        (["promote"], ended("aborted", "aborted by carol"), 4, "was aborted: aborted by carol."),
        (["promote"], ended("superseded", "version 3 came"), 4, "was superseded: version 3 came."),
        (["promote"], live(), 0, "is live, 42 s after"),
        (["retry", "2", "--release", "retrained"], live(), 0, "is live"),
        (["retry"], rollout(phase="waiting"), 0, "passed every gate and waits for `ctl promote`."),
        (
            ["retry"],
            rollout(phase="waiting", gates=[SKIPPED]),
            0,
            "but those that were skipped (output) and waits",
        ),
        (["retry"], rollout(phase="waiting", gates=[HELD]), 0, "is not live: gate warmup has not enough evidence."),
        (
            ["promote"],
            rollout(phase="waiting", gates=[HELD]),
            3,
            "is not promoted: gate warmup has not enough evidence.",
        ),
        (["verify", "2"], ended("aborted", "no golden set", kind="check"), 4, "was aborted: no golden set."),
        (["retry"], ended("rejected", "again"), 4, "was rejected: again."),
        (["rollback"], live(kind="rollback", candidate=1, label="1"), 0, "reranker: version 1 is live"),
        (["rollback", "--to", "1"], ended("rejected", "it does not load", kind="rollback"), 4, "it does not load"),
    ],
)
def test_what_is_done_when_it_serves(
    served: FakeApp, ctl: Ctl, args: list[str], story: dict[str, object], code: int, text: str
) -> None:
    served.story = [*STORY, story]
    done = ctl(*args)
    assert done.exit_code == code, done.output
    assert text in _said(done.stdout if code == 0 else done.stderr)


@pytest.mark.parametrize(
    ("args", "story", "code", "text"),
    [
        (["verify", "2"], ended("verified", "", kind="check"), 0, "version 2 (v2.1.0) passed every gate."),
        (
            ["verify", "2"],
            ended("verified", "", kind="check", gates=[SKIPPED]),
            0,
            "passed every gate but those that were skipped (output).",
        ),
        (["verify", "2"], ended("rejected", "output", kind="check"), 4, "was rejected: output."),
        (["verify", "2"], ended("aborted", "by carol", kind="check"), 4, "was aborted: by carol."),
        (["abort"], ended("aborted", "aborted by carol"), 0, "was aborted; version 1 serves."),
        (["abort"], ended("rejected", "a gate was faster", previous=None), 0, "was rejected; nothing serves."),
        (["abort"], ended("live", "", phase="retiring"), 3, "went live before it could be stopped."),
        # A rollout that bakes has traffic: that is not the end a rollback waits for.
        (["rollback"], ended("rolled_back", "rolled back by carol", moved=False), 0, "was rolled back; version 1"),
    ],
)
def test_what_is_done_when_it_has_ended(
    served: FakeApp, ctl: Ctl, args: list[str], story: dict[str, object], code: int, text: str
) -> None:
    served.until = "ended"
    served.story = [*STORY, live(), story]
    done = ctl(*args)
    assert done.exit_code == code, done.output
    assert text in _said(done.stdout if code == 0 else done.stderr)


def test_a_failed_rollout_still_prints_its_json(served: FakeApp, ctl: Ctl) -> None:
    served.story = [ended("rejected", "output")]
    done = ctl("promote", "--output", "json")
    assert done.exit_code == 4
    assert json.loads(done.stdout)["outcome"] == "rejected"


def test_a_promoted_rollout_is_followed_past_its_wait(served: FakeApp, ctl: Ctl) -> None:
    served.story = [rollout(phase="waiting"), rollout(phase="waiting"), live()]
    assert "is live" in ctl("promote").stdout


def test_a_wait_lasts_through_shadow_and_steps(served: FakeApp, ctl: Ctl) -> None:
    def at(phase: str, index: int, name: str, weight: float) -> dict[str, object]:
        return STORY[1] | {"phase": phase, "weight": weight, "step": {"index": index, "count": 3, "name": name}}

    served.story = [
        at("shadowing", 0, "shadow 25 % for 30 s", 0), at("shifting", 1, "5 % for 30 s", 5.0),
        at("shifting", 2, "to 50 % over 90 s", 12.5), at("shifting", 2, "to 50 % over 90 s", 50.0),
        at("waiting", 3, "pause", 50.0), live(weight=100, step={"index": 3, "count": 3, "name": "100 %"}),
    ]  # fmt: skip
    done = ctl("promote")
    assert "is live" in done.stdout
    steps = [line[10:] for line in done.stderr.splitlines() if "%" in line or "pause" in line]
    assert steps == [
        "shadow 25 % for 30 s", "step 1/3: 5 % for 30 s", "step 2/3: to 50 % over 90 s", "step 3/3: pause",
        "step 3/3: 100 %",
    ]  # fmt: skip


def test_a_pause_step_is_as_far_as_a_retry_brings_it(served: FakeApp, ctl: Ctl) -> None:
    served.story = [rollout(phase="shifting", weight=5.0), rollout(phase="waiting", weight=5.0)]
    assert ctl("retry").stdout == "reranker: version 2 (v2.1.0) has 5 % of the traffic and waits for `ctl promote`.\n"


def test_no_wait(served: FakeApp, ctl: Ctl) -> None:
    done = ctl("promote", "--no-wait")
    assert done.exit_code == 0
    assert done.stdout == "It begins.\n"
    assert "rollout 7" in done.stderr
    assert not [c for c in served.calls if c[0] == "rollout"]
    ticket = json.loads(ctl("promote", "--no-wait", "--output", "json").stdout)
    assert ticket == {"service": "reranker", "rollout": 7, "until": "live", "message": "It begins."}


def test_nothing_to_wait_for(served: FakeApp, ctl: Ctl) -> None:
    done = ctl("retry", "1")
    assert (done.exit_code, done.stdout) == (0, "It begins.\n")


def test_timeout(served: FakeApp, ctl: Ctl) -> None:
    served.story = [STORY[1]]
    done = ctl("promote", "--timeout", "0.05")
    assert done.exit_code == 6
    assert "the rollout's phase is: validating. Gate integrity checks version 2." in _said(done.stderr)
    assert "ctl abort" in _said(done.stderr)


def test_interrupted(served: FakeApp, ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(follow.time, "sleep", sleep)
    done = ctl("promote")
    assert done.exit_code == 130
    assert "What was begun goes on" in done.stderr


def test_a_restart_of_the_control_plane_is_waited_out(
    served: FakeApp, ctl: Ctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = iter([Unreachable("It is away."), Unreachable("It is away."), None])
    monkeypatch.setattr(follow.time, "sleep", lambda _: setattr(served, "error", next(turns, None)))
    done = ctl("promote")
    assert done.exit_code == 0
    assert done.stderr.count("It is away.") == 1


def test_a_control_plane_that_stays_away(served: FakeApp, ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "PATIENCE_S", 0.02)
    monkeypatch.setattr(follow.time, "sleep", lambda _: setattr(served, "error", Unreachable("It is away.")))
    assert ctl("promote").exit_code == 5


@pytest.mark.parametrize(
    ("error", "code"),
    [(Refused("No."), 3), (GateFailed("No."), 4), (Unreachable("No."), 5), (TritonError("No."), 1)],
)
def test_what_the_control_plane_raises(served: FakeApp, ctl: Ctl, error: Exception, code: int) -> None:
    served.error = error
    for args in (["promote"], ["rollback"], ["abort"], ["retry"], ["verify", "2"], ["pause"], ["resume"], ["status"]):
        done = ctl(*args)
        assert (done.exit_code, done.stdout, done.stderr) == (code, "", "Error: No.\n")


@pytest.mark.parametrize(
    "args",
    [["promote", "x"], ["promote", "0"], ["verify"], ["nothing"], ["promote", "--timeout", "0"], ["--output", "xml"]],
)
def test_usage(served: FakeApp, ctl: Ctl, args: list[str]) -> None:
    done = ctl(*args)
    assert done.exit_code == 2
    assert done.stdout == ""


def test_pause_and_resume(served: FakeApp, ctl: Ctl) -> None:
    assert ctl("pause", "--yes", "--wait").stdout == "Paused.\n"
    assert json.loads(ctl("--output", "json", "resume").stdout) == {"paused": False, "message": "Resumed."}
    assert served.calls == [("pause", WHO), ("resume", WHO)]


VERBS = [["promote"], ["rollback"], ["abort"], ["retry"], ["verify", "2"], ["pause"], ["resume"]]


@pytest.mark.parametrize("args", VERBS)
def test_a_person_is_asked_first(served: FakeApp, ctl: Ctl, monkeypatch: pytest.MonkeyPatch, args: list[str]) -> None:
    monkeypatch.setattr(follow, "can_ask", lambda: True)
    done = ctl(*args, "--no-wait", input="n\n")
    assert done.exit_code == 130
    assert "Nothing was done." in done.stderr
    assert served.calls == []
    assert ctl(*args, "--no-wait", input="y\n").exit_code == 0
    assert len(served.calls) == 1
    assert "?" not in ctl(*args, "--no-wait", "--yes").stderr


def test_a_pipe_is_never_asked(served: FakeApp, ctl: Ctl) -> None:
    assert not output.can_ask()
    assert "?" not in ctl("promote").stderr


def test_a_defect_is_one_line_unless_it_is_debugged(served: FakeApp, ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("baton.cli.change.follow", broken)
    done = ctl("promote")
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: ZeroDivisionError: oh.")
    assert "Traceback" not in done.stderr
    monkeypatch.setenv("BATON_DEBUG", "1")
    assert isinstance(ctl("promote").exception, ZeroDivisionError)
