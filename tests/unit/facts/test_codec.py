"""Facts to JSON and back; what an older Baton wrote can be read, with every figure that it had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from baton.codec import decode, encode
from baton.domain import NO_EVIDENCE, Evidence, Gate, GateResult, Verdict
from baton.evidence import EVIDENCE, LiveCheck, LiveEvidence, MemoryEvidence, OutputEvidence

RECORDED = [json.loads(line) for line in Path(__file__).with_name("verdicts-0.1.jsonl").read_text().splitlines()]
"""What the judges of 0.1 said, when evidence was loose dictionaries: one line a case of ``tests.unit.cli.verdicts``."""


def without_none(value: Any) -> Any:
    """A figure that was not taken may be null, or not be there."""
    if isinstance(value, dict):
        return {key: without_none(its) for key, its in value.items() if its is not None}
    return [without_none(its) for its in value] if isinstance(value, list) else value


@pytest.mark.parametrize("told", RECORDED, ids=lambda told: told["case"])
def test_what_an_older_baton_wrote_is_read_whole(told: dict[str, Any]) -> None:
    """The journal of an older Baton opens, and programs find in the new JSON all that they found in the old."""
    case = {key: value for key, value in told.items() if key != "case"}
    result = decode(GateResult, case)
    if case["evidence"]:
        assert type(result.evidence) is (Evidence if "missing" in case["evidence"] else EVIDENCE[case["name"]])
    assert without_none(encode(result)) == without_none(case)
    assert decode(GateResult, json.loads(json.dumps(encode(result), allow_nan=False))) == result


def result(**changes: Any) -> dict[str, Any]:
    usual = {"name": "output", "verdict": "pass", "observed": 0.0, "limit": None, "message": "m", "skipped": False}
    return {**usual, "evidence": {"cases": 3}, **changes}


def test_what_is_not_known_is_passed_over_and_what_is_not_there_gets_its_default() -> None:
    read = decode(GateResult, {**result(evidence={"cases": 3, "colour": "red"}), "colour": "red"})
    assert read == GateResult(Gate.OUTPUT, Verdict.PASS, "m", 0.0, evidence=OutputEvidence(cases=3))
    bare = decode(GateResult, {"name": "memory", "verdict": "hold", "message": "m"})
    assert bare == GateResult(Gate.MEMORY, Verdict.HOLD, "m")


@pytest.mark.parametrize("evidence", [{}, {"cases": "three", "attempts": 2}, {"attempts": 2}, {"worst": []}])
def test_evidence_of_another_shape_keeps_what_all_gates_have(evidence: dict[str, Any]) -> None:
    assert decode(GateResult, result(evidence=evidence)).evidence == Evidence(attempts=evidence.get("attempts"))


def test_a_check_of_another_shape_keeps_what_all_checks_have() -> None:
    samples = {"stable": 1, "candidate": 1, "pairs": 0}
    for check in (
        {"name": "errors", "verdict": "pass", "message": "m", "stable": 3},
        {"name": "colours", "verdict": "pass", "message": "m", "red": 3},
    ):
        told = result(name="live", evidence={"checks": [check], "samples": samples, "worst": []})
        evidence = decode(GateResult, told).evidence
        assert isinstance(evidence, LiveEvidence)
        assert evidence.checks == (LiveCheck(name=str(check["name"]), verdict=Verdict.PASS, message="m"),)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"verdict": "maybe"}, "verdict: 'maybe' is no Verdict"),
        ({"name": "colour"}, "name: 'colour' is no Gate"),
        ({"observed": "much"}, "observed: 'much' is no float"),
        ({"skipped": 1}, "skipped: 1 is no bool"),
        ({"message": None}, "message: None is no str"),
        ({"evidence": "none"}, "evidence: 'none' is no"),
        ({"evidence": {"attempts": "two"}}, "evidence: attempts: 'two' is no int"),
    ],
)
def test_what_was_never_written_is_an_error(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decode(GateResult, result(**changes))
    with pytest.raises(ValueError, match="is no GateResult"):
        decode(GateResult, "pass")
    with pytest.raises(ValueError, match="GateResult without verdict"):
        decode(GateResult, {"name": "load"})


def test_another_batons_words_stay_words() -> None:
    """A newer control plane may have a verdict, or a gate, of which this ``ctl`` knows nothing."""
    read = decode(GateResult, result(name="colour", verdict="maybe"), foreign=True)
    assert (read.gate, read.verdict, read.evidence) == ("colour", "maybe", NO_EVIDENCE)
    assert encode(read) == {**result(name="colour", verdict="maybe"), "evidence": {}}


def test_a_figure_that_was_not_taken_is_left_out() -> None:
    evidence = MemoryEvidence(samples=3)
    told = encode(GateResult(Gate.MEMORY, Verdict.HOLD, "m", evidence=evidence))
    assert told["evidence"] == {"samples": 3}
    assert (told["observed"], told["limit"]) == (None, None), "these are promised"


def test_every_gate_has_evidence_of_its_own() -> None:
    assert set(EVIDENCE) == set(Gate)
    assert len(set(EVIDENCE.values())) == len(Gate)
