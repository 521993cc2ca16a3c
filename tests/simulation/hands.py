"""What a person does to a ``config.pbtxt`` by hand, and for how long that excuses what must hold.

An edit that makes a file wrong (unusable, or a policy that does not name what serves) excuses what follows from it only
while exactly that text stands there. One that Baton must keep leaves a mark, which must never be lost.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.support.rules import ALIAS, ENGINE, SPLITTER

CONFIG = "config.pbtxt"
NAMES = {"engine": ENGINE, "alias": ALIAS, "splitter": SPLITTER}
"""What Baton's journal calls the file of each model."""
_MARK = re.compile(r"by_hand_\d+")
_POLICY = re.compile(r"version_policy \{ specific \{.*\} \}\n?")

Edit = Callable[[str], str | None]
"""A file's text, and what becomes of it; None: it is removed."""


def cut(text: str) -> str:
    """An editor that saves in place died half-way."""
    return text[: len(text) // 2] + "\n{"  # on a line of its own: the half may end in a comment


def garbage(_text: str) -> str:
    return "}} not what Triton reads {{\n"


def removed(_text: str) -> None:
    return None


def no_policy(text: str) -> str:
    return _POLICY.sub("", text)


def with_policy(versions: Iterable[int]) -> Edit:
    listed = ", ".join(map(str, versions))
    return lambda text: _POLICY.sub(f"version_policy {{ specific {{ versions: [ {listed} ] }} }}\n", text)


def latest(text: str) -> str:
    return _POLICY.sub("version_policy { latest { num_versions: 2 } }\n", text)


def elsewhere(text: str) -> str:
    """An alias that leads to another model."""
    return re.sub(r'model_name: "\w+"', 'model_name: "another"', text)


def another_step(text: str) -> str:
    """An alias whose step leads to one version, and whose policy names another."""
    return re.sub(r"model_version: \d+", "model_version: 999", text)


UNUSABLE: dict[str, tuple[Edit, ...]] = {
    ENGINE: (cut, garbage, removed, no_policy, latest),
    ALIAS: (cut, garbage, removed, elsewhere, another_step),
    SPLITTER: (cut, garbage, removed),
}
"""What may be done to each model's file that nobody can use after it."""


class Hands:
    """The edits of a story, in the repository of a story."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._left: dict[str, tuple[str | None, bool]] = {}
        """What the last bad edit of a model's file left there (None: nothing), and whether it can be used."""
        self._marks = ""
        self.edits = 0
        """How many there were that made a file wrong."""
        self.known: dict[str, str | None] = {}
        """The last usable text of each model's file, as Baton's journal has it."""

    def text(self, model: str) -> str | None:
        try:
            return (self._repository / model / CONFIG).read_text()
        except FileNotFoundError:
            return None

    def mark(self, number: int) -> None:
        """An edit of the engine's file that Baton has no part in: another parameter, another instance group."""
        text = self.text(ENGINE)
        assert text is not None
        text = re.sub(r"parameters .*\n|instance_group .*\n", "", text)
        self._marks = f"by_hand_{self.edits}{number}"
        text += f'parameters {{ key: "{self._marks}" value {{ string_value: "" }} }}\n'
        self._write(ENGINE, text + f"instance_group [ {{ count: {1 + number % 3} kind: KIND_CPU }} ]\n")

    def spoil(self, model: str, edit: Edit, *, usable: bool = False) -> None:
        """An edit that makes the file wrong."""
        self.edits += 1
        before = self.text(model)
        assert before is not None
        text = edit(before)
        if text is not None:
            text += f"# by hand, number {self.edits}\n"  # so that Baton never writes the same
        self._left[model] = (text, usable)
        self._write(model, text)
        if model == ENGINE and self._marks not in (text or ""):
            found = _MARK.search(self.known[model])
            self._marks = found.group() if found else ""

    def _write(self, model: str, text: str | None) -> None:
        path = self._repository / model / CONFIG
        if text is None:
            path.unlink()
        else:
            path.write_text(text)

    def wrong(self, model: str) -> bool:
        """Whether the model's file is as a bad edit left it."""
        if model in self._left and self.text(model) != self._left[model][0]:
            del self._left[model]  # for good: Baton may remove, of itself, what a person removed before
        return model in self._left

    def unusable(self, model: str) -> bool:
        return self.wrong(model) and not self._left[model][1]

    def all_wrong(self) -> frozenset[str]:
        return frozenset(m for m in list(self._left) if self.wrong(m))

    def lost_mark(self) -> str:
        """The mark of an edit that must have been kept and is not there."""
        if not self._marks or self.unusable(ENGINE) or self._marks in (self.text(ENGINE) or ""):
            return ""
        return self._marks

    def forget(self) -> None:
        """A person mends what is unusable, before Baton loses the only other copy."""
        for model in self.all_wrong():
            if self.unusable(model):
                self._write(model, self.known[model])
        self.known.clear()
