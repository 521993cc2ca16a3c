"""One loaded version: answers batches of Triton requests."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import triton_python_backend_utils as pb_utils

from reranker_engine.inference.errors import InputError
from reranker_engine.inference.scorer import scores_of

from .allocator import FreedMemory, keep_freed_memory
from .job import Job, Refused
from .loading import CPU, gpus, is_out_of_memory, load
from .metrics import OF_THE_CACHE, Meters
from .scheduler import Broken, Turns
from .settings import read_settings
from .tensors import read_request
from .watchdog import EXIT_CODE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from reranker_engine.inference.batching import Portion
    from reranker_engine.inference.scorer import Scorer
    from reranker_engine.inference.scoring import Prepared
    from reranker_engine.inference.steps import Steps

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
BEAT_S = 0.25
HAND_OVER_S = 0.5
"""What the stub gets to give Triton the last answers, of which nothing tells when it is done."""


class Instance:
    """Serves one checkpoint, which is the version folder itself."""

    def __init__(self, args: Mapping[str, str], seconds: Mapping[str, float]) -> None:
        """Load and test the checkpoint ``<model_repository>/<model_version>/``.

        Args:
            args: What Triton gave to ``initialize``.
            seconds: What the load took so far, by part, from the start of the process on.

        Raises:
            ValueError: A parameter of config.pbtxt is wrong.
            CheckpointError: The folder is no checkpoint that can be served.
            RuntimeError: Memory does not suffice, and ``on_no_memory`` allows nothing that does.
        """
        config = json.loads(args["model_config"])
        settings = read_settings(config, args["model_instance_kind"], args["model_instance_device_id"], gpus())
        name = f"{args['model_name']} version {args['model_version']}"
        version = np.array([[int(args["model_version"])]], dtype=np.int64)
        torch.set_num_threads(settings.threads)
        if settings.scorer.devices == (CPU,):
            keep_freed_memory()
        loaded = load(
            Path(args["model_repository"]) / args["model_version"],
            settings.scorer,
            settings.on_no_memory,
            lambda text: pb_utils.Logger.log_warn(f"{name}: {text}"),
        )
        if loaded.fallback == CPU:
            keep_freed_memory()
        hidden = () if settings.cache_metrics else OF_THE_CACHE
        self._meters = Meters(args["model_name"], args["model_version"], without=hidden)
        self._meters.level(
            "info",
            1,
            device=loaded.device,
            dtype=loaded.dtype,
            fallback=loaded.fallback,
            asked_device=loaded.asked_device,
            asked_dtype=loaded.asked_dtype,
            weights=loaded.weights,
        )
        seconds = {**seconds, "weights": loaded.weights_s, "self_test": loaded.self_test_s}
        for part, value in seconds.items():
            self._meters.level("load_seconds", value, part=part)
        self._desk = Desk(loaded.scorer, self._meters, version)
        self._turns = Turns(loaded.scorer, self._desk, most=settings.max_requests)
        self._timeout_s = settings.default_timeout_s
        pb_utils.Logger.log_info(
            f"{name}: loaded and tested in {sum(seconds.values()):.2f} s "
            f"({', '.join(f'{part} {value:.2f}' for part, value in seconds.items())}; "
            f"warm: {loaded.warm_s * 1000:.0f} ms) in {loaded.dtype} on {loaded.device} with {settings.threads} threads"
        )

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse | None]:
        """Answer a batch of requests, each with scores or with an error of its own.

        None stands for a request that takes more than one turn: it goes on in the background while Triton hands over
        other requests, and is answered through its response sender. Short ones are answered here, so that Triton's own
        figures (success, failure, duration) tell the truth about them; a long one counts in them when it leaves here.
        """
        asked = [Asked(request, self._desk, self._timeout_s) for request in requests]
        self._turns.run([one.job() for one in asked])
        return [one.leave() for one in asked]

    def finalize(self) -> None:
        """Triton calls it when every client has its answer."""
        self._turns.close()
        self._meters.close()


class Desk:
    """Turns results into responses, and counts."""

    def __init__(self, scorer: Scorer, meters: Meters, version: NDArray[np.int64]) -> None:
        self.scorer = scorer
        self._meters = meters
        self._version = version
        self._freed = FreedMemory()
        self._hits, self._misses = scorer.cache.hits, scorer.cache.misses
        self._beat_at = 0.0

    def passed(self, portions: Sequence[Portion]) -> None:
        """Count a pass through the model."""
        tokens, pairs = (sum(one.tokens for one in portions), sum(len(one.documents) for one in portions))
        self._meters.add("tokens_total", tokens)
        self._meters.observe("batch_tokens", tokens)
        self._meters.observe("batch_pairs", pairs)
        cache = self.scorer.cache
        if (cache.hits, cache.misses) != (self._hits, self._misses):
            self._meters.add("vision_cache_hits_total", cache.hits - self._hits)
            self._meters.add("vision_cache_misses_total", cache.misses - self._misses)
            self._meters.level("vision_cache_bytes", cache.used)
            self._hits, self._misses = cache.hits, cache.misses

    def beat(self) -> None:
        """Show that the computing thread works.

        Counted at most once in ``BEAT_S``: how many steps a request takes tells whether its pictures were known.
        """
        now = time.monotonic()
        if now - self._beat_at >= BEAT_S:
            self._beat_at = now
            self._meters.add("beats_total", 1)

    def rested(self) -> None:
        """All requests are answered."""
        self._freed.relax()

    def broken(self, text: str) -> None:
        """The thread that computes can't go on: end this process, so that everybody sees that it is gone."""
        pb_utils.Logger.log_error(text)
        sys.stderr.write(f"qwen3_vl_reranker: {text}\n")
        sys.stderr.flush()
        time.sleep(HAND_OVER_S)
        os._exit(EXIT_CODE)

    def response(self, job: Job, result: NDArray[np.float32] | Exception, stage: str) -> pb_utils.InferenceResponse:
        """What Triton gets. ``stage`` is what was looked at last: the ``request`` itself, or its ``content``."""
        if isinstance(result, Refused):
            code = pb_utils.TritonError.CANCELLED if result.cause == "cancelled" else pb_utils.TritonError.UNAVAILABLE
            return self._rejected(result.cause, str(result), code)
        if isinstance(result, InputError):
            return self._rejected(stage, str(result), pb_utils.TritonError.INVALID_ARG)
        if isinstance(result, Exception):
            cause = "no_memory" if is_out_of_memory(result) else "internal"
            what = "scoring" if job.prepared else "preparing the request"
            text = f"{what} failed: {result}"
            if not isinstance(result, Broken):
                text = f"{what} failed: {type(result).__name__}: {result}"
            pb_utils.Logger.log_error(text)
            return self._rejected(cause, text, pb_utils.TritonError.INTERNAL)
        scores = scores_of(result)
        if not np.isfinite(scores).all():
            broken = int(np.flatnonzero(~np.isfinite(scores))[0])
            text = f"document {broken}: the model's score is not a number"
            return self._rejected("not_a_number", text, pb_utils.TritonError.INTERNAL)
        self._meters.add("pairs_total", len(scores))
        if job.prepared and job.prepared.truncated:
            self._meters.add("truncated_total", job.prepared.truncated)
        self._meters.observe("request_seconds", time.monotonic() - job.arrived)
        return pb_utils.InferenceResponse(
            output_tensors=[pb_utils.Tensor("scores", scores[None]), pb_utils.Tensor("model_version", self._version)]
        )

    def _rejected(self, cause: str, text: str, code: pb_utils.ErrorCode) -> pb_utils.InferenceResponse:
        self._meters.add("rejected_total", 1, cause=cause)
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))


