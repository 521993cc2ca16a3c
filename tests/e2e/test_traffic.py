"""Live traffic comes to a version step by step on a real Triton, and goes back by itself when the version fails."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.waiting import until
from scipy import stats
from tests.support.stage import Stage, Traffic, stage
from tests.support.triton import OUR_BACKENDS, TOY_BACKENDS

from baton.codec import encode
from baton.domain import ModelState
from baton.errors import Refused
from baton.local import procfs
from baton.reasons import Reason
from baton.triton.grpc import GrpcTriton

pytestmark = [pytest.mark.triton, pytest.mark.slow]
ME = "tester"
BRISK: dict[str, Any] = {
    "steps": [{"weight": 20, "hold": "3s"}, {"weight": 50, "over": "3s"}],
    "shadow_share": 50,
    "shadow_for": "2s",
    "interval": "1s",
    "lease": "4s",
}
LIVE = {"min_requests": 20, "min_pairs": 10, "latency_limit": 30.0}
"""A limit of latency that only a hanging version meets on a busy machine."""


@pytest.fixture(scope="module")
def st(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One Triton for the module; each test goes on from the version that the one before it left."""
    with stage(tmp_path_factory.mktemp("traffic"), backends=(TOY_BACKENDS, OUR_BACKENDS)) as made:
        with made.control():
            made.drop(1)
            made.wait_live(1)
        yield made


@pytest.fixture
def number(st: Stage) -> int:
    """A number that was never used."""
    return st.unused()


def splitting(st: Stage, traffic: dict[str, Any] | None = None, **rollout: Any) -> Any:
    options = {"keep_previous": "2s", "drain_timeout": "5s", "traffic": BRISK | (traffic or {}), "live": LIVE} | rollout
    return st.control(**options)


def events(st: Stage, number: int, kind: str) -> list[Reason]:
    row = next(encode(r) for r in st.app.history() if r.candidate == number)
    return [e.code for e in st.app.rollout(row["id"]).events if e.kind == kind]


def no_splitter(st: Stage) -> None:
    """Nothing of the split is left, in files or in Triton."""
    assert not (st.repository / "ranker_splitter").exists()
    triton = GrpcTriton("a", st.servers[0].grpc_url)
    states = {m.state for m in triton.index().get("ranker_splitter", {}).values()}
    assert states <= {ModelState.UNAVAILABLE, ModelState.UNLOADING}
    assert triton.step("ranker") == "ranker_engine"
    triton.close()


def test_a_good_version_goes_all_the_way(st: Stage, number: int) -> None:
    stable = st.serving()
    seen: list[dict[str, Any]] = []
    with splitting(st), Traffic(st, clients=6) as traffic:
        traffic.wait_answers(stable)
        st.drop_copy(stable, number)

        def live() -> bool:
            status = st.status()
            seen.append(status)
            return bool(status["stable"] == number and status["phase"] == "steady")

        until(live, "the version live")
        row = next(encode(r) for r in st.app.history() if r.candidate == number)
    assert traffic.errors == []
    phases = [s["phase"] for s in seen]
    assert "shadowing" in phases
    assert "shifting" in phases
    assert max(s["weight"] for s in seen if s["phase"] == "shadowing") == 0
    weights = [s["weight"] for s in seen if s["phase"] == "shifting"]
    assert weights == sorted(weights)
    assert 20 in weights
    assert [g["verdict"] for g in row["gates"] if g["name"] == "live"] == ["pass"]
    first = next(a.came for a in traffic.answers if a.version == number)
    began = next(i for i, s in enumerate(seen) if s["weight"])
    assert seen[began]["steps"][0].startswith("shadow 50 %")
    assert not [a for a in traffic.answers if a.version == number and a.came < first]
    no_splitter(st)


