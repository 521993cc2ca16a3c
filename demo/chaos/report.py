"""What came of the strikes: which requests each cost, the tables, and which promises did not hold. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from demo.chaos.clients import Request
from demo.chaos.faults import PHASES, Fault
from rich.box import SIMPLE_HEAD
from rich.table import Table


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
    ended = sorted(requests, key=lambda r: r.ended)
    for one in (r for r in ended if r.error):
        for strike in strikes:
            if one.began <= strike.rest and one.ended >= strike.at:
                strike.failed.append(one)
                break
        else:
            outside.append(one)
    answered = [r.ended for r in ended if not r.error]
    for strike in strikes:
        moments = [strike.at, *(a for a in answered if strike.at < a < strike.rest), strike.rest]
        strike.silence_s = max(b - a for a, b in zip(moments, moments[1:], strict=False))
    return outside


def broken(strikes: Sequence[Strike]) -> list[str]:
    """What was promised and did not hold."""
    told = []
    for number, one in enumerate(strikes, 1):
        where = f"{number}: {one.fault.name} in {one.phase}"
        if one.why:
            told.append(f"{where}: did not come to rest: {one.why}")
        if one.failed and not one.fault.fails:
            told.append(f"{where}: {len(one.failed)} requests failed, none may: {one.failed[0].error}")
        wrong = [r for r in one.failed if r.version is not None]
        told += [f"{where}: {r.error}" for r in wrong[:1] if one.fault.fails]
    return told


HEAD = ("times", "failed", "silence, s", "rest, median s", "worst s", "old", "new", "diverged")


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


def _faults(strikes: Sequence[Strike], *, promised: bool) -> list[tuple[str, list[str]]]:
    """Rows by fault, of those that may cost no request or of the others; with the phases in which they struck."""
    rows = []
    for fault in dict.fromkeys(s.fault for s in strikes):
        if promised == (not fault.fails):
            mine = [s for s in strikes if s.fault is fault]
            rows.append((fault.name, [str(len({s.phase for s in mine})), *_row(mine)]))
    return sorted(rows)


def _phases(strikes: Sequence[Strike]) -> list[tuple[str, list[str]]]:
    order = [*PHASES, *sorted({s.phase for s in strikes} - set(PHASES))]
    grouped = [(phase, [s for s in strikes if s.phase == phase]) for phase in order]
    return [(phase, [str(len({s.fault.name for s in mine})), *_row(mine)]) for phase, mine in grouped if mine]


def _tables(strikes: Sequence[Strike]) -> list[tuple[str, tuple[str, ...], list[tuple[str, list[str]]]]]:
    kept = [s for s in strikes if not s.fault.fails]
    found = [
        ("A living copy answers: no request may fail", ("fault", "phases", *HEAD), _faults(strikes, promised=True)),
        ("Requests may fail until it is mended", ("fault", "phases", *HEAD), _faults(strikes, promised=False)),
        ("The first table's faults, by phase", ("phase", "faults", *HEAD), _phases(kept)),
        ("All of them", ("", "phases", *HEAD), [("all", [str(len({s.phase for s in strikes})), *_row(strikes)])] if strikes else []),
    ]
    return [table for table in found if table[2]]


def console_tables(strikes: Sequence[Strike]) -> list[Table]:
    shown = []
    for title, head, rows in _tables(strikes):
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
        for number, name in enumerate(head):
            table.add_column(name, justify="left" if number == 0 else "right")
        for name, figures in rows:
            table.add_row(name, *figures)
        shown.append(table)
    return shown


def markdown(strikes: Sequence[Strike]) -> str:
    """The same tables."""
    parts = []
    for title, head, rows in _tables(strikes):
        lines = [f"### {title}", "", _line(head), _line(["---", *["---:"] * (len(head) - 1)])]
        parts.append("\n".join([*lines, *(_line([name, *figures]) for name, figures in rows)]) + "\n")
    return "\n".join(parts)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
