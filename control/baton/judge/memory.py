"""The gate ``memory``: does the memory of the engine's process grow without end?

The slope is Theil's and Sen's: the median over all pairs of samples, so that single peaks do not move it. Its interval
is the one that Kendall's tau gives (Sen 1968, as in ``scipy.stats.theilslopes``).

Growth in steps is no leak: the engine's allocator keeps the memory of its largest batch, so each larger batch raises
the level for good. Therefore the window is cut into ten parts. A part's level is its median, and of the nine rises from
one level to the next the three largest are left out. The others, taken for all nine, must come to growth of at least
half the limit (half, since steady growth loses its largest rises too). So one to three steps in ten minutes hardly ever
raise an alarm (in 5 of 300 simulated windows with three steps of 6 %), while a leak rises in every part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy
from numpy.typing import NDArray

from baton.domain import Gate, GateResult, Verdict
from baton.evidence import MemoryEvidence

MIN_SAMPLES = 20
_CONFIDENCE = 0.99
_PARTS = 10
_STEPS = 3
_MIB = float(1 << 20)
_MINUTE_S = 60.0


def judge_memory(samples: Sequence[tuple[float, float]], *, limit: float, window_s: float) -> GateResult:
    """Judge the growth of memory over the last ``window_s`` of ``samples``: (seconds, bytes) in order of time.

    ``observed`` and ``limit`` are growth in a window's time as a share of the median. It fails when that is surely
    above the limit, and not by a few steps. It holds with fewer than ``MIN_SAMPLES`` samples, with less than half a
    window, and while growth beyond the limit is not sure. Raises ``ValueError`` when time runs backwards or bytes are
    not above zero.
    """
    both = np.asarray(samples, dtype=np.float64).reshape(-1, 2)
    if np.any(np.diff(both[:, 0]) < 0) or not np.all(both[:, 1] > 0):
        raise ValueError("samples of memory have to be in order of time, and above zero bytes")
    recent = both[both[:, 0] >= both[-1, 0] - window_s] if len(both) else both
    span = float(recent[-1, 0] - recent[0, 0]) if len(recent) else 0.0
    if len(recent) < MIN_SAMPLES or span < window_s / 2:
        least = f"{window_s / 2 / _MINUTE_S:.3g} min"
        few = f", {len(recent)} of {MIN_SAMPLES} samples" if span >= window_s / 2 else ""
        message = f"measuring, {math.floor(span / _MINUTE_S)} of {least}{few}."
        return GateResult(Gate.MEMORY, Verdict.HOLD, message, limit=limit, evidence=MemoryEvidence(samples=len(recent)))
    median = float(np.median(recent[:, 1]))
    fit = scipy.stats.theilslopes(recent[:, 1], recent[:, 0], alpha=_CONFIDENCE)
    growth, low, high = (float(slope) * window_s / median for slope in (fit.slope, fit.low_slope, fit.high_slope))
    steady = _without_steps(recent[:, 1]) * window_s / span / median
    evidence = MemoryEvidence(
        samples=len(recent),
        span_s=span,
        median_bytes=median,
        growth_bytes=growth * median,
        growth_low=low,
        growth_high=high,
        growth_without_steps=steady,
    )
    figures = (
        f"{growth * median / _MIB:+.1f} MiB in {_minutes(window_s)}, {growth:+.1%} of {median / _MIB:.0f} MiB (between "
        f"{low:+.1%} and {high:+.1%}, limit {limit:.1%}; {steady:+.1%} without its largest steps), "
        f"{len(recent)} samples over {_minutes(span)}"
    )
    if growth <= limit:
        verdict, message = Verdict.PASS, f"Memory does not grow beyond the limit: {figures}."
    elif low > limit and steady > limit / 2:
        verdict, message = Verdict.FAIL, f"Memory grows: {figures}."
    else:
        verdict, message = Verdict.HOLD, f"Memory rose in steps or unevenly, which proves no leak: {figures}."
    return GateResult(Gate.MEMORY, verdict, message, growth, limit, evidence=evidence)


def _without_steps(levels: NDArray[np.float64]) -> float:
    """Return the rise over all parts, going by the smaller rises between parts."""
    # The lower of two middle values: a step in the middle of a part must not count as two half steps.
    medians = [np.quantile(part, 0.5, method="lower") for part in np.array_split(levels, _PARTS)]
    rises = np.sort(np.diff(medians))
    return float(rises[:-_STEPS].mean() * rises.size)


def _minutes(seconds: float) -> str:
    return f"{seconds / _MINUTE_S:.3g} min"
