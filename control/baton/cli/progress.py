"""How a wait looks: plain lines on stderr when piped, a live line below them on a terminal."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from typing import Any, Self

from baton.cli.output import (
    Line,
    duration,
    gate_lines,
    gate_news,
    is_terminal,
    moment,
    percent,
    plain,
    safe,
    safe_line,
    wrap,
)
from baton.domain import Gate, GateResult, Phase, Verdict
from baton.facts import Event, RolloutStory
from baton.reasons import Reason

_CLOCK = "%H:%M:%S"
_INDENT = 10
"""Columns of the clock and the gap behind it."""
_DECIDED = frozenset({Verdict.PASS, Verdict.FAIL, Verdict.HOLD})


class Story:
    """Turns the answers about a rollout, one after the other, into lines that were not printed before."""

    def __init__(self, *, from_halt: bool = False) -> None:
        """``from_halt``: what came before the rollout was turned back is known to whoever turned it back."""
        self._from_halt = from_halt
        self._events = 0
        self._gates: dict[Gate, tuple[Any, ...]] = {}
        self._told: set[Reason] = set()
        self._step = ""

    def news(self, rollout: RolloutStory, columns: int) -> list[Line]:
        lines: list[Line] = []
        gates, events = {g.gate: g for g in rollout.gates}, rollout.events
        if self._from_halt:
            self._from_halt = False
            self._events = next((i for i, e in enumerate(events) if e.kind == "halt"), 0)
            self._gates = {name: gate_news(gate) for name, gate in gates.items()}
            self._step = _step(rollout)
        for event in events[self._events :]:
            if event.gate is not None:
                # The event holds the words; the gate itself holds the figures.
                lines += self._gate(gates.get(event.gate), event.at, columns)
            elif event.kind != "ask":  # that a gate begins: the live line shows it, and its verdict follows
                lines += self._event(event, columns)
        self._events = len(events)
        step = _step(rollout)
        if step and step != self._step:
            self._step = step
            lines += _dated(time.time(), step, columns)
        for gate in gates.values():
            lines += self._gate(gate, time.time(), columns)
        return lines

    def _event(self, event: Event, columns: int) -> list[Line]:
        """An event, without the reason that stands above already: a gate's words turn back its rollout, and end it."""
        if event.kind == "halt":
            known = event.code in self._told
            self._told.add(event.code)
            return [] if known else _dated(event.at, event.message, columns)
        return _dated(event.at, event.short if event.cause in self._told else event.message, columns)

    def _gate(self, gate: GateResult | None, at: str | float, columns: int) -> list[Line]:
        if gate is None or gate.verdict not in _DECIDED:
            return []
        if self._gates.get(gate.gate) == gate_news(gate):
            return []
        self._gates[gate.gate] = gate_news(gate)
        if gate.verdict is Verdict.FAIL:
            self._told.add(Reason.GATE_FAILED)
        head, *rest = gate_lines(gate, columns - _INDENT, indent=0, full=True)
        return [[(_clock(at), "dim"), *head], *([(" " * _INDENT, ""), *line] for line in rest)]


class Display:
    """Where the lines go. A context manager, so that the terminal is whole again after any end."""

    def __init__(self) -> None:
        self._live: Any = None
        self._began = time.monotonic()
        self._stack = ExitStack()
        if is_terminal(sys.stderr):
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True, highlight=False), auto_refresh=False, transient=True)

    @property
    def columns(self) -> int:
        return int(self._live.console.width) if self._live is not None else 80

    def tell(self, lines: list[Line]) -> None:
        for line in lines:
            if self._live is None:
                sys.stderr.write(f"{plain(line)}\n")
            else:
                from rich.text import Text

                self._live.console.print(Text.assemble(*safe_line(line)))
        sys.stderr.flush()

    def remark(self, message: str) -> None:
        """A sentence that is no event of the rollout."""
        self.tell([[(part, "")] for part in wrap(message, self.columns)])

    def now(self, rollout: RolloutStory) -> None:
        """Redraw the live line: the phase, how long it lasts, and the gates that are being asked."""
        if self._live is None:
            return
        from rich.text import Text

        running = ", ".join(g.gate for g in rollout.gates if g.verdict is Verdict.RUNNING)
        parts = [f"◌ {rollout.phase}", duration(round(time.monotonic() - self._began)), _position(rollout), running]
        text = "  ".join(part for part in parts if part)
        self._live.update(Text(safe(text), style="cyan", no_wrap=True, overflow="ellipsis"), refresh=True)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._stack.enter_context(self._live)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _dated(at: str | float, message: str, columns: int) -> list[Line]:
    first, *rest = wrap(message, columns - _INDENT) or [""]
    return [[(_clock(at), "dim"), (first, "")], *([(" " * _INDENT, ""), (part, "")] for part in rest)]


def _step(rollout: RolloutStory) -> str:
    """The traffic step in words; empty before the first, and for what moves no traffic."""
    step = rollout.step
    if step is None or not step.name:
        return ""
    return f"step {step.index}/{step.count}: {step.name}" if step.index else step.name


def _position(rollout: RolloutStory) -> str:
    """For the live line: the step, how long it still takes, and the weight where the step does not say it."""
    text, step = _step(rollout), rollout.step
    if step is None or not text:
        return ""
    if rollout.phase is Phase.SHIFTING:
        text = f"{percent(rollout.weight)}, {text}"
    left = step.left_s
    return text if left is None or round(left) <= 0 else f"{text}, {duration(round(left))} left"


def _clock(at: str | float) -> str:
    return f"{moment(at, _CLOCK):<{_INDENT}}"
