"""How ``ctl`` prints: plain lines when piped, rich on a terminal, JSON when asked for.

A line is a list of (text, style); the style is dropped where there is no colour. Layouts are made here for a given
width, so that a pipe gets the same words in the same order as a terminal.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import IO, Any

import click

from baton.codec import encode
from baton.domain import Gate, GateResult, Verdict
from baton.evidence import LiveCheck, LiveEvidence, WorstRequest

PIPED_WIDTH = 80
_NARROWEST = 4
"""Columns of a table's cell; less says nothing any more."""
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys instead of showing it: control characters, and marks that turn the direction of writing."""

Line = list[tuple[str, str]]

GOOD, BAD, WARN, BUSY, DIM, BOLD = "green", "bold red", "yellow", "cyan", "dim", "bold"

VERDICT_SIGNS = {
    Verdict.PASS: ("✔", GOOD),
    Verdict.FAIL: ("✖", BAD),
    Verdict.HOLD: ("⚠", WARN),
    Verdict.RUNNING: ("◌", BUSY),
    Verdict.PENDING: ("·", DIM),
}


def prepare() -> None:
    """A terminal or a pipe that can't show a sign gets a question mark, not an exception."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def is_terminal(stream: IO[str]) -> bool:
    """Whether the stream can be drawn on."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def can_ask() -> bool:
    """Whether a person sits there who can answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def width(stream: IO[str]) -> int:
    """Columns to fill."""
    return max(40, shutil.get_terminal_size().columns) if is_terminal(stream) else PIPED_WIDTH


def safe(text: str) -> str:
    """Text as a terminal may get it. Names of files, errors of Triton and answers of an API come from anywhere."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class SafeFormatter(logging.Formatter):
    """A log line whose text is safe for a terminal; a traceback keeps its lines."""

    def format(self, record: logging.LogRecord) -> str:
        return safe(super().format(record))


def say(message: str, *, err: bool = True) -> None:
    """A sentence for a person: on stderr, or on stdout where it is the answer itself."""
    columns = width(sys.stderr if err else sys.stdout)
    for line in safe(message).splitlines() or [""]:
        for part in wrap(line, columns) or [""]:
            click.echo(part, err=err)


def print_json(data: Any, *, compact: bool = False) -> None:
    """Facts, or what JSON can hold."""
    # \uXXXX is JSON's own escape: programs read the same text.
    click.echo(safe(json.dumps(encode(data), indent=None if compact else 2, ensure_ascii=False)))


def show(lines: Iterable[Line]) -> None:
    """Data for a person, on stdout."""
    if not is_terminal(sys.stdout):
        for line in lines:
            click.echo(plain(line))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for line in lines:
        console.print(Text.assemble(*safe_line(line)))


def plain(line: Line) -> str:
    return safe("".join(text for text, _ in line)).rstrip()


def safe_line(line: Line) -> Line:
    return [(safe(text), style) for text, style in line]


def wrap(text: str, columns: int, indent: str = "") -> list[str]:
    """Lines of at most ``columns``; a path or a command longer than that is not torn apart."""
    return textwrap.wrap(
        text, columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, tabsize=4
    )


def fit(text: str, columns: int) -> list[str]:
    """Lines of at most ``columns``, whatever is in the text."""
    return textwrap.wrap(text, max(columns, 8), break_on_hyphens=False, tabsize=4)


def cut(text: str, columns: int) -> str:
    """The beginning of the text, on one line."""
    text = " ".join(text.split())
    return text if len(text) <= columns else f"{text[: max(columns - 1, 0)].rstrip()}…"


def aligned(
    table: Sequence[Mapping[str, str]], columns: int, *, shrink: Sequence[str], leave_out: Sequence[str]
) -> list[Line]:
    """Aligned columns: a line of their names, and one for each row. Every row has a text for each name.

    Columns in ``shrink`` give way, widest first, until a line fits. Where that does not suffice, those in ``leave_out``
    are left out, one after the other.
    """
    rows = [{name: name for name in table[0]}, *table]
    widths: dict[str, int] = {}
    for left_out in range(len(leave_out) + 1):
        widths = {name: max(len(row[name]) for row in rows) for name in rows[0] if name not in leave_out[:left_out]}
        giving = [name for name in shrink if name in widths] or list(widths)
        excess = sum(widths.values()) + 2 * (len(widths) - 1) - columns
        while excess > 0 and widths[widest := max(giving, key=widths.__getitem__)] > _NARROWEST:
            widths[widest] -= 1
            excess -= 1
        if excess <= 0:
            break
    texts = ["  ".join(cut(row[name], wide).ljust(wide) for name, wide in widths.items()).rstrip() for row in rows]
    return [[(text, "" if index else DIM)] for index, text in enumerate(texts)]


# Values


def number(value: float) -> str:
    """A gate's figure in three digits: ``0.0004``, ``1.79e-07``, ``542M``."""
    if not math.isfinite(value) or abs(value) < 1e5:  # noqa: PLR2004
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"  # noqa: PLR2004
    for unit in ("k", "M", "G"):
        value /= 1000
        if abs(value) < 999.5:  # noqa: PLR2004
            return f"{value:.3g}{unit}"
    return f"{value / 1000:.3g}T"


