"""Loads of a version by a real Triton: what each part of one takes, and how soon it answers at full speed."""

from __future__ import annotations

import json
import re
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from harness.network import fetch
from harness.places import ENGINE, MODELS
from harness.triton import running_triton
from harness.waiting import until

from baton.client import DIRECT
from baton.local import LocalTriton

PARTS = ("start", "imports", "trial", "weights", "self_test")
REQUESTS = 100
QUERY = {"text": "a red circle"}
DOCUMENTS = ({"text": "a red circle beside a blue star"}, {"text": "a green ring"})


@dataclass(frozen=True)
class Start:
    """One load.

    Attributes:
        ready: Seconds from the load call to its answer, when the version is READY.
        parts: Seconds of each of ``PARTS``, as the engine's metrics tell them.
        answers: Seconds of each of ``REQUESTS`` requests, all the same, the first one first.
    """

    ready: float
    parts: dict[str, float]
    answers: tuple[float, ...]

    @property
    def rest(self) -> float:
        """What is not in ``parts``: Triton's share, and the engine's threads and metrics."""
        return self.ready - sum(self.parts.values())

    @property
    def first(self) -> float:
        """The first answer, in medians of the others."""
        return self.answers[0] / statistics.median(self.answers[1:])


def starts(home: Path, checkpoint: Path, weights: str, rounds: int) -> Iterator[Start]:
    """Load the version ``rounds`` times, each time in a fresh process, and ask it."""
    with (
        _server(home, checkpoint, weights) as server,
        triton.InferenceServerClient(server.grpc_url, channel_args=[DIRECT]) as client,
    ):
        inputs = [_tensor("query", [QUERY]), _tensor("documents", DOCUMENTS)]
        for _ in range(rounds):
            begun = time.perf_counter()
            client.load_model(ENGINE)
            ready = time.perf_counter() - begun
            answers = []
            for _ in range(REQUESTS):
                asked = time.perf_counter()
                client.infer(ENGINE, inputs)
                answers.append(time.perf_counter() - asked)
            parts = until(lambda: _parts(server), "the engine's metrics")
            yield Start(ready, parts, tuple(answers))
            client.unload_model(ENGINE)
            until(lambda: not server.stubs() and not _parts(server), "the version's process to end")


@contextmanager
def _server(home: Path, checkpoint: Path, weights: str) -> Iterator[LocalTriton]:
    model = home / "repository" / ENGINE
    shutil.copytree(MODELS / ENGINE, model)
    config = model / "config.pbtxt"
    text = config.read_text(encoding="utf-8")
    config.write_text(re.sub(r'(key: "weights"\s+value: \{ string_value: )"copy"', rf'\1"{weights}"', text), "utf-8")
    (model / "1").symlink_to(checkpoint.resolve())
    with running_triton(home, home / "repository") as server:
        yield server


def _parts(server: LocalTriton) -> dict[str, float]:
    """Seconds by part; empty as long as the engine has not told, and when the version is gone."""
    text = fetch(server.metrics_url)
    found = re.findall(r'^baton_engine_load_seconds\{.*part="(\w+)".*\} (\S+)$', text, re.MULTILINE)
    parts = {part: float(value) for part, value in found if float(value)}
    return parts if set(parts) == set(PARTS) else {}


def _tensor(name: str, values: list[dict[str, str]] | tuple[dict[str, str], ...]) -> triton.InferInput:
    tensor = triton.InferInput(name, [1, len(values)], "BYTES")
    tensor.set_data_from_numpy(np.array([[json.dumps(value).encode() for value in values]], dtype=np.object_))
    return tensor
