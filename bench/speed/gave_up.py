"""``python -m bench.speed.gave_up``: what clients that gave up leave behind, with and without a deadline; a part of
``make bench-engine``, alone.

Many clients ask at once, through the alias, and give up after 0.3 s. Triton (24.10) tells the engine nothing of
that. What it goes on computing is counted from the moment when the last of them gave up: seconds until nothing waits
and nothing is computed any more, and pairs. Ends with exit code 1 when a deadline does not spare what is promised.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tritonclient.grpc as triton
from bench.speed.cases import SOURCE, Request, make_cases
from bench.speed.measure import Promises, alone
from harness.command import few
from harness.network import fetch
from harness.places import ENGINE, MODELS
from harness.triton import running_triton
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from baton.client import encode
from baton.local import LocalTriton
from baton.triton.repository import ServiceFiles
from reranker_engine.inference.scorer import Scorer, ScorerSettings

ALIAS = "reranker"
CLIENTS = few(200, 20)
DOCUMENTS = 32
PATIENCE_S = 0.3
PAIRS, WAITING, WORK = "baton_engine_batch_pairs_sum", "nv_inference_pending_request_count", "baton_engine_beats_total"
QUIET_S = 5.0
"""Nothing was counted for so long: nothing more comes."""
SPARED = 4.0
"""Times as much is left behind without a deadline, at least."""


@dataclass(frozen=True)
class Left:
    """What was computed after the last client gave up."""

    seconds: float
    pairs: float


def gave_up(checkpoint: Path, request: Request) -> tuple[Left, Left]:
    """What is left without a deadline, and with one."""
    with tempfile.TemporaryDirectory(prefix="baton-gave-up-") as directory:
        home = Path(directory)
        model = home / "repository" / ENGINE
        model.mkdir(parents=True)
        shutil.copy(MODELS / ENGINE / "config.pbtxt", model)
        (model / "1").symlink_to(checkpoint)
        ServiceFiles(home / "repository", ALIAS, ENGINE).set_alias(1)
        with running_triton(home, home / "repository", load=[ALIAS]) as server:
            _ask(server, request, 1, None, 600.0)  # the first one tells the engine its pace
            return _ask(server, request, CLIENTS, None, PATIENCE_S), _ask(
                server, request, CLIENTS, PATIENCE_S, PATIENCE_S
            )


def _ask(server: LocalTriton, request: Request, count: int, deadline_s: float | None, patience_s: float) -> Left:
    inputs = []
    for name, value in encode(request.query, request.documents, media=request.media).items():
        tensor = triton.InferInput(name, list(value.shape), "BYTES")
        tensor.set_data_from_numpy(value)
        inputs.append(tensor)
    more = {} if deadline_s is None else {"timeout": int(deadline_s * 1e6)}
    done: list[object] = []
    with triton.InferenceServerClient(server.grpc_url) as client:
        for _ in range(count):
            client.async_infer(
                ALIAS, inputs, lambda result, error: done.append(error or result), client_timeout=patience_s, **more
            )
        while len(done) < count:
            time.sleep(0.001)
    begun = last = time.monotonic()
    seen = before = _figures(server)
    while (now := time.monotonic()) < last + QUIET_S:
        time.sleep(0.05)
        if (found := _figures(server)) != seen or found[WAITING]:
            seen, last = found, now
    return Left(last - begun, seen[PAIRS] - before[PAIRS])


def _figures(server: LocalTriton) -> dict[str, float]:
    lines = [line for line in fetch(server.metrics_url).splitlines() if f'model="{ENGINE}"' in line]
    return {
        name: sum(float(line.split()[-1]) for line in lines if line.startswith(name + "{"))
        for name in (PAIRS, WAITING, WORK)
    }


def show(console: Console, promises: Promises) -> None:
    """Prints the table. The model is the demo's: where a request takes long anyway, clients wait longer as well."""
    scorer = Scorer(SOURCE, ScorerSettings())
    without, with_one = gave_up(SOURCE, make_cases(scorer)[0].request(DOCUMENTS))
    table = Table(
        title=f"Left behind by {CLIENTS} clients that gave up after {PATIENCE_S * 1000:.0f} ms, {DOCUMENTS} documents",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    for column in ("", "seconds", "pairs", "of it"):
        table.add_column(column, justify="right" if column else "left")
    for name, left in (("without a deadline", without), ("with a deadline", with_one)):
        share = left.pairs / without.pairs if without.pairs else 0.0
        table.add_row(name, f"{left.seconds:.1f}", f"{left.pairs:.0f}", f"{share:.0%}")
    console.print(table)
    promises.least("what a deadline spares", without.pairs / max(with_one.pairs, 1.0), SPARED)


if __name__ == "__main__":
    sys.exit(alone("python -m bench.speed.gave_up", __doc__, show))