def size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:  # noqa: PLR2004
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def percent(share: float) -> str:
    """Percent in tenths: ``5 %``, ``27.5 %``."""
    return f"{round(share, 1):g} %"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 60:  # noqa: PLR2004
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}m" if hours else f"{minutes}m {rest:02}s"


def moment(iso: str | float | None, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """A time of a fact (ISO 8601, or seconds since the epoch) as this machine's clock shows it."""
    if iso is None:
        return "-"
    at = datetime.fromtimestamp(iso, UTC) if isinstance(iso, int | float) else datetime.fromisoformat(iso)
    return at.astimezone().strftime(form)


def figures(gate: GateResult | LiveCheck) -> str:
    """What a gate measured, and what it was held against: ``0.588 (limit 0.001)``."""
    observed, limit = gate.observed, gate.limit
    if observed is None or observed == limit == 0:  # a count of faults, and there is none: the message says it
        return ""
    return number(observed) if limit is None else f"{number(observed)} (limit {number(limit)})"


def gate_news(gate: GateResult) -> tuple[Any, ...]:
    """What is printed once of a gate. Its figures and its words move with each request, and are no news."""
    checks = gate.evidence.checks if isinstance(gate.evidence, LiveEvidence) else ()
    decided = tuple((check.name, check.verdict) for check in checks)
    return gate.gate, gate.verdict, gate.skipped, gate.evidence.missing, decided


def gate_lines(
    gate: GateResult, columns: int, *, full: bool = False, indent: int = 2, awaited: bool = True
) -> list[Line]:
    """One line for a gate that is well, unless its message is wanted in ``full``; then one for each of its checks.

    A message that a person has to read is never cut: the gate failed, or it holds and a rollout waits for it
    (``awaited``).
    """
    live = gate.evidence if isinstance(gate.evidence, LiveEvidence) else None
    if gate.gate is Gate.MEMORY and gate.verdict is Verdict.FAIL:  # it turns nothing back: a person is to look
        return _verdict_lines(gate.gate, gate, columns, indent, full=full, sign=("⚠", WARN), word="alarm")
    awaited = awaited and gate.verdict is Verdict.HOLD and gate.gate is not Gate.MEMORY
    if live is None or not live.checks:
        return _verdict_lines(gate.gate, gate, columns, indent, full=full, awaited=awaited)
    # Its checks hold the gate's words and figures, which are those of the check that decided.
    lines = _verdict_lines(gate.gate, gate, columns, indent, full=full, awaited=awaited, instead=_samples(live))
    for check in live.checks:
        lines += _verdict_lines(check.name, check, columns, indent + 2, full=full, awaited=awaited)
    if gate.verdict is Verdict.FAIL and live.worst:
        text = f"Worst requests: {', '.join(_worst(one) for one in live.worst)}."
        below = " " * (indent + 2)
        lines += [[(below, ""), (part, DIM)] for part in fit(text, columns - len(below))]
    return lines


def _verdict_lines(
    name: str, of: GateResult | LiveCheck, columns: int, indent: int, *, full: bool, instead: str | None = None,
    awaited: bool = False, sign: tuple[str, str] | None = None, word: str = "",
) -> list[Line]:  # fmt: skip
    """``instead`` stands in the place of its figures and its message."""
    holds = of.verdict is Verdict.HOLD
    loud = of.verdict is Verdict.FAIL or (holds and awaited)
    if holds and not awaited:
        sign = VERDICT_SIGNS[Verdict.PENDING]
    mark, style = sign or VERDICT_SIGNS.get(of.verdict, ("?", ""))
    head = f" {name:<13} {word or ('skipped' if of.skipped else of.verdict):<7}"
    line: Line = [(" " * indent, ""), (mark, style), (head, style if loud else "")]
    measured, message = figures(of), of.message
    if instead is not None:
        measured, message, loud = "", instead, False
    room = columns - sum(len(text) for text, _ in line) - 2
    if len(measured) > room and loud:
        measured, message = "", f"{measured}: {message}"
    elif len(measured) > room:
        measured = measured.partition(" ")[0]
    if 0 < len(measured) <= room:
        line.append((f"  {measured}", ""))
        room -= len(measured) + 2
    if len(message) <= room or not (loud or full):
        return [[*line, (f"  {cut(message, room)}" if message and room > 0 else "", DIM)]]
    below = " " * (indent + 2)
    return [line, *([(below, ""), (part, "" if loud else DIM)] for part in fit(message, columns - len(below)))]


def _samples(evidence: LiveEvidence) -> str:
    samples = evidence.samples
    counted = f"{samples.stable} stable, {samples.candidate} candidate, {samples.pairs} pairs"
    own = evidence.synthetic
    return f"synthetic: {own} golden requests, no live traffic: {counted}" if own else counted


def _worst(one: WorstRequest) -> str:
    about = [*([one.kind] if one.kind else []), f"drift {number(one.drift)}"]
    return f"{one.id or 'one without an id'} ({', '.join(about)})"
