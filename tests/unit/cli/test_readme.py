"""README opens with what ``ctl`` prints: a line that it would not print fails here."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.conftest import Ctl, World
from tests.unit.cli.test_change import BEGIN, MANUAL, SPLIT, shifting, waiting
from tests.unit.facts.moments import moment

from baton.cli.output import plain
from baton.cli.progress import Story
from baton.reasons import Reason
from baton.reasons.words import SENTENCES

README = (Path(__file__).parents[3] / "README.md").read_text()


def commands() -> list[tuple[str, list[str]]]:
    """Each command of the transcript, and what it printed."""
    transcript = re.search(r"```console\n(.*?)```", README, re.DOTALL)
    assert transcript is not None
    assert README.index("```") == transcript.start(), "it comes first"
    first, *parts = re.split(r"^\$ ", transcript[1], flags=re.MULTILINE)
    assert not first
    return [(part.splitlines()[0], part.splitlines()[1:]) for part in parts]


SHAPE = (
    (r"^\d\d:\d\d:\d\d +", ""),
    (r"^(✔ \w+ +pass)\b.*", r"\1"),
    (r" \(v[^)]*\)", ""),
    (r"^load call: .*", "load call: MODEL on SERVER"),
    (r"^\w+: version", "SERVICE: version"),
    (r"(\d+m )?\d+ ?s\b|\d+(\.\d+)?", "N"),
)


def shape(line: str) -> str:
    """A line without its time, figures and names, and without the words of a gate that passed."""
    line = line.strip()
    for pattern, instead in SHAPE:
        line = re.sub(pattern, instead, line)
    return line


@cache
def followed() -> frozenset[str]:
    """What a wait for a rollout of the real controller prints, while it goes on, and on the way back."""
    stories = [story for name in ("shifting", "ended rolled back") for story in moment(name).stories]
    lines = [plain(line) for story in stories for line in Story().news(story, 80)]
    return frozenset(map(shape, [*lines, SENTENCES[Reason.SHARE].format(version=2, weight=12.7)]))


@pytest.mark.parametrize(
    ("number", "begins", "settings", "before", "verb"),
    [
        (0, "ctl push demo/checkpoints/retrained ", MANUAL, waiting, "promote"),
        (1, "ctl rollback", SPLIT, shifting, "rollback"),
    ],
)
def test_the_lines_are_what_it_prints(
    begin: BEGIN, ctl: Ctl, number: int, begins: str, settings: Any, before: Callable[[World], None], verb: str
) -> None:
    command, lines = commands()[number]
    assert command.startswith(begins)
    before(begin(**settings))
    known = followed() | set(map(shape, ctl(verb).stdout.splitlines()))
    assert [line for line in lines if shape(line) not in known] == []


@pytest.mark.parametrize("line", ["Version 2 has 5 % of the traffic.", "✔ outputs       pass     0.971 (limit 0.9)"])
def test_another_line_is_found(line: str) -> None:
    assert shape(line) not in followed()
