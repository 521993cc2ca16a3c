"""Two control planes on a real Triton, one of which dies; a state that is lost in mid-split; an old one put back."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.stage import Stage, Traffic, stage, toml, until
from tests.support.triton import OUR_BACKENDS, TOY_BACKENDS

from baton.api import SOCKET, ApiClient
from baton.codec import encode
from baton.errors import BatonError
from baton.triton.repository import ServiceFiles

pytestmark = [pytest.mark.triton, pytest.mark.slow]
CTL = [sys.executable, "-c", "import sys; from baton.cli import main; main(sys.argv[1:])"]
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
        self.api = ApiClient(state / SOCKET)

    @contextlib.contextmanager
    def serve(self, name: str) -> Iterator[subprocess.Popen[bytes]]:
        """A ``ctl serve``, whether it acts or stands by."""
        with (
            self.log(name).open("wb") as errors,
            subprocess.Popen(
                [*CTL, "--config", str(self.file), "--output", "json", "serve"], stdout=subprocess.PIPE, stderr=errors
            ) as process,
        ):
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait(60)

    def ctl(self, *words: str) -> dict[str, Any]:
        command = [*CTL, "--config", str(self.file), "--output", "json", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    def log(self, name: str) -> Path:
        return self.st.root / f"{self.state.name}-{name}.log"

    def said(self, name: str, words: str) -> bool:
        return words in self.log(name).read_text()

    def status(self) -> dict[str, Any]:
        try:
            service: dict[str, Any] = encode(self.api.status().services[0])
        except BatonError as error:
            return {"phase": "", "weight": 0, "stable": None, "message": str(error), "rollout": None}
        return service

    def steady(self) -> bool:
        return self.status()["phase"] == "steady"

    def row(self, version: int) -> dict[str, Any]:
        found: dict[str, Any] = next(encode(r) for r in self.api.history() if r.candidate == version)
        return found


def acts(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Waits until it acts; where it listens."""
    assert process.stdout is not None
    told: dict[str, Any] = json.loads(process.stdout.readline())
    return told


def versions(st: Stage) -> tuple[int, int]:
    """What serves, and a number that was never used."""
    stable = ServiceFiles(st.repository, "ranker", "ranker_engine").alias()
    assert stable is not None
    return stable, max(int(entry.name) for entry in st.engine_dir().iterdir() if entry.name.isdigit()) + 1


def split(st: Stage, place: Place, traffic: Traffic) -> tuple[int, int]:
    """Bring a new version to half of the traffic."""
    stable, number = versions(st)
    traffic.wait_answers(stable)
    st.drop_copy(stable, number)
    until(lambda: place.status()["weight"] == 50, f"a split; {place.status()['message']}")
    traffic.wait_answers(number, 30)
    return stable, number


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_the_one_that_stands_by_goes_on_in_mid_split(st: Stage, how: int) -> None:
    place = Place(st, st.root / "state", hold_s=5.0)
    with place.serve("first") as first, Traffic(st, clients=4) as traffic:
        acts(first)
        with place.serve("second") as second, place.serve("third") as third:
            until(lambda: place.said("second", "stands by") and place.said("third", "stands by"), "two stand by")
            _, number = split(st, place, traffic)
            first.send_signal(how)
            until(lambda: place.said("second", "takes over") or place.said("third", "takes over"), "one takes over")
            names = {"second": second, "third": third}
            name = next(n for n in names if place.said(n, "takes over"))
            acts(names[name])
            until(place.steady, f"the end; {place.status()['message']}")
            (other,) = set(names) - {name}
            until(lambda: place.said(other, f"process {names[name].pid} on"), "the other one stands by for it")
            assert not place.said(other, "takes over")
            row = place.row(number)
            assert row["outcome"] == "live"
            assert place.status()["stable"] == number
            traffic.wait_answers(number)
            lapses = [e for e in place.api.rollout(row["id"]).events if e.kind == "lapse"]
    assert traffic.errors == []
    assert lapses == [], "the lease of the one that died was never over"
    assert not (st.repository / "ranker_splitter").exists()


def test_a_state_that_is_lost_in_mid_split(st: Stage) -> None:
    """The splitter that is found is led away from; the candidate, of which nothing is known, meets its gates."""
    place = Place(st, st.root / "state", hold_s=600.0, lease_s=SHORT_S)
    with Traffic(st, clients=4) as traffic:
        with place.serve("holder") as holder:
            acts(holder)
            stable, number = split(st, place, traffic)
            holder.kill()
            holder.wait(60)
        shutil.rmtree(place.state)
        # Older ones were live before it, and are lower; nothing tells the candidate from one that was just dropped.
        until(lambda: {a.version for a in traffic.answers[-100:]} == {stable}, "the lease ends")
        before = st.loads()
        new = Place(st, st.root / "new-state", hold_s=2.0)
        with new.serve("after") as after:
            acts(after)
            until(lambda: new.status()["stable"] == number and new.steady(), f"its end; {new.status()['message']}")
            assert new.row(number)["outcome"] == "live"
            traffic.wait_answers(number)
            (row,) = [encode(v) for v in new.api.versions() if v.version == number]
            assert row["state"] == "serving"
    assert traffic.errors == []
    assert st.loads() - before == {}, "nothing that serves was loaded again, and the candidate was there"


def test_an_old_backup_beside_what_went_on(st: Stage) -> None:
    place = Place(st, st.root / "restored-state", hold_s=600.0)
    file = st.root / "backup.db"
    with Traffic(st, clients=4) as traffic:
        with place.serve("before") as process:
            acts(process)
            stable, number = split(st, place, traffic)
            assert place.ctl("backup", str(file))["rollouts"] >= 1
            place.ctl("promote", "--full", "--yes")
            until(lambda: place.status()["stable"] == number and place.steady(), "it is live")
            refused = subprocess.run(
                [*CTL, "--config", str(place.file), "restore", str(file)],
                capture_output=True, text=True, check=False, timeout=60,
            )  # fmt: skip
            assert refused.returncode == 3
            assert f"process {process.pid}" in " ".join(refused.stderr.split())
        told = place.ctl("restore", str(file))
        assert told["paused"]
        assert Path(told["kept"]).is_file()
        before = st.loads()
        with place.serve("after") as process:
            acts(process)
            place.ctl("resume")
            until(lambda: place.steady() and place.status()["rollout"] is None, "rest")
            assert place.status()["stable"] == number
            assert place.row(number)["outcome"] == "live"
            traffic.wait_answers(number)
    assert traffic.errors == []
    moved = max(a.at for a in traffic.answers if a.version == stable)
    assert all(a.version == number for a in traffic.answers if a.at > moved + 1.0)
    assert set(st.loads() - before) <= {stable}, "at most for an instant way back, and no client sees it"
    assert st.policy() == {number}
