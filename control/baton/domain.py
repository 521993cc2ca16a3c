"""Baton's data types: no clock, no socket, no file. Times are seconds since the epoch, given from outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from baton.reasons import Why

ALWAYS: Mapping[str, bool] = {"always": True}
"""Metadata of a field that JSON has also where it is None, its default (see ``baton.codec``)."""


class Phase(StrEnum):
    """Where a service is in a rollout, or that it is in none (``empty``, ``steady``, ``degraded``)."""

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
    """What a gate says. ``hold``: not enough evidence, so it neither passes nor fails."""

    PENDING = "pending"
    RUNNING = "running"
    PASS = "pass"
    FAIL = "fail"
    HOLD = "hold"


MEETING = frozenset({Phase.SHADOWING, Phase.SHIFTING, Phase.WAITING})
"""Phases in which live requests may meet a candidate."""

WORST_FIRST = (Verdict.FAIL, Verdict.HOLD, Verdict.PASS)
"""Of several verdicts about one thing, the first in this order counts."""


class VersionState(StrEnum):
    """What a version on disk is to its service now."""

    SERVING = "serving"
    CANDIDATE = "candidate"
    STANDBY = "standby"
    LOADED = "loaded"
    ON_DISK = "on_disk"
    INCOMING = "incoming"
    REJECTED = "rejected"


class Release(StrEnum):
    """What the person who made a version says of it."""

    EQUIVALENT = "equivalent"
    """The same answers as the stable version: another dtype, build or packaging."""
    RETRAINED = "retrained"
    """New weights: other answers, which must rank no worse."""


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
    LIVE = "live"
    """Asked of live traffic while it is mirrored or split."""
    MEMORY = "memory"
    """Watched at all times. It raises an alarm and turns nothing back."""


FILE_GATES = (Gate.INTEGRITY, Gate.COMPATIBILITY, Gate.CAPACITY)
"""Asked of the folder and the machine, before the candidate is loaded."""
ANSWER_GATES = (Gate.WARMUP, Gate.OUTPUT, Gate.INVARIANCE, Gate.LATENCY)
"""Asked of the loaded candidate by requests to its exact version, before any traffic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The figures that a gate judged by: none. ``baton.evidence`` has a class with figures for each gate."""

    attempts: int | None = None
    """How often a gate that holds was asked."""
    missing: str | None = None
    """What a person has to give to a gate that holds (``golden``); without it the gate is not asked again."""


NO_EVIDENCE = Evidence()


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate's verdict, with the figure that decided and its limit, in the unit that ``message`` names.

    ``skipped``: the gate had nothing to compare with; it passes, and its message says why.
    """

    gate: Gate = field(metadata={"json": "name"})
    verdict: Verdict
    message: str
    observed: float | None = field(default=None, metadata=ALWAYS)
    limit: float | None = field(default=None, metadata=ALWAYS)
    skipped: bool = False
    evidence: Evidence = field(default=NO_EVIDENCE, hash=False)


@dataclass(frozen=True, slots=True)
class Step:
    """One traffic step, as the configuration lists it: a weight held, a weight reached linearly, or a pause.

    ``weight`` is the candidate's share of traffic in percent; ``hold`` and ``over`` are seconds.
    """

    weight: float = 0.0
    hold: float = 0.0
    over: float = 0.0
    pause: bool = False

    def __str__(self) -> str:
        if self.pause:
            return "pause"
        return f"to {self.weight:g} % over {self.over:g} s" if self.over else f"{self.weight:g} % for {self.hold:g} s"


@dataclass(frozen=True, slots=True)
class Route:
    """What the splitters are to do (``docs/explanation/splitter.md``). ``weight``, ``shadow``: percent of requests."""

    candidate: int
    weight: float
    shadow: float


@dataclass(frozen=True, slots=True)
class VersionMeta:
    """What ``version.toml`` of a version's folder says."""

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
    ``problem`` says why the entry can never become a version (``007``, ``2a``, a link to nowhere).
    ``missing`` says what an incomplete folder lacks.
    ``quiet_since`` is the time of the first scan that saw this fingerprint.
    """

    name: str
    version: int | None
    fingerprint: str
    missing: tuple[str, ...] = ()
    problem: str | None = None
    quiet_since: float = 0.0
    first_seen: float = 0.0
    size: int = 0
    cut: bool = False
    """It lacks only the end of a file, or a tokenizer or processor file."""
    newest: float = 0.0
    """The newest modification time in it; 0 where that is not known."""
    harmless: bool = False
    """It has a ``problem``, but Triton ignores it: a name of digits alone that leads somewhere (seen on 24.10)."""
    deadly: bool = False
    """Its name ends Triton at the next load call: a number beyond 64 bits (seen on 24.10)."""
    own_size: int = 0
    """Bytes of ``size`` that the disk gets back when it is removed."""
    uses: frozenset[int] = frozenset()
    """The other versions that its links lead into: without their folders it is broken."""

    @property
    def complete(self) -> bool:
        return self.version is not None and not self.missing and self.problem is None


class Kind(StrEnum):
    """What a rollout is for."""

    ROLLOUT = "rollout"
    """A new version on its way to serve."""
    ROLLBACK = "rollback"
    """A person goes back to a version that served before and was unloaded."""
    CHECK = "check"
    """``ctl verify``: every gate, no traffic, no promotion."""


GATES_OF: Mapping[Kind, tuple[Gate, ...]] = {
    Kind.ROLLOUT: (*FILE_GATES, Gate.LOAD, *ANSWER_GATES),
    Kind.CHECK: (*FILE_GATES, Gate.LOAD, *ANSWER_GATES),
    # A version that has served before is needed at once: it has to load and to answer.
    Kind.ROLLBACK: (Gate.LOAD, Gate.WARMUP),
}


class Outcome(StrEnum):
    """How a rollout ended."""

    LIVE = "live"
    VERIFIED = "verified"
    ROLLED_BACK = "rolled_back"
    """It had traffic, and clients were led back."""
    REJECTED = "rejected"
    """A gate failed before it had traffic."""
    ABORTED = "aborted"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a rollout is turned back: who or what did it, and the outcome."""

    outcome: Outcome
    who: str
    why: Why
    gate: Gate | None = field(default=None, metadata=ALWAYS)


