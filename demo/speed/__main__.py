"""``python -m demo.speed``: the engine in the published shapes on a GPU, the last part of ``make bench-engine``, alone.

It needs neither Triton nor Baton's control plane. Ends with exit code 1 when the engine's scores and those of one pair
at a time differ by more than half precision explains; without a GPU it says so and ends with 0.
"""

from __future__ import annotations

import sys

from demo.speed.measure import alone
from demo.speed.published import show

if __name__ == "__main__":
    sys.exit(alone("python -m demo.speed", __doc__, show))
