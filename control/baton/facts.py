"""The types of all that Baton tells: the facade makes them, the API carries them, CLI and metrics read them.

``baton.codec`` writes them as JSON by the names of their fields, so fields are added, and never renamed or dropped.
``docs/schema.json`` is generated from them. Times are UTC text, as in ``2026-01-01T00:00:00Z``; shares are percent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal, TypeVar

from baton.domain import ALWAYS, Gate, GateResult, Kind, Outcome, Phase, Release, Verdict, VersionState
from baton.reasons import Reason

T = TypeVar("T")


def iso(at: float) -> str:
    """Seconds since the epoch as UTC text."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def widened(kind: type[T], base: Any, **more: Any) -> T:
    """``base`` as ``kind``, a subclass with ``more`` fields."""
    return kind(**{one.name: getattr(base, one.name) for one in fields(base)}, **more)


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One Triton server. ``in_sync``: it does what the files say, for every service."""

    name: str
    grpc: str
    live: bool
    in_sync: bool
    message: str = ""


@dataclass(frozen=True, slots=True)
class StepStatus:
    """Which traffic step is under way, counted from 1; 0 before the first. All traffic is the last of them."""

    index: int
    count: int
    name: str = ""
    left_s: float | None = field(default=None, metadata=ALWAYS)


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests that each version answered in this phase."""

    stable: int
    candidate: int


@dataclass(frozen=True, slots=True)
class SplitterStatus:
    """What a server's splitter does by its own last word, which is ``answered_s`` old."""

    server: str
    candidate: int | None
    weight: float
    shadow: float
    contents: bool
    lease_left_s: float
    answered_s: float


@dataclass(frozen=True, slots=True)
class Counted:
    """What the splitters of all servers counted together; ``observed`` is the candidate's share of late."""

    observed: float | None
    requests: Requests
    shadowed: int
    synthetic: int
    breaker: Literal["closed", "half_open", "open"]


@dataclass(frozen=True, slots=True)
class TrafficStatus(Counted):
    """Live traffic while it meets the candidate. ``weight`` and ``shadow`` are asked for."""

    weight: float
    shadow: float
    contents: bool
    splitters: tuple[SplitterStatus, ...]
    lease_s: float
    lease_left_s: float | None
    waiting_for: str
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class MemoryStatus:
    """What a version takes on this machine, and by what share it grew in the gate's window."""

    bytes: int
    gpu_bytes: int | None
    growth: float | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class VersionHealth:
    """Whether a version answers a real request on a server; since when not, and why."""

    server: str
    healthy: bool
    since: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """A version on disk, in a service's status. ``device``, ``dtype`` and ``fallback`` are null where not known."""

    version: int
    label: str
    state: VersionState
    release: Release
    reason: str
    memory: MemoryStatus | None
    device: str | None
    dtype: str | None
    fallback: str | None
    health: tuple[VersionHealth, ...]


@dataclass(frozen=True, slots=True)
class VersionOnDisk:
    """A line of ``ctl versions``. ``version`` is null for what lies beside the versions by mistake."""

    service: str
    version: int | None
    label: str
    release: Release | None
    state: VersionState
    size: int
    trained_at: str | None
    metrics: Mapping[str, Any]
    notes: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class RemovedVersion:
    """A version whose folder Baton removed from disk. ``bytes`` is what that freed."""

    version: int
    at: str
    bytes: int


@dataclass(frozen=True, slots=True)
class PrunableVersion:
    """A version on disk, for ``ctl prune``: whether it goes, or why it stays. ``bytes`` is what removing it frees."""

    version: int
    label: str
    bytes: int
    goes: bool
    reason: str = ""
    code: Reason = Reason.OTHER


@dataclass(frozen=True, slots=True)
class Pruned:
    """What retention removes. ``bytes`` is what that frees, ``free`` what is free now, null where it is not known.

    ``under_way``: versions are still to be removed, or files of removed ones to be deleted; ``doing``: what that is at.
    """

    service: str
    keep: int
    dry_run: bool
    versions: tuple[PrunableVersion, ...]
    bytes: int
    free: int | None = field(metadata=ALWAYS)
    under_way: bool
    problems: tuple[str, ...]
    doing: str = ""


@dataclass(frozen=True, slots=True)
class RolloutHead:
    """What a rollout is."""

    id: int
    kind: Kind
    candidate: int
    previous: int | None
    label: str
    release: Release
    phase: Phase
    who: str
    why: str
    started_at: str


