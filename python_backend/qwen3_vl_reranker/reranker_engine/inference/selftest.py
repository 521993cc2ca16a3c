"""Scores built-in pairs before a version becomes ready; it also warms the model up."""

from __future__ import annotations

import json
import time
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from reranker_engine.model.errors import CheckpointError

if TYPE_CHECKING:
    from .scorer import Scorer

WARM_UP_ROUNDS = 2
WARM_UP_S = 0.25
"""On a CPU, a second round is run only if the first took less than this: it saves the first request some milliseconds,
whatever the model's size. On a GPU it is always run: the first one loads kernels, and tells nothing about the
second."""


def self_test(scorer: Scorer) -> float:
    """Score built-in pairs: texts, an image, a video of two frames; returns the seconds of the last round.

    Raises:
        CheckpointError: A score is not a number from 0 to 1.
    """
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    square = np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[:, None], (1, 64)), np.full((64, 64), 128, np.uint8)], -1)
    buffer = BytesIO()
    Image.fromarray(square).save(buffer, format="PNG")
    documents = [
        {"text": "A red circle."},
        {"text": "Berlin is the capital of Germany. " * 2},
        {"image": {"media": 0}},
        {"video": [{"media": 0}, {"media": 0}], "text": "A colour ramp."},
    ]
    query = json.dumps({"text": "a red circle"}).encode()
    request = scorer.parse(query, [json.dumps(one).encode() for one in documents], media=[buffer.getvalue()])
    seconds = 0.0
    for _ in range(WARM_UP_ROUNDS):
        start = time.monotonic()
        scores = scorer.score([scorer.prepare(request)])[0]
        seconds = time.monotonic() - start
        if not bool(np.all((scores >= 0) & (scores <= 1))):  # false for NaN as well
            raise CheckpointError(f"self-test: the checkpoint gives scores that are not in 0..1: {scores.tolist()}")
        if seconds > WARM_UP_S and scorer.model.device.type == "cpu":
            break
    return seconds