def test_the_share_of_requests_is_what_was_asked_for(st: Stage, number: int) -> None:
    stable = st.serving()
    asked = {"steps": [{"weight": 30, "hold": "1s"}, {"pause": True}], "shadow_share": 0}
    with splitting(st, asked), Traffic(st, clients=6) as traffic:
        traffic.wait_answers(stable)
        st.drop_copy(stable, number)
        st.wait_phase("waiting")
        before = traffic.versions
        until(lambda: traffic.versions.total() - before.total() >= 600, "600 answers")
        after = traffic.versions
        status = st.status()
        got, total = after[number] - before[number], after.total() - before.total()
        assert stats.binomtest(got, total, 0.3).pvalue > 1e-6, (got, total)
        assert status["traffic"]["observed"] == pytest.approx(30, abs=12)
        assert status["step"]["index"] == 2
        assert st.why().reason is Reason.PAUSE_STEP
        st.app.promote(None, None, full=False, who=ME)
        st.wait_live(number)
    assert traffic.errors == []
    no_splitter(st)


@pytest.mark.parametrize(
    ("fault", "words"),
    # It hangs for longer than a client waits: the deadline alone keeps requests from failing.
    [({"error_rate": 0.3}, "fail"), ({"hang_on_request": 600.0}, "no answer within"), ("SIGKILL", "fail")],
    ids=["raises", "hangs", "killed"],
)
def test_a_failing_candidate_is_taken_back_and_no_client_notices(
    st: Stage, number: int, tmp_path: Path, fault: Any, words: str
) -> None:
    stable = st.serving()
    switch = tmp_path / "now"
    asked = {"steps": [{"weight": 50, "hold": "60s"}], "shadow_share": 0, "deadline": "1s"}
    with splitting(st, asked), Traffic(st, clients=6) as traffic:
        traffic.wait_answers(stable)
        toy = fault if isinstance(fault, dict) else {}
        st.drop_copy(stable, number, **toy, only_if=str(switch))
        st.wait_phase("shifting")
        traffic.wait_answers(number, 30)
        if isinstance(fault, dict):
            switch.touch()
        else:
            for stub in procfs.stubs(""):
                if stub.model == "ranker_engine" and stub.version == number and st.root in stub.repository.parents:
                    os.kill(stub.pid, signal.SIGKILL)
        row = st.wait_end(number)
        by_health = st.ended_why(number).reason is not Reason.GATE_FAILED
        traffic.wait_answers(stable)
    assert traffic.errors == []
    assert row["outcome"] == "rolled_back"
    gate = next((g for g in row["gates"] if g["verdict"] == "fail"), None)
    if not by_health:  # which may see it first
        assert gate is not None
        assert gate["name"] == "live"
        assert words in gate["message"].lower()
        assert row["message"] == gate["message"]
    no_splitter(st)


def test_a_version_that_is_wrong_on_one_kind_of_request_never_meets_a_client(
    st: Stage, number: int, tmp_path: Path
) -> None:
    stable = st.serving()
    with splitting(st, {"shadow_share": 100, "shadow_for": "30s"}), mixed(st) as traffic:
        traffic.wait_answers(stable)
        folder = st.make(number, toy={"wrong_on": "image"})
        (folder / "version.toml").write_text('label = "eager"\nrelease = "retrained"\n')
        st.place(folder, number)
        row = st.wait_end(number)
    assert traffic.errors == []
    assert row["outcome"] == "rejected", row["message"]
    assert "image" in row["message"]
    assert traffic.versions[number] == 0
    no_splitter(st)


@contextlib.contextmanager
def mixed(st: Stage) -> Iterator[Traffic]:
    """Traffic in which every fifth request asks for pictures."""
    with Traffic(st, clients=6, pictures=5) as traffic:
        yield traffic


def test_without_traffic_it_holds_and_says_so(st: Stage, number: int) -> None:
    stable = st.serving()
    with splitting(st) as app:
        st.drop_copy(stable, number)
        st.wait_phase("shadowing")
        st.wait_why(Reason.HOLDING)
        status = st.status()
        assert status["traffic"]["waiting_for"]
        assert status["weight"] == 0
        with pytest.raises(Refused):
            app.promote(None, stable, full=False, who=ME)
        app.abort(None, who=ME)
        row = st.wait_end(number)
        assert row["outcome"] == "aborted"
        st.wait_live(stable)
    no_splitter(st)


