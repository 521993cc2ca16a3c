"""Writes samples of answers and of pairs; the only place that knows their fields."""

from __future__ import annotations

from typing import Any

from .request import Request, Scores
from .sample_buffer import SampleBuffer

MAX_ERROR = 200
MAX_ID = 200


class SampleWriter:
    """Writes into a buffer. Outcomes are ``ok failed late refused dropped client_error``.

    With ``own``, it writes for the control plane's probes: they count as ``own`` and as nothing else, and their samples
    are marked.
    """

    def __init__(self, buffer: SampleBuffer, *, own: bool = False) -> None:
        self._buffer = buffer
        self._own = own

    def count(self, *names: str) -> None:
        """Add one to each of these counters; of a probe, ``requests`` alone counts, as ``own``."""
        if not self._own:
            self._buffer.count(*names)
        elif "requests" in names:
            self._buffer.count("own")

    def answer(
        self,
        role: str,
        request: Request,
        took_s: float | None,
        outcome: str,
        error: str = "",
        scores: Scores | None = None,
        stable_s: float | None = None,
        *,
        hurried: bool = False,
    ) -> None:
        """``stable_s``: seconds that stable took for a request that the candidate failed, or was late with."""
        scores = scores or Scores()
        sample: dict[str, Any] = {
            "what": "answer",
            "role": role,
            "took_ms": _ms(took_s),
            "outcome": outcome,
            "error": error[:MAX_ERROR],
            "id": request.id[:MAX_ID],
            "bytes": 0 if took_s is None else request.size(),
            "top": scores.top,
            "mean": scores.mean,
            "n": scores.count,
        }
        if request.again:
            sample["again"] = True
        if hurried:
            sample["hurried"] = True
        if stable_s is not None:
            sample["stable_ms"] = _ms(stable_s)
        self._add(sample)

    def pair(
        self,
        request_id: str,
        kind: str,
        stable: tuple[float, Scores],
        candidate: tuple[float | None, Scores],
        outcome: str,
        error: str = "",
        contents: dict[str, list[str]] | None = None,
        digest: str = "",
        *,
        hurried: bool = False,
    ) -> None:
        """``stable`` and ``candidate``: seconds that the call took, and scores."""
        sample: dict[str, Any] = {
            "what": "pair",
            "id": request_id[:MAX_ID],
            "kind": kind,
            "stable_ms": _ms(stable[0]),
            "candidate_ms": _ms(candidate[0]),
            "outcome": outcome,
            "stable": stable[1].values,
            "candidate": candidate[1].values,
            "error": error[:MAX_ERROR],
        }
        if max(stable[1].count, candidate[1].count) > max(len(stable[1].values), len(candidate[1].values)):
            sample["cut"] = True
        if digest:
            sample["digest"] = digest
        if hurried:
            sample["hurried"] = True
        if contents is not None:
            sample["contents"] = contents
        self._add(sample)

    def _add(self, sample: dict[str, Any]) -> None:
        if self._own:
            sample["own"] = True
        self._buffer.add(sample)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 3)
