"""One service on one Triton: new versions, refusals, ways back, and what a person can ask for meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.waiting import until
from tests.support.stage import Stage, Traffic, stage
from tests.support.toy import make_checkpoint

from baton.codec import encode
from baton.errors import Refused
from baton.reasons import Reason, because

pytestmark = [pytest.mark.triton, pytest.mark.slow]
ME = "tester"


@pytest.fixture(scope="module")
def st(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One Triton for the module; each test goes on from the version that the one before it left."""
    with stage(tmp_path_factory.mktemp("rollout")) as made:
        yield made


@pytest.fixture
def next_version(st: Stage) -> int:
    """A number that was never used, on a stage where some version serves."""
    if not any(entry.name.isdigit() for entry in st.engine_dir().iterdir()):
        with st.control():
            st.drop(1)
            st.wait_live(1)
    return st.unused()


def declare(folder: Path, release: str) -> Path:
    (folder / "version.toml").write_text(f'label = "label-{folder.name}"\nrelease = "{release}"\n')
    return folder


def test_first_version_from_empty(st: Stage) -> None:
    with st.control() as app:
        until(lambda: st.status()["phase"] == "empty", "empty")
        st.wait_why(Reason.NO_FOLDER)
        st.drop(1)
        status = st.wait_live(1)
        assert [v["state"] for v in status["versions"]] == ["serving"]
        assert status["weight"] == 0
        assert status["candidate"] is None
        gates = {g["name"]: g for g in encode(app.history()[0].gates)}
        assert set(gates) == {
            "integrity", "compatibility", "capacity", "load", "warmup", "output", "invariance", "latency",
        }  # fmt: skip
        assert all(g["verdict"] == "pass" for g in gates.values())
        assert gates["latency"]["skipped"]  # there is nothing to compare the first version with
        with Traffic(st, clients=2) as traffic:
            traffic.wait_answers(1)
        assert traffic.errors == []
        assert st.loads() == {1: 1}


def test_equivalent_version(st: Stage, next_version: int) -> None:
    old, new = next_version - 1, next_version
    before = st.loads()
    with st.control(), Traffic(st) as traffic:
        traffic.wait_answers(old)
        st.drop(new)
        st.wait_live(new)
        traffic.wait_answers(new)
        assert st.version(old)["state"] == "on_disk"
    assert traffic.errors == []
    assert st.loads() - before == {new: 1}, "the new version is loaded once, the live one never again"
    assert st.policy() == {new}


def test_retrained_version_that_says_so(st: Stage, next_version: int, tmp_path: Path) -> None:
    made = declare(make_checkpoint(tmp_path / str(next_version), seed=next_version), "retrained")
    with st.control() as app, Traffic(st, clients=2) as traffic:
        st.place(made, next_version)
        st.wait_live(next_version)
        item = encode(app.history()[0])
        assert item["release"] == "retrained"
        assert item["label"] == f"label-{next_version}"
        output = next(g for g in item["gates"] if g["name"] == "output")
        assert "NDCG" in output["message"]
    assert traffic.errors == []


def test_retrained_version_that_does_not_say_so(st: Stage, next_version: int) -> None:
    before = st.loads()
    with st.control() as app, Traffic(st, clients=2) as traffic:
        live = st.wait_phase("steady")["stable"]
        st.drop(next_version, seed=next_version + 100)
        ended = st.wait_end(next_version)
        assert ended["outcome"] == "rejected"
        assert "retrained" in ended["message"], "the message says how to mend it"
        assert traffic.versions[next_version] == 0
        assert st.loads() - before == {next_version: 1}
        assert st.policy() == {live}
        app.retry(None, next_version, release="retrained", who=ME)
        st.wait_live(next_version)
        assert app.history()[0].who == ME
        traffic.wait_answers(next_version)
    assert traffic.errors == []
    assert (st.loads() - before)[live] == 0


def test_rollback_while_baking(st: Stage, next_version: int) -> None:
    with st.control(keep_previous="10m") as app, Traffic(st) as traffic:
        old = st.wait_phase("steady")["stable"]
        before = st.loads()
        st.drop_copy(old, next_version)
        status = st.wait_phase("baking")
        assert (status["weight"], status["candidate"], status["stable"]) == (100, next_version, old)
        assert {v["version"]: v["state"] for v in status["versions"]}[old] == "standby"
        traffic.wait_answers(next_version)
        app.rollback(None, None, who=ME)
        st.wait_live(old)
        ended = st.wait_end(next_version)
        assert ended["outcome"] == "rolled_back"
        assert ME in ended["message"]
        traffic.wait_answers(old)
        assert st.loads() - before == {next_version: 1}, "back in one flip: nothing was loaded"
        assert st.policy() == {old}
        # The withdrawn version is not taken up again by itself.
        turned = app.loop_at()
        until(lambda: app.loop_at() > turned + 2.0, "the loop has looked at the folders again")
        assert st.status()["rollout"] is None
        assert st.version(next_version)["state"] == "on_disk"
        assert st.version(next_version)["reason"]
    assert traffic.errors == []


