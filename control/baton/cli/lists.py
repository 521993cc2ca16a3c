"""``ctl versions`` and ``ctl history``: tables."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from baton import verbs
from baton.cli.output import (
    BAD,
    BOLD,
    DIM,
    VERDICT_SIGNS,
    Line,
    aligned,
    duration,
    figures,
    fit,
    moment,
    percent,
    print_json,
    show,
    size,
    width,
)
from baton.cli.settings import Settings, command
from baton.domain import GateResult, Kind, Verdict
from baton.facts import Pruned, RolloutFacts, VersionOnDisk
from baton.reasons import named

_INDENT = 4
_UNBROKEN = "\u00a0"


@command(verbs.Versions)
def versions(settings: Settings, verb: verbs.Versions) -> None:
    rows = settings.client().ask(verb)
    if settings.json:
        print_json(rows)
    else:
        show(versions_lines(rows, width(sys.stdout)))


def versions_lines(rows: Sequence[VersionOnDisk], columns: int) -> list[Line]:
    """The versions of each service, below its name."""
    lines: list[Line] = []
    for name in dict.fromkeys(row.service for row in rows):
        lines += [[(name, BOLD)], *_versions([r for r in rows if r.service == name], columns), []]
    return lines[:-1] or [[("There is no version on disk.", "")]]


def _versions(rows: Sequence[VersionOnDisk], columns: int) -> list[Line]:
    table = [
        {
            "VERSION": "-" if row.version is None else str(row.version),
            "LABEL": row.label or "-",
            "RELEASE": row.release or "-",
            "STATE": row.state,
            "SIZE": size(row.size),
            "TRAINED": row.trained_at or "-",
        }
        for row in rows
    ]
    head, *body = aligned(table, columns, shrink=("LABEL", "TRAINED"), leave_out=("TRAINED", "SIZE", "RELEASE"))
    lines = [head]
    for row, line in zip(rows, body, strict=True):
        lines.append(line)
        metrics = ", ".join(f"{k} {v}" for k, v in row.metrics.items())
        lines += _below((metrics, row.notes, row.reason), columns)
    return lines


@command(verbs.History)
def history(settings: Settings, verb: verbs.History) -> None:
    rows = settings.client().ask(verb)
    if settings.json:
        print_json(rows)
    else:
        show(history_lines(rows, width(sys.stdout)))


def history_lines(rows: Sequence[RolloutFacts], columns: int) -> list[Line]:
    """A line for each rollout, and below it who, why and the verdicts."""
    if not rows:
        return [[("There was no rollout yet.", "")]]
    table = [
        {
            "ID": str(row.id),
            "BEGAN": moment(row.started_at, "%Y-%m-%d %H:%M"),
            "SERVICE": row.service,
            "KIND": row.kind,
            "VERSION": _versions_of(row),
            "OUTCOME": row.outcome or _under_way(row),
            "TOOK": duration(row.duration_s),
            "LIVE IN": duration(row.time_to_live_s),
        }
        for row in rows
    ]
    leave_out = ("LIVE IN", "SERVICE", "TOOK", "KIND")
    head, *body = aligned(table, columns, shrink=("SERVICE",), leave_out=leave_out)
    lines = [head]
    for row, line in zip(rows, body, strict=True):
        lines.append(line)
        label = "" if row.label == str(row.candidate) else f"{row.label}, "
        why = f"{label}{row.release}, by {row.who}: {row.why}"
        gates = "  ".join(_gate(g) for g in row.gates if g.verdict is not Verdict.PENDING)
        gone = "" if row.removed_at is None else f"removed from disk {moment(row.removed_at, '%Y-%m-%d %H:%M')}"
        lines += _below((why, gates, row.message, gone), columns)
    return lines


def pruned_lines(answer: Pruned, columns: int) -> list[Line]:
    """What goes, and why the rest stays."""
    goes = [v.version for v in answer.versions if v.goes]
    verb = "would be removed" if answer.dry_run else "is being removed" if answer.under_way else "removed from disk"
    head = f"{answer.service}: {named(goes)} {verb}, which frees {size(answer.bytes)}."
    if not goes:
        head = f"{answer.service}: nothing to remove."
    if answer.free is not None:
        head += f" {size(answer.free)} are free now."
    table = [
        {
            "VERSION": str(v.version),
            "LABEL": v.label or "-",
            "SIZE": size(v.bytes),
            "": "" if v.goes else "stays",
        }
        for v in answer.versions
    ]
    lines: list[Line] = [[(part, "")] for part in fit(head, columns)]
    if not table:
        return lines
    titles, *body = aligned(table, columns, shrink=("LABEL",), leave_out=("LABEL",))
    lines += [[], titles]
    for version, line in zip(answer.versions, body, strict=True):
        lines += [line, *_below((version.reason,), columns)]
    return lines + [[(part, BAD)] for problem in answer.problems for part in fit(problem, columns)]


def _under_way(row: RolloutFacts) -> str:
    weight = row.weight
    return f"({row.phase}, {percent(weight)})" if weight else f"({row.phase})"


def _versions_of(row: RolloutFacts) -> str:
    if row.previous is None or row.kind is Kind.CHECK:
        return str(row.candidate)
    return f"{row.previous} → {row.candidate}"


def _gate(gate: GateResult) -> str:
    """A gate in a word; the figures where it did not pass. Its blanks don't break: a sign stays with its name."""
    measured = "" if gate.verdict is Verdict.PASS else figures(gate)
    text = f"{VERDICT_SIGNS.get(gate.verdict, ('?', ''))[0]} {gate.gate}{f' {measured}' if measured else ''}"
    return text.replace(" ", _UNBROKEN)


def _below(texts: Sequence[str | None], columns: int) -> list[Line]:
    """What does not fit into columns, below its row."""
    parts = [part for text in texts if text for part in fit(text, columns - _INDENT)]
    return [[(" " * _INDENT, ""), (part.replace(_UNBROKEN, " "), DIM)] for part in parts]
