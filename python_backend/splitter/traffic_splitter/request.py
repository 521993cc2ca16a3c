"""What the splitter needs of a request, of the versions' answers, and of the threads they run on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from .pool import Task

MOST_SCORES = 256
"""Scores of one answer that a sample carries."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One version's answer. Exactly one of ``response`` and ``error`` counts."""

    response: Any
    """To be handed back by :meth:`Request.reply`; an error response when ``error`` is set."""
    error: str | None = None
    scores: np.ndarray[Any, Any] | None = None
    """The compared tensor in the answer's shape, or None: nothing is compared, or the answer has none."""
    hurried: bool = False
    """It is an error for want of time, and how much time there was is what the client chose."""


class Request(Protocol):
    """One client's request."""

    again: bool
    """Its id was used before in this split, so its sender could know where it goes. The splitter says so."""

    @property
    def id(self) -> str:
        """The client's id, or an empty text."""

    def call(self, version: int, compare: str | None) -> Answer:
        """The version's answer; waits for it. Never raises: what goes wrong is an answer with an error."""

    def refusal(self, error: str) -> Answer:
        """What stands for the answer of a version that is not called."""

    def reply(self, answer: Answer) -> None:
        """Send the answer to the client; once."""

    def wants(self, output: str) -> bool:
        """Whether the client asked for that output."""

    def size(self) -> int:
        """Bytes of all inputs."""

    def texts(self) -> Mapping[str, Sequence[bytes]]:
        """The elements of each BYTES input that the request has."""


class Threads(Protocol):
    """As :class:`traffic_splitter.pool.Pool`."""

    size: int

    @property
    def free(self) -> int: ...
    def submit(self, task: Task) -> None: ...
    def offer(self, task: Task) -> bool: ...


class Clockwork(Protocol):
    """As :class:`traffic_splitter.pool.Timer`."""

    def after(self, delay_s: float, act: Task) -> None: ...


@dataclass(slots=True)
class Scores:
    """The figures of one answer's scores. NaN and infinity have none: the sample's JSON can't hold them."""

    values: list[float] = field(default_factory=list)
    """The first :data:`MOST_SCORES`, flat; empty when one of all is not finite."""
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
        return cls(np.round(flat[:MOST_SCORES], 7).tolist(), flat.size, round(float(flat.max()), 7), round(mean, 7))


def flaw(answer: Answer, shape: Sequence[int] | None) -> str | None:
    """Why the candidate's answer must not reach the client, or None.

    ``shape`` is what the compared tensor must look like, -1 for any size; None when nothing is compared.
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
