"""service -> inference -> model, no arrow back and no circle; only service knows Triton."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter

import pytest
from tests.unit.engine.support import BACKEND

PACKAGE = BACKEND / "reranker_engine"
ALLOWED = {"model": {"model"}, "inference": {"inference", "model"}, "service": {"service", "inference", "model"}}


def module(path):
    return ".".join(path.relative_to(BACKEND).with_suffix("").parts)


def imported(name, source):
    """Full names of what a module imports: anywhere in it, for its types alone or inside a function, too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(part for part in (*name.split(".")[: -node.level], node.module) if part)
            base = base if node.level else node.module
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def graph(sources):
    """Which of the modules each of them imports."""
    return {name: {one for one in imported(name, source) if one in sources} for name, source in sources.items()}


def test_layers():
    for layer, allowed in ALLOWED.items():
        for path in (PACKAGE / layer).glob("*.py"):
            for name in imported(module(path), path.read_text(encoding="utf-8")):
                if name.startswith("reranker_engine"):
                    assert name.split(".")[1] in allowed, f"{path.name} of {layer} imports {name}"
                assert layer == "service" or not name.startswith("triton"), f"{path.name} knows Triton"
                assert name.split(".")[0] not in {"transformers", "torchvision"}


def test_imports_have_one_direction():
    sources = {module(path): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    imports = graph(sources)
    assert imports["reranker_engine.inference.scoring"] >= {"reranker_engine.inference.batching"}
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the modules


def test_a_circle_of_imports_is_found():
    sources = {
        "a.one": "from .two import f",
        "a.two": "if TYPE_CHECKING:\n    from a import three",
        "a.three": "def f():\n    import a.one",
    }
    with pytest.raises(CycleError):
        TopologicalSorter(graph(sources)).prepare()


def test_modules_stay_small():
    for path in BACKEND.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
