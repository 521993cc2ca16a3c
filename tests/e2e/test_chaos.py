"""A handful of the faults of ``make chaos``, on its own stage: one for each kind of thing that is hit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console
from tests.chaos.fault import Fault, candidate, live, splitter, stable
from tests.chaos.faults import FAULTS
from tests.chaos.frozen import freezes
from tests.chaos.report import broken
from tests.chaos.run import Run

pytestmark = [pytest.mark.triton, pytest.mark.slow]
STRUCK = (
    ("control plane: kill -9", "shifting"),
    ("candidate: kill -9", "waiting"),
    ("engine's config: garbage", "loading"),
    ("journal: bytes flipped, in use", "baking"),
    ("live folder: touched", "steady"),
    ("Triton: kill -9", "steady"),
)
HARMFUL_S = (1.5, 3.0)
"""A process that was frozen for so long under load took Triton down when it went on."""
FROZEN = (
    ("candidate: freezes", "shifting", candidate),
    ("candidate: freezes", "waiting", candidate),
    ("stable in a split: freezes", "waiting", stable),
    ("splitter: freezes", "waiting", splitter),
    ("live engine: freezes", "steady", live),
)
NAMED = {fault.name: fault for fault in FAULTS}


def run(*pairs: tuple[Fault, str]) -> Run:
    done = Run(1, 600.0, pairs, Console(record=True, quiet=True))
    done.go()
    return done


def test_a_handful_of_faults():
    done = run(*((NAMED[name], phase) for name, phase in STRUCK))
    assert broken(done.strikes, done.outside) == [], done.strikes
    assert {s.fault.name for s in done.strikes} == {name for name, _ in STRUCK}
    assert [s.end_state for s in done.strikes if s.fault.name == "Triton: kill -9"] == ["old"]


def test_a_handful_of_freezes():
    """Each of a length that is harmful, and then the process goes on: Triton's own lives through all of them."""
    harmful = [(replace(NAMED[name], strike=freezes(target, *HARMFUL_S)), phase) for name, phase, target in FROZEN]
    done = run(*harmful)
    assert broken(done.strikes, done.outside) == [], done.strikes
    assert [s.fault.name for s in done.strikes] == [name for name, _, _ in FROZEN]
