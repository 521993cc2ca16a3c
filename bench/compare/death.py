"""How long a service is without answers when its engine process dies, against what the load alone takes.

Both on one Triton, with the same checkpoint: machines differ, so the ratio tells. Without Baton the first figure has no
end: Triton 24.10 calls the version READY for ever.
"""

from __future__ import annotations

import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.compare.lapse import CLIENTS, drop, stage
from harness.command import SHORT, few, no_options
from harness.places import ENGINE, GOLDEN
from harness.traffic import Question, Traffic, questions, rerankers
from harness.waiting import Failed, until
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from baton.domain import ModelState
from baton.errors import BatonError
from baton.local import LocalTriton, procfs
from baton.triton.grpc import GrpcTriton

FOUND_WITHIN_S = 30.0
"""What is granted beyond the load: the questions with the defaults, and a busy machine."""
LOADS = few(3, 1)
WAYS = (("kill -9", signal.SIGKILL), ("hangs (SIGSTOP)", signal.SIGSTOP))


@dataclass(frozen=True, slots=True)
class Death:
    """One way to die. Seconds from it until Baton says so, and until a new request is answered."""

    how: str
    told_s: float
    answers_s: float
    load_s: float


def deaths(home: Path, asked: Sequence[Question]) -> list[Death]:
    """The only version of a service dies under traffic, in two ways."""
    found = []
    with stage(home, 'golden = "{golden}"\n', golden=GOLDEN) as (serve, triton, engine):
        drop(home, engine, 1)
        load = _bare(triton)
        serve.start()
        serve.rest(1)
        for how, number in few(WAYS, WAYS[:1]):
            urls = [f"grpc://{triton.grpc_url}", f"http://{triton.http_url}"]
            traffic = Traffic(rerankers(urls, asked, CLIENTS), rate=20.0)
            traffic.start()
            try:
                until(lambda: len(traffic.answers) > 20, "answers")  # noqa: B023 - used at once
                os.kill(next(s.pid for s in procfs.stubs() if s.server == triton.pid and s.model == ENGINE), number)
                at = time.time()
                serve.until(lambda service: service["phase"] == "degraded", "Baton to notice")
                told = time.time() - at
                until(lambda: any(a.due > at for a in traffic.answers[-20:]), "answers")  # noqa: B023
                answers = min(a.came for a in list(traffic.answers) if a.due > at) - at
                serve.rest(1)
            finally:
                traffic.stop()
            found.append(Death(how, told, answers, load))
    return found


def _bare(triton: LocalTriton) -> float:
    """The median of a few loads of the engine, without Baton, in seconds; it stays loaded."""
    client, times = GrpcTriton("bare", triton.grpc_url), []
    for _ in range(LOADS):
        began = time.monotonic()
        client.load(ENGINE, 600.0)
        times.append(time.monotonic() - began)
        if len(times) < LOADS:
            client.unload(ENGINE, 60.0)
            until(lambda: not _held(client), "the engine to leave")
    client.close()
    return statistics.median(times)


def _held(client: GrpcTriton) -> bool:
    return any(m.state is not ModelState.UNAVAILABLE for m in client.index().get(ENGINE, {}).values())


def death_table(found: Sequence[Death]) -> Table:
    """What was seen, and as a ratio to the bare load."""
    shown = Table(title="The only engine process dies under traffic", title_justify="left", box=SIMPLE_HEAD)
    shown.add_column("how")
    for name in ("noticed, s", "answers again, s", "bare load, s", "ratio"):
        shown.add_column(name, justify="right")
    for one in found:
        figures = (
            f"{one.told_s:.1f}",
            f"{one.answers_s:.1f}",
            f"{one.load_s:.1f}",
            f"{one.answers_s / one.load_s:.1f}",
        )
        shown.add_row(one.how, *figures)
    return shown


def dark(found: Sequence[Death]) -> list[str]:
    """What was promised and did not hold."""
    return [
        f"{o.how}: no answers for {o.answers_s:.1f} s, {FOUND_WITHIN_S:g} s + 2 loads of {o.load_s:.1f} s are granted"
        for o in found
        if not SHORT and o.answers_s > FOUND_WITHIN_S + 2 * o.load_s
    ]


def main() -> int:
    """Prints the table; 1 when what is promised did not hold."""
    no_options("python -m bench.compare.death", __doc__)
    console = Console(highlight=False)
    try:
        with tempfile.TemporaryDirectory(prefix="baton-compare-") as directory:
            found = deaths(Path(directory), questions(text=8))
    except (Failed, BatonError) as error:
        console.print(f"[red]✖ {error}[/red]", soft_wrap=True)
        return 1
    console.print(death_table(found))
    for promise in dark(found):
        console.print(f"[red]✖ {promise}[/red]", soft_wrap=True)
    return 1 if dark(found) else 0


if __name__ == "__main__":
    sys.exit(main())
