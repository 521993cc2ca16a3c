"""``python -m demo.speed``: the engine in the published shapes on a GPU, the last part of ``make bench-engine``, alone.

It needs neither Triton nor Baton's control plane. Ends with exit code 1 when the engine's scores and those of one pair
at a time differ by more than half precision explains; without a GPU it says so and ends with 0.
"""

from __future__ import annotations

import sys

from demo.command import no_options
from demo.speed.measure import Promises
from demo.speed.published import show
from rich.console import Console


def main() -> int:
    no_options("python -m demo.speed", __doc__)
    console = Console(highlight=False)
    promises = Promises()
    show(console, promises)
    return promises.told(console)


if __name__ == "__main__":
    sys.exit(main())
