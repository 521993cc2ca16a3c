"""Starts the real Triton server for tests, with the toy backend."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tritonclient.grpc as triton

from baton.local import LocalTriton

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

ROOT = Path(__file__).parents[2]
TOY_BACKENDS = ROOT / "tests" / "backends"
OUR_BACKENDS = ROOT / "python_backend"


class Answer(NamedTuple):
    scores: npt.NDArray[np.float32]
    """One score a document."""
    model_version: int
    """The engine version that says it computed the scores."""
    response_version: str
    """The ``model_version`` of Triton's response itself."""


def prepare(tmp: Path, backends: Sequence[Path] = (TOY_BACKENDS,)) -> LocalTriton:
    """A server that is not started yet; its state lies in ``tmp``."""
    return LocalTriton.prepare(tmp / "state", backends)


@contextlib.contextmanager
def running_triton(
    tmp: Path,
    repository: Path,
    *,
    load: Sequence[str] = (),
    backends: Sequence[Path] = (TOY_BACKENDS,),
    extra_args: Sequence[str] = (),
    **options: Any,
) -> Iterator[LocalTriton]:
    """A server on free ports that has ``load`` loaded; stopped at the end. Further options go to ``start``.

    Its log is ``tmp/triton.log``; pass ``backends=(TOY_BACKENDS, OUR_BACKENDS)`` for Baton's own backends too.
    """
    server = prepare(tmp, backends)
    server.start(repository, load=load, log_file=tmp / "triton.log", extra_args=extra_args, **options)
    try:
        yield server
    finally:
        # A server with a dead or hung model uses its whole exit timeout of 30 s; tests need not wait for that.
        server.stop(timeout=8.0)


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
    raw = [item if isinstance(item, bytes) else json.dumps({"text": item}).encode() for item in documents]
    inputs = []
    for name, items in (("query", [json.dumps({"text": query}).encode()]), ("documents", raw)):
        tensor = triton.InferInput(name, [1, len(items)], "BYTES")
        tensor.set_data_from_numpy(np.array([items], dtype=np.object_))
        inputs.append(tensor)
    with triton.InferenceServerClient(server.grpc_url) as client:
        result = client.infer(model, inputs, model_version=str(version or ""), client_timeout=timeout)
    return Answer(
        scores=result.as_numpy("scores")[0],
        model_version=int(result.as_numpy("model_version")[0, 0]),
        response_version=result.get_response().model_version,
    )


def eventually(condition: Callable[[], object], what: str, *, timeout: float = 120.0) -> None:
    """Waits until ``condition()`` is true. Raises ``AssertionError`` naming ``what`` after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        time.sleep(0.02)
