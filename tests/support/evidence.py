"""What tests say of evidence."""

from __future__ import annotations

from typing import TypeVar

from baton.domain import Evidence, GateResult

E = TypeVar("E", bound=Evidence)


def rests_on(result: GateResult, kind: type[E]) -> E:
    """What the result rests on, which is of that kind."""
    assert isinstance(result.evidence, kind), result
    return result.evidence
