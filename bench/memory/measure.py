"""Memory of versions that are loaded side by side, each in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness.memory import pss
from harness.places import ROOT
from harness.waiting import Failed


@dataclass(frozen=True)
class Memory:
    """What versions take.

    Attributes:
        weights: Bytes of one version's weights.
        mapped: The share of them, 0 to 1, that lies on mappings of the files.
        read: The peak of resident memory while the checkpoint is read, above what was resident before, per ``weights``.
        tested: The same until the self-test is done.
        one: What a first version adds to the proportional set size of all, per ``weights``.
        second: What a second one adds to it.
    """

    weights: int
    mapped: float
    read: float
    tested: float
    one: float
    second: float


class Version:
    """A process that loads a version step by step; see ``bench.memory.version``."""

    def __init__(self, folder: Path, weights: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.memory.version", str(folder), weights],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def pss(self) -> int:
        """Its proportional set size in bytes: a page that n processes share counts as a n-th of one."""
        return pss(self._process.pid)

    def step(self) -> dict[str, Any]:
        """Have it take its next step, and return what it says of that."""
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # noqa: S101 - likewise
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"A version's process ended with {self._process.wait()}.")
        found: dict[str, Any] = json.loads(line)
        return found


def memory(first: Path, second: Path, weights: str) -> Memory:
    """Load two versions, ``weights`` being the engine's parameter of that name."""
    with Version(first, weights) as one, Version(second, weights) as other:
        empty = one.pss + other.pss
        read = one.step()
        alone = one.pss + other.pss
        other.step()
        both = one.pss + other.pss
        tested = one.step()
    size = read["weights"]
    return Memory(
        weights=size,
        mapped=read["mapped"],
        read=read["peak"] / size,
        tested=tested["peak"] / size,
        one=(alone - empty) / size,
        second=(both - alone) / size,
    )


def link(folder: Path, target: Path) -> None:
    """A version whose files are hard links of another's: do it before that is loaded, as its files' ctime changes."""
    shutil.copytree(folder, target, copy_function=os.link)
