"""A client's request as the splitter sees it, and a version's answer to it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

MAX_SCORES = 256
"""Scores of one answer that a sample carries, at most."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One version's answer: good, or an error."""

    response: Any
    """What :meth:`Request.reply` sends; an error response if ``error`` is set."""
    error: str | None = None
    scores: np.ndarray[Any, Any] | None = None
    """The compared tensor in the answer's shape. None: no tensor is compared, or the answer does not have it."""
    hurried: bool = False
    """The error says that the time was over or too short, and the client chose that time."""


class Request(Protocol):
    """One client's request."""

    again: bool
    """Its id was used before in this split, so its sender could know which version answers. Set by the splitter."""

    @property
    def id(self) -> str:
        """The client's id, or an empty text."""

    def call(self, version: int, compare: str | None) -> Answer:
        """Wait for the version's answer. Never raises: whatever goes wrong becomes an answer with an error."""

    def refusal(self, error: str) -> Answer:
        """The answer in place of a version that must not be called."""

    def reply(self, answer: Answer) -> None:
        """Send the answer to the client. May be called once."""

    def wants(self, output: str) -> bool:
        """Whether the client asked for this output."""

    def size(self) -> int:
        """Bytes of all inputs."""

    def texts(self) -> Mapping[str, Sequence[bytes]]:
        """The elements of each BYTES input of the request."""


@dataclass(slots=True)
class Scores:
    """Figures of one answer's scores. NaN and infinity have none, because JSON can't hold them."""

    values: list[float] = field(default_factory=list)
    """The first :data:`MAX_SCORES`, flat; empty if any score is not finite."""
    count: int = 0
    top: float | None = None
    mean: float | None = None

    @classmethod
    def of(cls, answer: Answer) -> Scores:
        if answer.scores is None or not answer.scores.size:
            return cls()
        flat = answer.scores.reshape(-1).astype(np.float64)
        mean = float(flat.mean())
        if not math.isfinite(mean):
            return cls(count=flat.size)
        return cls(np.round(flat[:MAX_SCORES], 7).tolist(), flat.size, round(float(flat.max()), 7), round(mean, 7))


def reason_to_reject(answer: Answer, shape: Sequence[int] | None) -> str | None:
    """Why the client must not get this answer of the candidate's, or None.

    ``shape`` is what the compared tensor must have, with -1 for any size; None when no tensor is compared.
    """
    if answer.error is not None:
        return answer.error
    if shape is None:
        return None
    if answer.scores is None:
        return "the compared output is missing"
    found = answer.scores.shape
    if len(found) != len(shape) or any(want not in (-1, have) for want, have in zip(shape, found, strict=True)):
        return f"the compared output has the shape {list(found)}, which the engine's configuration rules out"
    if not np.isfinite(answer.scores).all():
        return "the compared output holds NaN or infinity"
    return None
