"""The figures that each gate judged by: one class for each gate, made by its judge and read by CLI and metrics.

``baton.codec`` writes them to JSON and reads them again. A figure that was not taken is None, and not in the JSON. A
judge that could take no figure at all gives the plain ``Evidence`` of ``baton.domain``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from baton.domain import ALWAYS, Evidence, Gate, GateResult, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegrityEvidence(Evidence):
    """The counts below ``unchecked_sums`` are there where the folder is complete."""

    hashed_bytes: int
    hashed_files: int
    unchecked_sums: int | None = None
    """Lines of ``SHA256SUMS`` that name files which are not served."""
    files: int | None = None
    bytes: int | None = None
    tensors: int | None = None
    ignored_files: int | None = None
    ignored_bytes: int | None = None
    problems: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompatibilityEvidence(Evidence):
    """Of architecture and tokenizer."""

    architecture: str | None = None
    tokens: int | None = None
    tokens_changed: int | None = None
    """Tokens that differ from the stable version's."""
    problems: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityEvidence(Evidence):
    """Of memory. ``margin`` is a share of ``needed_bytes``; ``what`` names the memory.

    Of GPUs there is more: ``device`` (UUIDs), ``source`` of the free memory, the served ``dtype``, and the two parts of
    the estimate.
    """

    needed_bytes: int
    available_bytes: int | None
    margin: float
    what: str
    device: str | None = None
    source: str | None = None
    dtype: str | None = None
    weights_bytes: int | None = None
    peak_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadEvidence(Evidence):
    """Of a load that failed: what Triton said."""

    triton: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmupEvidence(Evidence):
    """Times of first answers. One that JSON can't hold (from a broken clock) is text."""

    rounds: int
    first_ms: tuple[float | str, ...]
    steady_samples: int
    steady_p95_ms: float | None = None
    server: str | None = None


@dataclass(frozen=True, slots=True)
class Sides:
    """The same figure of both versions."""

    stable: float | None
    candidate: float | None


@dataclass(frozen=True, slots=True)
class WorstScore:
    """The golden score that decided. One that is not a number is text."""

    case: str
    document: int
    candidate: float | str
    stable: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputEvidence(Evidence):
    """Of the golden scores."""

    cases: int
    scores: int | None = None
    labelled: int | None = None
    """Cases with a relevant document."""
    beyond: int | None = None
    """Scores that differ by more than the tolerance."""
    median_difference: float | None = None
    worst: WorstScore | None = None
    ndcg_stable: float | None = None
    ndcg_candidate: float | None = None
    looks_retrained: bool | None = None
    kinds: Mapping[str, Sides] | None = None
    """NDCG@10 by kind of request."""
    degenerate: int | None = None
    """Cases in which nearly all documents have the same score."""
    kind: str | None = None
    """The kind of request all of whose cases are degenerate."""
    noise: float | None = None
    """How far the stable version's own scores move by themselves, where that was allowed for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InvarianceEvidence(Evidence):
    """Of pairs that were scored alone and in a mixed batch. ``case`` and below are of the pair furthest apart."""

    pairs: int
    precision: str
    unit: str
    runs: str | None = None
    """What the engine says that it runs in, as ``bf16 on cuda:0``."""
    case: str | None = None
    document: int | None = None
    alone: float | None = None
    mixed: float | None = None
    beyond: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyEvidence(Evidence):
    """Of times taken in turn. Without enough ``samples`` of each version there is no other figure."""

    samples: int
    shared_slowdown_mean: float | None = None
    p50_ms: Sides | None = None
    p95_ms: Sides | None = None
    p95_ms_raw: Sides | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveCheck:
    """One check of the gate ``live``; ``message`` is a clause with figures and sample sizes, without a full stop.

    ``hangs_on``: it would fail only by evidence of this one source, so it holds. Where it holds for want of evidence,
    ``have`` is what there is and ``need`` the least that is needed.
    """

    name: str
    verdict: Verdict
    message: str
    observed: float | None = field(default=None, metadata=ALWAYS)
    limit: float | None = field(default=None, metadata=ALWAYS)
    skipped: bool | None = None
    hangs_on: str | None = None
    have: int | None = None
    need: int | None = None


@dataclass(frozen=True, slots=True)
class Failures:
    """How many requests of a version failed."""

    requests: int
    failed: int
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorsCheck(LiveCheck):
    """Whether the candidate fails more often."""

    name: str = "errors"
    stable: Failures
    candidate: Failures
    client_errors: int
    """Errors that are the request's own."""
    last_error: str | None = None
    in_row: int | None = None


