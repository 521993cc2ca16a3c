"""Only model.py knows Triton; nothing heavy is imported, so that the splitter is there within a second."""

from __future__ import annotations

import ast
import sys

from harness.places import BACKENDS

from baton.local.assemble import find_backends

BACKEND = BACKENDS / "splitter"


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module


def test_what_is_imported():
    light = set(sys.stdlib_module_names) | {"numpy"}
    for path in (BACKEND / "traffic_splitter").glob("*.py"):
        assert {name.split(".")[0] for name in imported(path)} <= light, path.name
    only = light | {"traffic_splitter", "triton_python_backend_utils"}
    assert {name.split(".")[0] for name in imported(BACKEND / "model.py")} <= only


def test_modules_stay_small():
    for path in BACKEND.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path


def test_a_local_triton_gets_the_backend():
    assert dict(find_backends([BACKEND.parent]))["splitter"] == BACKEND
