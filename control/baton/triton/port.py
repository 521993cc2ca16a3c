"""The one port to a Triton server. Everything Baton asks of Triton goes through here.

``baton.triton.grpc.GrpcTriton`` implements it for a real server, ``baton.testing.FakeTriton`` in memory, with faults
that a test can order. The same contract tests hold both to it (``tests/triton/test_contract.py``).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from baton.domain import EngineInfo, ModelVersion, Signature
from baton.verify.device import DeviceMemory

Index = Mapping[str, Mapping[int, ModelVersion]]
"""Model name to version to state. A model that was never loaded may be absent, or present with no versions."""
EngineInfos = Mapping[str, Mapping[int, frozenset[EngineInfo]]]
"""Model name to version to what its instances report: the device and type they run in. A silent version is absent."""
Heartbeats = Mapping[str, Mapping[int, float]]
"""Model name to version to its count of heartbeats. A version that reports none is absent."""
Tensors = Mapping[str, np.ndarray[Any, Any]]
OWN = "baton-"
"""The ids of Baton's own requests begin so; none of them counts as live traffic."""


def own_id(about: str = "") -> str:
    """An id for one request of Baton's own, which nobody else can guess."""
    return f"{OWN}{about}{secrets.token_hex(16)}"


@dataclass(frozen=True, slots=True)
class Counts:
    """Requests to one version since it was loaded.

    An error that the model itself answers with counts as ``answered``; ``failed`` are those that its process did not
    take, or did not answer (seen on 24.10).
    """

    answered: int
    failed: int


class Triton(Protocol):
    """One Triton server. Every method may raise ``Unreachable``; a "no" from Triton is a ``TritonError``."""

    @property
    def name(self) -> str:
        """The server's name in the configuration."""
        ...

    def index(self) -> Index:
        """The repository index, as of now. Bounded by a short deadline."""
        ...

    def load(self, model: str, timeout_s: float) -> None:
        """Have Triton read the model's files and do what they say. Returns when Triton is done.

        Triton's OK does not mean loaded (a version folder that is missing is skipped): read the index.

        Raises:
            TritonError: Triton refused, with its words.
            TimedOut: Triton is still at it; the load goes on.
        """
        ...

    def unload(self, model: str, timeout_s: float) -> None:
        """Take the model out, all versions. Returns before its last requests ended."""
        ...

    def infer(
        self, model: str, version: int | None, inputs: Tensors, timeout_s: float, request_id: str | None = None
    ) -> Tensors:
        """One request to an exact version (None: the version Triton chooses).

        Without ``request_id`` it has one of its own that begins with :data:`OWN`.

        Raises:
            TritonError: the model answered with an error; ``InvalidRequest`` where it refused the request itself.
            TimedOut: no answer in time.
        """
        ...

    def step(self, model: str) -> str | None:
        """The model that a loaded ensemble's one step leads to; None when it has no steps, or is not loaded."""
        ...

    def instances(self, model: str, version: int) -> int:
        """How many instances the loaded version has, as Triton counts them; of a python model each is a process.

        Raises:
            TritonError: it is not loaded.
        """
        ...

    def signature(self, model: str, version: int) -> Signature:
        """The inputs and outputs of a loaded version, with what Triton filled in by itself.

        Raises:
            TritonError: it is not loaded.
        """
        ...

    def inflight(self, model: str) -> Mapping[int, int] | None:
        """Requests that wait in the queue, by version; None where the server's metrics are not known.

        Those that run are not counted (seen on 24.10); Triton ends them before it drops a version.
        """
        ...

    def counts(self) -> Mapping[str, Mapping[int, Counts]]:
        """Of all loaded models and versions, from Triton's statistics. Bounded by a short deadline."""
        ...

    def engine_infos(self) -> EngineInfos | None:
        """What the loaded engines report about themselves, all models at once; None where metrics are not known.

        They report it by their own metric ``baton_engine_info``, which may come a moment after READY. Triton keeps the
        metrics of a killed process for as long as Triton itself runs (seen on 24.10).
        """
        ...

    def device_memory(self) -> Sequence[DeviceMemory]:
        """The memory of the server's GPUs, by its metrics; empty where it has none, or its metrics are not known."""
        ...

    def heartbeats(self) -> Heartbeats | None:
        """The heartbeats that the loaded engines count while they work; None where metrics are not known.

        A metric ``baton_engine_beats_total`` that grows tells a version that is busy from one that hangs.
        """
        ...

    def close(self) -> None:
        """Release the connection."""
        ...
