"""The engine process of the live version dies or hangs under traffic, and Triton goes on saying READY."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.waiting import until
from tests.support.stage import Stage, Traffic, stage

from baton.local import procfs
from baton.reasons import Reason, Why

pytestmark = [pytest.mark.triton, pytest.mark.slow]

QUICK = {"every": "500ms", "timeout": "2s"}


@pytest.fixture
def st(tmp_path: Path) -> Iterator[Stage]:
    with stage(tmp_path) as st:
        yield st


def answers_again(traffic: Traffic, since: float) -> None:
    until(lambda: any(a.due > since for a in traffic.answers[-50:]), "answers to new requests")


def events(st: Stage, kind: str) -> list[Why]:
    return [e["why"] for e in st.app.journal.events.newest(service="ranker") if e["kind"] == kind]


@pytest.mark.parametrize("how", ["killed", "stopped", "hangs"])
def test_the_only_process_of_what_serves_is_gone(st: Stage, how: str) -> None:
    trigger = st.root / "hang"
    with st.control(health=QUICK):
        st.drop(1, toy={"hang_on_request": 3600.0, "only_if": str(trigger)} if how == "hangs" else None)
        st.wait_live(1)
        until(lambda: [h["healthy"] for h in st.status()["versions"][0]["health"]] == [True], "it is asked")
        with Traffic(st) as traffic:
            traffic.wait_answers(1)
            stub = st.stub("ranker_engine", 1)
            if how == "hangs":
                trigger.touch()
                until(lambda: any(e.reason is Reason.FOUND_SILENT for e in events(st, "health")), "it is noticed")
                trigger.unlink()
            else:
                os.kill(stub.pid, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
            gone = time.time()
            why = st.wait_why(Reason.RELOADING)
            assert (why.figures["version"], why.figures["server"]) == (1, "s0")
            assert st.status()["phase"] == "degraded", why
            answers_again(traffic, gone)
            status = st.wait_live(1)
            assert all(h["healthy"] for h in status["versions"][0]["health"])

            def well() -> bool:
                """Requests that waited for the hung process end with it, one a second."""
                errors = len(traffic.errors)
                traffic.wait_answers(1, 100)
                return len(traffic.errors) == errors

            until(well, "no more errors")
        assert st.loads() == {1: 2}
        left = {s.pid for s in procfs.stubs()}
        assert stub.pid not in left, "what hangs must not keep its memory, nor its requests waiting"
        told = events(st, "health")
        if how == "stopped":  # before anybody is asked
            assert told.pop(0).reason is Reason.PROCESS_ENDED
        assert [why.reason for why in told[:2]] == [Reason.FOUND_SILENT, Reason.LOADED_AGAIN]
        assert told[1].figures["answers"]
        # The alias survives what comes next.
        st.drop(2)
        st.wait_live(2)
        assert st.policy() == {2}


def test_killed_in_baking_is_one_flip(st: Stage) -> None:
    with st.control(health=QUICK, keep_previous="10m", drain_timeout="2s") as app:
        st.drop(1)
        st.wait_live(1)
        st.drop(2)
        st.wait_phase("baking")
        with Traffic(st) as traffic:
            traffic.wait_answers(2)
            os.kill(st.stub("ranker_engine", 2).pid, signal.SIGKILL)
            ended = st.wait_end(2)
            traffic.wait_answers(1, 100)
        assert ended["outcome"] == "rolled_back"
        assert st.ended_why(2).reason is Reason.BACK_FROM_SILENT
        assert app.history()[0].code is Reason.BACK_FROM_SILENT, "as programs read it"
        assert st.loads() == {1: 1, 2: 1}, "the way back needs no load"
        assert app.history()[0].who == "watcher"
        # Killed with requests under way it stays UNLOADING for ever (24.10): said once, and waited for by nobody.
        problem = until(lambda: st.status()["problems"], "the leak is named")[0]
        assert problem.startswith("Version 2 is stuck UNLOADING on server s0 for")
        assert "Its process has ended" in problem
        assert "Restart Triton on s0" in problem
        st.drop(3)
        st.wait_phase("baking")


def test_one_of_two_servers(tmp_path: Path) -> None:
    with stage(tmp_path, servers=2) as st, st.control(health=QUICK):
        st.drop(1)
        st.wait_live(1)
        os.kill(st.stub("ranker_engine", 1, server=1).pid, signal.SIGSTOP)
        assert st.wait_why(Reason.RELOADING).figures["server"] == "s1"
        st.wait_live(1)
        assert st.loads() == {1: 3}, "the server that answers is left alone"


def test_a_slow_version_is_left_alone(st: Stage) -> None:
    """Each request takes longer than the question may, and yet it answers them all."""
    slow = st.root / "slow"
    with st.control(health={"every": "500ms", "timeout": "1s", "failures": 4}):
        st.drop(1, toy={"delay_ms": 1100.0, "only_if": str(slow)})
        st.wait_live(1)
        slow.touch()
        with Traffic(st, clients=3) as traffic:
            late = "took longer than 1 s"
            until(lambda: late in st.status()["versions"][0]["health"][0]["reason"], "it does not answer in time")
            traffic.wait_answers(1, 30)
        assert traffic.errors == []
        assert events(st, "health") == []
        assert st.loads() == {1: 1}


def test_one_of_several_processes(st: Stage) -> None:
    """The others answer, and yet every request that meets the dead one fails."""
    config = st.engine_dir() / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 2"))
    # Asked once, and not again for as long as the test takes: what is found, the process told.
    with st.control(health={"every": "10m"}):
        st.drop(1)
        st.wait_live(1)
        until(lambda: [h["healthy"] for h in st.status()["versions"][0]["health"]] == [True], "it is asked")
        assert st.loads() == {1: 2}, "one for each process"
        os.kill(st.stub("ranker_engine", 1).pid, signal.SIGKILL)
        until(lambda: st.loads() == {1: 4}, "it is loaded again")
        st.wait_live(1)
        until(lambda: len(events(st, "health")) == 2, "it is written down")
        assert "1 of its 2 processes ended" in events(st, "health")[0].figures["error"]
        with Traffic(st) as traffic:
            traffic.wait_answers(1, 50)
        assert traffic.errors == []
