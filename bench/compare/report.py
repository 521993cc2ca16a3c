"""The tables and the figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.compare.measure import Measured, Moments, Swing
from bench.compare.paths import Cost
from bench.compare.way import NEW, OLD
from harness.places import STATE
from harness.traffic import Request
from rich.box import SIMPLE_HEAD
from rich.table import Table

from baton.durable import make_private

_MIB = 2**20
_INK = {OLD: "#7a8ba3", NEW: "#1f9d6b", None: "#c8312b"}
_FLOOR_MS = 1.0


def _ms(seconds: float) -> str:
    return "-" if math.isnan(seconds) else f"{seconds * 1000:.0f}"


def _span(swing: Swing) -> str:
    return "-" if math.isnan(swing.median_s) else f"{_ms(swing.lowest_s)}-{_ms(swing.highest_s)}"


def _span_size(swing: Swing) -> float:
    return swing.highest_s - swing.lowest_s


_ROWS: tuple[tuple[str, str, Callable[[Measured], float], Callable[[Measured], str]], ...] = (
    # The name, the name in the sentence below the table, the figure (lower is better), what the cell shows.
    ("time of the update, s", "time of the update", lambda m: m.update_s, lambda m: f"{m.update_s:.1f}"),
    ("failed requests", "failed requests", lambda m: m.failed, lambda m: str(m.failed)),
    ("seconds without service", "seconds without service", lambda m: m.dark_s, lambda m: str(m.dark_s)),
    ("p95 before, ms", "p95 before", lambda m: m.before.median_s, lambda m: _ms(m.before.median_s)),
    ("  lowest to highest", "its swing", lambda m: _span_size(m.before), lambda m: _span(m.before)),
    ("p95 during, ms", "p95 during", lambda m: m.during.median_s, lambda m: _ms(m.during.median_s)),
    ("  lowest to highest", "its swing", lambda m: _span_size(m.during), lambda m: _span(m.during)),
    ("first new answer, ms", "first new answer", lambda m: m.first_answer_s, lambda m: _ms(m.first_answer_s)),
    ("memory before, MiB", "memory before", lambda m: m.memory_before, lambda m: f"{m.memory_before / _MIB:.0f}"),
    ("memory at peak, MiB", "memory at peak", lambda m: m.memory_peak, lambda m: f"{m.memory_peak / _MIB:.0f}"),
)


def table(found: Mapping[str, Measured]) -> Table:
    """One column a way: ``found`` is in the order of the columns, its keys are their heads. Fits into 80 columns."""
    shown = Table(title="One update, by way", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown.add_column("", no_wrap=True)
    for name in found:
        shown.add_column(name, justify="right", max_width=10)
    for label, _, _, cell in _ROWS:
        shown.add_row(label, *(cell(one) for one in found.values()))
    return shown


def best(found: Mapping[str, Measured]) -> str:
    """One sentence that names, for each row, the way or ways that nobody beats; equal is what is shown equal."""
    parts = []
    for _, name, figure, cell in _ROWS:
        known = {way: one for way, one in found.items() if not math.isnan(figure(one))}
        if not known:
            continue
        lowest = min(known.values(), key=figure)
        ways = [way.partition(" ")[0] for way, one in known.items() if cell(one) == cell(lowest)]
        parts.append(f"{name} {'all' if len(ways) == len(found) else ' '.join(ways)}")
    return f"Best: {'; '.join(parts)}."


def cost_table(found: Sequence[Cost], title: str) -> Table:
    """p50 and p95 of each path, and as ratios to the first path at the same concurrency."""
    shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    shown.add_column("path")
    for name in ("clients", "p50, ms", "p95, ms", "p50 ratio", "p95 ratio"):
        shown.add_column(name, justify="right")
    first: dict[int, Cost] = {}
    for cost in found:
        base = first.setdefault(cost.concurrency, cost)
        shown.add_row(
            cost.path,
            str(cost.concurrency),
            f"{cost.p50_s * 1000:.1f}",
            f"{cost.p95_s * 1000:.1f}",
            f"{cost.p50_s / base.p50_s:.2f} x",
            f"{cost.p95_s / base.p95_s:.2f} x",
        )
    return shown


def figure(runs: Mapping[str, tuple[Sequence[Request], Moments]], target: Path) -> None:
    """An SVG with one panel a way: each request's latency over the seconds since the command.

    A dot is an answer, its colour the version; a cross is a failed request, at the time at which it was due. The line
    marks the first answer of the new version, the band the update.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "updates"  # the same figures give the same file
    drawing = Figure(figsize=(9, 1.7 * len(runs) + 0.8), layout="constrained")
    panels = drawing.subplots(len(runs), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for panel, (name, (answers, at)) in zip(panels, runs.items(), strict=True):
        panel.axvspan(0, at.switched - at.command, color="#f3e7c9", zorder=0)
        panel.axvline(at.first_new - at.command, color="#1f9d6b", linewidth=1, zorder=1)
        for version, mark, label in ((OLD, ".", "old version"), (NEW, ".", "new version"), (None, "x", "failed")):
            dots = [a for a in answers if a.version == version and at.start <= a.due < at.end]
            panel.scatter(
                [a.due - at.command for a in dots],
                [max(a.latency_s * 1000, _FLOOR_MS) for a in dots],
                s=14,
                marker=mark,
                linewidths=0.8 if version is None else 0,
                color=_INK[version],
                label=label,
                zorder=2,
            )
        panel.set_title(name, loc="left", fontsize=9)
        panel.set_yscale("log")
        panel.grid(axis="y", color="#e6e6e6", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(loc="upper right", ncols=3, fontsize=8, frameon=False, bbox_to_anchor=(1, 1.35))
    drawing.supylabel("latency from when it was due, ms", fontsize=9)
    panels[-1].set_xlabel(
        "seconds since the command; line: first answer of the new version; band: until only it answers"
    )
    if STATE in target.parents:
        make_private(STATE)
    target.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(target, format="svg", metadata={"Date": None})