@dataclass(frozen=True, slots=True)
class RolloutFacts(RolloutHead):
    """A line of ``ctl history``. ``weight`` and ``step`` while it is under way.

    ``code``: why it ended, or is turned back, as a value; without what the message says besides.
    ``removed_at``: when the candidate was removed from disk, where Baton did that.
    """

    service: str
    outcome: Outcome | None
    weight: float
    step: StepStatus | None
    message: str
    ended_at: str | None
    duration_s: float | None
    time_to_live_s: float | None
    gates: tuple[GateResult, ...]
    code: Reason = Reason.OTHER
    removed_at: str | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class Event:
    """An entry of the journal. ``code``: the reason that the message words; ``gate`` of a verdict.

    ``cause``: the reason that the message gives for what happened; ``short``: the message without that.
    """

    at: str
    kind: str
    who: str
    message: str
    code: Reason = Reason.OTHER
    gate: Gate | None = None
    cause: Reason | None = None
    short: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutStory(RolloutFacts):
    """One rollout and what happened. ``moved``: all traffic is on it; ``doing``: what it does or waits for now."""

    events: tuple[Event, ...]
    moved: bool
    ended: bool
    doing: str


@dataclass(frozen=True, slots=True)
class WaitsFor:
    """What a rollout lacks to go on: it has ``have`` of ``need``. ``eta_s`` is null where it can't be foreseen."""

    gate: Gate
    what: str
    have: int
    need: int
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One service; at rest with the gates of its last rollout. ``code``: the reason that the message words.

    ``removed``: the versions that were removed from disk since the last rollout began.
    """

    name: str
    engine: str
    phase: Phase
    message: str
    stable: int | None
    candidate: int | None
    weight: float
    step: StepStatus
    steps: tuple[str, ...]
    traffic: TrafficStatus | None
    gates: tuple[GateResult, ...]
    versions: tuple[VersionStatus, ...]
    problems: tuple[str, ...]
    rollout: RolloutHead | None
    updated_at: str | None
    waits_for: tuple[WaitsFor, ...] = ()
    code: Reason = Reason.OTHER
    removed: tuple[RemovedVersion, ...] = ()


@dataclass(frozen=True, slots=True)
class Status:
    """What ``ctl status`` shows. ``version`` is Baton's."""

    version: str
    paused: bool
    repository: str
    servers: tuple[ServerStatus, ...]
    services: tuple[ServiceStatus, ...]


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a verb began: the rollout, null where there is none to wait for, and until when it is worth waiting.

    ``code``: what is waited for where none has begun.
    """

    service: str
    rollout: int | None
    until: Literal["live", "ended"]
    message: str
    code: Reason | None = None


@dataclass(frozen=True, slots=True)
class Paused:
    """Whether automatic steps are frozen now."""

    paused: bool
    message: str


@dataclass(frozen=True, slots=True)
class RunsServer:
    """A server that the control plane runs with. ``http`` and ``metrics`` are left out where it does not know them."""

    name: str
    grpc: str
    admin_key_file: str | None
    http: str | None = None
    metrics: str | None = None
    tls: bool = False
    ca_file: str | None = None
    server_name: str | None = None


@dataclass(frozen=True, slots=True)
class Runs:
    """The configuration that a control plane runs with; paths are absolute, no file means the defaults."""

    configuration: str | None
    repository: str
    state: str
    services: tuple[str, ...]
    servers: tuple[RunsServer, ...]


@dataclass(frozen=True, slots=True)
class ControlHealth:
    """``live``: the loop turns, and may act. ``ready``: it has looked at every service, and a Triton answers."""

    live: bool
    ready: bool
    message: str
    runs: Runs | None = None


@dataclass(frozen=True, slots=True)
class Backup:
    """A copy of the journal. ``last_entry`` is the time of its newest entry, null where it has none."""

    file: str
    bytes: int
    rollouts: int
    last_entry: str | None


@dataclass(frozen=True, slots=True)
class Restored:
    """A journal put back. ``kept`` is what the old one is called, ``turned_back`` the rollouts that were under way."""

    journal: str
    restored_from: str
    last_entry: str | None
    kept: str | None
    turned_back: tuple[int, ...]
    paused: bool


class Role(StrEnum):
    """What a machine is to Baton. One machine may be several of them."""

    CONTROL = "control"
    TRITON = "triton"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One check of `ctl doctor`. ``ok``: null where it was skipped or works with a limit. ``fixed``: by --fix, now."""

    role: Role
    name: str
    verdict: Literal["ok", "warn", "fail", "skipped"]
    ok: bool | None
    message: str
    mend: str | None = None
    fixable: bool = False
    fixed: bool = False
