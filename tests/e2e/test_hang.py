"""A version whose load never ends, and a Triton that has to be restarted in the middle of things."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.waiting import until
from tests.support.stage import Traffic, stage

from baton.domain import Gate
from baton.errors import Refused
from baton.reasons import Reason, because

pytestmark = [pytest.mark.triton, pytest.mark.slow]


def test_load_that_hangs_is_given_up_and_a_restart_of_triton_mends_it(tmp_path: Path) -> None:
    with stage(tmp_path) as st, st.control(load_timeout="6s") as app:
        st.drop(1)
        st.wait_live(1)
        with Traffic(st, clients=2) as traffic:
            st.drop(2, toy={"hang_at_load": True})
            loading = because(Reason.STILL_LOADING, versions=(2,), server="s0", keep=(1,), serves=1)
            assert st.wait_why(Reason.STILL_LOADING) == loading
            assert st.status()["phase"] == "rolling_back"
            assert st.policy() == {1}, "what a restart would find is right already"
            load = next(g for g in st.status()["gates"] if g["name"] == "load")
            assert (load["verdict"], load["limit"]) == ("fail", 6.0)
            # A person can't hurry it, and is told so; a newer version waits for its turn.
            st.drop(3)
            with pytest.raises(Refused, match="version 2"):
                app.promote(None, 3, full=False, who="tester")
            app.abort(None, who="tester")
            assert st.why() == loading
            traffic.wait_answers(1)
        assert traffic.errors == []
        assert set(traffic.versions) == {1}
        st.kill()
        # Only the files decide what comes back: the alias is all that is asked for.
        st.restart(load=("ranker",))
        with Traffic(st, clients=2) as traffic:
            ended = st.wait_end(2)
            assert ended["outcome"] == "rejected"
            said = st.ended_why(2)
            assert (said.reason, said.figures["gate"]) == (Reason.GATE_FAILED, Gate.LOAD)
            st.wait_live(3)
            traffic.wait_answers(3)
        assert traffic.errors == []
        assert st.loads() == {1: 2, 2: 1, 3: 1}


def test_triton_that_dies_while_a_version_loads_comes_back_healthy_by_itself(tmp_path: Path) -> None:
    """Without the control plane: the policy on disk alone must lead back to a server that serves."""
    with stage(tmp_path) as st:
        with st.control() as app:
            st.drop(1)
            st.wait_live(1)
            st.drop(2, toy={"raise_at_load": True})
            st.wait_end(2)
            st.drop(3, toy={"load_s": 2.0})
            until(lambda: st.loads()[3], "version 3 is being loaded")
            app.pause(who="tester")
        st.kill()
        # The rollout of version 3 is open, so the files name it beside version 1; it is healthy.
        assert st.policy() == {1, 3}
        st.restart(load=("ranker",))
        with Traffic(st, clients=2) as traffic:
            traffic.wait_answers(1)
            with st.control() as app:
                app.resume(who="tester")
                st.wait_live(3)
            traffic.wait_answers(3)
        assert traffic.errors == []


def test_triton_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    with stage(tmp_path) as st:
        st.kill()
        with st.control() as app:
            assert st.wait_why(Reason.ALL_SILENT).figures["servers"][0][0] == "s0"
            assert st.status()["phase"] == "degraded"
            server = app.status().servers[0]
            assert (server.live, server.in_sync) == (False, False)
            assert "does not answer" in server.message
            assert app.health().live
            assert not app.health().ready
            st.drop(1)
            st.restart()
            st.wait_live(1)
            # Away while nothing goes on: what served is loaded again by the control plane.
            st.kill()
            st.wait_why(Reason.ALL_SILENT)
            st.restart()
            st.wait_live(1)
            until(lambda: app.status().servers[0].in_sync, "in sync")
            # Away in the middle of a rollout: it goes on.
            st.drop_copy(1, 2, load_s=1.5)
            until(lambda: st.loads()[2], "version 2 is being loaded")
            st.kill()
            st.wait_message("does not answer")
            assert st.status()["rollout"] is not None
            st.restart()
            st.wait_live(2)
            with Traffic(st, clients=2) as traffic:
                traffic.wait_answers(2)
            assert traffic.errors == []
            assert app.history()[0].outcome == "live"
