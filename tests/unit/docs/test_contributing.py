"""CONTRIBUTING.md tells of every make target, and its examples name tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def test_every_make_target_has_its_row() -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^\| `make ([a-z-]+)` \|", TEXT, re.MULTILINE)) == set(targets) - {"help"}


def test_the_commands_name_tests_that_are_there() -> None:
    named = re.findall(r"pytest (tests/\S+)(?: -k (\w+))?", TEXT)
    assert named
    for file, word in named:
        assert word in (ROOT / file).read_text(), f"{file} has nothing with {word}"
