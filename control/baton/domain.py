"""The nouns of Baton. Data only: no clock, no socket, no file.

Times are seconds since the epoch as ``float``; they come in from outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Phase(StrEnum):
    """Where a service stands, as ``ctl status`` tells it."""

    EMPTY = "empty"
    STEADY = "steady"
    VERIFYING = "verifying"
    LOADING = "loading"
    VALIDATING = "validating"
    SHADOWING = "shadowing"
    SHIFTING = "shifting"
    WAITING = "waiting"
    BAKING = "baking"
    RETIRING = "retiring"
    ROLLING_BACK = "rolling_back"
    DEGRADED = "degraded"


class Verdict(StrEnum):
    """What a gate says. ``hold`` means not enough evidence: neither pass nor fail."""

    PENDING = "pending"
    RUNNING = "running"
    PASS = "pass"
    FAIL = "fail"
    HOLD = "hold"


class VersionState(StrEnum):
    """What a version on disk is to its service right now."""

    SERVING = "serving"
    CANDIDATE = "candidate"
    STANDBY = "standby"
    LOADED = "loaded"
    ON_DISK = "on_disk"
    INCOMING = "incoming"
    REJECTED = "rejected"


class Release(StrEnum):
    """What the person who released a version says of it."""

    EQUIVALENT = "equivalent"
    """The same answers as the stable version: another dtype, build or packaging."""
    RETRAINED = "retrained"
    """New weights: other answers, and better or no worse ones."""


class Gate(StrEnum):
    """The gates, in the order in which a rollout meets them."""

    INTEGRITY = "integrity"
    COMPATIBILITY = "compatibility"
    CAPACITY = "capacity"
    LOAD = "load"
    WARMUP = "warmup"
    OUTPUT = "output"
    INVARIANCE = "invariance"
    LATENCY = "latency"


FILE_GATES = (Gate.INTEGRITY, Gate.COMPATIBILITY, Gate.CAPACITY)
"""Asked of the folder and the machine, before anything is loaded."""
ANSWER_GATES = (Gate.WARMUP, Gate.OUTPUT, Gate.INVARIANCE, Gate.LATENCY)
"""Asked of the loaded candidate, by requests to its exact version, before any traffic."""


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate's verdict with the figure it was judged by.

    ``observed`` and ``limit`` are in the unit that ``message`` names. ``evidence`` holds sample sizes and
    further figures, JSON-compatible. ``skipped`` marks a gate that had nothing to compare with: it passes and
    its message says why.
    """

    gate: Gate
    verdict: Verdict
    message: str
    observed: float | None = None
    limit: float | None = None
    skipped: bool = False
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VersionMeta:
    """What ``version.toml`` of a version folder says; every field has a default."""

    label: str
    release: Release = Release.EQUIVALENT
    declared: bool = False
    """Whether ``release`` was written down by a person."""
    trained_at: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    notes: str | None = None


@dataclass(frozen=True, slots=True)
class Folder:
    """One entry of the engine's directory as one scan saw it.

    ``fingerprint`` changes when Triton would count the version as changed (any file's size, mtime, ctime or inode).
    ``problem`` is set when the entry can never become a version (``007``, ``2a``, a link to nowhere).
    ``missing`` says, for an incomplete folder, what is not there yet; empty means complete.
    ``quiet_since`` is the time of the first scan that saw this fingerprint.
    ``newest`` is the newest modification in the folder.
    """

    name: str
    version: int | None
    fingerprint: str
    missing: tuple[str, ...] = ()
    problem: str | None = None
    quiet_since: float = 0.0
    first_seen: float = 0.0
    size: int = 0

    @property
    def complete(self) -> bool:
        return self.version is not None and not self.missing and self.problem is None