@dataclass(frozen=True, slots=True)
class Times:
    """How fast a version answered."""

    answers: int
    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveLatencyCheck(LiveCheck):
    """Whether the candidate is slower."""

    name: str = "latency"
    stable: Times | None = None
    candidate: Times | None = None
    slow: int | None = None
    """The candidate's slow answers, where its slow answers decided."""
    answers: tuple[int, ...] | None = None
    """Of stable and of the candidate, where there are too few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributionsCheck(LiveCheck):
    """Whether the two versions' scores of different requests lie apart. ``stable`` and ``candidate`` are counts."""

    name: str = "distributions"
    stable: int | None = None
    candidate: int | None = None
    top: float | None = None
    mean: float | None = None


@dataclass(frozen=True, slots=True)
class KindMean:
    """The mean of a measure over the requests of one kind."""

    mean: float
    pairs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoresCheck(LiveCheck):
    """Whether the two versions score the same requests alike. ``name`` is one of ``SCORES``."""

    pairs: int | None = None
    kind: str | None = None
    """The kind of request that decided; empty: all requests."""
    kinds: Mapping[str, KindMean] | None = None
    beyond: int | None = None
    """Requests with a score that differs by more than the tolerance."""
    shift: float | None = None
    """Mean of the candidate's scores minus that of stable's."""
    shift_chance: float | None = None
    chance: float | None = None


@dataclass(frozen=True, slots=True)
class LiveSamples:
    """What the live checks looked at: attempts of each version, and requests that both scored."""

    stable: int
    candidate: int
    pairs: int


@dataclass(frozen=True, slots=True)
class WorstRequest:
    """A live request whose scores are far apart. ``contents`` where requests' contents are kept."""

    id: str
    kind: str
    drift: float
    tau: float | None
    stable_top1: int
    candidate_top1: int
    contents: Mapping[str, tuple[str, ...]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveEvidence(Evidence):
    """Of live traffic. ``synthetic`` is the number of golden requests that stood in for it."""

    checks: tuple[LiveCheck, ...]
    samples: LiveSamples
    worst: tuple[WorstRequest, ...]
    synthetic: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEvidence(Evidence):
    """Of a version's memory. Growth is a share of the median in the window."""

    samples: int
    span_s: float | None = None
    median_bytes: float | None = None
    growth_bytes: float | None = None
    growth_low: float | None = None
    growth_high: float | None = None
    growth_without_steps: float | None = None


EVIDENCE: Mapping[str, type[Evidence]] = {
    Gate.INTEGRITY: IntegrityEvidence,
    Gate.COMPATIBILITY: CompatibilityEvidence,
    Gate.CAPACITY: CapacityEvidence,
    Gate.LOAD: LoadEvidence,
    Gate.WARMUP: WarmupEvidence,
    Gate.OUTPUT: OutputEvidence,
    Gate.INVARIANCE: InvarianceEvidence,
    Gate.LATENCY: LatencyEvidence,
    Gate.LIVE: LiveEvidence,
    Gate.MEMORY: MemoryEvidence,
}
"""By the gate's name."""
SCORES = ("scores", "degenerate", "difference", "drift", "top1", "tau", "crossing")
CHECKS: Mapping[str, type[LiveCheck]] = {
    "errors": ErrorsCheck,
    "latency": LiveLatencyCheck,
    "distributions": DistributionsCheck,
    **dict.fromkeys(SCORES, ScoresCheck),
}
"""By the check's name."""


def synthetic(result: GateResult | None) -> int:
    """How many golden requests stood in for live ones; 0: a verdict of live traffic, or none."""
    return result.evidence.synthetic or 0 if result is not None and isinstance(result.evidence, LiveEvidence) else 0
