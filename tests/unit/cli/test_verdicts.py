"""No place in the code that makes a verdict is left out of what the pages are tested on."""

from __future__ import annotations

import ast
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from tests.unit.cli.verdicts import CASES

import baton
from baton.cli.output import gate_lines, plain
from baton.codec import decode, encode
from baton.domain import Evidence, Gate, GateResult, Verdict
from baton.evidence import CHECKS, EVIDENCE

SOURCE = Path(baton.__file__).parent
NEVER = {
    (Gate.COMPATIBILITY, Verdict.HOLD): "what can't be read is a reason to refuse",
    (Gate.CAPACITY, Verdict.HOLD): "what can't be measured is skipped",
    (Gate.LOAD, Verdict.HOLD): "Triton loads it in time or not",
}
ELSEWHERE = {
    "journal/rollouts.py": "reads back what was written",
    "controller/recorder.py": "a folder that never becomes whole: a sentence without evidence",
    "controller/service.py": "gates not asked: sentences without evidence",
}


RESULTS: dict[str, GateResult] = {}
REACHED: dict[str, set[int]] = defaultdict(set)


@pytest.fixture(scope="module", autouse=True)
def _asked(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Ask all judges once, and remember which lines of Baton ran."""

    def trace(frame: FrameType, _event: str, _arg: Any) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(str(SOURCE)):
            return None
        lines = REACHED[file]

        def line(frame: FrameType, _event: str, _arg: Any) -> Any:
            lines.add(frame.f_lineno)
            return line

        lines.add(frame.f_lineno)
        return line

    before = sys.gettrace()
    for name, ask in CASES.items():
        folder = tmp_path_factory.mktemp("case")
        sys.settrace(trace)
        try:
            RESULTS[name] = ask(folder)
        finally:
            sys.settrace(before)


def sites() -> Iterator[tuple[Path, ast.Call]]:
    """Every place in Baton that makes a verdict: of a gate, or of one of its checks; by itself or by a helper."""
    for path in sorted(SOURCE.rglob("*.py")):
        if str(path.relative_to(SOURCE)) in ELSEWHERE:
            continue
        tree = ast.parse(path.read_text())
        makers = {"GateResult", *(kind.__name__ for kind in CHECKS.values())}
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef) and any(
                arg.arg == "verdict" for arg in (*function.args.args, *function.args.kwonlyargs)
            ):
                makers.add(function.name)
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in makers:
                yield path, call


def test_no_place_that_makes_a_verdict_is_left_out() -> None:
    found = list(sites())
    assert len(found) > 50
    missed = [
        f"{path.relative_to(SOURCE)}:{call.lineno}"
        for path, call in found
        if not REACHED[str(path)] & set(range(call.lineno, (call.end_lineno or call.lineno) + 1))
    ]
    assert not missed, f"{missed}: " + "no case in tests/unit/cli/verdicts.py makes the verdicts of these lines"


def test_no_verdict_of_a_gate_is_left_out() -> None:
    found = {(result.gate, result.verdict) for result in RESULTS.values()}
    decided = [Verdict.PASS, Verdict.FAIL, Verdict.HOLD]
    assert {(gate, verdict) for gate in Gate for verdict in decided} - found == set(NEVER)
    assert {r.gate for r in RESULTS.values() if r.skipped} >= {Gate.CAPACITY, Gate.OUTPUT, Gate.LATENCY}


@pytest.mark.parametrize("name", CASES)
def test_a_face_reads_what_the_judge_gave(name: str) -> None:
    """Their pages are in test_moments.py, but for gates that go on: the controller tells no such verdict."""
    result = RESULTS[name]
    assert type(result.evidence) in {Evidence, EVIDENCE[result.gate]}
    assert decode(GateResult, json.loads(json.dumps(encode(result), allow_nan=False))) == result
    for columns in (40, 80, 160):
        assert all(len(plain(line)) <= columns for line in gate_lines(result, columns, full=True))
