"""The gate ``memory``: does what the engine's process holds grow without end?

The slope is Theil's and Sen's, the median over all pairs of samples, so that single peaks do not move it; its interval
is the one that Kendall's tau gives (Sen 1968, as in ``scipy.stats.theilslopes``).

Growth in steps is no leak: the engine's allocator keeps the memory of its largest batch, so each larger batch raises
the level for good. Therefore both halves of the window have to grow for certain, too. Half a window that holds one step
does not: half of its pairs of samples lie on one level. So three steps in ten minutes raise no alarm, a leak does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from baton.domain import Gate, GateResult, Verdict

MIN_SAMPLES = 20
_CONFIDENCE = 0.99
_MIB = float(1 << 20)
_MINUTE_S = 60.0


def judge_memory(samples: Sequence[tuple[float, float]], *, limit: float = 0.05, window_s: float = 600.0) -> GateResult:
    """Judge the growth of memory, samples of (seconds, bytes) in order of time, over the last ``window_s`` of them.

    ``observed`` and ``limit`` are growth in a window's time as a share of the median. It fails when that is surely
    above the limit and both halves of the window grow; it holds on fewer than ``MIN_SAMPLES`` samples or half a window,
    and while growth beyond the limit is not certain. Raises ``ValueError`` when time runs backwards or bytes are not
    above zero.
    """
    both = np.asarray(samples, dtype=np.float64).reshape(-1, 2)
    if np.any(np.diff(both[:, 0]) < 0) or not np.all(both[:, 1] > 0):
        raise ValueError("samples of memory have to be in order of time, and above zero bytes")
    recent = both[both[:, 0] >= both[-1, 0] - window_s] if len(both) else both
    span = float(recent[-1, 0] - recent[0, 0]) if len(recent) else 0.0
    if len(recent) < MIN_SAMPLES or span < window_s / 2:
        message = (
            f"{len(recent)} samples of memory over {_minutes(span)}; at least {MIN_SAMPLES} over "
            f"{_minutes(window_s / 2)} are needed to tell whether it grows."
        )
        return GateResult(Gate.MEMORY, Verdict.HOLD, message, limit=limit, evidence={"samples": len(recent)})
    median = float(np.median(recent[:, 1]))
    middle = recent[0, 0] + span / 2
    growth, low, high = _growth(recent, window_s)
    halves = [_growth(half, window_s) for half in (recent[recent[:, 0] < middle], recent[recent[:, 0] >= middle])]
    evidence = {
        "samples": len(recent),
        "span_s": span,
        "median_bytes": median,
        "growth_bytes": growth,
        "growth_low": low / median,
        "growth_high": high / median,
        "halves_growth": [half[0] / median for half in halves],
    }
    figures = (
        f"{growth / _MIB:+.1f} MiB in {_minutes(window_s)}, {growth / median:+.1%} of {median / _MIB:.0f} MiB "
        f"(between {low / median:+.1%} and {high / median:+.1%}, limit {limit:.1%}), {len(recent)} samples over "
        f"{_minutes(span)}"
    )
    steady = all(half[1] > 0 for half in halves)
    settled = halves[1][2] <= limit * median
    if growth <= limit * median:
        verdict, message = Verdict.PASS, f"Memory does not grow beyond the limit: {figures}."
    elif settled:
        verdict, message = Verdict.PASS, f"Memory rose and has settled since: {figures}."
    elif steady and low > limit * median:
        verdict, message = Verdict.FAIL, f"Memory grows: {figures}."
    else:
        verdict, message = Verdict.HOLD, f"Memory rose, too unevenly to call it growth yet: {figures}."
    return GateResult(Gate.MEMORY, verdict, message, growth / median, limit, evidence=evidence)


def _growth(samples: NDArray[np.float64], window_s: float) -> tuple[float, float, float]:
    """Return bytes in a window's time: the estimate, and the ends of its interval.

    Too few samples for one (a gap fills half the window) know nothing: 0, within anything.
    """
    if np.ptp(samples[:, 0]) == 0:
        return 0.0, -np.inf, np.inf
    fit = stats.theilslopes(samples[:, 1], samples[:, 0], alpha=_CONFIDENCE)
    return float(fit.slope) * window_s, float(fit.low_slope) * window_s, float(fit.high_slope) * window_s


def _minutes(seconds: float) -> str:
    return f"{seconds / _MINUTE_S:.3g} min"
