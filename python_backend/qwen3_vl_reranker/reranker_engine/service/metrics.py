"""The engine's metrics, which Triton exports on its ``/metrics`` beside its own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import triton_python_backend_utils as pb_utils

if TYPE_CHECKING:
    from collections.abc import Collection

_Series = tuple[str, tuple[tuple[str, str], ...]]
"""A metric's name and its labels besides model and version."""
PREFIX = "baton_engine_"
FLUSH_S = 0.2
"""Age limit of an exported figure. Each change is a call into Triton's process (30 microseconds on 24.10), so a thread
of its own makes them in bulk."""
COUNTERS = {
    "beats_total": "Signs of life of the thread that computes: it grows while there is work and the thread does it",
    "pairs_total": "(query, document) pairs scored",
    "tokens_total": "Tokens computed; a request's prefix counts once",
    "truncated_total": "Queries and documents that lost the end of their text",
    "rejected_total": "Requests answered with an error, by cause",
    "vision_cache_hits_total": "Images and videos whose features were in the cache",
    "vision_cache_misses_total": "Images and videos that had to be encoded",
}
GAUGES = {
    "vision_cache_bytes": "Bytes of cached features",
    "info": "1 while the version is loaded; device, dtype and weights as chosen, fallback what on_no_memory did",
    "load_seconds": "Seconds of the version's load, by part",
}
HISTOGRAMS = {
    "batch_pairs": ("Pairs of one pass through the model", [2.0**n for n in range(13)]),
    "batch_tokens": ("Tokens of one pass through the model", [2.0**n for n in range(6, 19)]),
    "request_seconds": (
        "From Triton's handing a request over to its answer, errors left out",
        [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0],
    ),
}


CACHE_METRICS = frozenset({"vision_cache_hits_total", "vision_cache_misses_total", "vision_cache_bytes"})
"""Exported only if the operator asks for it: they tell a reader whether an image that it sends was sent before."""


class Metrics:
    """Metrics of one instance. Several instances of a version have the same labels, and Triton adds them up.

    Triton keeps the figures for as long as the server runs, also after the version is unloaded; counters of a version
    that is loaded again continue. ``close`` subtracts this instance's share of the gauges.
    """

    def __init__(self, model: str, version: str, *, without: Collection[str] = ()) -> None:
        """``without``: names of metrics that are not exported; changes to them are dropped."""
        self._labels = {"model": model, "version": version}
        family = pb_utils.MetricFamily
        self._without = frozenset(without)
        self._families: dict[str, pb_utils.MetricFamily] = {}
        for names, kind in ((COUNTERS, family.COUNTER), (GAUGES, family.GAUGE)):
            for name, description in names.items():
                if name in self._without:
                    continue
                self._families[name] = family(name=PREFIX + name, description=description, kind=kind)
        for name, (description, _) in HISTOGRAMS.items():
            self._families[name] = family(name=PREFIX + name, description=description, kind=family.HISTOGRAM)
        self._lock = threading.Lock()
        # Gauges, too, are changed by differences, so that those of several instances add up.
        self._changes: dict[_Series, float] = dict.fromkeys(
            ((name, ()) for name in self._families if name in COUNTERS and name != "rejected_total"), 0.0
        )
        self._observed: list[tuple[str, float]] = []
        self._gauges: dict[_Series, float] = {}
        self._metrics: dict[_Series, pb_utils.Metric] = {}
        self._flush()  # exports zeros, so that a rate can be computed from the first change on
        self._changed, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="metrics", daemon=True)
        self._thread.start()

    def add(self, counter: str, value: float, **labels: str) -> None:
        """Raise a counter."""
        if counter in self._without:
            return
        series = (counter, tuple(sorted(labels.items())))
        with self._lock:
            self._changes[series] = self._changes.get(series, 0.0) + value
        self._changed.set()

    def set_gauge(self, gauge: str, value: float, **labels: str) -> None:
        """Set this instance's share of a gauge."""
        if gauge in self._without:
            return
        series = (gauge, tuple(sorted(labels.items())))
        with self._lock:
            difference = value - self._gauges.get(series, 0.0)
            self._gauges[series] = value
            self._changes[series] = self._changes.get(series, 0.0) + difference
        self._changed.set()

    def observe(self, histogram: str, value: float) -> None:
        """Add a value to a histogram."""
        with self._lock:
            self._observed.append((histogram, value))
        self._changed.set()

    def close(self) -> None:
        """Export the last figures, with this instance's share of the gauges at 0."""
        for (gauge, labels), _ in list(self._gauges.items()):
            self.set_gauge(gauge, 0.0, **dict(labels))
        self._closing.set()
        self._changed.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._closing.is_set():
            self._changed.wait()
            self._closing.wait(FLUSH_S)  # collects further changes
            self._changed.clear()
            self._flush()

    def _flush(self) -> None:
        with self._lock:
            changes, self._changes = self._changes, {}
            observed, self._observed = self._observed, []
        for series, value in changes.items():
            self._metric(series).increment(value)
        for histogram, value in observed:
            self._metric((histogram, ())).observe(value)

    def _metric(self, series: _Series) -> pb_utils.Metric:
        if series not in self._metrics:
            name, labels = series
            more = {"buckets": HISTOGRAMS[name][1]} if name in HISTOGRAMS else {}
            self._metrics[series] = self._families[name].Metric(labels=self._labels | dict(labels), **more)
        return self._metrics[series]
