"""One loaded version: answers batches of Triton requests."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils

from reranker_engine.inference.errors import InputError
from reranker_engine.inference.scorer import Prepared, Scorer
from reranker_engine.inference.selftest import self_test

from .allocator import FreedMemory, keep_freed_memory
from .settings import read_settings
from .tensors import read_request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Instance:
    """Serves one checkpoint, which is the version folder itself."""

    def __init__(self, args: Mapping[str, str]) -> None:
        """Load and test the checkpoint ``<model_repository>/<model_version>/``; ``args`` are ``initialize``'s.

        Raises:
            ValueError: A parameter of config.pbtxt is wrong.
            CheckpointError: The folder is no checkpoint that can be served.
        """
        settings = read_settings(
            json.loads(args["model_config"]), args["model_instance_kind"], args["model_instance_device_id"]
        )
        self._version = np.array([[int(args["model_version"])]], dtype=np.int64)
        torch.set_num_threads(settings.threads)
        if settings.scorer.device == "cpu":
            keep_freed_memory()
        start = time.monotonic()
        self._scorer = Scorer(Path(args["model_repository"]) / args["model_version"], settings.scorer)
        loaded = time.monotonic()
        warm_s = self_test(self._scorer)
        self._freed = FreedMemory()
        tested = time.monotonic()
        pb_utils.Logger.log_info(
            f"{args['model_name']} version {args['model_version']}: loaded in {loaded - start:.2f} s and tested in "
            f"{tested - loaded:.2f} s (warm: {warm_s * 1000:.0f} ms) on {settings.scorer.device} with "
            f"{settings.threads} threads"
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer a batch of requests, each with scores or with an error of its own."""
        responses: list[Any] = [None] * len(requests)
        ready: dict[int, Prepared] = {}
        for index, request in enumerate(requests):
            if request.is_cancelled():
                responses[index] = _failed("the client cancelled the request", pb_utils.TritonError.CANCELLED)
                continue
            try:
                ready[index] = self._prepare(request)
            except InputError as error:
                responses[index] = _failed(str(error), pb_utils.TritonError.INVALID_ARG)
            except Exception as error:  # noqa: BLE001 - one request's surprise must not fail its neighbours
                responses[index] = self._unexpected("preparing the request", error)
        for index, scores in self._score(ready).items():
            responses[index] = scores if not isinstance(scores, np.ndarray) else self._answer(scores)
        del ready
        self._freed.relax()
        return responses

    def _prepare(self, request: Any) -> Prepared:
        raw = read_request(lambda name: pb_utils.get_input_tensor_by_name(request, name))
        parsed = self._scorer.parse(raw.query, raw.documents, raw.instruction, raw.options, raw.media)
        return self._scorer.prepare(parsed)

    def _score(self, ready: dict[int, Prepared]) -> dict[int, Any]:
        """Score all requests together; if that fails, each on its own, so that only the guilty one fails."""
        if not ready:
            return {}
        try:
            return dict(zip(ready, self._scorer.score(list(ready.values())), strict=True))
        except Exception as error:  # noqa: BLE001 - out of memory, mostly
            if len(ready) == 1:
                return dict.fromkeys(ready, self._unexpected("scoring", error))
        alone: dict[int, Any] = {}
        for index, prepared in ready.items():
            alone |= self._score({index: prepared})
        return alone

    def _answer(self, scores: np.ndarray[Any, np.dtype[np.float32]]) -> Any:
        if not np.isfinite(scores).all():
            broken = int(np.flatnonzero(~np.isfinite(scores))[0])
            return _failed(f"document {broken}: the model's score is not a number", pb_utils.TritonError.INTERNAL)
        return pb_utils.InferenceResponse(
            output_tensors=[
                pb_utils.Tensor("scores", scores[None].astype(np.float32)),
                pb_utils.Tensor("model_version", self._version),
            ]
        )

    @staticmethod
    def _unexpected(what: str, error: Exception) -> Any:
        pb_utils.Logger.log_error(f"{what} failed: {type(error).__name__}: {error}")
        return _failed(f"{what} failed: {type(error).__name__}: {error}", pb_utils.TritonError.INTERNAL)


def _failed(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
