"""A model's process stands still under load and goes on: at the wrong moment that takes a whole Triton down (24.10)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from harness.waiting import PATIENCE_S, until
from tests.support.stage import Stage, Traffic, stage
from tests.support.triton import OUR_BACKENDS, TOY_BACKENDS

from baton.local import procfs
from baton.reasons import Reason

pytestmark = [pytest.mark.triton, pytest.mark.slow]
HARMFUL_S = 1.5
"""Woken so long after it stopped a process under load took the server down in 6 of 6 tries. Chaos has this limit."""
TRAFFIC = {
    "steps": [{"weight": 50, "hold": "1s"}, {"pause": True}, {"weight": 60, "hold": "1s"}],
    "shadow_share": 0,
    "interval": "1s",
    "lease": "10s",
}
LIVE = {"min_requests": 10, "latency_limit": 30.0}
COMPUTES = {"delay_ms": 20.0}
"""A model mostly computes. One that answers at once often holds a lock that it shares with Triton, and a process that
is stopped just then takes Triton with it, whatever is done about it (24.10)."""


@pytest.fixture(scope="module")
def st(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One Triton for the module: it must live through all of it."""
    with stage(tmp_path_factory.mktemp("frozen"), backends=(TOY_BACKENDS, OUR_BACKENDS)) as made:
        with made.control():
            made.drop(1, toy=COMPUTES)
            made.wait_live(1)
        yield made


def freeze(st: Stage, model: str, version: int) -> int:
    """Stop the process for the harmful while, then let it go on, if it is still there."""
    pid = st.stub(model, version).pid
    os.kill(pid, signal.SIGSTOP)
    stopped_at = time.monotonic()
    try:
        until(lambda: procfs.begun(pid) is None, "it is ended for good")
    finally:
        # Where it is not ended, it goes on at the worst moment.
        time.sleep(max(0.0, stopped_at + HARMFUL_S - time.monotonic()))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    return pid


def events(st: Stage) -> list[Reason]:
    return [e["why"].reason for e in st.app.journal.events.newest(service="ranker") if e["kind"] == "health"]


@pytest.mark.parametrize("which", ["candidate", "stable", "splitter"])
def test_in_a_split(st: Stage, which: str) -> None:
    triton = st.servers[0].pid
    with st.control(traffic=TRAFFIC, live=LIVE, drain_timeout="10s", keep_previous="0s") as app:
        stable = st.serving()
        candidate = st.unused()
        # A request in the hands of a splitter that is ended is never answered (24.10).
        patience = 1.0 if which == "splitter" else PATIENCE_S
        with Traffic(st, clients=8, pause_s=0.0, patience_s=patience) as traffic:
            traffic.wait_answers(stable)
            st.drop_copy(stable, candidate, **COMPUTES)
            st.wait_phase("waiting")
            traffic.wait_answers(candidate)
            model, version = {
                "candidate": ("ranker_engine", candidate),
                "stable": ("ranker_engine", stable),
                "splitter": ("ranker_splitter", 1),
            }[which]
            freeze(st, model, version)
            ended = st.wait_end(candidate)
            stays = candidate if which == "stable" else stable
            st.wait_live(stays)
            traffic.wait_answers(stays, 200)
            assert ended["outcome"] == ("live" if which == "stable" else "rolled_back"), ended["message"]
            if which != "splitter":  # what stands in its hands is lost with it
                assert traffic.errors == []
            assert st.servers[0].pid == triton
            # And the next version comes, whatever is left of this one.
            st.drop_copy(stays, candidate + 1, **COMPUTES)
            st.wait_phase("waiting")
            app.abort(None, who="tester")
            st.wait_end(candidate + 1)
            st.wait_live(stays)
    assert st.servers[0].pid == triton


def test_what_serves_alone_is_loaded_again(st: Stage) -> None:
    triton = st.servers[0].pid
    with st.control(health={"every": "10m"}) as _:
        stable = st.serving()
        with Traffic(st, pause_s=0.0) as traffic:
            traffic.wait_answers(stable)
            freeze(st, "ranker_engine", stable)
            until(lambda: Reason.LOADED_AGAIN in events(st)[-2:], "it is loaded again")
            traffic.wait_answers(stable, 200)
            st.wait_live(stable)
        assert Reason.PROCESS_ENDED in events(st)
    assert st.servers[0].pid == triton
