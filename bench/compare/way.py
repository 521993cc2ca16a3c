"""What every way of updating has in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from harness.command import few
from harness.places import CHECKPOINTS, ENGINE, MODELS

from baton.triton import pbtxt

OLD, NEW = 1, 2
"""The versions of every run: the update leads from one to the other."""
CHECKPOINT = CHECKPOINTS / "base"
THREADS = 1
"""Of torch, in every process that computes."""
STEPS = (5, 50, 100)
"""Percent of the traffic, where a way moves it by weights."""
STEP_S = few(5.0, 1.0)


@dataclass(frozen=True)
class Running:
    """A way that serves version ``OLD``."""

    url: str
    """Where clients ask, ``http://host:port/v2/models/<name>/infer``."""
    update: Callable[[], None]
    """From version ``OLD`` to ``NEW``; returns when all that a person would do is done."""
    processes: Callable[[], Iterable[int]]
    """Everything that the way needs to serve and to update."""
    paths: Mapping[str, str] = field(default_factory=dict)
    """URLs whose costs are told besides, the one that the others are compared with first."""


@dataclass(frozen=True)
class Way:
    """One way to update a model."""

    name: str
    update: str
    """What its update is, in one sentence."""
    run: Callable[[Path], AbstractContextManager[Running]]
    """Starts it in an empty folder; every process of it is gone when the context is left, whatever happened."""


def infer_url(address: str, model: str = ENGINE, *, version: int | None = None) -> str:
    exact = "" if version is None else f"/versions/{version}"
    return f"http://{address}/v2/models/{model}{exact}/infer"


def engine_config(policy: str) -> str:
    """The repository's ``config.pbtxt`` for the engine, with ``THREADS`` and another version policy."""
    path = MODELS / ENGINE / "config.pbtxt"
    config = pbtxt.parse(path.read_text(), path)
    config.parameters["threads"].string_value = str(THREADS)
    config.ClearField("version_policy")
    return f"{config}\nversion_policy {{ {policy} }}\n"
