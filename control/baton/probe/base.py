"""The interface of a probe: how it sends requests, and the types of what it returns.

A request that takes longer than ``timeout_s`` is an error, so a version that hangs ends as a failed gate, and not as a
rollout that never ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from baton.errors import BatonError
from baton.probe.golden import GoldenSet
from baton.samples import CaseScores, ScorePair

Tensors: TypeAlias = Mapping[str, NDArray[Any]]
"""Tensors by name. BYTES is an object array of ``bytes``."""


class Infer(Protocol):
    """Asks the service's engine, at this exact version, and returns its outputs.

    Must return or raise within about ``timeout_s`` seconds. Raises :mod:`baton.errors`:
    :class:`~baton.errors.Unreachable` when the server is not there, :class:`~baton.errors.TimedOut` when no answer
    came in time, :class:`~baton.errors.TritonError` when the version answered with an error.
    """

    def __call__(self, version: int, inputs: Tensors, timeout_s: float, /) -> Tensors: ...


Stop: TypeAlias = Callable[[], bool]
"""Called before each request: true means that the rollout was aborted."""


class Cancelled(BatonError):
    """The measurement was stopped before it was done."""


def check(cancelled: Stop) -> None:
    """Raise :class:`Cancelled` when the rollout was aborted."""
    if cancelled():
        raise Cancelled("The measurement was stopped before it was done.")


class Probe(Protocol):
    """The requests by which a rollout examines a loaded version.

    Each method sends one request at a time and asks ``cancelled`` before each, so that an abort takes effect within
    one request. Each raises :class:`Cancelled`, and the errors of :class:`Infer` when the version gives no usable
    answer.
    """

    @property
    def relevance(self) -> Mapping[str, Sequence[int]]:
        """The grades of the labelled cases' documents, by case."""
        ...

    def smoke(self, infer: Infer, version: int, *, timeout_s: float) -> CaseScores:
        """Send one real request: proves that the version answers, and with its own version number."""
        ...

    def score_golden(self, infer: Infer, version: int, *, cancelled: Stop, timeout_s: float) -> list[CaseScores]:
        """Score each golden request, one at a time, in the order of the golden set."""
        ...

    def score_alone(self, infer: Infer, version: int, *, cancelled: Stop, timeout_s: float) -> list[ScorePair]:
        """Score the documents of the golden requests together, and again each alone: how far do scores move?"""
        ...

    def check_invariance(self, infer: Infer, version: int, *, cancelled: Stop, timeout_s: float) -> list[ScorePair]:
        """Score the pairs of a few golden requests alone, and again inside a mixed batch."""
        ...

    def requests(self) -> Sequence[Tensors]:
        """Return each golden request whole, the kinds taking turns."""
        ...

    def latency_requests(self, documents: int | None = None) -> list[Tensors]:
        """Return a few requests to time, from the smallest to the largest; of each at most so many documents."""
        ...


MakeProbe: TypeAlias = Callable[[GoldenSet], Probe]
