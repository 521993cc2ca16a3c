"""Which worker runs what under xdist: whole files, the longest first, no more of Triton's at once than cores.

Most tests of Triton wait; the others compute. So there is a worker more than cores (``Makefile``), and each that is
free gets a file of the kind that there is room for. Where a Triton 24.10 gets too little of a core, it ends by itself.
"""

from __future__ import annotations

import os
from typing import Any

from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

APART = "tests/e2e/test_make_targets.py::"
"""Each test of it is as long as a file."""
TOGETHER = {f"tests/unit/cli/test_{name}.py": "moments" for name in ("moments", "progress")}
"""They need what takes longest to make, and two workers would both make it."""
FIRST = (
    f"{APART}test_its_short_form_ends_well[bench]",
    f"{APART}test_its_short_form_ends_well[chaos]",
    f"{APART}test_its_short_form_ends_well[bench-engine]",
    "tests/e2e/test_traffic.py",
    f"{APART}test_the_memory_of_each_version_is_measured",
    f"{APART}test_its_short_form_ends_well[demo]",
    "tests/e2e/test_splitter_key.py",
    "tests/e2e/test_standby.py",
    "tests/e2e/test_rollout.py",
    "tests/e2e/test_restart.py",
    "tests/e2e/test_death.py",
    "moments",
)
"""By how long they take, the longest first."""
LONG = ("e2e", "triton", "engine", "simulation")
"""Folders whose files take minutes: they come before the others, so that no worker is alone with one in the end."""
TRITON = ("tests/e2e/", "tests/triton/")


def unit(nodeid: str) -> str:
    """What a test is run with, on one worker."""
    file = nodeid.partition("::")[0]
    return nodeid if nodeid.startswith(APART) else TOGETHER.get(file, file)


def place(nodeid: str) -> tuple[int, int]:
    """What comes first is lower."""
    mine, folders = unit(nodeid), nodeid.partition("::")[0].split("/")[:-1]
    of_folder = next((at for at, name in enumerate(LONG) if name in folders), len(LONG))
    return (FIRST.index(mine) if mine in FIRST else len(FIRST), of_folder)


class Lanes(LoadScopeScheduling):
    """``most``: workers that may have a unit of Triton's at a time."""

    def __init__(self, config: Any, log: Producer, most: int | None = None) -> None:
        super().__init__(config, log)
        self.most = len(os.sched_getaffinity(0)) if most is None else most

    def _split_scope(self, nodeid: str) -> str:
        return unit(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        others = [work for other, work in self.assigned_work.items() if other is not node]
        full = sum(any(_waits(name, tests) for name, tests in work.items()) for work in others) >= self.most
        fits = next((name for name in self.workqueue if not (full and name.startswith(TRITON))), None)
        if fits is None:  # the others do what is left
            node.shutdown()
            return
        self.workqueue.move_to_end(fits, last=False)
        super()._assign_work_unit(node)


def _waits(name: str, tests: dict[str, bool]) -> bool:
    return name.startswith(TRITON) and not all(tests.values())
