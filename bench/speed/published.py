"""The engine in the published shapes, with random weights in bf16, on a GPU: against one pair at a time, and how much
of what the GPU can do at all it gets out of it."""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from bench.speed.cases import COUNTS, Case, make_cases, make_checkpoint, make_folder, meta_model
from bench.speed.cost import flops, matrix_rate
from bench.speed.measure import Promises, lines, timed
from bench.speed.one_pair import OnePair
from bench.speed.shapes import PUBLISHED, Shape
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from reranker_engine.inference.cache import FeatureCache
from reranker_engine.inference.scorer import Scorer, ScorerSettings

DTYPE = torch.bfloat16
STD = 0.02
"""Of the random weights, as published configurations have it: with more of it, deep models' scores are all 0 or 1."""
TOLERANCE = 0.0625
"""Between two scores: as far apart as two logits can bring them that differ by the 0.25 promised in half precision."""
CACHE_BYTES = 2**30
"""Of the vision cache: a token's features take 32 KiB in the 8B shape, and a hundred small pictures must fit."""
WORK_BYTES = 8 * 2**30
"""What a pass may take on the GPU beside the weights."""
ROUNDS = 3
SDPA = "aten::_scaled_dot_product_"

Then = Callable[[str, Path, Scorer], None]
"""What else to do with a shape's name, its checkpoint and the engine, once one pair at a time has left the memory."""


@dataclass(frozen=True)
class Share:
    """Of the matrix rate, 0 to 1.

    Attributes:
        whole: What a whole request gets of it, with JSON, decoding and tokens, which the CPU does first.
        passes: What is left of the request after that: pixels to the device, and the forward passes.
    """

    whole: float
    passes: float


def show(console: Console, promises: Promises, then: Then | None = None) -> None:
    """Prints the tables of all shapes, or one line that says why there are none."""
    if not torch.cuda.is_available():
        console.print("The published shapes in bf16 were left out: torch sees no GPU here.")
        return
    device = torch.device("cuda:0")
    rate = matrix_rate(device, DTYPE)
    name = torch.cuda.get_device_name(device)
    console.print(
        f"{name}, torch {torch.__version__}: {rate / 1e12:.0f} TFLOP/s in products of square bf16 matrices.\n"
    )
    for shape in PUBLISHED:
        free, _ = torch.cuda.mem_get_info(device)
        disk = Path(tempfile.gettempdir())
        reason = left_out(weight_bytes(shape), free, shutil.disk_usage(disk).free, disk)
        if reason is not None:
            console.print(f"{shape.name} was left out: {reason}")
            continue
        show_shape(console, promises, shape, device, rate, then=then)


def left_out(weights: int, free: int, free_disk: int, disk: Path) -> str | None:
    """Why a shape whose weights take so many bytes can't be measured here; None where it can."""
    need = 2 * weights + WORK_BYTES
    if free < need:
        return f"the engine and one pair at a time need {need / 1e9:.0f} GB of the GPU, {free / 1e9:.0f} GB are free."
    if free_disk < weights * 1.01:
        return (
            f"its checkpoint takes {weights / 1e9:.1f} GB, {free_disk / 1e9:.1f} GB are free in {disk}; "
            "name a folder with more room in TMPDIR."
        )
    return None


def weight_bytes(shape: Shape) -> int:
    """Of its checkpoint in ``DTYPE``."""
    with tempfile.TemporaryDirectory(prefix="baton-shape-") as directory:
        folder = Path(directory) / "checkpoint"
        make_folder(folder, text=shape.text, vision=shape.vision, tied=shape.tied)
        model = meta_model(folder)
    count = sum(parameter.numel() for parameter in model.parameters())
    return (count + (0 if shape.tied else model.language_model.embed_tokens.weight.numel())) * DTYPE.itemsize