@dataclass(frozen=True, slots=True)
class Rollout:
    """One attempt to bring one version to one service, as the journal holds it."""

    id: int
    service: str
    kind: Kind
    candidate: int
    previous: int | None
    phase: Phase
    who: str
    why: Why
    release: Release
    label: str
    fingerprint: str
    started_at: float
    phase_since: float
    gates: Mapping[Gate, GateResult] = field(default_factory=dict)
    gate_times: Mapping[Gate, float] = field(default_factory=dict)
    promoted: bool = False
    """A person promoted it: it waits for nobody, and goes on although Baton is paused."""
    full: bool = False
    """A person promoted it with ``--full``: the remaining traffic steps are skipped."""
    progress: float = 0.0
    """Seconds of its traffic steps, or of its shadow, that are done; see ``baton.plan.steps``."""
    progressed_at: float | None = None
    """When it last progressed; None before live traffic met the candidate."""
    approvals: int = 0
    """How many pause steps a person has let it pass."""
    renewed_at: float | None = None
    """When the lease of the splitters' route was last renewed."""
    stop: Stop | None = None
    moved_at: float | None = None
    """When the alias had moved on every server."""
    ended_at: float | None = None
    outcome: Outcome | None = None
    ended_why: Why | None = None
    salt: str = field(default="", repr=False, compare=False)
    """Salt of the hash that tells which request ids go to the candidate. Secret, since who knows it can choose: only
    the splitters get it. Empty once the rollout has ended."""

    def held(self) -> GateResult | None:
        """The first gate that holds for want of evidence; not the live one, which holds while it gathers it."""
        results = (self.gates.get(gate) for gate in GATES_OF[self.kind])
        return next((r for r in results if r is not None and r.verdict is Verdict.HOLD), None)


class ReleaseStatus(StrEnum):
    """What Baton has decided about a version on disk. A version without a record is new."""

    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"
    """It served, or was about to, and was taken back. Only a person brings it again."""
    RELEASED = "released"
    """It passed its gates and served."""
    ADOPTED = "adopted"
    """It was found serving, and this journal does not know why: the state directory was lost, or is an older one."""


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """The journal's record of one version of one service."""

    version: int
    status: ReleaseStatus
    reason: Why
    fingerprint: str
    loaded: bool
    """Whether Triton ever loaded it. Then a changed folder of the same number starts no rollout by itself."""
    at: float


@dataclass(frozen=True, slots=True)
class Pruning:
    """Version folders that are to be removed from disk, lowest first."""

    versions: tuple[int, ...]
    keep: int
    """How many were to stay beside the version that serves and the one that a rollback goes to."""
    who: str | None = None
    """The person who asked for it; None: retention, after a rollout (``keep_versions``)."""
    folders: Mapping[int, str] = field(default_factory=dict)
    """Their fingerprints: another folder that came in the place of one stays."""


@dataclass(frozen=True, slots=True)
class Removed:
    """When a version's folder was removed from disk, and the bytes that this freed."""

    at: float
    bytes: int


class ModelState(StrEnum):
    """States of Triton's repository index (``RepositoryIndex``), as 24.10 to 26.x name them."""

    READY = "READY"
    LOADING = "LOADING"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A model version in the repository index: its state, and Triton's reason."""

    state: ModelState
    reason: str = ""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an instance of an engine version computes with, as the engine reports it; None where it does not.

    ``fallback`` is what it did when it could not get what was ``asked`` for; ``none`` where it did nothing.
    """

    device: str | None = None
    dtype: str | None = None
    fallback: str | None = None
    asked_device: str | None = None
    asked_dtype: str | None = None

    @property
    def lowered(self) -> bool:
        """Whether it computes with less than was asked for."""
        return self.fallback not in (None, "", "none")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output as a model's configuration declares it, without the batch dimension; -1: any size.

    ``datatype`` is Triton's word on the wire: ``FP32``, ``INT64``, ``BYTES``.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives. ``batched``: every tensor has a batch dimension before its shape."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batched: bool


class Model(StrEnum):
    """The models of a service that Baton loads: the engine, the alias in front of it, and for a while the splitter."""

    ENGINE = "engine"
    ALIAS = "alias"
    SPLITTER = "splitter"
