"""How fast passes go, from those that went."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MEMORY_S = 60.0
"""What is older tells nothing: the machine may have been busy then."""
WEIGHT = 0.3
"""Of the newest pass in the moving average."""
TURN_S = 0.25
"""How long a pass should take at most while it holds a cut request: the longest that a newcomer waits for its own."""
LEAST_TURN = 256
"""Tokens of a turn at least: smaller passes waste more than they gain."""


class Pace:
    """Seconds a token, by the size of the pass: the larger, the cheaper a token is."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._classes: dict[int, tuple[float, float]] = {}  # by bit length of the tokens: seconds a token, when

    def note(self, tokens: int, seconds: float) -> None:
        """A pass of ``tokens`` took ``seconds``, images included."""
        size, now = tokens.bit_length(), self._clock()
        known = self._fresh(size, now)
        cost = seconds / tokens
        self._classes[size] = (cost if known is None else known + WEIGHT * (cost - known), now)

    def turn(self, budget: int) -> int:
        """Tokens that a request with more left may take of one pass; ``budget`` while nothing is known."""
        cost = self._cost(0)
        return budget if cost is None else min(budget, max(LEAST_TURN, int(TURN_S / cost)))

    def least_seconds(self, tokens: int, others: Iterable[int], budget: int) -> float | None:
        """The least time that ``tokens`` take beside others, or None: nothing recent tells.

        Every request that takes turns with this one gets as much as it does, or all that it has ``others`` left. The
        cheapest token of passes as large as this one's own or larger is what is counted with: a request is refused on
        this number, and a refused one teaches nothing.
        """
        work = tokens + sum(min(tokens, other) for other in others)
        cost = self._cost(min(work, budget).bit_length())
        return None if cost is None else work * cost

    def _cost(self, least_size: int) -> float | None:
        now = self._clock()
        costs = [self._fresh(size, now) for size in list(self._classes) if size >= least_size]
        return min((cost for cost in costs if cost is not None), default=None)

    def _fresh(self, size: int, now: float) -> float | None:
        cost, when = self._classes.get(size, (0.0, -MEMORY_S))
        return cost if size in self._classes and now - when < MEMORY_S else None
