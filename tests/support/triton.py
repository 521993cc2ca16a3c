"""The real Triton server for tests, with the toy backend."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import harness.triton
import numpy as np
import tritonclient.grpc as triton
from harness.places import BACKENDS, ROOT

from baton.local import LocalTriton

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

TOY_BACKENDS, OUR_BACKENDS = ROOT / "tests" / "support" / "backends", BACKENDS
"""The toy's, and Baton's own."""


class Answer(NamedTuple):
    scores: npt.NDArray[np.float32]
    """One score a document."""
    model_version: int
    """The engine version that says it computed the scores."""
    response_version: str
    """The ``model_version`` of Triton's response itself."""


running_triton = partial(harness.triton.running_triton, backends=(TOY_BACKENDS,))
"""With the toy alone; pass ``backends=(TOY_BACKENDS, OUR_BACKENDS)`` for Baton's own backends too."""


def prepare(tmp: Path) -> LocalTriton:
    """A server with the toy that is not started yet; its state lies in ``tmp``."""
    return LocalTriton.prepare(tmp / "state", [TOY_BACKENDS])


def tensors(protocol: Any, query: Any, documents: Sequence[Any], **optional: bytes) -> list[Any]:
    """Inputs of one reranker request, for ``tritonclient.grpc`` or ``.http``; ``bytes`` documents go as they are."""
    inputs = []
    raw = [item if isinstance(item, bytes) else json.dumps(item).encode() for item in documents]
    named = {"query": [json.dumps(query).encode()], "documents": raw}
    for name, items in (named | {name: [value] for name, value in optional.items()}).items():
        tensor = protocol.InferInput(name, [1, len(items)], "BYTES")
        tensor.set_data_from_numpy(np.array([items], dtype=np.object_))
        inputs.append(tensor)
    return inputs


def ask(
    server: LocalTriton,
    model: str,
    query: str,
    documents: Sequence[str | bytes],
    *,
    version: int | None = None,
    timeout: float = 60.0,
) -> Answer:
    """One request over gRPC; ``bytes`` documents go as they are. Raises ``InferenceServerException``."""
    inputs = tensors(triton, {"text": query}, [d if isinstance(d, bytes) else {"text": d} for d in documents])
    with triton.InferenceServerClient(server.grpc_url) as client:
        result = client.infer(model, inputs, model_version=str(version or ""), client_timeout=timeout)
    return Answer(
        scores=result.as_numpy("scores")[0],
        model_version=int(result.as_numpy("model_version")[0, 0]),
        response_version=result.get_response().model_version,
    )
