"""Several servers on one repository, and several services on one server."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.waiting import until
from tests.support.stage import Stage, Traffic, stage

pytestmark = [pytest.mark.triton, pytest.mark.slow]


def in_sync(st: Stage) -> bool:
    return all(s.live and s.in_sync for s in st.app.status().servers)


def test_two_servers_move_together(tmp_path: Path) -> None:
    with stage(tmp_path, servers=2) as st, st.control() as app:
        st.drop(1)
        st.wait_live(1)
        assert st.loads() == {1: 2}, "once on each"
        with Traffic(st) as traffic:
            st.drop(2)
            st.wait_live(2)
            assert in_sync(st)
            traffic.wait_answers(2, 40)
            assert st.loads() == {1: 2, 2: 2}
            # A version that one server alone refuses to load serves nowhere: both load the same files.
            st.drop(3, toy={"raise_at_load": True})
            assert "Triton says" in st.wait_end(3)["message"]
            st.wait_live(2)
        assert traffic.errors == []
        assert set(traffic.versions) == {1, 2}

        # One is killed in the middle of a rollout: traffic moves nowhere until it is back, and then on both.
        st.drop_copy(2, 4, load_s=1.5)
        until(lambda: st.loads()[4], "version 4 is being loaded")
        st.kill(1)
        st.wait_message("s1")
        until(lambda: not app.status().servers[1].live, "the loss is seen")
        assert st.status()["rollout"]["candidate"] == 4
        assert st.status()["stable"] == 2
        st.restart(1)
        st.wait_live(4)
        until(lambda: in_sync(st), "both in sync")
        with Traffic(st) as traffic:
            traffic.wait_answers(4, 40)
        assert traffic.errors == []
        assert set(traffic.versions) == {4}
        assert app.history()[0].outcome == "live"

        # One is gone while nothing goes on: the other serves, and nothing is started until both are there.
        st.kill(0)
        st.wait_message("s0", "does not answer")
        assert st.status()["phase"] == "degraded"
        st.drop_copy(4, 5)
        until(lambda: any(v.version == 5 and v.state == "on_disk" for v in app.versions()), "seen")
        assert st.status()["rollout"] is None
        st.restart(0)
        st.wait_live(5)
        until(lambda: in_sync(st), "both in sync")
        assert st.policy() == {5}


def test_two_services_at_once(tmp_path: Path) -> None:
    with stage(tmp_path, services=("ranker", "other")) as st, st.control():
        for name in st.engines:
            st.drop(1, name)
        for name in st.engines:
            st.wait_live(1, name)
        with Traffic(st, clients=2) as ranker, Traffic(st, clients=2, service="other") as other:
            ranker.wait_answers(1)
            other.wait_answers(1)
            # One service's version loads for long; the other's rollout does not wait for it.
            st.drop(2, toy={"load_s": 8.0})
            st.wait_phase("loading")
            st.drop(2, "other")
            st.wait_live(2, "other")
            assert st.status()["stable"] == 1
            assert st.status()["phase"] == "loading"
            other.wait_answers(2)
            st.wait_live(2)
            ranker.wait_answers(2)
            # One service's bad version is no business of the other.
            st.drop(3, toy={"constant": 0.5})
            st.drop(3, "other")
            st.wait_live(3, "other")
            assert st.wait_end(3)["outcome"] == "rejected"
        assert ranker.errors == []
        assert other.errors == []
        assert set(ranker.versions) == {1, 2}
        assert set(other.versions) == {1, 2, 3}
        assert (st.policy(), st.policy("other")) == ({2}, {3})
        assert st.loads() == {1: 2, 2: 2, 3: 2}
