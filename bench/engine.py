"""``make bench-engine``: how fast the engine is, against the official way of computing and behind Triton.

The official way is one (query, document) pair at a time, which is what the official class does; here with
transformers' own model, tokenizer and image processor (see ``bench.speed.one_pair``). Both compute in this process, in
turn, with the same threads and the same memory allocator, so that times can be shown as ratios. Where there is a GPU,
the same follows there in the published shapes of 2B and 8B parameters in bf16, with the share of what the GPU can do.
Ends with exit code 1 when a ratio is below what is promised, or when the two's scores differ.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from bench.speed import gave_up
from bench.speed.cases import COUNTS, PROMISED_AT, make_cases, make_checkpoint
from bench.speed.measure import TOLERANCE, Promises, lines
from bench.speed.one_pair import OnePair
from bench.speed.published import show
from bench.speed.served import served
from harness.command import no_options
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from reranker_engine.inference.scorer import Scorer, ScorerSettings
from reranker_engine.service.allocator import keep_freed_memory

SERVED_AT = 4
DOCUMENTS = 8
SERVED = 0.9
console = Console(highlight=False)


def against_one_pair(checkpoint: Path, scorer: Scorer, promises: Promises) -> None:
    """Prints the first table."""
    official = OnePair(checkpoint)
    table = Table(
        title=(
            f"Times as fast as one pair at a time: fp32, {torch.get_num_threads()} threads, medians.\n"
            "One pair at a time: the official class's way of computing, with transformers'\n"
            "own Qwen3-VL model, tokenizer and image processor. By number of documents;\n"
            f"the promise and the engine's pairs a second are at {PROMISED_AT}."
        ),
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    table.add_column("prefix / document tokens", no_wrap=True)
    for count in COUNTS:
        table.add_column(str(count), justify="right")
    table.add_column("promised", justify="right")
    table.add_column("pairs/s", justify="right")
    for line in lines(scorer, official):
        promises.same(line, TOLERANCE)
        at = line.speeds[PROMISED_AT]
        promises.least(f"{line.name.strip()} at {PROMISED_AT}", at.ratio, line.promised)
        cells = [f"{speed.ratio:.1f}" for speed in line.speeds.values()]
        table.add_row(line.name, *cells, f"{line.promised:g}", f"{at.rate:.0f}")
    console.print(table)


def behind_triton(checkpoint: Path, scorer: Scorer, promises: Promises, of: str) -> None:
    """Prints the second table, in whose title ``of`` says which model."""
    case = make_cases(scorer)[0]
    found = served(checkpoint, scorer, case.request(DOCUMENTS))
    table = Table(
        title=(
            f"Pairs a second through Triton, as a share of those in process: {of}{case.name}, {DOCUMENTS} documents"
        ),
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    for count in found:
        table.add_column(f"concurrency {count}", justify="right")
    table.add_row(*(f"{share:.2f}" for share in found.values()))
    console.print(table)
    promises.least(f"{of}through Triton at concurrency {SERVED_AT}", found[SERVED_AT], SERVED)


def main() -> int:
    no_options("python -m bench.engine", __doc__)
    keep_freed_memory()
    promises = Promises()
    with tempfile.TemporaryDirectory(prefix="baton-bench-engine-") as directory:
        checkpoint = Path(directory) / "checkpoint"
        make_checkpoint(checkpoint)
        scorer = Scorer(checkpoint, ScorerSettings())
        against_one_pair(checkpoint, scorer, promises)
        behind_triton(checkpoint, scorer, promises, "")
        gave_up.show(console, promises)
    show(console, promises, then=lambda name, folder, engine: behind_triton(folder, engine, promises, f"{name}, "))
    return promises.told(console)


if __name__ == "__main__":
    sys.exit(main())
