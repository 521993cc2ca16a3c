"""Faults of time alone: processes that stand still and go on, starved ones, slow ones.

Triton 24.10 aborts when a model's process stood still for one to a few seconds with requests in its hands and then goes
on (``python -m bench.frozen``), so its own process must be the same after each of these.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

from tests.chaos.fault import (
    ALONE,
    KEPT,
    NOTICED,
    SHARED,
    SPLIT,
    SPLITTER,
    Blow,
    Fault,
    Target,
    candidate,
    live,
    previous,
    send,
    splitter,
    stable,
)
from tests.chaos.stage import DEADLINE_S

from baton.errors import BatonError

FREEZES = (0.2, 10.0)
FREEZES_LONG = (10.0, 30.0)
ALL_FREEZE_S = (0.2, 5.0)
"""Well below the clients' own limit."""
ABORT_WITHIN_S = 2.0
STARVED_S, STARVED_STILL_S, STARVED_RUNS_S = 3.0, 0.3, 0.05
SLOW_S = 1.5 * DEADLINE_S


STARVED = f"stands still for {STARVED_STILL_S:g} of every {STARVED_STILL_S + STARVED_RUNS_S:g} s, for {STARVED_S:g} s"


def freezes(target: Target, low_s: float, high_s: float, *, abort: bool = False) -> Callable[[Blow], None]:
    """SIGSTOP, and SIGCONT after a while that is drawn, short ones as often as long ones; what is dead then stays so.

    ``abort``: a person ends the rollout at a random moment meanwhile.
    """

    def strike(blow: Blow) -> None:
        pid = target(blow)
        seconds = low_s * (high_s / low_s) ** blow.draw.random()
        wakes = time.monotonic() + seconds
        send(pid, signal.SIGSTOP)
        blow.now()
        blow.stage.note(f"process {pid} stands still for {seconds:.2f} s")
        try:
            if abort:
                time.sleep(blow.draw.uniform(0.0, min(seconds, ABORT_WITHIN_S)))
                with suppress(BatonError):  # the rollout ended by itself meanwhile
                    blow.stage.serve.api.abort(None)
            time.sleep(max(0.0, wakes - time.monotonic()))
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    return strike


def starved(target: Target) -> Callable[[Blow], None]:
    """It runs for a moment at a time, as where a group's processor time is used up, or memory is swapped out."""

    def strike(blow: Blow) -> None:
        pid = target(blow)
        blow.now()
        ends = time.monotonic() + STARVED_S
        with suppress(ProcessLookupError):
            while time.monotonic() < ends:
                os.kill(pid, signal.SIGSTOP)
                try:
                    time.sleep(STARVED_STILL_S)
                finally:
                    os.kill(pid, signal.SIGCONT)
                time.sleep(STARVED_RUNS_S)

    return strike


def candidate_slow(blow: Blow) -> None:
    assert blow.new is not None
    with blow.stage.slow(blow.new, SLOW_S):
        time.sleep(STARVED_S)


def processors_busy(blow: Blow) -> None:
    """Programs that want every processor, four on each."""
    with ExitStack() as stack:
        for cpu in sorted(os.sched_getaffinity(0)) * 4:
            hog = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(hog.kill)
            os.sched_setaffinity(hog.pid, {cpu})
        blow.now()
        time.sleep(STARVED_S)


def all_freeze(blow: Blow) -> None:
    """Triton and its models' processes together, as where a container is paused; they wake in any order."""
    pid = blow.stage.triton.pid
    assert pid is not None
    pids = [pid, *(stub.pid for stub in blow.stage.triton.stubs())]
    try:
        for one in pids:
            os.kill(one, signal.SIGSTOP)
        time.sleep(blow.draw.uniform(*ALL_FREEZE_S))
    finally:
        blow.draw.shuffle(pids)
        for one in pids:
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGCONT)


def frozen(name: str, target: Target, phases: tuple[str, ...], fails: str = KEPT) -> Iterator[Fault]:
    """What stands still and goes on: for a while, for long, and, in a split, while a person ends the rollout."""
    for how, (low, high), abort in (
        ("freezes", FREEZES, False),
        ("stands still for long", FREEZES_LONG, False),
        ("freezes, and abort", FREEZES, True),
    ):
        does = f"SIGSTOP, and SIGCONT {low:g} to {high:g} s later"
        where = tuple(phase for phase in phases if phase in SPLIT or not abort)
        if abort:
            does += ", a person aborts meanwhile"
        if where and not (abort and target is live):
            strike = freezes(target, low, high, abort=abort)
            if abort and target is stable:  # the person sends all to what was ended, and takes the other one away
                fails = NOTICED
            yield Fault(f"{name}: {how}", does, strike, where, fails, triton_lives=True)


FROZEN = (
    *frozen("candidate", candidate, ("validating", *SPLIT)),
    *frozen("stable in a split", stable, SHARED),
    *frozen("previous version", previous, ("baking",)),
    *frozen("live engine", live, ALONE, NOTICED),
    *frozen("splitter", splitter, SPLIT, SPLITTER),
    Fault("candidate: starved", STARVED, starved(candidate), ("loading", "validating", *SPLIT), triton_lives=True),
    Fault("stable in a split: starved", STARVED, starved(stable), SHARED, triton_lives=True),
    # On a busy machine a pause may last longer than it should, and the process is ended for that.
    Fault("live engine: starved", STARVED, starved(live), ALONE, NOTICED, triton_lives=True),
    Fault("splitter: starved", STARVED, starved(splitter), SPLIT, SPLITTER, triton_lives=True),
    Fault(
        "candidate: slow",
        f"each of its answers takes {SLOW_S:g} s, for {STARVED_S:g} s",
        candidate_slow,
        ("validating", *SPLIT),
        triton_lives=True,
    ),
    Fault(
        "processors: busy",
        f"four programs that never rest on each, for {STARVED_S:g} s",
        processors_busy,
        triton_lives=True,
    ),
    Fault(
        "Triton and its models: freeze",
        f"SIGSTOP to all of them, and SIGCONT {ALL_FREEZE_S[0]:g} to {ALL_FREEZE_S[1]:g} s later",
        all_freeze,
        fails=NOTICED,
    ),
)