def test_the_old_version_is_kept_for_its_time_and_then_retired(st: Stage, next_version: int) -> None:
    with st.control(keep_previous="2s") as app:
        old = st.wait_phase("steady")["stable"]
        st.drop_copy(old, next_version)
        st.wait_phase("baking")
        assert st.policy() == {old, next_version}
        st.wait_live(next_version)
        assert st.policy() == {next_version}
        assert st.version(old)["state"] == "on_disk"
        number = app.history()[0].id
        at = {
            e["message"].split(":")[0]: e["at"]
            for e in app.journal.events.newest(rollout=number)
            if e["kind"] == "phase"
        }
        assert at["baking to retiring"] - at["shifting to baking"] >= 2.0


def test_what_a_version_runs_in_is_told(st: Stage, next_version: int) -> None:
    lowered = {"device": "cpu", "dtype": "fp32", "fallback": "cpu", "asked_device": "cuda:0", "asked_dtype": "bf16"}

    def runs(version: int) -> tuple[str | None, ...]:
        row = next(v for v in st.status()["versions"] if v["version"] == version)
        return row["device"], row["dtype"], row["fallback"]

    with st.control() as app:
        st.drop_copy(st.wait_phase("steady")["stable"], next_version, info=lowered)
        st.wait_live(next_version)
        until(lambda: runs(next_version) == ("cpu", "fp32", "cpu"), "it is read")
        (problem,) = st.status()["problems"]
        figures = {"fallback": "cpu", "runs": "fp32 on cpu", "asked": "bf16 on cuda:0"}
        why = because(Reason.RUNS_IN_LESS, server="s0", version=next_version, **figures)
        assert problem == str(why)
        until(lambda: why in [e["why"] for e in app.journal.events.newest(service="ranker")], "it is written down")
        assert st.status()["phase"] == "steady", "it serves all the same"
        st.drop_copy(next_version, next_version + 1)
        st.wait_live(next_version + 1)
        assert st.status()["problems"] == [], "it is loaded no more"
        assert runs(next_version) == (None, None, None)


def test_a_rollback_goes_to_what_served_and_to_another_content_only_by_its_name(st: Stage, next_version: int) -> None:
    def change(version: int, text: str) -> None:
        """Append to a file of the version's folder, and wait until the control plane has seen that."""
        seen = app.services["ranker"].view.folders[version].fingerprint
        with (st.engine_dir() / str(version) / "config.json").open("a") as file:
            file.write(text)
            file.flush()
            os.utime(file.fileno())
        until(lambda: app.services["ranker"].view.folders[version].fingerprint != seen, "it is seen")

    with st.control() as app, Traffic(st) as traffic:
        first = st.wait_phase("steady")["stable"]
        st.drop_copy(first, next_version)
        st.wait_live(next_version)
        change(first, "")
        app.rollback(None, first, who=ME)
        st.wait_live(first)
        change(next_version, " ")
        with pytest.raises(Refused, match=r"config\.json is not as it was"):
            app.rollback(None, next_version, who=ME)
        assert st.status()["stable"] == first
        app.rollback(None, next_version, changed=True, who=ME)
        st.wait_live(next_version)
    assert traffic.errors == []


def test_rollback_after_retirement_and_to_a_named_version(st: Stage, next_version: int) -> None:
    with st.control() as app, Traffic(st) as traffic:
        first = st.wait_phase("steady")["stable"]
        second, third = next_version, next_version + 1
        for version in (second, third):
            st.drop_copy(first, version)
            st.wait_live(version)
        before = st.loads()
        app.rollback(None, None, who=ME)
        st.wait_live(second)
        assert st.loads() - before == {second: 1}, "loaded once, then one flip"
        assert app.history()[0].kind == "rollback"
        app.rollback(None, first, who=ME)
        st.wait_live(first)
        assert st.loads() - before == {second: 1, first: 1}
        assert st.policy() == {first}
        with pytest.raises(Refused, match="serves already"):
            app.rollback(None, first, who=ME)
        with pytest.raises(Refused, match="not on disk"):
            app.rollback(None, 9999, who=ME)
        # Withdrawn versions come back by promotion alone.
        app.promote(None, third, full=False, who=ME)
        st.wait_live(third)
    assert traffic.errors == []


