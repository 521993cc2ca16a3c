"""``python -m tests.simulation [--minutes N | --stories N] [--seed S] [--processes P]``: stories, for as long as told.

Prints how many, and exits 1 with the transcript of the first that fails. The order of sets of texts differs from
process to process unless PYTHONHASHSEED says otherwise, and with it the story that a seed tells; so it is set.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.connection import wait

from tests.simulation.tell import Tally, shortened, tell

APART = 10_000_000
"""The first seeds of two processes are so far from each other."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (default 1)")
    parser.add_argument("--stories", type=int, help="how many stories each process tells, instead of minutes")
    parser.add_argument("--seed", type=int, help="of the first story; the others follow (default: the time)")
    parser.add_argument("--processes", type=int, default=1, help="how many tell stories at once (default 1)")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation", *sys.argv[1:]],
            os.environ | {"PYTHONHASHSEED": "0"},
        )
    first = options.seed if options.seed is not None else int(time.time())
    forking = multiprocessing.get_context("fork")
    steps = forking.Value("q", 0)

    def play(seed: int) -> None:
        # So that one that is called off clears away what it made.
        signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
        tally = _play(seed, options.minutes, options.stories)
        with steps:
            steps.value += tally.steps
        sys.exit(tally.failure is not None)

    players = [forking.Process(target=play, args=(first + APART * n,)) for n in range(options.processes)]
    for player in players:
        player.start()
    going = {player.sentinel: player for player in players}
    try:
        while going and not any(player.exitcode for player in players):
            for sentinel in wait(list(going)):
                going.pop(sentinel).join()
    finally:
        for player in going.values():
            player.terminate()
            player.join()
    if len(players) > 1:
        print(f"{steps.value} steps in all")
    return int(any(player.exitcode for player in players))


def _play(seed: int, minutes: float, stories: int | None) -> Tally:
    begun = told = time.monotonic()

    def more(tally: Tally) -> bool:
        nonlocal told
        now = time.monotonic()
        if now - told >= 30.0:
            told = now
            print(f"{tally.stories} stories, {tally.steps} steps", flush=True)
        return tally.stories < stories if stories else now - begun < minutes * 60

    tally = tell(seed, more)
    took = time.monotonic() - begun
    ended = ", ".join(f"{n} {outcome}" for outcome, n in sorted(tally.outcomes.items()))
    print(
        f"seeds {seed} to {seed + tally.stories - 1}: {tally.stories} stories, {tally.steps} steps in {took:.0f} s "
        f"({tally.steps / took:.0f} a second); rollouts: {ended}; {tally.pruned} removed"
    )
    if tally.failure is not None:
        print(tally.failure if stories == 1 else shortened(tally.failure))
    return tally


if __name__ == "__main__":
    sys.exit(main())
