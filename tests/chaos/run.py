"""Strikes the faults of a seeded plan one after the other, waits for rest after each, and tells what happened."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

from bench.compare.death import Death, dark, deaths
from harness.traffic import Request, Traffic, attempt, questions
from harness.waiting import Failed, until
from rich.console import Console
from tests.chaos.clients import THINK_S, clients, failing
from tests.chaos.fault import NO_COPY, PHASES, Blow, Fault, Missed
from tests.chaos.faults import FAULTS
from tests.chaos.report import Strike, broken, last_copy, markdown, settle_failures, shown, tables
from tests.chaos.stage import ALIAS, ENGINE, Stage, stage

from baton.codec import encode
from baton.errors import BatonError

CONVERGED_WITHIN_S = 90.0
"""Generous: the longest waits of Baton's own are those of a load that must time out first."""
NOTICED_WITHIN_S = 2.5
"""As often as Baton looks at files whatever the notices say, and what it takes to prove a folder."""
PHASE_WITHIN_S = 120.0
WIDTH = 118
"""Of the tables, where the terminal does not tell."""
PROBES = 6
"""Answers of the version that is left, on each protocol, before it counts as serving."""
QUIRKS: dict[str, dict[str, float]] = {
    "verifying": {"slow_file": 500 << 20},
    "loading": {"load_s": 1.5},
    "validating": {"delay_s": 0.005},
    "rolling_back": {"load_s": 1.5},
}
"""What makes a phase long enough to be met."""


def plan(draw: random.Random, faults: Sequence[Fault], phases: Sequence[str]) -> Iterator[tuple[Fault, str]]:
    """Every fault in every phase where it is tried, in random order; then all of them anew."""
    while True:
        pairs = [(fault, phase) for fault in faults for phase in fault.phases if phase in phases]
        draw.shuffle(pairs)
        yield from pairs


