"""How a version of the fake Triton behaves, what it answers, and calls that take time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from baton.domain import EngineInfo, Signature, TensorSpec
from baton.errors import InvalidRequest, TritonError
from baton.triton.port import Tensors

SIGNATURE = Signature(
    (
        TensorSpec("query", "BYTES", (1,)),
        TensorSpec("documents", "BYTES", (-1,)),
        TensorSpec("instruction", "BYTES", (1,), optional=True),
        TensorSpec("options", "BYTES", (1,), optional=True),
        TensorSpec("media", "BYTES", (-1,), optional=True),
    ),
    (TensorSpec("scores", "FP32", (-1,)), TensorSpec("model_version", "INT64", (1,))),
    batched=True,
)
"""Inputs and outputs of every engine on a fake server: those of a reranker."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How one engine version behaves on one server. Durations in seconds; ``math.inf`` never ends."""

    load_s: float = 0.0
    load_error: str | None = None
    """The load fails with these words after ``load_s``."""
    answer_s: float = 0.0
    answer_error: str | None = None
    """Every request is answered by an error with these words."""
    score: float | None = None
    """The same score for every document, possibly NaN. None: scores that depend only on the texts."""
    shift: float = 0.0
    """What is added to every score."""
    noise: float = 0.0
    """What is added to the score of a document that is alone in its request, as in half precision."""
    heartbeats: float | None = None
    """Its count of heartbeats so far; None: it reports none."""
    info: EngineInfo | None = None
    """What the engine reports about itself; None: nothing."""
    leave_s: float = 0.0
    """How long a dropped version stays UNLOADING after its last request."""


class Call:
    """A load or unload call in progress on the server. ``error`` is set when it failed."""

    def __init__(self, model: str, work: Callable[[], Iterator[float]]) -> None:
        self.model = model
        self.error: TritonError | None = None
        self.done = False
        self._work = work
        self._steps: Iterator[float] | None = None
        self._until = 0.0

    def advance(self, now: float) -> None:
        """Go on as far as the time allows. Each step of the work yields the time at which the next one is due."""
        if self._steps is None:
            self._steps = self._work()
        while not self.done and now >= self._until:
            try:
                self._until = next(self._steps)
            except StopIteration:
                self.done = True
            except TritonError as error:
                self.error, self.done = error, True


def answer(version: int, behaviour: Behaviour, inputs: Tensors) -> Mapping[str, np.ndarray[Any, Any]]:
    """What a version answers. Scores depend only on the texts, so two versions agree unless ``score`` says otherwise.

    Raises ``InvalidRequest`` naming the document that is not JSON.
    """
    query = bytes(inputs["query"].reshape(-1)[0])
    documents = [bytes(d) for d in inputs["documents"].reshape(-1)]
    for number, document in enumerate(documents):
        try:
            json.loads(document)
        except ValueError as error:
            raise InvalidRequest(f"document {number} is not JSON: {error}") from None
    moved = behaviour.shift + (behaviour.noise if len(documents) == 1 else 0.0)
    scores = [
        behaviour.score
        if behaviour.score is not None
        else min(hashlib.sha256(query + b"\0" + d).digest()[0] / 255 + moved, 1.0)
        for d in documents
    ]
    return {
        "scores": np.array([scores], dtype=np.float32),
        "model_version": np.array([[version]], dtype=np.int64),
    }
