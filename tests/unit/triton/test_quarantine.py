"""A version that Triton gave up gets no more requests before it is loaded again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.support.toy import engine_config

from baton.errors import GivenUp, InvalidRequest, TritonError, Unreachable
from baton.testing import Behaviour, DiskRepository, FakeTriton
from baton.testing.models import GIVE_UP_S
from baton.triton.quarantine import QuarantineTriton

ENGINE = "ranker_engine"
PAIR = {"query": np.array([[b"q"]], dtype=np.object_), "documents": np.array([[b"{}"]], dtype=np.object_)}


class Bench:
    def __init__(self, root: Path) -> None:
        self.now = 1000.0
        engine = root / ENGINE
        engine.mkdir()
        (engine / "config.pbtxt").write_text(engine_config(ENGINE, [1, 2]))
        for version in ("1", "2"):
            (engine / version).mkdir()
        self.fake = FakeTriton("a", DiskRepository(root), clock=self.clock, boot=(ENGINE,))
        self.ended: list[tuple[str, str, int]] = []
        self.server = QuarantineTriton(self.fake, lambda *what: self.ended.append(what))
        self.server.load(ENGINE, 1.0)

    def clock(self) -> float:
        self.now += 0.01  # time goes on while a call waits for it
        return self.now

    def ask(self, version: int = 1) -> None:
        self.server.infer(ENGINE, version, PAIR, 10.0)

    def give_up(self) -> None:
        self.fake.freeze(ENGINE, 1)
        with pytest.raises(GivenUp, match="is not healthy"):
            self.ask()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_it_gets_no_more_requests_and_others_do(bench) -> None:
    bench.give_up()
    assert bench.ended == [("a", ENGINE, 1)]
    bench.fake.wake(ENGINE, 1)
    for _ in range(3):
        bench.server.index()
        with pytest.raises(GivenUp, match="no more requests before it is loaded again"):
            bench.ask()
        bench.ask(2)
    assert bench.ended == [("a", ENGINE, 1)]
    assert bench.fake.aborted == 0


def test_without_quarantine_the_next_request_takes_the_server_down(bench) -> None:
    bench.give_up()
    bench.fake.wake(ENGINE, 1)
    with pytest.raises(Unreachable):
        bench.fake.infer(ENGINE, 1, PAIR, 10.0)
    assert bench.fake.aborted == 1


def test_so_does_waking_it_among_clients(bench) -> None:
    bench.give_up()
    bench.fake.wake(ENGINE, 1, busy=True)
    assert bench.fake.aborted == 1


def test_neither_does_a_short_pause_nor_one_that_is_ended(bench) -> None:
    bench.fake.freeze(ENGINE, 1)
    bench.now += 0.5 * GIVE_UP_S
    bench.fake.wake(ENGINE, 1, busy=True)
    bench.ask()
    bench.give_up()
    bench.fake.die(ENGINE, 1)
    bench.fake.wake(ENGINE, 1, busy=True)
    assert bench.fake.aborted == 0


def test_loaded_anew_it_is_asked_again(bench) -> None:
    bench.give_up()
    bench.fake.die(ENGINE, 1)
    bench.server.unload(ENGINE, 1.0)
    bench.server.load(ENGINE, 1.0)
    bench.ask()


def test_after_a_restart_of_the_server_it_is_asked_again(bench) -> None:
    bench.give_up()
    bench.fake.reachable = False
    with pytest.raises(Unreachable):
        bench.server.index()
    bench.fake.reachable = True
    bench.fake.restart()
    bench.ask()


def test_other_errors_are_the_versions_own(bench) -> None:
    for own in ("out of memory", "truncation: 'Stub process is not healthy' is none of left, right"):
        bench.fake.versions[1] = Behaviour(answer_error=own)
        for _ in range(2):
            with pytest.raises(TritonError, match=own) as told:
                bench.ask()
            assert not isinstance(told.value, GivenUp)
    bench.fake.versions[1] = Behaviour()
    with pytest.raises(InvalidRequest):
        bench.server.infer(ENGINE, 1, PAIR | {"documents": np.array([[b"{"]], dtype=np.object_)}, 10.0)
    assert bench.ended == []