class Run:
    """One run: stages follow each other only when a fault leaves one in disorder."""

    def __init__(self, seed: int, seconds: float, pairs: Iterable[tuple[Fault, str]], console: Console) -> None:
        """``pairs``: the faults to strike and in which phases, until they or the seconds are over."""
        self.seed = seed
        self.strikes: list[Strike] = []
        self.skipped: dict[str, str] = {}
        self.outside: list[Request] = []
        """Requests that failed although nothing was hit."""
        self.evidence: list[Path] = []
        self._ends = time.monotonic() + seconds
        self._console = console
        self._draw = random.Random(seed)
        self._pairs = iter(pairs)
        self._next = next(self._pairs, None)
        self._version = 1

    def stop(self) -> None:
        """Strike no more."""
        self._ends = 0.0

    def go(self) -> None:
        """Raises ``Failed`` when there is no stage to strike on."""
        while self._next is not None and time.monotonic() < self._ends:
            with tempfile.TemporaryDirectory(prefix="baton-chaos-") as home, stage(Path(home)) as made:
                self._version = 1
                urls = [f"grpc://{made.triton.grpc_url}", f"http://{made.triton.http_url}"] * 2
                traffic = Traffic(clients(urls, made.marks, ALIAS), pause_s=THINK_S)
                traffic.start()
                self._on(made, traffic)

    def _on(self, made: Stage, traffic: Traffic) -> None:
        """Strike after strike, until the time is over or one leaves disorder."""
        first = len(self.strikes)
        orderly = True
        try:
            while orderly and self._next is not None and time.monotonic() < self._ends:
                fault, phase = self._next
                self._next = next(self._pairs, None)
                if fault.disks and made.disk.why_not:
                    self.skipped[fault.name] = made.disk.why_not
                    continue
                orderly = self._once(made, traffic, fault, phase)
        finally:
            traffic.stop()
            self.outside += settle_failures(self.strikes[first:], traffic.requests)

    def _once(self, made: Stage, traffic: Traffic, fault: Fault, phase: str) -> bool:
        old = made.service()["stable"]
        if old is None:
            raise Failed("nothing serves")
        new = None
        if phase != "steady":
            self._version += 1
            new = self._version
        blow = Blow(made, old, new, self._draw)
        made.note(f"strike {len(self.strikes)}: {fault.name} in {phase}, {old} to {new}")
        server = made.triton.pid
        try:
            met = self._approach(made, phase, new)
            time.sleep(self._draw.uniform(0.0, 0.2))
            met = made.service()["phase"] or met
            blow.now()
            fault.strike(blow)
        except Missed as error:
            made.note(f"missed: {error}")
            self._converge(made, traffic, old, new)
            return True
        over = time.time()
        end, rest, why = self._converge(made, traffic, old, new)
        aborted = made.triton.pid != server and fault.fails != NO_COPY
        if aborted:
            # Now and then Triton 24.10 goes with a process that is killed; it says lock_exception then.
            fault = replace(fault, name=f"{fault.name}, and Triton aborts", fails=NO_COPY)
        strike = Strike(fault, met, blow.at, over, rest, old, new, end, why, 0 if why else made.leaks(), aborted)
        self.strikes.append(strike)
        held = self._tell(made, strike, traffic)
        if not held:
            self._keep(made, strike)
        if why:
            return False
        made.tidy(end or old)
        return True

    def _approach(self, made: Stage, phase: str, new: int | None) -> str:
        """Bring a rollout to the phase; the phase that was met."""
        if new is None:
            return "steady"
        quirks = dict(QUIRKS.get(phase, {}))
        made.drop(new, slow_file=int(quirks.pop("slow_file", 0)), **quirks)
        if phase == "rolling_back":
            until(lambda: made.service()["phase"] == "loading" and made.stub(ENGINE, new), "loading", PHASE_WITHIN_S)
            try:
                made.serve.api.abort(None)
            except BatonError as error:
                raise Missed(str(error)) from None
        order = PHASES.index(phase)

        def there() -> str:
            shown = str(made.service()["phase"])
            if shown == phase or (shown in PHASES and PHASES.index(shown) > order and shown != "steady"):
                return shown
            if shown == "waiting":
                _promote(made)
            elif (row := made.serve.row(new)) is not None and row["ended_at"] is not None:
                raise Missed(f"its rollout was over: {row['outcome']}")
            return ""

        return str(until(there, f"phase {phase} of version {new}", PHASE_WITHIN_S))

    def _converge(self, made: Stage, traffic: Traffic, old: int, new: int | None) -> tuple[int | None, float, str]:
        """Wait for rest. The version that is left, since when, and what is still wrong when the time is over."""
        allowed = {old} if new is None else {old, new}
        began = time.time()
        rest, unrest = None, ""
        while time.time() - began < CONVERGED_WITHIN_S:
            made.supervise()
            looked = time.time()
            version, unrest = self._resting(made, traffic, allowed)
            rest = None if unrest else (rest or looked)
            # What was done to a file is not known at once: rest before anybody looked is none.
            if rest is not None and looked - began >= NOTICED_WITHIN_S:
                return version, rest, ""
            if made.service()["phase"] == "waiting":
                _promote(made)
            time.sleep(0.1)
        made.note(f"no rest within {CONVERGED_WITHIN_S:.0f} s: {unrest}")
        return None, time.time(), unrest

    def _resting(self, made: Stage, traffic: Traffic, allowed: set[int]) -> tuple[int | None, str]:
        """The version that serves alone, or what is not at rest."""
        looked = time.time()
        if unrest := made.unrest(allowed):
            return None, unrest
        version = int(made.service()["stable"] or 0)
        if unrest := self._answers(made, version) or made.unrest({version}):
            return None, unrest
        error = failing(traffic, looked)
        return version, f"clients' requests still fail: {error}" if error else ""

    def _answers(self, made: Stage, version: int) -> str:
        urls = (f"grpc://{made.triton.grpc_url}", f"http://{made.triton.http_url}")
        for client in clients(urls, made.marks, ALIAS, timeout_s=2.0):
            with client.open() as ask:
                for number in range(PROBES):
                    got = attempt(ask, number)
                    if got.error or got.version != version:
                        return f"version {version} is stable; {client.name} answers {got.error or got.version}"
        return ""

    def _tell(self, made: Stage, strike: Strike, traffic: Traffic) -> bool:
        """Whether all that was promised held, as far as is known already."""
        before = self.strikes[-2].rest if len(self.strikes) > 1 else 0.0
        errors = [r for r in traffic.since(strike.at) if r.error and r.due > before]
        failed = len(errors)
        for one in errors:
            made.note(f"failed, {one.due - strike.at:.2f} to {one.came - strike.at:.2f} s after: {one.error}")
        held = not broken([replace(strike, failed=errors)], [])
        sign = "✔" if held else "[red]✖[/red]"
        self._console.print(
            f"{len(self.strikes):4} {sign} {strike.fault.name} in {strike.phase}: {strike.end_state}, "
            f"{strike.took_s:.1f} s, {failed} failed {strike.why}",
            highlight=False,
            soft_wrap=True,
        )
        return held

    def _keep(self, made: Stage, strike: Strike) -> None:
        """What tells how it came to that."""
        kept = Path(tempfile.mkdtemp(prefix=f"baton-chaos-{self.seed}-{len(self.strikes)}-"))
        (kept / "strike.txt").write_text(f"seed {self.seed}\n{strike}\n")
        with contextlib.suppress(BatonError):
            (kept / "status.json").write_text(json.dumps(encode(made.serve.api.status()), indent=1))
            (kept / "history.json").write_text(json.dumps(encode(made.serve.api.history()), indent=1))
        for place in (made.state, *made.home.glob("*.log"), *made.repository.glob("*/config.pbtxt")):
            if place.is_dir():
                shutil.copytree(place, kept / place.name, ignore=shutil.ignore_patterns("*.sock", "ballast"))
            else:
                shutil.copy(place, kept / f"{place.parent.name}-{place.name}")
        self.evidence.append(kept)
        self._console.print(f"     evidence: {kept}", highlight=False, soft_wrap=True)


