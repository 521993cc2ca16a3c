"""One loaded version: answers batches of Triton requests."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import triton_python_backend_utils as pb_utils

from .allocator import MemoryTrimmer, keep_freed_memory
from .loading import CPU, gpus, load
from .metrics import CACHE_METRICS, Metrics
from .responses import PendingRequest, ResponseBuilder
from .scheduler import Scheduler
from .settings import read_settings
from .watchdog import EXIT_CODE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from reranker_engine.inference.batching import BatchSlice
    from reranker_engine.inference.cache import FeatureCache

HEARTBEAT_S = 0.25
LAST_ANSWERS_S = 0.5
"""Time for Triton's stub process to deliver the last answers; it does not tell when it has done so."""


class Instance:
    """Serves one checkpoint, which is the version folder itself."""

    def __init__(self, args: Mapping[str, str], seconds: Mapping[str, float]) -> None:
        """Load and test the checkpoint ``<model_repository>/<model_version>/``.

        Args:
            args: What Triton gave to ``initialize``.
            seconds: How long the load took so far, by part, from the start of the process on.

        Raises:
            ValueError: A parameter of config.pbtxt is wrong.
            CheckpointError: The folder is no checkpoint that can be served.
            RuntimeError: Memory does not suffice, and ``on_no_memory`` allows nothing that does.
        """
        config = json.loads(args["model_config"])
        settings = read_settings(config, args["model_instance_kind"], args["model_instance_device_id"], gpus())
        name = f"{args['model_name']} version {args['model_version']}"
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
        hidden = () if settings.cache_metrics else CACHE_METRICS
        self._metrics = Metrics(args["model_name"], args["model_version"], without=hidden)
        self._metrics.set_gauge(
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
            self._metrics.set_gauge("load_seconds", value, part=part)
        self._scorer = loaded.scorer
        self._responses = ResponseBuilder(self._metrics, int(args["model_version"]))
        monitor = InstanceMonitor(loaded.scorer.cache, self._metrics)
        self._scheduler = Scheduler(loaded.scorer, monitor, max_requests=settings.max_requests)
        self._timeout_s = settings.default_timeout_s
        pb_utils.Logger.log_info(
            f"{name}: loaded and tested in {sum(seconds.values()):.2f} s "
            f"({', '.join(f'{part} {value:.2f}' for part, value in seconds.items())}; "
            f"warm: {loaded.warm_s * 1000:.0f} ms) in {loaded.dtype} on {loaded.device} with {settings.threads} threads"
        )

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse | None]:
        """Answer a batch of requests, each with scores or with an error of its own.

        None stands for a request that is not done yet. It goes on in the background while Triton hands over others, and
        is answered through its response sender. Triton's own figures (success, failure, duration) count it as a success
        when ``execute`` returns; they are right for the requests that are answered here.
        """
        pending = [PendingRequest(request, self._scorer, self._responses, self._timeout_s) for request in requests]
        self._scheduler.run([one.job() for one in pending])
        return [one.take_response() for one in pending]

    def finalize(self) -> None:
        """Triton calls it when every client has its answer."""
        self._scheduler.close()
        self._metrics.close()


class InstanceMonitor:
    """What the scheduler tells, as metrics; and the end of the process when the scheduler has failed."""

    def __init__(self, cache: FeatureCache, metrics: Metrics) -> None:
        self._cache = cache
        self._metrics = metrics
        self._memory = MemoryTrimmer()
        self._hits, self._misses = cache.hits, cache.misses
        self._heartbeat_at = 0.0

    def pass_done(self, slices: Sequence[BatchSlice]) -> None:
        """Count a forward pass."""
        tokens, pairs = sum(one.tokens for one in slices), sum(len(one.documents) for one in slices)
        self._metrics.add("tokens_total", tokens)
        self._metrics.observe("batch_tokens", tokens)
        self._metrics.observe("batch_pairs", pairs)
        cache = self._cache
        if (cache.hits, cache.misses) != (self._hits, self._misses):
            self._metrics.add("vision_cache_hits_total", cache.hits - self._hits)
            self._metrics.add("vision_cache_misses_total", cache.misses - self._misses)
            self._metrics.set_gauge("vision_cache_bytes", cache.used)
            self._hits, self._misses = cache.hits, cache.misses

    def heartbeat(self) -> None:
        """Count a sign of life of the computing thread.

        At most one in ``HEARTBEAT_S``: the number of a request's steps would tell whether its images were in the cache.
        """
        now = time.monotonic()
        if now - self._heartbeat_at >= HEARTBEAT_S:
            self._heartbeat_at = now
            self._metrics.add("beats_total", 1)

    def idle(self) -> None:
        """All requests are answered: return memory that is not needed."""
        self._memory.trim()

    def failed(self, text: str) -> None:
        """End the process, so that Triton and the control plane see that the engine is gone."""
        pb_utils.Logger.log_error(text)
        sys.stderr.write(f"qwen3_vl_reranker: {text}\n")
        sys.stderr.flush()
        time.sleep(LAST_ANSWERS_S)
        os._exit(EXIT_CODE)
