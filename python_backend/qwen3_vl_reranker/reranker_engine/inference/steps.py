"""Long work in steps: a generator that pauses between them, and tells what kind of step comes next."""

from __future__ import annotations

from collections.abc import Generator
from enum import Enum
from typing import TypeVar

T = TypeVar("T")


class StepKind(Enum):
    """The kind of the next step, which ends at the next ``yield``."""

    SHORT = "short"
    """A few milliseconds."""
    LONG = "long"
    """Up to a second: it decodes, resizes, or tokenizes a long text."""
    LARGE = "large"
    """As ``LONG``, in a request that takes many seconds as a whole, and a decoder's memory meanwhile."""
    NETWORK = "network"
    """It waits for another host."""


Steps = Generator[StepKind, None, T]


def run_steps(steps: Steps[T]) -> T:
    """Run all steps on this thread, and return their result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found
