"""Where a fake Triton reads its models from: a repository on disk, or an object of a test with the same method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from baton.errors import RepositoryError
from baton.triton import pbtxt
from baton.triton.repository import SPLITTER_BACKEND
from baton.verify.names import is_number


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What Triton reads of one model's directory in one load call."""

    policy: frozenset[int]
    folders: Mapping[int, str]
    """Version folders with what stands for their content: another value means changed."""
    unexpected: Mapping[str, str] = field(default_factory=dict)
    """Entries beside the version folders, likewise."""
    step: tuple[str, int] | None = None
    """Engine and version of an ensemble's one step; None for an engine."""
    splits: Mapping[str, str] | None = None
    """Of a splitter: its parameters."""
    rest: str = ""
    """The configuration without its version policy and instance groups: a change reloads every version."""
    newest: int = 0
    """The newest time in the model's directory: unless it has grown, Triton passes over other changes. 0: not known."""


class RepositoryView(Protocol):
    """Where a server reads its models from."""

    def read(self, model: str) -> ModelFiles | None:
        """The model's files as they are now; None when there are none, or when they can't be parsed."""
        ...


class DiskRepository:
    """A real model repository."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, model: str) -> ModelFiles | None:
        directory = self._path / model
        path = directory / "config.pbtxt"
        try:
            config = pbtxt.parse(path.read_text(), path)
        except (OSError, UnicodeDecodeError, RepositoryError):
            return None
        entries = {e.name: e for e in directory.iterdir() if e.name != path.name}
        folders = {int(n): _newest(e) for n, e in entries.items() if is_number(n) and n[0] != "0" and e.is_dir()}
        unexpected = {n: _newest(e) for n, e in entries.items() if not is_number(n)}
        policy = frozenset(config.version_policy.specific.versions)
        splits = None
        if config.backend == SPLITTER_BACKEND:
            splits = {name: value.string_value for name, value in config.parameters.items()}
        steps = config.ensemble_scheduling.step
        config.ClearField("version_policy")
        config.ClearField("instance_group")
        step = (steps[0].model_name, int(steps[0].model_version)) if steps else None
        newest = int(_newest(directory))
        return ModelFiles(policy, folders, unexpected, step, splits, str(config), newest)


def _newest(path: Path) -> str:
    """The newest mtime or ctime at or below a path, links followed: by that Triton tells that a version changed."""
    statuses = [path.stat()] + [p.stat() for p in path.rglob("*")]
    return str(max(max(s.st_mtime_ns, s.st_ctime_ns) for s in statuses))
