"""The engine behind Triton against the engine in this process, on the same requests with the same threads."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from bench.speed.cases import Request
from harness.command import few
from harness.places import ENGINE, MODELS
from harness.triton import running_triton
from harness.waiting import PATIENCE_S

from baton.client import Reranker
from reranker_engine.inference.scorer import Scorer
from reranker_engine.service.settings import default_threads

CONCURRENCY = (1, 4, 16)
ROUNDS = few(3, 1)
SECONDS = few(4.0, 1.0)
"""Of each measurement; a round measures this process and then each concurrency, one after the other."""


def served(checkpoint: Path, scorer: Scorer, request: Request) -> dict[int, float]:
    """Pairs a second through Triton at each of ``CONCURRENCY`` as a share of those in this process (medians)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(default_threads())
    try:
        with tempfile.TemporaryDirectory(prefix="baton-speed-") as directory:
            return _served(Path(directory), checkpoint, scorer, request)
    finally:
        torch.set_num_threads(threads)


def _served(home: Path, checkpoint: Path, scorer: Scorer, request: Request) -> dict[int, float]:
    model = home / "repository" / ENGINE
    shutil.copytree(MODELS / ENGINE, model)
    # On the kind of device that the scorer has: the shipped configuration takes a GPU where there is one.
    kind = "KIND_GPU" if scorer.model.device.type == "cuda" else "KIND_CPU"
    config = (model / "config.pbtxt").read_text(encoding="utf-8")
    (model / "config.pbtxt").write_text(config.replace("KIND_AUTO", kind), encoding="utf-8")
    (model / "1").symlink_to(checkpoint)
    shares: dict[int, list[float]] = {count: [] for count in CONCURRENCY}
    with running_triton(home, home / "repository", load=[ENGINE]) as triton:
        for _ in range(ROUNDS):
            here = _rate([lambda: scorer.score([request.prepared(scorer)])])
            for count in CONCURRENCY:
                clients = [Reranker(triton.grpc_url, model=ENGINE, timeout_s=PATIENCE_S) for _ in range(count)]
                asks = [_asker(client, request) for client in clients]
                shares[count].append(_rate(asks) / here)
                for client in clients:
                    client.close()
    return {count: statistics.median(found) for count, found in shares.items()}


def _asker(client: Reranker, request: Request) -> Callable[[], object]:
    return lambda: client.rank(request.query, request.documents, media=request.media)


def _rate(askers: list[Callable[[], object]]) -> float:
    """Requests a second when each asker asks again as soon as it is answered."""
    askers[0]()
    done = 0
    lock = threading.Lock()
    failures: list[Exception] = []
    start = time.perf_counter()

    def loop(ask: Callable[[], object]) -> None:
        nonlocal done, last
        while time.perf_counter() < start + SECONDS and not failures:
            try:
                ask()
            except Exception as error:  # noqa: BLE001 - raised in the caller's thread below
                failures.append(error)
                return
            with lock:
                done += 1
                last = time.perf_counter()

    last = start
    threads = [threading.Thread(target=loop, args=(ask,)) for ask in askers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return done / (last - start)
