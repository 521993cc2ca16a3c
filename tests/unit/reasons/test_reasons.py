"""Reasons are data: every one has a sentence, every use gives the figures of that, and JSON keeps both."""

from __future__ import annotations

import ast
import json
import string
from pathlib import Path

import pytest

import baton
from baton.reasons import Reason, Why, because
from baton.reasons.refusals import REFUSALS
from baton.reasons.words import FORMATS, SENTENCES

ROOT = Path(baton.__file__).parent


def template_of(reason: Reason) -> str:
    """Its sentence, and what it says to do."""
    return f"{SENTENCES[reason]} {REFUSALS[reason][-1] if reason in REFUSALS else ''}"


def fields(template: str) -> dict[str, bool]:
    """The figures that a sentence names, each with whether the sentence can do without."""
    found: dict[str, bool] = {}
    for _, name, spec, _ in string.Formatter().parse(template):
        if name is None:
            continue
        optional = spec == "on" or spec.startswith("?")
        found[name] = found.get(name, True) and optional
        if spec.startswith("?"):
            found |= {inner: True for inner in fields(spec) if inner not in found}
    return found


def test_every_reason_has_a_sentence():
    assert set(SENTENCES) == set(Reason)


@pytest.mark.parametrize("reason", Reason)
def test_the_formats_of_a_sentence_are_known(reason):
    for _, name, spec, _ in string.Formatter().parse(template_of(reason)):
        if name is not None and spec.startswith("?"):
            _, bar, other = spec.rpartition("|")
            assert bar, "a text that depends on a figure has another one beside it, which may be empty"
            assert "{" not in other, "that one names no figure"
        elif name is not None and spec not in FORMATS:
            format(1.0, spec)  # raises where it is none of Python's


def uses() -> list[tuple[str, ast.Call]]:
    return [
        (f"{path.relative_to(ROOT)}:{node.lineno}", node)
        for path in sorted(ROOT.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "because"
    ]


def reasons_of(node: ast.expr) -> list[Reason]:
    """Those that the first argument may be; none where it is a variable."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Reason":
        return [Reason[node.attr]]
    if isinstance(node, ast.IfExp):
        return reasons_of(node.body) + reasons_of(node.orelse)
    return []


def test_every_use_of_a_reason_gives_the_figures_of_its_sentence():
    used = set()
    for where, call in uses():
        given = {k.arg for k in call.keywords if k.arg is not None}
        more = any(k.arg is None for k in call.keywords)  # figures that come as one
        for reason in reasons_of(call.args[0]):
            used.add(reason)
            named = fields(template_of(reason))
            needed = {name for name, optional in named.items() if not optional}
            assert given <= {*named, "gate"}, f"{where}: {reason} has no {given - set(named)}"
            assert more or needed <= given, f"{where}: {reason} lacks {needed - given}"
    assert len(used) > len(Reason) * 0.9, "nearly all are found by this"


def refusals() -> list[tuple[str, str, ast.Call]]:
    """Each error that a person gets in answer to what was asked: where it is made, and its class."""
    kinds = {"Refused", "Untrusted", "GateFailed", "Unreachable", "TimedOut"}
    return [
        (f"{path.relative_to(ROOT)}", node.func.id, node)
        for path in sorted(ROOT.rglob("*.py"))
        if path.relative_to(ROOT).parts[0] not in {"testing", "triton"}  # what is told of Triton's errors is a reason
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds
    ]


SAY_IT_THEMSELVES = {
    "adopt/__init__.py": "each thing that stands in the way says what to do",
    "app/changes.py": "why Baton loads nothing says what to put back",
    "client_gateway.py": "the gateway has said it",
    "cli/standby.py": "it tells which process acts; nobody can ask it by ctl",
    "verify/integrity.py": "somebody called it off",
}
"""Errors without ``mend``, by module, one in each."""


def test_every_refusal_says_what_it_means_and_what_to_do():
    for reason, (happened, means, mend) in REFUSALS.items():
        assert "" not in {happened, mend}, reason
        assert means or reason is Reason.NO_ROLLOUT, reason  # only looked at
    found = refusals()
    lacking = [
        where
        for where, _, call in found
        if not any(k.arg == "mend" for k in call.keywords)
        and not (isinstance(call.args[0], ast.Call) and set(reasons_of(call.args[0].args[0])) & set(REFUSALS))
    ]
    assert set(lacking) == set(SAY_IT_THEMSELVES)
    assert len(found) > 60


def test_a_way_through_json_changes_nothing():
    doing = because(Reason.LOADING, version=2)
    why = because(Reason.SOME_SILENT, servers=(("a", ""), ("b", "no key")), serves=1)
    for one in (doing, doing.on("a"), why, because(Reason.STUCK, doing=doing, for_s=1.5, limit_s=1.0, error="no")):
        back = Why.of(json.loads(json.dumps(one.data())))
        assert (back, str(back)) == (one, str(one))
    assert because(Reason.WRITING_POLICY, versions=frozenset({2, 1})).figures == {"versions": (1, 2)}


def test_a_text_in_a_figure_is_no_part_of_the_template():
    assert str(because(Reason.GATE_AGAIN, gate="output", said="{a|b}")).endswith(": {a|b}")


def test_what_a_later_baton_wrote_can_be_read():
    assert str(Why.of({"reason": "serves_twice", "version": 2})) == '{"reason": "serves_twice", "version": 2}'
    assert str(Why.of({"reason": "gate_asked", "gate": "output"})).endswith("version None"), "a figure lacks"


def test_what_is_only_measured_or_counted_is_no_news():
    def share(weight: float, version: int = 2) -> Why:
        doing = because(Reason.SHARE, version=version, weight=weight)
        return because(Reason.JUDGED_BY_GOLDEN, doing=doing, count=int(weight))

    assert share(5.0).topic() == share(6.0).topic()
    assert share(5.0).topic() != share(5.0, version=3).topic()
