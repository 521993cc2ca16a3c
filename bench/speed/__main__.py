"""``python -m bench.speed``: the engine in the published shapes on a GPU, the last part of ``make bench-engine``.

It needs neither Triton nor Baton's control plane. Ends with exit code 1 when the engine's scores and those of one pair
at a time differ by more than half precision explains; without a GPU it says so and ends with 0.
"""

from __future__ import annotations

import sys

from bench.speed.measure import alone
from bench.speed.published import show

if __name__ == "__main__":
    sys.exit(alone("python -m bench.speed", __doc__, show))