class Asked:
    """A request of Triton's, and who answers it: ``execute``, or its response sender once ``execute`` left it.

    It must not hold its job, which holds it: Triton's request keeps shared memory until Python lets go of it, and a
    circle would wait for the garbage collector.
    """

    def __init__(self, request: pb_utils.InferenceRequest, desk: Desk, timeout_s: float) -> None:
        """``timeout_s``: of a request that brings none; 0 for none."""
        self._request = request
        self._desk = desk
        self._timeout_s = timeout_s
        self._stage = "request"
        self._lock = threading.Lock()
        self._response: pb_utils.InferenceResponse | None = None
        self._sender: pb_utils.ResponseSender | None = None

    def job(self) -> Job:
        """What there is to do, told in a way that knows nothing of Triton."""
        timeout_s = self._request.timeout() / 1e6 or self._timeout_s
        return Job(
            steps=self._steps(),
            cancelled=self._request.is_cancelled,
            finish=self._finish,
            timeout_s=timeout_s or None,
        )

    def leave(self) -> pb_utils.InferenceResponse | None:
        """The response, or None: it is sent later, by itself."""
        with self._lock:
            if self._response is None:
                self._sender = self._request.get_response_sender()
            return self._response

    def _steps(self) -> Steps[Prepared]:
        scorer, request = self._desk.scorer, self._request
        raw = read_request(lambda name: pb_utils.get_input_tensor_by_name(request, name))
        yield raw.reading(far=bool(scorer.settings.media.allowed_hosts))
        parsed = scorer.parse(raw.query, raw.documents, raw.instruction, raw.options, raw.media)
        self._stage = "content"
        return (yield from scorer.preparing(parsed))

    def _finish(self, job: Job, result: NDArray[np.float32] | Exception) -> None:
        try:
            response = self._desk.response(job, result, self._stage)
        except Exception as error:  # noqa: BLE001 - the thread that computes must go on, and Triton must hear something
            response = self._desk.response(job, error, self._stage)
        with self._lock:
            if self._sender is None:
                self._response = response
                return
        try:
            self._sender.send(response, flags=_FINAL)
        except Exception as error:  # noqa: BLE001 - nothing more can be done for this one
            pb_utils.Logger.log_error(f"an answer could not be sent: {type(error).__name__}: {error}")
