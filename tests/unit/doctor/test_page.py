"""docs/reference/doctor.md lists every check."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "reference" / "doctor.md").read_text()
MAKERS = {"good", "bad", "limited", "skipped", "failed", "enough", "disk"}
PLACES = {"service.name": "A", "name": "A", "service.engine": "E", "engine": "E", "server.name": "S", "one.name": "S"}


def named(value: ast.expr) -> str | None:
    """A name as the page writes it: with A, E and S for what differs."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return value.value
    if not isinstance(value, ast.JoinedStr):
        return None
    parts = [
        str(part.value) if isinstance(part, ast.Constant) else PLACES.get(ast.unparse(part.value), "?")  # type: ignore[attr-defined]
        for part in value.values
    ]
    return "".join(parts)


def names(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        found = None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MAKERS and node.args:
            found = named(node.args[0])
        elif isinstance(node, ast.Assign):
            for target, value in (
                zip(node.targets[0].elts, getattr(node.value, "elts", [node.value]), strict=False)
                if isinstance(node.targets[0], ast.Tuple)
                else [(node.targets[0], node.value)]
            ):
                if isinstance(target, ast.Name) and target.id == "name":
                    found = named(value)
        if found is not None and "?" not in found:
            yield found


def test_every_check_is_in_the_page() -> None:
    files = [*(ROOT / "control" / "baton" / "doctor").glob("*.py"), ROOT / "control" / "baton" / "cli" / "doctor.py"]
    found = {name for file in files for name in names(file)}
    assert len(found) > 40
    told = set(re.findall(r"`([^`]+)`", PAGE))
    keys = {name.removeprefix("E ") for name in found if name.startswith("E ") and name not in {"E config", "E A"}}
    assert keys - told == set()
    made = {"A writable", "port A"}  # of "repository" and "state", and of each port: the page has all of them
    assert {name for name in found if not name.startswith("E ")} - made - told == set()
