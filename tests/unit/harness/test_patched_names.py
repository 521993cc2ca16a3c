"""What a test replaces by its name, as a text, is there. mypy sees the other names (``make lint``)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from harness.places import BACKENDS, ENGINE, ROOT

SOURCES = (ROOT, ROOT / "control", BACKENDS / ENGINE, BACKENDS / "splitter", ROOT / "tools" / "make_checkpoints")
PATCHES = {"setattr", "delattr", "object"}
"""``monkeypatch.setattr(module, "name", ...)``, ``mock.patch.object(module, "name")``."""


def file_of(module: str) -> Path | None:
    places = [source.joinpath(*module.split(".")) for source in SOURCES]
    files = [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")]
    return next((file for file in files if file.is_file()), None)


@cache
def names_in(file: Path) -> frozenset[str]:
    """What a module has on its top level, also within an ``if`` or a ``try``; a package also has its modules."""
    found = {path.stem for path in file.parent.glob("*") if file.name == "__init__.py"}
    todo = list(ast.parse(file.read_text()).body)
    while todo:
        node = todo.pop()
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                found |= {one.asname or one.name.partition(".")[0] for one in names}
            case _:
                found |= {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
                todo += [one for one in ast.iter_child_nodes(node) if isinstance(one, ast.stmt)]
    return frozenset(found)


def modules_of(tree: ast.AST) -> dict[str, str]:
    """What a file calls the modules of ours that it imports."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {one.asname or one.name: one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    return {name: module for name, module in found.items() if file_of(module)}


def patched(tree: ast.AST) -> Iterator[tuple[str, str, int]]:
    """Module, name and line of what is replaced in a module of ours."""
    modules = modules_of(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr=patch), args=[target, ast.Constant(value=str(name)), *_]) if (
                patch in PATCHES and (module := modules.get(ast.unparse(target)))
            ):
                yield module, name, node.lineno
            case ast.Call(func=ast.Attribute(attr=patch), args=[ast.Constant(value=str(path)), *_]) if patch in PATCHES:
                words = path.split(".")
                ends = [at for at in range(1, len(words)) if file_of(".".join(words[:at]))]
                if ends:
                    yield ".".join(words[: ends[-1]]), words[ends[-1]], node.lineno


def missing(text: str) -> list[str]:
    gone = []
    for module, name, line in patched(ast.parse(text)):
        file = file_of(module)
        if file is not None and name not in names_in(file):
            gone.append(f"line {line}: {module} has no {name}")
    return gone


def test_what_is_replaced_is_there() -> None:
    files = [path for folder in ("tests", "bench", "demo", "harness") for path in (ROOT / folder).rglob("*.py")]
    assert {str(path.relative_to(ROOT)): gone for path in files if (gone := missing(path.read_text()))} == {}


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("from baton.cli import local\nm.setattr(local, 'shared', 1)", 0),
        ("from baton.cli import local\nm.setattr(local, '_prepare_engine', 1)", 1),
        ("import baton.cli.local as here\nmock.patch.object(here, '_prepare_engine')", 1),
        ("m.setattr('baton.cli.local.shared', 1)", 0),
        ("m.setattr('baton.cli.local._prepare_engine', 1)", 1),
        ("m.setattr('reranker_engine.inference.media.KEPT_PIXELS', 0)", 0),
        ("import os\nm.setattr(os, 'nothing', 1)", 0),
    ],
)
def test_a_name_that_is_not_there_is_found(text: str, gone: int) -> None:
    assert len(missing(text)) == gone