def test_an_abort_takes_the_share_away_at_once(st: Stage, number: int) -> None:
    stable = st.serving()
    asked = {"steps": [{"weight": 90, "hold": "60s"}], "shadow_share": 0}
    with splitting(st, asked) as app, Traffic(st, clients=6) as traffic:
        traffic.wait_answers(stable)
        st.drop_copy(stable, number)
        st.wait_phase("shifting")
        traffic.wait_answers(number, 50)
        app.abort(None, who=ME)
        st.wait_end(number)
        aborted = next(a.came for a in reversed(traffic.answers))
        traffic.wait_answers(stable, 50)
    assert traffic.errors == []
    assert not [a for a in traffic.answers if a.version == number and a.due > aborted]
    no_splitter(st)


@pytest.mark.parametrize("on_lapse", ["resume", "rollback"])
def test_a_control_plane_that_is_away_longer_than_the_lease(st: Stage, number: int, on_lapse: str) -> None:
    stable = st.serving()
    asked = {"steps": [{"weight": 50, "hold": "8s"}], "shadow_share": 0, "on_lapse": on_lapse}
    with Traffic(st, clients=6) as traffic:
        with splitting(st, asked):
            traffic.wait_answers(stable)
            st.drop_copy(stable, number)
            st.wait_phase("shifting")
            traffic.wait_answers(number, 30)
        # It is gone: the splitter stays, and nobody renews its lease.
        assert (st.repository / "ranker_splitter").exists()
        until(lambda: traffic.alone(stable), "the stable version alone")
        with splitting(st, asked):
            if on_lapse == "resume":
                st.wait_live(number)
                assert Reason.LEASE_LAPSED in events(st, number, "lapse")
            else:
                row = st.wait_end(number)
                assert row["outcome"] == "rolled_back"
                assert st.ended_why(number).reason is Reason.LEASE_ENDED
                st.wait_live(stable)
    assert traffic.errors == []
    no_splitter(st)


def test_promote_full_skips_the_steps_that_remain(st: Stage, number: int) -> None:
    stable = st.serving()
    asked = {"steps": [{"weight": 5, "hold": "10m"}], "shadow_share": 0}
    with splitting(st, asked) as app, Traffic(st, clients=4) as traffic:
        traffic.wait_answers(stable)
        st.drop_copy(stable, number)
        st.wait_phase("shifting")
        app.promote(None, None, full=True, who=ME)
        st.wait_live(number)
    assert traffic.errors == []
    no_splitter(st)


def test_pause_freezes_the_way(st: Stage, number: int) -> None:
    stable = st.serving()
    asked = {"steps": [{"weight": 20, "hold": "1s"}, {"weight": 90, "over": "10m"}], "shadow_share": 0}
    with splitting(st, asked) as app, Traffic(st, clients=4) as traffic:
        traffic.wait_answers(stable)
        st.drop_copy(stable, number)
        st.wait_phase("shifting")
        until(lambda: st.status()["weight"] > 20, "the way to go on")
        app.pause(who=ME)
        st.wait_why(Reason.PAUSED_ON_ITS_WAY)
        frozen = st.status()["weight"]
        traffic.wait_answers(stable, 100)
        assert st.status()["weight"] == frozen
        app.resume(who=ME)
        until(lambda: st.status()["weight"] > frozen, "it goes on")
        app.rollback(None, None, who=ME)
        st.wait_live(stable)
    assert traffic.errors == []
    no_splitter(st)


def test_status_is_data(st: Stage, number: int) -> None:
    with splitting(st) as app, Traffic(st, clients=4):
        st.drop_copy(st.serving(), number)
        st.wait_phase("shadowing", "shifting")
        assert json.loads(json.dumps(encode(app.status())))["services"][0]["candidate"] == number
        app.abort(None, who=ME)
        st.wait_end(number)
