"""``docs/schema.json`` is made of the types; tests/unit/cli/test_moments.py holds the controller's answers to it."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

FILE = Path(__file__).parents[3] / "docs" / "schema.json"
SCHEMA: dict[str, Any] = json.loads(FILE.read_text())


def strict(schema: Any) -> Any:
    """The same, without room for what a later version may add: here nothing may be there that the types don't name."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(its) for key, its in schema.items()}
    return {**made, "unevaluatedProperties": False} if "required" in schema and "description" in schema else made


@cache
def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator({**strict(SCHEMA), "$ref": f"#/$defs/{name}"})


def test_it_is_not_stale() -> None:
    made = subprocess.run(
        [sys.executable, FILE.with_name("schema.py")], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert made == FILE.read_text(), "`make schema` writes it anew"
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("call-status", {"paused": "no"}),
        ("GateResult", {"name": "output", "evidence": {"worst": []}}),
        ("GateResult", {"name": "live", "evidence": {"checks": {}}}),
        ("LiveCheck", {"name": "errors", "stable": 3}),
    ],
)
def test_it_finds_another_shape(name: str, verdict: dict[str, Any]) -> None:
    usual = {"verdict": "pass", "message": "m", "observed": None, "limit": None, "skipped": False}
    with pytest.raises(ValidationError):
        validator(name).validate(usual | verdict)
