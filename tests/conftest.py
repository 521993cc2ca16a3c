"""What holds for every test."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from baton import report
from baton.cli.output import figures, gate_lines, plain
from baton.domain import GateResult

# Tests ask servers on this machine with clients that know of proxies. Those that are about proxies set them.
for _name in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[_name]

# A shared machine may stand still for a moment: no test fails because it was slow.
settings.register_profile("baton", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("baton")

LONG = ("demo", "e2e", "engine", "simulation")
"""Folders whose files take minutes: they come first, so that no worker is left alone with one in the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {folder: place for place, folder in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.parent.name, len(LONG)))


WIDTHS = (40, 80, 160)
_SHAPES: set[str] = set()
"""Of the results that were shown already."""
_MADE: list[GateResult] = []
_make = GateResult.__init__


def _noted(self: GateResult, *args: Any, **more: Any) -> None:
    _make(self, *args, **more)
    _MADE.append(self)


GateResult.__init__ = _noted  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def _every_gate_can_be_shown() -> Iterator[None]:
    """Whatever result a judge gives in a test has a place on every face: ``ctl`` in three widths, and JSON.

    One of each shape is enough: a gate, a verdict, and what its evidence is made of.
    """
    _MADE.clear()
    yield
    made = list(_MADE)
    _MADE.clear()
    for result in made:
        if (shape := shape_of([result.gate, result.verdict, result.skipped, dict(result.evidence)])) not in _SHAPES:
            shown(result)
            _SHAPES.add(shape)


def shown(result: GateResult) -> dict[int, list[str]]:
    """The lines of a gate by the terminal's width, as ``ctl`` draws them from what the API says."""
    told = json.loads(json.dumps(report.gate(result), allow_nan=False))
    figures(told)
    pages = {}
    for columns in WIDTHS:
        for full in (False, True):
            pages[columns] = [plain(line) for line in gate_lines(told, columns, full=full)]
            assert [line for line in pages[columns] if len(line) > columns] == []
    return pages


def shape_of(value: Any) -> str:
    """What a value is made of: names and types, verdicts and gates by themselves, and no figures."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}:{shape_of(value[name])}" for name in sorted(map(str, value))) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(sorted({shape_of(one) for one in value})) + "]"
    return str(value) if isinstance(value, bool | str) and str(value) in _TELLING else type(value).__name__


_TELLING = {"True", "False", "pass", "fail", "hold", "pending", "running"} | {
    *("integrity", "compatibility", "capacity", "load", "warmup", "output", "invariance", "latency", "live", "memory")
}
