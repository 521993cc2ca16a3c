"""The lifecycle table, its diagram, and what the plan asks for are one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from baton import lifecycle
from baton.domain import GATES_OF, Kind, Phase
from baton.plan import cutover, gates, loading, no_rollout, retire, rollback, traffic
from baton.plan.phases import PHASES

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"```mermaid\n(.*?)```", re.DOTALL)
AT_REST = {Phase.EMPTY, Phase.STEADY, Phase.DEGRADED}
"""Phases that are never a rollout's own."""


def test_the_document_shows_the_table():
    text = (ROOT / "docs" / "reference" / "lifecycle.md").read_text()
    shown = FENCE.search(text)
    assert shown is not None
    assert shown[1] == lifecycle.mermaid(), "write the output of `python -m baton.lifecycle` into the page"
    for phase in Phase:
        assert f"`{phase}`" in text, f"{phase} is not explained"


def test_every_phase_is_reached_and_leads_to_the_end():
    arrows = lifecycle.ALLOWED
    assert len(arrows) == len(lifecycle.TRANSITIONS), "a transition stands twice"

    def closure(start, pairs):
        found, new = set(), {start}
        while new:
            found |= new
            new = {b for a, b in pairs if a in found} - found
        return found

    inner = set(Phase) - AT_REST
    assert closure(None, arrows) >= inner
    for phase in inner:
        assert None in closure(phase, arrows), f"{phase} never ends"
    assert {a for a, b in arrows if b is Phase.ROLLING_BACK} == inner - {Phase.ROLLING_BACK}
    assert {b for a, b in arrows if a is Phase.ROLLING_BACK} == {None}
    assert {a for a, b in arrows if b is Phase.SHIFTING} == {Phase.VALIDATING, Phase.WAITING, Phase.SHADOWING}


def test_every_phase_has_a_handler():
    assert set(PHASES) | {Phase.ROLLING_BACK} == set(Phase) - AT_REST


def test_all_that_the_plan_can_ask_for_is_in_the_table():
    """Reads the plan's source: which function asks for which next phase, and which ends a rollout."""
    sources = [ast.parse(Path(module.__file__).read_text()) for module in (gates, loading, cutover, retire, rollback)]
    functions = {n.name: n for source in sources for n in source.body if isinstance(n, ast.FunctionDef)}
    handlers = {phase: function.__name__ for phase, function in PHASES.items()}
    handlers[Phase.ROLLING_BACK] = "rolling_back"
    asked: set[tuple[Phase | None, Phase | None]] = set()
    for phase, name in handlers.items():
        for call in (n for n in ast.walk(functions[name]) if isinstance(n, ast.Call)):
            called = call.func.id if isinstance(call.func, ast.Name) else ""
            if called == "Advance":
                asked |= {(phase, after) for after in named(call.args[0])}
            elif called == "_ask_gates":
                asked |= {(phase, after) for after in named(call.args[4])}
                asked.add((phase, Phase.WAITING))  # _held: a gate holds for want of evidence
            elif called == "_lacks_evidence":
                asked |= {(phase, Phase.VERIFYING), (phase, Phase.VALIDATING)}
            elif called in ("End", "end_of"):
                asked.add((phase, None))
    # In progress_traffic there is one more: _take_step meets a pause step in shifting alone.
    assert Path(traffic.__file__).read_text().count("Advance(") == 1
    asked.add((Phase.SHIFTING, Phase.WAITING))
    # Every Halt, and every stop that a person ordered, is followed by this one, from any phase.
    asked |= {(phase, Phase.ROLLING_BACK) for phase in PHASES}
    asked |= {(None, Phase.LOADING if kind is Kind.ROLLBACK else Phase.VERIFYING) for kind in GATES_OF}
    assert asked <= lifecycle.ALLOWED, asked - lifecycle.ALLOWED
    assert asked == lifecycle.ALLOWED, f"nobody asks for {lifecycle.ALLOWED - asked}"
    assert "Advance" not in Path(no_rollout.__file__).read_text(), "at rest there is nothing to advance"


def named(node: ast.expr) -> set[Phase]:
    """The phase that an argument names, or those that ``first_phase`` chooses between."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "first_phase":
        return {Phase.SHADOWING, Phase.SHIFTING}
    assert isinstance(node, ast.Attribute), ast.dump(node)
    return {Phase[node.attr]}
