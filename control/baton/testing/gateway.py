"""A Triton in memory as the gateway sees it: an alias, versions of its engine behind it, and faults to order.

The same tests hold it and a connection to the real server (``tests/triton/test_gateway.py``). Needs ``[gateway]``.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baton.client import InvalidInput, NotServing, Tensors
from baton.errors import BatonError, TimedOut, Unreachable
from baton.gateway.pool import Outputs

KEYS = frozenset({"text", "image", "video"})


@dataclass(frozen=True, slots=True)
class Asked:
    """One request that reached the server."""

    model: str
    version: str
    inputs: Tensors
    request_id: str
    timeout_s: float


@dataclass
class FakeConnection:
    """A server whose ``alias`` leads to the version ``stable``; each of ``versions`` scores differently."""

    name: str = "memory"
    alias: str = "reranker"
    engine: str = "qwen3_vl_reranker"
    versions: tuple[int, ...] = (1,)
    stable: int = 1
    candidate: int | None = None
    """With it, each id of a request belongs to one of the two, by half."""
    rich: bool = True
    """Whether the model has the outputs logits and tokens."""
    tells_version: bool = True
    reachable: bool = True
    error: BatonError | None = None
    """Every request is answered by it."""
    answer_s: float = 0.0
    gate: asyncio.Event | None = None
    """Every request waits for it."""
    asked: list[Asked] = field(default_factory=list)
    cancelled: int = 0

    async def infer(self, model: str, version: str, inputs: Tensors, request_id: str, timeout_s: float) -> Outputs:
        if not self.reachable:
            raise Unreachable(f"Triton at {self.name} does not answer: connection refused.")
        self.asked.append(Asked(model, version, inputs, request_id, timeout_s))
        chosen = self._version(model, version, request_id)
        if self.error is not None:
            raise self.error
        try:
            if self.gate is not None:
                await self.gate.wait()
            await asyncio.sleep(min(self.answer_s, timeout_s))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.answer_s >= timeout_s:
            raise TimedOut(f"Triton at {self.name} gave no answer within {timeout_s:g} s.")
        return self._outputs(chosen, inputs)

    async def outputs(self, model: str, timeout_s: float) -> frozenset[str]:  # noqa: ARG002 - the connection's
        self._version(model, "", "")
        named = {"scores"} | ({"model_version"} if self.tells_version else set())
        return frozenset(named | ({"logits", "tokens"} if self.rich else set()))

    async def close(self) -> None:
        self.reachable = False

    def _version(self, model: str, version: str, request_id: str) -> int:
        if model == self.alias and not version:
            splits = self.candidate is not None and hashlib.sha256(request_id.encode()).digest()[0] < 128  # noqa: PLR2004
            return self.candidate if splits and self.candidate is not None else self.stable
        if model == self.engine and version.isdecimal() and int(version) in self.versions:
            return int(version)
        raise NotServing(f"Request for unknown model: '{model}' version {version} is not found")

    def _outputs(self, version: int, inputs: Tensors) -> Outputs:
        query, documents = bytes(inputs["query"][0, 0]), [bytes(one) for one in inputs["documents"][0]]
        for place, raw in (("query", query), *((f"document {n}", d) for n, d in enumerate(documents))):
            if not KEYS.issuperset(json.loads(raw)):
                raise InvalidInput(f"{place}: has an unknown key")
        logits = np.array([[self.logit(version, query, one) for one in documents]], dtype=np.float32)
        outputs: dict[str, NDArray[Any]] = {"scores": 1 / (1 + np.exp(-logits))}
        if self.tells_version:
            outputs["model_version"] = np.array([[version]], dtype=np.int64)
        if self.rich:
            tokens = np.array([[len(query) + len(one) for one in documents]], dtype=np.int64)
            outputs |= {"logits": logits, "tokens": tokens}
        return outputs

    @staticmethod
    def logit(version: int, query: bytes, document: bytes) -> float:
        """What a version makes of a pair: any two differ."""
        digest = hashlib.sha256(b"%d\0%b\0%b" % (version, query, document)).digest()
        return 8 * (int.from_bytes(digest[:4]) / 2**32 - 0.5)

    def scores(self, version: int, query: object, documents: list[object]) -> list[float]:
        """The scores of contents as the wire has them, for comparison."""
        raw = [json.dumps(one, ensure_ascii=False).encode() for one in (query, *documents)]
        return [1 / (1 + math.exp(-self.logit(version, raw[0], one))) for one in raw[1:]]
