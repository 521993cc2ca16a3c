"""What is measured of a version: by probes, and of live traffic by the splitter. Judges take these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Precision: TypeAlias = Literal["fp32", "half"]
"""What an engine computes in: fp32, or less (bf16, fp16)."""


@dataclass(frozen=True, slots=True)
class CaseScores:
    """One golden request's scores by one version, in document order."""

    case: str
    kind: str
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class GoldenScores:
    """A version's golden scores, with what they belong to: the golden set's SHA-256, and what the engine ran in.

    ``runs`` is type and device, as ``bf16 on cuda:0``; None: the engine does not say.
    """

    golden: str
    runs: str | None
    scores: tuple[CaseScores, ...]


@dataclass(frozen=True, slots=True)
class Noise:
    """How far the golden scores of ``version`` moved when each document was scored alone, and what that belongs to.

    ``furthest`` is the largest difference of a score, over ``documents`` of them.
    """

    golden: str
    runs: str | None
    version: int
    furthest: float
    documents: int


@dataclass(frozen=True, slots=True)
class ScorePair:
    """One (query, document) pair scored twice by the same version: alone, and inside a mixed batch."""

    case: str
    document: int
    alone: float
    mixed: float


@dataclass(frozen=True, slots=True)
class LatencySamples:
    """Seconds per request, stable and candidate in turn.

    ``stable[2*i:2*i+2]`` and ``candidate[2*i:2*i+2]`` are block ``i``: four answers to request ``requests[i]`` right
    after one another. ``complete`` says that no more samples will come. A failure is the words of the error that
    ended the measurement.
    """

    stable: tuple[float, ...] = ()
    candidate: tuple[float, ...] = ()
    requests: tuple[int, ...] = ()
    complete: bool = False
    stable_failure: str | None = None
    candidate_failure: str | None = None


@dataclass(frozen=True, slots=True)
class WarmupSamples:
    """Seconds: the first timed answer after each round of warm-up, and the answers that followed it."""

    first: tuple[float, ...] = ()
    steady: tuple[float, ...] = ()
    warmed: int = 0
    """Requests that only warmed up."""
    complete: bool = False
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One attempt of one version to answer a live request, as the splitter saw it; ``at`` is its end.

    A ``refused`` attempt never reached the version (bulkhead full, or breaker open). A ``client_error`` is an error
    that stable gave, too; all of stable's own are called so, since nobody else is asked. ``took_ms`` is None where
    nothing was measured; for a ``late`` attempt it is how long the splitter waited. ``top`` and ``mean`` are of the
    scores, None where there are none. ``size`` is bytes of inputs.

    ``again``: its id was used before in this split, so that its sender could know where it goes. ``stable_ms`` is what
    the same request took stable, where the candidate had failed or was late. ``hurried``: it failed because its client
    allowed so little time.
    """

    at: float
    role: Literal["stable", "candidate"]
    took_ms: float | None
    outcome: Literal["ok", "failed", "late", "refused", "client_error"]
    error: str = ""
    id: str = ""
    top: float | None = None
    mean: float | None = None
    again: bool = False
    stable_ms: float | None = None
    size: int = 0
    hurried: bool = False
    boot: str = ""
    """The splitter process that saw it."""

    @property
    def long(self) -> bool:
        """Whether it was late, and took stable as long: that is the request's doing."""
        return self.outcome == "late" and self.stable_ms is not None and self.stable_ms >= (self.took_ms or 0.0)

    @property
    def began(self) -> float:
        return self.at - (self.took_ms or 0.0) / 1000.0


@dataclass(frozen=True, slots=True)
class Pair:
    """One live request that stable answered and that was mirrored to the candidate, whose answer nobody saw.

    ``kind`` says what the request was made of (``documents.image,query.text``). Scores are in document order, empty
    where there are none. A ``dropped`` one was never asked. ``digest`` is the same for the same texts, empty where it
    is not known.
    """

    at: float
    id: str
    kind: str
    stable_ms: float | None
    candidate_ms: float | None
    outcome: Literal["ok", "failed", "late", "dropped"]
    stable: tuple[float, ...] = ()
    candidate: tuple[float, ...] = ()
    error: str = ""
    contents: Mapping[str, list[str]] | None = None
    digest: str = ""
    hurried: bool = False
    """As of an answer."""

    @property
    def long(self) -> bool:
        """As of an answer. Where one of the times is not known, it is the candidate's doing."""
        known = self.candidate_ms is not None and self.stable_ms is not None
        return self.outcome == "late" and known and (self.stable_ms or 0.0) >= (self.candidate_ms or 0.0)

    @property
    def began(self) -> float:
        """When the candidate was asked."""
        return self.at - (self.candidate_ms or 0.0) / 1000.0