def test_manual_promotion_waits_for_a_person(st: Stage, next_version: int) -> None:
    with st.control(promotion="manual") as app, Traffic(st, clients=2) as traffic:
        old = st.wait_phase("steady")["stable"]
        before = st.loads()
        st.drop_copy(old, next_version)
        status = st.wait_phase("waiting")
        assert (status["stable"], status["candidate"], status["weight"]) == (old, next_version, 0)
        assert st.wait_why(Reason.WAITS_FOR_PROMOTION).figures["version"] == next_version
        traffic.wait_answers(old)
        assert traffic.versions[next_version] == 0
        app.promote(None, None, full=False, who=ME)
        st.wait_live(next_version)
        traffic.wait_answers(next_version)
        assert st.loads() - before == {next_version: 1}
    assert traffic.errors == []


def test_verify_promotes_nothing(st: Stage, next_version: int) -> None:
    with st.control(settle="10m") as app, Traffic(st, clients=2) as traffic:
        old = st.wait_phase("steady")["stable"]
        before = st.loads()
        st.drop_copy(old, next_version)
        until(lambda: any(v.version == next_version for v in app.versions()), "the folder is seen")
        number = app.verify(None, next_version, who=ME).rollout
        until(lambda: app.rollout(number).ended, "the end of the verification")
        ended = encode(app.rollout(number))
        assert (ended["outcome"], ended["moved"]) == ("verified", False)
        assert len(ended["gates"]) == 8
        assert st.status()["stable"] == old
        assert st.policy() == {old}
        assert traffic.versions[next_version] == 0
        assert st.loads() - before == {next_version: 1}
    assert traffic.errors == []


def test_pause_starts_nothing_and_resume_goes_on(st: Stage, next_version: int) -> None:
    with st.control() as app:
        old = st.wait_phase("steady")["stable"]
        app.pause(who=ME)
        latest = max(v.version for v in app.versions())
        st.drop_copy(old, next_version)
        until(lambda: any(v.version == next_version and v.state == "on_disk" for v in app.versions()), "quiet")
        st.wait_why(Reason.PAUSED_AT_REST)
        assert app.history()[0].candidate == latest
        assert app.status().paused is True
    with st.control() as app:  # the pause outlives the control plane
        st.wait_why(Reason.PAUSED_AT_REST)
        # What a person starts goes on although Baton is paused.
        app.promote(None, next_version, full=False, who=ME)
        st.wait_live(next_version)
        st.drop_copy(old, next_version + 1)
        app.resume(who=ME)
        st.wait_live(next_version + 1)


def test_pause_freezes_a_rollout_before_traffic(st: Stage, next_version: int) -> None:
    with st.control() as app, Traffic(st, clients=2) as traffic:
        old = st.wait_phase("steady")["stable"]
        st.drop_copy(old, next_version, load_s=1.0)
        st.wait_phase("loading", "verifying")
        app.pause(who=ME)
        st.wait_why(Reason.COULD_GO_ON)
        assert st.status()["stable"] == old
        assert traffic.versions[next_version] == 0
        app.resume(who=ME)
        st.wait_live(next_version)
    assert traffic.errors == []


@pytest.mark.parametrize("phase", ["loading", "validating", "waiting", "baking", "retiring"])
def test_abort_wins_in_every_phase(st: Stage, next_version: int, phase: str) -> None:
    slow = {"loading": {"load_s": 3.0}, "validating": {"delay_ms": 200.0}}.get(phase, {})
    with (
        st.control(
            keep_previous="0s" if phase == "retiring" else "10m",
            promotion="manual" if phase == "waiting" else "automatic",
        ) as app,
        Traffic(st, clients=2) as traffic,
    ):
        old = st.wait_phase("steady")["stable"]
        before = st.loads()
        st.drop_copy(old, next_version, **slow)
        st.wait_phase(phase)
        if phase == "loading":
            until(lambda: st.loads()[next_version], "Triton is at it")
        app.abort(None, who=ME)
        if phase == "loading":
            assert st.wait_why(Reason.STILL_LOADING).figures["serves"] == old
        ended = st.wait_end(next_version)
        assert ended["outcome"] == ("rolled_back" if phase in {"baking", "retiring"} else "aborted")
        assert ME in ended["message"]
        st.wait_live(old)
        assert st.policy() == {old}
        # The old version may have left memory already when an abort comes as late as that.
        assert (st.loads() - before).keys() <= {next_version} | ({old} if phase == "retiring" else set())
        traffic.wait_answers(old)
        with pytest.raises(Refused, match="No rollout"):
            app.abort(None, who=ME)
    assert traffic.errors == []
