"""What a way of updating did to its clients, computed from the answers alone.

Times are seconds of one clock. A latency counts from the moment at which its request was due, so that a stall is
seen by every request that it kept waiting. Windows are one second long and begin at multiples of a second from the
start that is given; what is left over at the end is no window.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from harness.traffic import Request

WINDOW_S = 1.0


@dataclass(frozen=True, slots=True)
class Window:
    """One second: requests that were due in it, successful answers that came in it, p95 of those that were due in it.

    ``p95_s`` is NaN when none of the requests that were due was answered.
    """

    start: float
    due: int
    answered: int
    p95_s: float


@dataclass(frozen=True, slots=True)
class Swing:
    """The p95s of several windows, in seconds: the middle one, the lowest, the highest; NaN without any."""

    median_s: float
    lowest_s: float
    highest_s: float


@dataclass(frozen=True, slots=True)
class Moments:
    """When what happened: the four marks of a run, and the two that the answers tell."""

    start: float
    command: float
    returned: float
    """When the way called its update done."""
    end: float
    first_new: float
    last_old: float

    @property
    def switched(self) -> float:
        """When only the new version answered any more."""
        return max(self.first_new, self.last_old)

    @property
    def calm(self) -> float:
        """When the update was over for the clients and for the way."""
        return max(self.switched, self.returned)


@dataclass(frozen=True, slots=True)
class Measured:
    """One way's figures; memory is in bytes, everything else as named."""

    update_s: float
    """From the command until only the new version answered."""
    failed: int
    sent: int
    dark_s: int
    """Seconds without service, see :func:`seconds_without_service`."""
    before: Swing
    during: Swing
    first_answer_s: float
    """Latency of the first request that the new version answered."""
    memory_before: int
    memory_peak: int


def windows(answers: Sequence[Request], start: float, end: float) -> list[Window]:
    """The whole seconds from ``start`` until ``end``, each with what was due and what came in it."""
    count = max(0, math.floor((end - start) / WINDOW_S + 1e-9))
    due = [0] * count
    came = [0] * count
    latencies: list[list[float]] = [[] for _ in range(count)]
    for answer in answers:
        asked, told = (math.floor((moment - start) / WINDOW_S) for moment in (answer.due, answer.came))
        if 0 <= asked < count:
            due[asked] += 1
            if answer.version is not None:
                latencies[asked].append(answer.latency_s)
        if 0 <= told < count and answer.version is not None:
            came[told] += 1
    return [
        Window(
            start + number * WINDOW_S,
            due[number],
            came[number],
            float(np.percentile(latencies[number], 95)) if latencies[number] else math.nan,
        )
        for number in range(count)
    ]


def seconds_without_service(seconds: Sequence[Window]) -> int:
    """The windows in which requests were due and no successful answer came, neither to them nor to earlier ones."""
    return sum(1 for window in seconds if window.due and not window.answered)


def swing(seconds: Sequence[Window]) -> Swing:
    """How far the p95 goes up and down from second to second. Seconds without any answer are not in it."""
    found = [window.p95_s for window in seconds if not math.isnan(window.p95_s)]
    if not found:
        return Swing(math.nan, math.nan, math.nan)
    return Swing(statistics.median(found), min(found), max(found))


def moments(
    answers: Sequence[Request], *, start: float, command: float, returned: float, end: float, old: int, new: int
) -> Moments:
    """The marks of a run with those that the answers tell.

    ``first_new`` is infinite when ``new`` never answered; ``last_old`` is ``command`` when ``old`` did not answer
    after it.
    """
    first = min((a.came for a in answers if a.version == new), default=math.inf)
    last = max((a.came for a in answers if a.version == old), default=command)
    return Moments(start, command, returned, end, first, max(last, command))


def measured(answers: Sequence[Request], at: Moments, *, new: int, memory_before: int, memory_peak: int) -> Measured:
    """All figures of one run in which ``new`` answered. Windows begin at the command, backwards and forwards."""
    lead = math.floor((at.command - at.start) / WINDOW_S + 1e-9) * WINDOW_S
    inside = [a for a in answers if at.start <= a.due < at.end]
    # An update that takes less than a second still has a window.
    during = max(at.calm, at.command + WINDOW_S)
    first = min((a for a in answers if a.version == new), key=lambda a: a.came, default=None)
    return Measured(
        update_s=at.switched - at.command,
        failed=sum(1 for a in inside if a.version is None),
        sent=len(inside),
        dark_s=seconds_without_service(windows(answers, at.command - lead, at.end)),
        before=swing(windows(answers, at.command - lead, at.command)),
        during=swing(windows(answers, at.command, math.ceil(during - at.command) + at.command)),
        first_answer_s=math.nan if first is None else first.latency_s,
        memory_before=memory_before,
        memory_peak=memory_peak,
    )
