"""Long work in steps: a generator that stops between them, and says what the next one is like."""

from __future__ import annotations

from collections.abc import Generator
from enum import Enum
from typing import TypeVar

T = TypeVar("T")


class Next(Enum):
    """What the next step is like, up to the next ``yield``."""

    SHORT = "short"
    """Some milliseconds, as far as the request's texts are short."""
    LONG = "long"
    """It decodes, resizes, or tokenizes a long text: up to a second."""
    LARGE = "large"
    """As ``LONG``; and the whole of the request takes many seconds, and memory of a decoder's meanwhile."""
    NETWORK = "network"
    """It waits for another host."""


Steps = Generator[Next, None, T]


def finished(steps: Steps[T]) -> T:
    """Take all steps at once, here; what they return."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found
