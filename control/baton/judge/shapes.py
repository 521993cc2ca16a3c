"""What the verdicts ask of the measurements they are given, by shape; the probes' own classes fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class CaseScores(Protocol):
    """One golden request's scores, in document order."""

    @property
    def case(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def scores(self) -> Sequence[float]: ...


class ScorePair(Protocol):
    """One (query, document) pair scored twice by the same version: alone, and inside a mixed batch."""

    @property
    def case(self) -> str: ...
    @property
    def document(self) -> int: ...
    @property
    def alone(self) -> float: ...
    @property
    def mixed(self) -> float: ...


class LatencySamples(Protocol):
    """Seconds per request, stable and candidate in turn.

    ``stable[2*i:2*i+2]`` and ``candidate[2*i:2*i+2]`` are block ``i``: four answers to request ``requests[i]`` right
    after one another. ``complete`` says that no more samples will come. A failure is the words of the error that
    ended the measurement.
    """

    @property
    def stable(self) -> Sequence[float]: ...
    @property
    def candidate(self) -> Sequence[float]: ...
    @property
    def requests(self) -> Sequence[int]: ...
    @property
    def complete(self) -> bool: ...
    @property
    def stable_failure(self) -> str | None: ...
    @property
    def candidate_failure(self) -> str | None: ...


class WarmupSamples(Protocol):
    """Seconds: the first timed answer after each of some rounds of warm-up, and the answers that followed it."""

    @property
    def first(self) -> Sequence[float]: ...
    @property
    def steady(self) -> Sequence[float]: ...
    @property
    def complete(self) -> bool: ...
    @property
    def failure(self) -> str | None: ...