def _promote(made: Stage) -> None:
    """The person for whom the pause step waits."""
    with contextlib.suppress(BatonError):  # it went on meanwhile, or the control plane is away
        made.serve.api.promote(None, None, who="operator")


def _together(runs: Sequence[Run]) -> None:
    """All of them at once. When one fails, or a person ends it, the others end after their present strike."""
    with ThreadPoolExecutor(len(runs)) as pool:
        try:
            for done in [pool.submit(run.go) for run in runs]:
                done.result()
        finally:
            for run in runs:
                run.stop()


def main(words: Sequence[str] | None = None) -> int:
    """Prints the tables; 1 when a promise did not hold."""
    asked = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    asked.add_argument("--minutes", type=float, default=None, help="by default 30, and with --count until all struck")
    asked.add_argument("--count", type=int, default=None, help="strike so many faults, and no more")
    asked.add_argument("--seed", type=int, default=None, help="of the plan; by default a new one each time")
    asked.add_argument("--stages", type=int, default=2, help="so many Tritons and control planes, side by side")
    asked.add_argument("--only", default="", help="faults whose names hold this text, and nothing else")
    asked.add_argument("--phase", default="", help="phases whose names hold this text")
    asked.add_argument("--report", type=Path, help="write the tables to this file, as Markdown")
    given = asked.parse_args(words)
    plain = Console(highlight=False)
    console = Console(highlight=False, width=max(plain.width, WIDTH))
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(1 << 20)
    faults = [f for f in FAULTS if given.only in f.name]
    phases = [p for p in PHASES if given.phase in p]
    if not any(p in phases for f in faults for p in f.phases):
        asked.error("no fault is tried in a phase of these names")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started and mounted goes first
    minutes = given.minutes if given.minutes is not None else (30.0 if given.count is None else math.inf)
    limit = f"{minutes:g} minutes" if given.count is None else f"{given.count} faults"
    console.print(f"Seed {seed}, {limit}.")
    runs = []
    for number in range(given.stages):  # each its share of one plan
        share = islice(plan(random.Random(seed), faults, phases), number, given.count, given.stages)
        runs.append(Run(seed, 60.0 * minutes, share, console))
    found: list[Death] = []
    try:
        _together(runs)
        if not given.only:
            with tempfile.TemporaryDirectory(prefix="baton-chaos-") as home:
                found = deaths(Path(home), questions(text=8))
    except (Failed, BatonError) as error:
        console.print(f"[red]✖ {error}[/red]", soft_wrap=True)
    strikes = [strike for run in runs for strike in run.strikes]
    told = [*tables(strikes), *last_copy(found)]
    for table in told:
        console.print(shown(table))
    for name, reason in sorted({item for run in runs for item in run.skipped.items()}):
        console.print(f"Not tried: {name} ({reason}).")
    promises = [*broken(strikes, [request for run in runs for request in run.outside]), *dark(found)]
    for promise in promises:
        console.print(f"[red]✖ {promise}[/red]", soft_wrap=True)
    for folder in (folder for run in runs for folder in run.evidence):
        console.print(f"Evidence (seed {seed}): {folder}", soft_wrap=True)
    if given.report is not None:
        given.report.write_text("\n".join(markdown(table) for table in told))
    complete = bool(strikes) and bool(found or given.only)
    return 0 if complete and not promises else 1
