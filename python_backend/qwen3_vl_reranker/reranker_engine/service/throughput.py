"""How long forward passes take, measured on those of the last minute."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_AGE_S = 60.0
"""Older measurements are ignored: the machine may have been busy then."""
SMOOTHING = 0.3
"""Weight of the newest pass in the exponential moving average."""
TARGET_PASS_S = 0.25
"""How long a pass that holds a slice of a large request should take at most. A new request waits that long for its own
first pass."""
MIN_SLICE_TOKENS = 256
"""The smallest slice: smaller passes lose more to overhead than they gain."""


class Throughput:
    """Seconds per token, by the size of the pass: the larger the pass, the cheaper a token."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._by_size: dict[int, tuple[float, float]] = {}  # bit length of the tokens: (seconds per token, when)

    def record(self, tokens: int, seconds: float) -> None:
        """A pass of ``tokens`` took ``seconds``, its images included."""
        size, now = tokens.bit_length(), self._clock()
        known = self._recent(size, now)
        cost = seconds / tokens
        self._by_size[size] = (cost if known is None else known + SMOOTHING * (cost - known), now)

    def slice_tokens(self, budget: int) -> int:
        """Tokens of one pass that a request may take if it has more left; ``budget`` while nothing is measured."""
        cost = self._cost(0)
        return budget if cost is None else min(budget, max(MIN_SLICE_TOKENS, int(TARGET_PASS_S / cost)))

    def least_seconds(self, tokens: int, others: Iterable[int], budget: int) -> float | None:
        """A lower bound on the time that ``tokens`` take beside other requests; None without a recent measurement.

        Each other request is assumed to get as many tokens computed as this one, or all that it has left (``others``).
        The cost of a token is the lowest that was measured on passes of this size or larger. The bound is low on
        purpose: requests are refused by it, and a refused request gives no measurement.
        """
        work = tokens + sum(min(tokens, other) for other in others)
        cost = self._cost(min(work, budget).bit_length())
        return None if cost is None else work * cost

    def _cost(self, least_size: int) -> float | None:
        now = self._clock()
        costs = [self._recent(size, now) for size in list(self._by_size) if size >= least_size]
        return min((cost for cost in costs if cost is not None), default=None)

    def _recent(self, size: int, now: float) -> float | None:
        cost, when = self._by_size.get(size, (0.0, -MAX_AGE_S))
        return cost if size in self._by_size and now - when < MAX_AGE_S else None
