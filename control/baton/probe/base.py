"""What every probe is made of: the port to Triton that it asks through, and the shapes of what it brings back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from baton.errors import BatonError
from baton.probe.golden import GoldenSet
from baton.samples import CaseScores, ScorePair

Tensors: TypeAlias = Mapping[str, NDArray[Any]]
"""Tensors by name. BYTES is an object array of ``bytes``."""

TIMEOUT_S = 30.0
"""For one request. A version that hangs then ends as a failed gate, and not as a rollout that never ends."""


class Infer(Protocol):
    """Asks the service's engine, at this exact version, and returns its outputs.

    Must return or raise within about ``timeout_s`` seconds. Raises :mod:`baton.errors`:
    :class:`~baton.errors.Unreachable` when the server is not there, :class:`~baton.errors.TimedOut` when no answer
    came in time, :class:`~baton.errors.TritonError` when the version answered with an error.
    """

    def __call__(self, version: int, inputs: Tensors, timeout_s: float, /) -> Tensors: ...


Stop: TypeAlias = Callable[[], bool]
"""Asked before each request: true means that the rollout was aborted."""


class Cancelled(BatonError):
    """The measurement was stopped before it was done."""


def check(cancelled: Stop) -> None:
    """Raise :class:`Cancelled` when the rollout was aborted."""
    if cancelled():
        raise Cancelled("The measurement was stopped before it was done.")


class Probe(Protocol):
    """What a rollout wants to know of a loaded version.

    Each method sends one request at a time and asks ``cancelled`` before each, so that an abort takes effect within
    one request. Each raises :class:`Cancelled`, and the errors of :class:`Infer` when the version gives no usable
    answer.
    """

    @property
    def relevance(self) -> Mapping[str, Sequence[int]]:
        """The grades of the labelled cases' documents, by case."""
        ...

    def smoke(self, infer: Infer, version: int, *, timeout_s: float = TIMEOUT_S) -> CaseScores:
        """Ask one real question: proves that the version answers, and as itself."""
        ...

    def score_golden(
        self, infer: Infer, version: int, *, cancelled: Stop, timeout_s: float = TIMEOUT_S
    ) -> list[CaseScores]:
        """Score each golden request, one at a time, in the order of the golden set."""
        ...

    def check_invariance(
        self, infer: Infer, version: int, *, cancelled: Stop, timeout_s: float = TIMEOUT_S
    ) -> list[ScorePair]:
        """Score the pairs of a few golden requests alone, and again inside a mixed batch."""
        ...

    def requests(self) -> Sequence[Tensors]:
        """Return each golden request whole, the kinds taking turns."""
        ...

    def latency_requests(self, documents: int | None = None) -> list[Tensors]:
        """Return a few requests to time, from the smallest to the largest; of each at most so many documents."""
        ...


MakeProbe: TypeAlias = Callable[[GoldenSet], Probe]
