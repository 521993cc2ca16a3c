"""service -> inference -> model, no arrow back; only service knows Triton."""

from __future__ import annotations

import ast

from tests.engine.support import BACKEND

PACKAGE = BACKEND / "reranker_engine"
ALLOWED = {"model": {"model"}, "inference": {"inference", "model"}, "service": {"service", "inference", "model"}}


def imported(path):
    """Full names of what a file imports."""
    parts = path.relative_to(BACKEND).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(parts[: -node.level]) + "." if node.level else ""
            yield base + (node.module or "")


def test_layers():
    for layer, allowed in ALLOWED.items():
        for path in (PACKAGE / layer).glob("*.py"):
            for name in imported(path):
                if name.startswith("reranker_engine"):
                    assert name.split(".")[1] in allowed, f"{path.name} of {layer} imports {name}"
                assert layer == "service" or not name.startswith("triton"), f"{path.name} knows Triton"
                assert name.split(".")[0] not in {"transformers", "torchvision"}


def test_modules_stay_small():
    for path in BACKEND.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
