"""What stands between a client and the engine costs: the same requests by several paths, in turn, and their ratios."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
from bench.compare.load import Connection
from harness.command import few

CONCURRENCY = (1, 8)
TURNS, BLOCK = few((5, 24), (1, 8))
"""Each path is asked so many blocks of so many requests, one block of each path after the other: whatever else the
machine does meets all of them alike."""


@dataclass(frozen=True, slots=True)
class Cost:
    """One path at one concurrency, in seconds."""

    path: str
    concurrency: int
    p50_s: float
    p95_s: float


def costs(
    paths: Mapping[str, str], asked: Sequence[bytes], *, concurrencies: Sequence[int] = CONCURRENCY
) -> list[Cost]:
    """p50 and p95 of each path (name: URL) at each concurrency; closed loop, the first block of each does not count.

    Raises what ``Connection.ask`` raises: a path that fails has no cost.
    """
    return [
        Cost(name, clients, *(float(np.percentile(latencies, part)) for part in (50, 95)))
        for clients in concurrencies
        for name, latencies in _latencies(paths, asked, clients).items()
    ]


def _latencies(paths: Mapping[str, str], asked: Sequence[bytes], clients: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in paths}
    with ExitStack() as stack:
        kept = {
            name: [stack.enter_context(closing(Connection(url))) for _ in range(clients)] for name, url in paths.items()
        }
        pool = stack.enter_context(ThreadPoolExecutor(clients))
        for turn in range(TURNS + 1):
            # Who is first changes, so that none always follows the same one.
            names = list(paths)[:: 1 if turn % 2 else -1]
            for name in names:
                blocks = list(pool.map(lambda one: _block(one, asked, BLOCK // clients), kept[name]))
                if turn:
                    found[name] += [latency for block in blocks for latency in block]
    return found


def _block(connection: Connection, asked: Sequence[bytes], count: int) -> list[float]:
    latencies = []
    for number in range(count):
        start = time.perf_counter()
        connection.ask(asked[number % len(asked)])
        latencies.append(time.perf_counter() - start)
    return latencies
