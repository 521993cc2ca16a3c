"""Two control planes on a real Triton, one of which dies; a state that is lost in mid-split; an old one put back."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.control_plane import ControlPlane
from harness.waiting import until
from tests.support.stage import Stage, Traffic, stage, toml
from tests.support.triton import OUR_BACKENDS, TOY_BACKENDS

from baton.codec import encode

pytestmark = [pytest.mark.triton, pytest.mark.slow]
LONG_S, SHORT_S = 60.0, 5.0
"""Leases: one that no slow machine lets run out, and one that is soon over."""


@pytest.fixture(scope="module")
def st(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("standby"), backends=(TOY_BACKENDS, OUR_BACKENDS)) as made:
        with made.control():
            made.drop(1)
            made.wait_live(1)
        yield made


class Place:
    """A configuration, and the processes that run with it."""

    def __init__(self, st: Stage, state: Path, hold_s: float, lease_s: float = LONG_S) -> None:
        traffic = {
            "steps": [{"weight": 50, "hold": f"{hold_s}s"}],
            "shadow_share": 0,
            "interval": "1s",
            "lease": f"{lease_s}s",
        }
        live = {"min_requests": 20, "latency_limit": 30.0}
        settings = st.settings(state=state, traffic=traffic, live=live, keep_previous="1s", drain_timeout="5s")
        settings["control"] = {"rescan": "1s", "metrics": "127.0.0.1:0", "second": "stand_by"}
        self.st, self.state = st, state
        self.file = st.root / f"{state.name}.toml"
        self.file.write_text(toml(settings))

    @contextlib.contextmanager
    def serve(self, name: str) -> Iterator[ControlPlane]:
        """A ``ctl serve``, whether it acts or stands by; its log begins anew."""
        self.log(name).unlink(missing_ok=True)
        one = ControlPlane("serve", options=("--config", str(self.file)), log=self.log(name))
        try:
            yield one.launch()
        finally:
            one.stop()

    def log(self, name: str) -> Path:
        return self.st.root / f"{self.state.name}-{name}.log"

    def said(self, name: str, words: str) -> bool:
        return words in self.log(name).read_text()


def split(st: Stage, serve: ControlPlane, traffic: Traffic) -> tuple[int, int]:
    """Bring a new version to half of the traffic."""
    stable, number = st.serving(), st.unused()
    traffic.wait_answers(stable)
    st.drop_copy(stable, number)
    serve.until(lambda service: service["weight"] == 50, "a split")
    traffic.wait_answers(number, 30)
    return stable, number


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_the_one_that_stands_by_goes_on_in_mid_split(st: Stage, how: int) -> None:
    place = Place(st, st.root / "state", hold_s=5.0)
    with place.serve("first") as first, Traffic(st, clients=4) as traffic:
        first.listening()
        with place.serve("second") as second, place.serve("third") as third:
            until(lambda: place.said("second", "stands by") and place.said("third", "stands by"), "two stand by")
            _, number = split(st, first, traffic)
            first.send(how)
            until(lambda: place.said("second", "takes over") or place.said("third", "takes over"), "one takes over")
            names = {"second": second, "third": third}
            name = next(n for n in names if place.said(n, "takes over"))
            acting = names[name]
            acting.listening()
            acting.rest(number)
            (other,) = set(names) - {name}
            until(lambda: place.said(other, f"process {acting.process.pid} on"), "the other one stands by for it")
            assert not place.said(other, "takes over")
            row = acting.ended(number)
            assert row["outcome"] == "live"
            traffic.wait_answers(number)
            lapses = [e for e in acting.api.rollout(row["id"]).events if e.kind == "lapse"]
    assert traffic.errors == []
    assert lapses == [], "the lease of the one that died was never over"
    assert not (st.repository / "ranker_splitter").exists()


def test_a_state_that_is_lost_in_mid_split(st: Stage) -> None:
    """The splitter that is found is led away from; the candidate, of which nothing is known, meets its gates."""
    place = Place(st, st.root / "state", hold_s=600.0, lease_s=SHORT_S)
    with Traffic(st, clients=4) as traffic:
        with place.serve("holder") as holder:
            holder.listening()
            stable, number = split(st, holder, traffic)
            holder.kill()
        shutil.rmtree(place.state)
        # Older ones were live before it, and are lower; nothing tells the candidate from one that was just dropped.
        until(lambda: traffic.alone(stable), "the lease ends")
        before = st.loads()
        new = Place(st, st.root / "new-state", hold_s=2.0)
        with new.serve("after") as after:
            after.listening()
            after.rest(number)
            assert after.ended(number)["outcome"] == "live"
            traffic.wait_answers(number)
            (row,) = [encode(v) for v in after.api.versions() if v.version == number]
            assert row["state"] == "serving"
    assert traffic.errors == []
    assert st.loads() - before == {}, "nothing that serves was loaded again, and the candidate was there"


def test_an_old_backup_beside_what_went_on(st: Stage) -> None:
    place = Place(st, st.root / "restored-state", hold_s=600.0)
    file = st.root / "backup.db"
    with Traffic(st, clients=4) as traffic:
        with place.serve("before") as before:
            before.listening()
            stable, number = split(st, before, traffic)
            assert before.ctl("backup", str(file))[1]["rollouts"] >= 1
            before.ctl("promote", "--full", "--yes")
            before.rest(number)
            refused = subprocess.run(
                before.command("restore", str(file)), capture_output=True, text=True, check=False, timeout=60
            )
            assert refused.returncode == 3
            assert f"process {before.process.pid}" in " ".join(refused.stderr.split())
        _, told = before.ctl("restore", str(file))
        assert told["paused"]
        assert Path(told["kept"]).is_file()
        loads = st.loads()
        with place.serve("after") as after:
            after.listening()
            after.ctl("resume")
            after.rest(number)
            assert after.ended(number)["outcome"] == "live"
            traffic.wait_answers(number)
    assert traffic.errors == []
    moved = max(a.came for a in traffic.answers if a.version == stable)
    assert all(a.version == number for a in traffic.answers if a.came > moved + 1.0)
    assert set(st.loads() - loads) <= {stable}, "at most for an instant way back, and no client sees it"
    assert st.policy() == {number}
