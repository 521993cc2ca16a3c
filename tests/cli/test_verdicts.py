"""Every verdict that the real judges can give is shown on every page, at every width, and as JSON."""

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
from tests.api.fake import FakeApp
from tests.api.fake import rollout as told_rollout
from tests.cli.conftest import Ctl
from tests.cli.moments import page
from tests.cli.verdicts import CASES

import baton
from baton import report
from baton.cli import lists, status
from baton.cli.output import plain
from baton.cli.progress import Story
from baton.cli.render import status_lines
from baton.domain import Gate, GateResult, Verdict
from baton.evidence import CHECKS

SOURCE = Path(baton.__file__).parent
NEVER = {
    (Gate.COMPATIBILITY, Verdict.HOLD): "what can't be read is a reason to refuse",
    (Gate.CAPACITY, Verdict.HOLD): "what can't be measured is skipped",
    (Gate.LOAD, Verdict.HOLD): "Triton loads it in time or not",
}
ELSEWHERE = {
    "journal.py": "reads back what was written",
    "engine/service.py": "a folder that never becomes whole, and gates that were not asked: sentences without evidence",
    "engine/health.py": "its Check is another one",
    "doctor.py": "its Check is another one",
    "cli/doctor.py": "its Check is another one",
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
    assert not missed, f"{missed}: " + "no case in tests/cli/verdicts.py makes the verdicts of these lines"


def test_no_verdict_of_a_gate_is_left_out() -> None:
    found = {(result.gate, result.verdict) for result in RESULTS.values()}
    decided = [Verdict.PASS, Verdict.FAIL, Verdict.HOLD]
    assert {(gate, verdict) for gate in Gate for verdict in decided} - found == set(NEVER)
    assert {r.gate for r in RESULTS.values() if r.skipped} >= {Gate.CAPACITY, Gate.OUTPUT, Gate.LATENCY}


def kept(result: GateResult) -> dict[str, Any]:
    """The gate as programs get it: written to JSON and read again."""
    told = report.gate(result)
    read: dict[str, Any] = json.loads(json.dumps(told, allow_nan=False))
    return read


def words(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("columns", [40, 80, 160])
@pytest.mark.parametrize("name", CASES)
def test_every_page_shows_it(name: str, columns: int) -> None:
    gate = kept(RESULTS[name])
    shown = page(gates=[gate])
    json.dumps(status.landmarks(shown))
    pages = {
        "status": [plain(line) for line in status_lines(shown, columns)],
        "status of a low window": [plain(line) for line in status_lines(shown, columns, 30)],
    }
    if gate["verdict"] != "running":
        pages["push"] = [plain(line) for line in Story().news(told_rollout(gates=[gate], events=[]), columns)]
    for where, lines in pages.items():
        assert [line for line in lines if len(line) > columns] == [], where
        if gate["verdict"] in {"fail", "hold"}:
            for told in gate["evidence"].get("checks") or [gate]:
                # A window that is too low says how many lines are missing.
                if told["verdict"] == gate["verdict"] and "taller" not in lines[-1]:
                    assert words(told["message"]) in words("".join(lines)), f"{where}: what matters is told whole"


@pytest.mark.parametrize("columns", [40, 80, 160])
def test_the_verbs_show_all_of_them(ctl: Ctl, served: FakeApp, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    gates = [kept(result) for result in RESULTS.values()]
    served.page = page(gates=gates)
    base = {k: v for k, v in told_rollout().items() if k not in {"events", "moved", "ended"}}
    rows = [base | {"id": number, "gates": [gate]} for number, gate in enumerate(gates)]
    monkeypatch.setattr(served, "history", lambda *_: rows)
    for module in (lists, status):
        monkeypatch.setattr(module, "width", lambda _stream: columns)
    for verb in ("status", "history"):
        done = ctl(verb)
        assert done.exit_code == 0, done.output
        assert [line for line in done.stdout.splitlines() if len(line) > columns] == []
        for gate in Gate:
            assert str(gate) in done.stdout
    assert json.loads(ctl("status", "--output", "json").stdout)["services"][0]["gates"] == gates
    assert [row["gates"] for row in json.loads(ctl("history", "--output", "json").stdout)] == [[g] for g in gates]
