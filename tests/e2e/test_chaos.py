"""A handful of the faults of ``make chaos``, on its own stage: one for each kind of thing that is hit."""

from __future__ import annotations

import pytest
from demo.chaos.faults import FAULTS
from demo.chaos.report import broken
from demo.chaos.run import Run
from rich.console import Console

pytestmark = [pytest.mark.triton, pytest.mark.slow]
STRUCK = (
    ("control plane: kill -9", "shifting"),
    ("candidate: kill -9", "waiting"),
    ("engine's config: garbage", "loading"),
    ("journal: bytes flipped, in use", "baking"),
    ("live folder: touched", "steady"),
    ("Triton: kill -9", "steady"),
)


def test_a_handful_of_faults():
    named = {f.name: f for f in FAULTS}
    console = Console(record=True, quiet=True)
    run = Run(1, 600.0, [(named[name], phase) for name, phase in STRUCK], console)
    run.go()
    assert broken(run.strikes, run.outside) == [], run.strikes
    assert {s.fault.name for s in run.strikes} == {name for name, _ in STRUCK}
    assert [s.end_state for s in run.strikes if s.fault.name == "Triton: kill -9"] == ["old"]
