"""``python -m tests.simulation [--minutes N | --stories N] [--seed S]``: as many stories as the time allows.

Prints how many, and exits 1 with the transcript of the first that fails. The order of sets of texts differs from
process to process unless PYTHONHASHSEED says otherwise, and with it the story that a seed tells; so it is set.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from tests.simulation.tell import Tally, shortened, tell


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (default 1)")
    parser.add_argument("--stories", type=int, help="how many stories, instead of minutes")
    parser.add_argument("--seed", type=int, help="of the first story; the others follow (default: the time)")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation", *sys.argv[1:]],
            os.environ | {"PYTHONHASHSEED": "0"},
        )
    seed = options.seed if options.seed is not None else int(time.time())
    begun = told = time.monotonic()

    def more(tally: Tally) -> bool:
        nonlocal told
        now = time.monotonic()
        if now - told >= 30.0:
            told = now
            print(f"{tally.stories} stories, {tally.steps} steps", flush=True)
        return tally.stories < options.stories if options.stories else now - begun < options.minutes * 60

    tally = tell(seed, more)
    took = time.monotonic() - begun
    ended = ", ".join(f"{n} {outcome}" for outcome, n in sorted(tally.outcomes.items()))
    print(
        f"seeds {seed} to {seed + tally.stories - 1}: {tally.stories} stories, {tally.steps} steps in {took:.0f} s "
        f"({tally.steps / took:.0f} a second); rollouts: {ended}"
    )
    if tally.failure is None:
        return 0
    print(tally.failure if options.stories == 1 else shortened(tally.failure))
    return 1


if __name__ == "__main__":
    sys.exit(main())
