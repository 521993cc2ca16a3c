"""docs/explanation/architecture.md tells of every package, and where it says that a thing is changed, that thing is."""

from __future__ import annotations

import ast
import os
from functools import cache
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "explanation" / "architecture.md"
HEAD = "## Where do I change ...\n"


def test_every_package_has_a_paragraph() -> None:
    """A package is a folder with Python in it, below the two source roots."""
    text = PAGE.read_text()
    files = [file for root in ("control/baton", "python_backend") for file in (ROOT / root).rglob("*.py")]
    names = {str(file.parent.relative_to(ROOT)) for file in files}
    assert {name for name in names if f"**`{name}`**: " not in text} == set()


def sections() -> dict[str, list[list[Token]]]:
    """By the thing that one may want to change: the parts of each paragraph and point about it."""
    _, _, rest = PAGE.read_text().partition(HEAD)
    found: dict[str, list[list[Token]]] = {}
    before: Token | None = None
    for token in MarkdownIt("commonmark").parse(rest):
        if token.type == "inline" and before is not None and before.type == "heading_open":
            found[token.content] = []
        elif token.type == "inline" and found:
            found[list(found)[-1]].append(token.children or [])
        before = token
    return found


def test_what_people_look_for_is_there() -> None:
    wanted = {"The default weight steps", "The text of a refused version", "A new gate", "The health probe"}
    assert wanted | {"A new verb", "A new model kind"} <= set(sections())


@pytest.mark.parametrize("thing", sections())
def test_the_names_are_defined_in_the_module_before_them(thing: str) -> None:
    seen = 0
    for point in sections()[thing]:
        module = None
        for part in point:
            if part.type == "link_open":
                path = Path(os.path.normpath(PAGE.parent / str(part.attrGet("href"))))
                module = path if path.suffix == ".py" else None
            elif part.type == "code_inline" and module is not None:
                assert part.content in defined(module), f"{module.relative_to(ROOT)} defines no {part.content}"
                seen += 1
    assert seen, "no name is given"


@cache
def defined(module: Path) -> set[str]:
    """What a module defines: functions, classes and values, its own and those of its classes."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
            found |= {target.attr for target in targets if isinstance(target, ast.Attribute)}
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found