def show_shape(
    console: Console,
    promises: Promises,
    shape: Shape,
    device: torch.device,
    rate: float,
    *,
    counts: Sequence[int] = COUNTS,
    then: Then | None = None,
) -> None:
    """Prints one shape's tables.

    Args:
        console: Where to.
        promises: Learns of scores that differ.
        shape: Its checkpoint is made in a temporary folder.
        device: Where both models go.
        rate: FLOPs a second of its best matrix product.
        counts: Numbers of documents, ascending.
        then: See ``Then``.
    """
    with tempfile.TemporaryDirectory(prefix="baton-bench-engine-") as directory:
        checkpoint = Path(directory) / "checkpoint"
        make_checkpoint(
            checkpoint, text=shape.text, vision=shape.vision, tied=shape.tied, dtype=DTYPE, device=device, std=STD
        )
        settings = ScorerSettings(devices=(str(device),), dtype=DTYPE, vision_cache_bytes=CACHE_BYTES)
        scorer = Scorer(checkpoint, settings)
        _show_ratios(console, promises, shape.name, scorer, OnePair(checkpoint, device, DTYPE), counts)
        torch.cuda.empty_cache()
        _show_shares(console, shape.name, scorer, rate, counts)
        if then is not None:
            then(shape.name, checkpoint, scorer)


def _show_ratios(
    console: Console, promises: Promises, name: str, scorer: Scorer, official: OnePair, counts: Sequence[int]
) -> None:
    table = _table(f"{name} in bf16: times as fast as one pair at a time; pairs a second at {counts[-1]}", counts)
    table.add_column("pairs/s", justify="right")
    table.add_column("scores differ by", justify="right")
    for line in lines(scorer, official, counts):
        promises.same(line, TOLERANCE, of=name)
        cells = [f"{speed.ratio:.1f}" for speed in line.speeds.values()]
        apart = max(speed.apart for speed in line.speeds.values())
        table.add_row(line.name, *cells, f"{line.speeds[counts[-1]].rate:.0f}", f"{apart:.1e}")
    console.print(table)


def _show_shares(console: Console, name: str, scorer: Scorer, rate: float, counts: Sequence[int]) -> None:
    table = _table(
        f"{name} in bf16: share of the matrix rate in percent, of whole requests and,\n"
        "after the slash, once they are decoded and tokenized; nothing in the cache",
        counts,
    )
    table.add_column("attention calls", overflow="fold")
    for case in make_cases(scorer):
        shares = [share(case, scorer, count, rate) for count in counts]
        cells = [f"{one.whole:.1%} / {one.passes:.1%}".replace("%", "") for one in shares]
        table.add_row(case.name, *cells, kernels(case, scorer, counts[-1]))
    console.print(table)


def share(case: Case, scorer: Scorer, count: int, rate: float) -> Share:
    """What the case at ``count`` documents gets of ``rate`` FLOPs a second; medians after a first round."""
    request, device = case.request(count), scorer.model.device
    prepared = request.prepared(scorer)
    whole, passes = [], []
    for _ in range(1 + ROUNDS):
        for found, work in (
            (whole, lambda: scorer.score([request.prepared(scorer)])),
            (passes, lambda: scorer.score([prepared])),
        ):
            scorer.cache = FeatureCache(scorer.settings.vision_cache_bytes)
            found.append(timed(work, device)[0])
    least = flops(scorer.model, prepared).total / rate
    return Share(least / statistics.median(whole[1:]), least / statistics.median(passes[1:]))


def kernels(case: Case, scorer: Scorer, count: int) -> str:
    """How often torch called which of its attentions, of which ``math`` writes all pairs into memory."""
    prepared = case.request(count).prepared(scorer)
    scorer.cache = FeatureCache(scorer.settings.vision_cache_bytes)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        scorer.score([prepared])
    called = {event.key: event.count for event in seen.key_averages() if event.key.startswith(SDPA)}
    return ", ".join(f"{key.removeprefix(SDPA)} {times}" for key, times in sorted(called.items()))


def _table(title: str, counts: Sequence[int]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("prefix / document tokens", no_wrap=True)
    for count in counts:
        table.add_column(str(count), justify="right")
    return table
