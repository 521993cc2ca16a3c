"""What came of the strikes: which requests each cost, the tables, and which promises did not hold. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from bench.compare.death import Death
from harness.traffic import Request
from rich.box import SIMPLE_HEAD
from rich.table import Table
from tests.chaos.fault import PHASES, Fault


@dataclass(slots=True)
class Strike:
    """One fault in one phase, and what came of it. Times are seconds since the epoch."""

    fault: Fault
    phase: str
    """As it was met, just before."""
    at: float
    over: float
    """When what was hit had been started again, or had room again."""
    rest: float
    """When nothing went on any more."""
    old: int
    new: int | None
    end: int | None
    why: str = ""
    """What was still wrong when the time to come to rest was over."""
    leaks: int = 0
    """Versions that Triton never lets go of, from this fault and those before it."""
    aborted: bool = False
    """Triton's process ended although it was not hit."""
    failed: list[Request] = field(default_factory=list)
    silence_s: float = 0.0
    """The longest time in which no request was answered."""

    @property
    def took_s(self) -> float:
        return self.rest - self.at

    @property
    def end_state(self) -> str:
        if self.why:
            return "diverged"
        return "old" if self.end == self.old else "new"


def settle_failures(strikes: Sequence[Strike], requests: Iterable[Request]) -> list[Request]:
    """Give each failed request to the strike during which it was under way, the earlier where there are two.

    Returns those that failed outside of all.
    """
    outside = []
    ended = sorted(requests, key=lambda r: r.came)
    for one in (r for r in ended if r.error):
        for strike in strikes:
            if one.due <= strike.rest and one.came >= strike.at:
                strike.failed.append(one)
                break
        else:
            outside.append(one)
    answered = [r.came for r in ended if not r.error]
    for strike in strikes:
        end = max(strike.over, strike.rest)
        moments = [strike.at, *(a for a in answered if strike.at < a < end), end]
        strike.silence_s = max(b - a for a, b in pairwise(moments))
    return outside


def broken(strikes: Sequence[Strike], outside: Sequence[Request]) -> list[str]:
    """What was promised and did not hold."""
    told = [f"{len(outside)} requests failed while nothing was hit: {outside[0].error}"] if outside else []
    for number, one in enumerate(strikes, 1):
        where = f"{number}: {one.fault.name} in {one.phase}"
        if one.why:
            told.append(f"{where}: did not come to rest: {one.why}")
        if one.failed and not one.fault.fails:
            told.append(f"{where}: {len(one.failed)} requests failed, none may: {one.failed[0].error}")
        if one.aborted and one.fault.triton_lives:
            told.append(f"{where}: Triton's own process must live")
        wrong = [r for r in one.failed if r.version is not None]
        told += [f"{where}: {r.error}" for r in wrong[:1] if one.fault.fails]
    return told


HEAD = ("times", "failed", "silence, s", "rest, s", "worst, s", "old", "new", "diverged")


def _row(strikes: Sequence[Strike]) -> list[str]:
    took = [s.took_s for s in strikes]
    ends = [s.end_state for s in strikes]
    return [
        str(len(strikes)),
        str(sum(len(s.failed) for s in strikes)),
        f"{max(s.silence_s for s in strikes):.1f}",
        f"{statistics.median(took):.1f}",
        f"{max(took):.1f}",
        *(str(ends.count(state)) for state in ("old", "new", "diverged")),
    ]


def _faults(strikes: Sequence[Strike]) -> list[tuple[str, list[str]]]:
    """A row for each fault, with the number of phases in which it struck."""
    rows = []
    for fault in dict.fromkeys(s.fault for s in strikes):
        mine = [s for s in strikes if s.fault == fault]
        rows.append((fault.name, [str(len({s.phase for s in mine})), *_row(mine)]))
    return sorted(rows)


def _phases(strikes: Sequence[Strike]) -> list[tuple[str, list[str]]]:
    order = [*PHASES, *sorted({s.phase for s in strikes} - set(PHASES))]
    grouped = [(phase, [s for s in strikes if s.phase == phase]) for phase in order]
    return [(phase, [str(len({s.fault.name for s in mine})), *_row(mine)]) for phase, mine in grouped if mine]


@dataclass(frozen=True, slots=True)
class Figures:
    """A table, however it is shown; the first cell of a row is its name."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, list[str]]]


def tables(strikes: Sequence[Strike]) -> list[Figures]:
    """By fault, those that may cost no request apart from the others; by phase; and all together."""
    kept = [s for s in strikes if not s.fault.fails]
    everything = [("all", [str(len({s.phase for s in strikes})), *_row(strikes)])] if strikes else []
    found = [
        Figures("A living copy answers: no request may fail", ("fault", "phases", *HEAD), _faults(kept)),
        Figures("The same faults, by phase", ("phase", "faults", *HEAD), _phases(kept)),
        Figures(
            "Requests may fail until it is mended",
            ("fault", "phases", *HEAD),
            _faults([s for s in strikes if s.fault.fails]),
        ),
        Figures("All of them", ("", "phases", *HEAD), everything),
    ]
    return [table for table in found if table.rows]


def last_copy(found: Sequence[Death]) -> list[Figures]:
    """The demo's engine with the default settings, against the bare load; see ``bench.compare.death``."""
    head = ("how", "noticed, s", "answers again, s", "bare load, s", "ratio")
    rows = [(d.how, [f"{s:.1f}" for s in (d.told_s, d.answers_s, d.load_s, d.answers_s / d.load_s)]) for d in found]
    return [Figures("The only engine process dies under traffic", head, rows)] if rows else []


def shown(figures: Figures) -> Table:
    """For a terminal."""
    table = Table(title=figures.title, title_justify="left", box=SIMPLE_HEAD)
    for number, name in enumerate(figures.head):
        table.add_column(name, justify="left" if number == 0 else "right")
    for name, cells in figures.rows:
        table.add_row(name, *cells)
    return table


def markdown(figures: Figures) -> str:
    """The same for a page."""
    head = _line(figures.head), _line(["---", *["---:"] * (len(figures.head) - 1)])
    rows = (_line([name, *cells]) for name, cells in figures.rows)
    return "\n".join([f"### {figures.title}", "", *head, *rows]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
