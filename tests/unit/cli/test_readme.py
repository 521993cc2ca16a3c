"""README opens with what ``ctl`` prints: a line that it would not print fails here."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from tests.unit.api.fake import FakeApp, ended, live
from tests.unit.cli.conftest import Ctl
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


def test_the_lines_are_what_it_prints(served: FakeApp, ctl: Ctl) -> None:
    (push, *_), (back, *_) = commands()
    assert push.startswith("ctl push demo/checkpoints/retrained ")
    served.story = [live()]
    printed = [ctl("promote", "2").stdout]
    served.until, served.story = "ended", [live(), ended("rolled_back", "rolled back by carol", moved=False)]
    printed.append(ctl(*back.split()[1:]).stdout)
    known = followed() | {shape(line) for text in printed for line in text.splitlines()}
    assert [line for _, lines in commands() for line in lines if shape(line) not in known] == []


@pytest.mark.parametrize("line", ["Version 2 has 5 % of the traffic.", "✔ outputs       pass     0.971 (limit 0.9)"])
def test_another_line_is_found(line: str) -> None:
    assert shape(line) not in followed()
