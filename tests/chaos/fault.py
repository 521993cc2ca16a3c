"""What a fault is: where it is tried, whether a client may notice, and which process it hits."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from harness.waiting import until
from tests.chaos.stage import ENGINE, SOON_S, Stage

from baton.domain import ModelState
from baton.triton.repository import SPLITTER_VERSION

BEFORE_TRAFFIC = ("verifying", "loading", "validating")
SHARED = ("shifting", "waiting")
"""Where clients meet the candidate."""
SPLIT = ("shadowing", *SHARED)
AFTER = ("baking", "retiring", "rolling_back", "steady")
PHASES = (*BEFORE_TRAFFIC, *SPLIT, *AFTER)
ALONE = tuple(phase for phase in PHASES if phase not in SHARED)

KEPT = ""
"""No request may fail: a living copy answers."""
NOTICED = "until it is noticed that what serves does not answer"
SPLITTER = "until the alias leads past the dead splitter"
NO_COPY = "until Triton and a copy of the model are there again"


@dataclass(slots=True)
class Blow:
    """One strike: on which stage, with which versions, and by whose dice."""

    stage: Stage
    old: int
    new: int | None
    draw: random.Random
    at: float = field(default_factory=time.time)
    """When it struck, in seconds since the epoch."""

    def now(self) -> None:
        self.at = time.time()


class Missed(Exception):
    """What was to be hit was not there."""


@dataclass(frozen=True, slots=True)
class Fault:
    name: str
    does: str
    strike: Callable[[Blow], None]
    phases: tuple[str, ...] = PHASES
    fails: str = KEPT
    """Until when requests may fail; empty: never."""
    disks: bool = False
    """It needs file systems of its own."""
    triton_lives: bool = False
    """Triton's own process must be the same afterwards."""


def process(blow: Blow, model: str, version: int | None) -> int:
    """The id of the process that runs a version."""
    stub = None if version is None else blow.stage.stub(model, version)
    if stub is None:
        raise Missed(f"{model} version {version} has no process")
    return stub.pid


def send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        raise Missed(f"process {pid} has ended") from None


def await_in(blow: Blow, phases: tuple[str, ...], condition: Callable[[dict[str, Any]], Any], what: str) -> None:
    """Until the condition holds of the service, while it is in one of the phases; then is when the fault strikes."""

    def met() -> bool:
        service = blow.stage.service()
        if service["phase"] not in phases:
            raise Missed(f"it is {service['phase']} already")
        return bool(condition(service))

    until(met, what, SOON_S)
    blow.now()


Target = Callable[[Blow], int]
"""Which process is hit: its id. Waits for the moment, where there is one."""


def live(blow: Blow) -> int:
    return process(blow, ENGINE, blow.stage.files.alias())


def stable(blow: Blow) -> int:
    """Once the candidate answered clients."""
    await_in(blow, SHARED, lambda service: service["traffic"]["observed"], "an answer of the candidate")
    return process(blow, ENGINE, blow.old)


def candidate(blow: Blow) -> int:
    return process(blow, ENGINE, blow.new)


def previous(blow: Blow) -> int:
    return process(blow, ENGINE, blow.old)


def splitter(blow: Blow) -> int:
    """Once it is loaded: for a load whose process is gone Triton 24.10 waits until it is restarted itself."""
    await_in(blow, SPLIT, lambda _service: blow.stage.splitter() is ModelState.READY, "the splitter")
    return process(blow, blow.stage.files.splitter_name, SPLITTER_VERSION)
