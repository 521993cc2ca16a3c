"""Which worker runs what under xdist."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from harness.places import ROOT
from tests.lanes import APART, FIRST, TOGETHER, TRITON, Lanes, place, unit

TESTS = [
    *(f"tests/e2e/test_{name}.py::test_{number}" for name in "abcd" for number in range(4)),
    *(f"tests/unit/plan/test_{name}.py::test_{number}" for name in "abcd" for number in range(4)),
]


class Worker:
    """Runs what it is sent, in that order, when it is told to. Like xdist's it needs to know what comes next."""

    def __init__(self) -> None:
        self.gateway = SimpleNamespace(id="a worker")
        self.queue: list[int] = []
        self.shutting_down = False

    def send_runtest_some(self, indices: list[int]) -> None:
        self.queue += indices

    def shutdown(self) -> None:
        self.shutting_down = True

    def can_go_on(self) -> bool:
        return len(self.queue) > 1 or (self.shutting_down and bool(self.queue))


class Run:
    def __init__(self, workers: int, most: int, tests: list[str]) -> None:
        config: Any = SimpleNamespace(
            getvalue=lambda _: [f"{workers}*popen"], option=SimpleNamespace(loadscopereorder=False)
        )
        log: Any = SimpleNamespace(loadscopesched=lambda *_: None)
        self.lanes, self.tests = Lanes(config, log, most), sorted(tests, key=place)
        self.workers: list[Any] = [Worker() for _ in range(workers)]
        for worker in self.workers:
            self.lanes.add_node(worker)
            self.lanes.add_node_collection(worker, self.tests)
        self.lanes.schedule()

    def running(self) -> list[str]:
        return [self.tests[worker.queue[0]] for worker in self.workers if worker.can_go_on()]

    def ends(self, worker: Any) -> None:
        self.lanes.mark_test_complete(worker, worker.queue.pop(0))


def whole(most: int, workers: int, turns: list[int]) -> list[list[str]]:
    """What runs at the same time, from the begin to the end, where workers get on as ``turns`` say."""
    run, seen = Run(workers, most, TESTS), []
    for turn in count():
        going = [worker for worker in run.workers if worker.can_go_on()]
        if not going:
            break
        seen.append(run.running())
        run.ends(going[turns[turn % len(turns)] % len(going)])
    assert run.lanes.tests_finished
    assert not any(worker.queue for worker in run.workers), "every test was run"
    assert {test for now in seen for test in now} == set(TESTS)
    return seen


@pytest.mark.parametrize("turns", [[0], [1], [2], [0, 1, 2], [0, 0, 1], [1, 2, 2, 0]])
@pytest.mark.parametrize(("most", "workers"), [(1, 1), (1, 2), (2, 3), (2, 6), (1, 4)])
def test_no_more_tests_of_triton_at_once_than_may_be(most: int, workers: int, turns: list[int]) -> None:
    for now in whole(most, workers, turns):
        assert sum(test.startswith(TRITON) for test in now) <= most, now


def test_a_worker_that_may_have_none_of_them_gets_others() -> None:
    first = whole(2, 3, [0])[0]
    assert [test.startswith(TRITON) for test in first] == [True, True, False]


def test_a_file_stays_on_one_worker_and_those_that_share_what_is_slow_to_make_as_well() -> None:
    assert {unit(test) for test in TESTS} == {test.partition("::")[0] for test in TESTS}
    assert {unit(f"{file}::test_x[y::z]") for file in TOGETHER} == {"moments"}
    assert unit(f"{APART}test_x[y]") == f"{APART}test_x[y]"


def test_the_longest_come_first_then_folders_whose_files_take_minutes() -> None:
    given = ["tests/unit/plan/test_x.py::a", "tests/e2e/test_x.py::a", "tests/e2e/test_traffic.py::a", f"{FIRST[0]}"]
    assert sorted(given, key=place) == [FIRST[0], given[2], given[1], given[0]]


def test_what_comes_first_is_there() -> None:
    from tests.e2e.test_make_targets import RUN

    for name in (*FIRST, *TOGETHER):
        file, _, test = name.partition("::")
        assert file == "moments" or (ROOT / file).is_file(), name
        assert "[" not in test or test.partition("[")[2].rstrip("]") in RUN, name
        assert test.partition("[")[0] in ((ROOT / file).read_text() if test else ""), name
