"""A split whose control plane, Triton or splitter is killed or stopped: who answers meanwhile, and how it goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from harness.control_plane import ControlPlane
from harness.waiting import until
from tests.support.stage import Stage, Traffic, stage, toml
from tests.support.triton import OUR_BACKENDS, TOY_BACKENDS

from baton.reasons import Reason

pytestmark = [pytest.mark.triton, pytest.mark.slow]
LEASE_S = 4.0
PATIENT_S = 60.0
"""What the machine may be late by; the lease itself is LEASE_S."""
ME = "tester"


@pytest.fixture(scope="module")
def st(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("lease"), backends=(TOY_BACKENDS, OUR_BACKENDS)) as made:
        with made.control():
            made.drop(1)
            made.wait_live(1)
        yield made


def settings(st: Stage, on_lapse: str) -> dict[str, Any]:
    traffic = {
        "steps": [{"weight": 50, "hold": "8s"}],
        "shadow_share": 0,
        "interval": "1s",
        "lease": f"{LEASE_S}s",
        "on_lapse": on_lapse,
    }
    live = {"min_requests": 20, "latency_limit": 30.0}
    return st.settings(traffic=traffic, live=live, keep_previous="1s", drain_timeout="5s")


@contextlib.contextmanager
def serving(st: Stage, on_lapse: str = "resume") -> Iterator[ControlPlane]:
    """``ctl serve`` as a process of its own."""
    file = st.root / "serve.toml"
    file.write_text(toml(settings(st, on_lapse) | {"control": {"rescan": "1s", "metrics": "127.0.0.1:0"}}))
    with ControlPlane("serve", options=("--config", str(file)), log=st.root / "serve.log") as one:
        yield one


def row_of(serve: ControlPlane, version: int) -> dict[str, Any]:
    row = serve.row(version)
    assert row is not None
    return row


def split(st: Stage, serve: ControlPlane, traffic: Traffic) -> tuple[int, int]:
    """Bring a new version to half of the traffic."""
    stable, number = st.serving(), st.unused()
    traffic.wait_answers(stable)
    st.drop_copy(stable, number)
    serve.until(lambda service: service["weight"] == 50, "a split")
    traffic.wait_answers(number, 30)
    return stable, number


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
@pytest.mark.parametrize("on_lapse", ["resume", "rollback"])
def test_the_control_plane_is_gone_in_mid_split(st: Stage, how: int, on_lapse: str) -> None:
    with serving(st, on_lapse) as serve, Traffic(st, clients=6) as traffic:
        stable, number = split(st, serve, traffic)
        gone = time.time()
        if how == signal.SIGKILL:
            serve.kill()
        else:
            serve.send(how)
        until(lambda: traffic.alone(stable), "the stable version alone")
        last = max(a.due for a in traffic.answers if a.version == number) - gone
        assert last < LEASE_S + PATIENT_S
        assert last > 0
        if how == signal.SIGKILL:
            serve.start()
        else:
            serve.send(signal.SIGCONT)
        serve.rest()
        row = row_of(serve, number)
        if on_lapse == "resume":
            assert row["outcome"] == "live"
            events = serve.api.rollout(row["id"]).events
            assert [e.code for e in events if e.kind == "lapse"] == [Reason.LEASE_LAPSED]
        else:
            assert row["outcome"] == "rolled_back"
            assert "lease" in row["message"]
    assert traffic.errors == []
    assert not (st.repository / "ranker_splitter").exists()


def test_triton_restarts_in_mid_split(st: Stage) -> None:
    with serving(st) as serve:
        with Traffic(st, clients=6) as traffic:
            _, number = split(st, serve, traffic)
        st.kill()
        st.restart(load=("ranker", "ranker_engine"))
        with Traffic(st, clients=6) as traffic:
            serve.rest()
        assert traffic.errors == []
        assert row_of(serve, number)["outcome"] == "live"
        assert serve.service()["stable"] == number


def test_the_splitter_is_killed(st: Stage) -> None:
    """The one fault that clients notice: until the alias leads straight to the stable version again."""
    # What the splitter's process has in hand when it dies gets no answer at all, ever (24.10): nobody waits for that.
    with serving(st) as serve, Traffic(st, clients=4, patience_s=1.0) as traffic:
        stable, number = split(st, serve, traffic)
        stub = st.stub("ranker_splitter", 1)
        killed = time.time()
        os.kill(stub.pid, signal.SIGKILL)
        triton = st.servers[0]
        serve.until(lambda service: triton.poll() is not None or service["phase"] == "steady", "its end")
        if triton.poll() is not None:
            # Now and then Triton goes with it (24.10: lock_exception), when the process held a lock of both.
            triton.stop()
            st.restart(load=("ranker", "ranker_engine"))
            serve.rest()
            traffic.wait_answers(serve.service()["stable"], 50)
            return
        traffic.wait_answers(stable, 50)
        row = row_of(serve, number)
    assert row["outcome"] == "rolled_back"
    assert "splitter" in row["message"]
    back = min(a.came for a in traffic.answers if a.came > killed and a.version == stable) - killed
    assert back < PATIENT_S
    its_own = ("splitter", "stub", "Stub", "timed out", "was not answered")
    others = [error for error in traffic.errors if not any(words in error for words in its_own)]
    assert others == []
