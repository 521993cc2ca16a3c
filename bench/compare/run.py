"""Runs every way in turn under the same load, and tells what was measured."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from bench.compare import report
from bench.compare.death import dark, death_table, deaths
from bench.compare.lapse import lapse_table, lapses, late
from bench.compare.load import asking, body
from bench.compare.measure import Measured, Moments, measured, moments
from bench.compare.paths import Cost, costs
from bench.compare.rollout import baton
from bench.compare.servers import NGINX_MISSING, behind_nginx, find_nginx, in_process
from bench.compare.split import split_costs
from bench.compare.triton import poll, stop_start
from bench.compare.way import NEW, OLD, STEP_S, STEPS, Way
from harness.command import SHORT, few, no_options
from harness.memory import Peak, memory
from harness.places import STATE
from harness.traffic import Request, Traffic, questions
from harness.waiting import Failed, until
from rich.console import Console

from baton.errors import BatonError

RATE, CLIENTS, QUESTIONS = 10.0, 8, 8
WARM_S, WINDOW_S = few((2.0, 15.0), (1.0, 2.0))
"""Seconds of load before anything counts; seconds that count before the command and after the update."""
FIGURE = STATE / "bench" / "updates.svg"
_SHARES = f"{' and '.join(f'{share} %' for share in STEPS[:-1])} for {STEP_S:.0f} s each, then {STEPS[-1]} %"
_BATON = "10 s of shadow, 20 % of traffic for 10 s, up to 50 % in 10 s more"
WAYS = (
    Way(
        "(a) stop, start",
        "SIGTERM, replace the folder, start. Triton (24.10) answers on connections that clients keep open until its "
        "exit timeout is over, 30 s; then it is gone until the new one has loaded.",
        stop_start,
    ),
    Way("(b) poll", "cp -r into the repository of a Triton that looks every second. Nothing is checked.", poll),
    Way("(c) nginx", f"a second API server, and nginx reloaded with other weights: {_SHARES}.", behind_nginx),
    Way("(d) one process", f"load it into the same process, and let chance choose: {_SHARES}.", in_process),
    Way("(e) Baton", f"rename the folder into the repository; every gate asks it, then {_BATON} and all of it.", baton),
)
PATH_LIMIT = 1.10
"""p50 of the alias in steady state, as a ratio to the engine called directly."""


def compare(console: Console) -> bool:
    """Prints the tables and writes the figure; whether what Baton promises held.

    Raises ``Failed`` or ``BatonError`` when a way does not come to its end.
    """
    # Who is told to end leaves nothing running behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    console.print(
        f"The same update in {len(WAYS)} ways, one after the other: {RATE:.0f} requests a second, {WINDOW_S:.0f} s "
        "before and after it."
    )
    texts = questions(text=QUESTIONS)
    asked = [body(query, documents) for query, documents in texts]
    found: dict[str, Measured] = {}
    drawn: dict[str, tuple[list[Request], Moments]] = {}
    paths: list[Cost] = []
    for way in WAYS:
        if way.run is behind_nginx and find_nginx() is None:
            console.print(f"{way.name}: left out. {NGINX_MISSING}")
            continue
        with tempfile.TemporaryDirectory(prefix="baton-compare-") as directory:
            answers, at, found[way.name], cost = one(way, Path(directory), asked)
        drawn[way.name] = answers, at
        paths += cost
        errors = sorted({a.error for a in answers if a.version is None})
        told = f"; {errors[0]}" if errors else ""
        console.print(f"[dim]{time.monotonic() - began:6.1f} s[/dim]  {way.name}: {found[way.name].sent} asked, "
                      f"{found[way.name].failed} failed{told}", soft_wrap=True)  # fmt: skip
    console.print(report.table(found))
    console.print(report.best(found))
    for way in WAYS:
        if way.name in found:
            console.print(f"[dim]{way.name}: {way.update}[/dim]")
    console.print(report.cost_table(paths, "Without a rollout: the alias against the engine called directly"))
    with tempfile.TemporaryDirectory(prefix="baton-compare-") as directory:
        split = split_costs(Path(directory), asked)
    console.print(report.cost_table(split, "While traffic is split or mirrored: against the alias without"))
    with tempfile.TemporaryDirectory(prefix="baton-compare-") as directory:
        lost = lapses(Path(directory), texts)
    console.print(lapse_table(lost))
    with tempfile.TemporaryDirectory(prefix="baton-compare-") as directory:
        died = deaths(Path(directory), texts)
    console.print(death_table(died))
    report.figure(drawn, FIGURE)
    console.print(f"Every request: {os.path.relpath(FIGURE)}")
    broken = promises(found[next(way.name for way in WAYS if way.run is baton)], paths) + late(lost) + dark(died)
    for promise in broken:
        console.print(f"[red]✖ {promise}[/red]", soft_wrap=True)
    return not broken


def one(way: Way, home: Path, asked: list[bytes]) -> tuple[list[Request], Moments, Measured, list[Cost]]:
    """One way from its start to its end."""
    with way.run(home) as running:
        cost = costs(running.paths, asked)
        load = Traffic([asking(running.url, asked)] * CLIENTS, rate=RATE, clock=time.monotonic)
        load.start()
        try:
            time.sleep(WARM_S)
            start = time.monotonic()
            time.sleep(WINDOW_S)
            before = memory(running.processes())
            with Peak(lambda: memory(running.processes())) as peak:
                command = time.monotonic()
                running.update()
                returned = time.monotonic()
                until(lambda: load.versions[NEW], "an answer of the new version")
                time.sleep(WINDOW_S)
        finally:
            end = time.monotonic()
            load.stop()
            answers = sorted(load.requests, key=lambda request: request.due)
        at = moments(answers, start=start, command=command, returned=returned, end=end, old=OLD, new=NEW)
        figures = measured(answers, at, new=NEW, memory_before=before, memory_peak=max(before, peak.largest))
        return answers, at, figures, cost


def promises(figures: Measured, paths: list[Cost]) -> list[str]:
    """What Baton promises and did not keep."""
    broken = []
    if figures.failed:
        broken.append(f"{figures.failed} requests failed while Baton updated, none may")
    if figures.dark_s and not SHORT:
        broken.append(f"{figures.dark_s} s without service while Baton updated, none may be")
    direct: dict[int, Cost] = {}
    for cost in paths if not SHORT else ():
        base = direct.setdefault(cost.concurrency, cost)
        if cost.p50_s > PATH_LIMIT * base.p50_s:
            broken.append(
                f"p50 at concurrency {cost.concurrency}: {cost.path} takes {cost.p50_s / base.p50_s:.2f} times "
                f"{base.path}, {PATH_LIMIT:.2f} is promised"
            )
    return broken


def main() -> int:
    no_options("python -m bench.compare", __doc__)
    console = Console(highlight=False)
    try:
        return 0 if compare(console) else 1
    except (Failed, BatonError) as error:
        console.print(f"[red]✖ {error}[/red]", soft_wrap=True)
        return 1
