"""The samples that are written down, in one form for every reader."""

from __future__ import annotations

from typing import Any

from .request import Request, Scores
from .samples import Books

MOST_ERROR = 200
MOST_ID = 200


class Tally:
    """Writes answers and pairs into the ledger. Outcomes: ``ok failed late refused dropped client_error``."""

    def __init__(self, ledger: Books) -> None:
        self._ledger = ledger

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
        """``stable_s``: seconds that stable took for a request that the candidate had failed, or was late with."""
        scores = scores or Scores()
        sample: dict[str, Any] = {
            "what": "answer",
            "role": role,
            "took_ms": _ms(took_s),
            "outcome": outcome,
            "error": error[:MOST_ERROR],
            "id": request.id[:MOST_ID],
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
        self._ledger.add(sample)

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
        """``stable`` and ``candidate``: seconds around the call, and scores."""
        sample: dict[str, Any] = {
            "what": "pair",
            "id": request_id[:MOST_ID],
            "kind": kind,
            "stable_ms": _ms(stable[0]),
            "candidate_ms": _ms(candidate[0]),
            "outcome": outcome,
            "stable": stable[1].values,
            "candidate": candidate[1].values,
            "error": error[:MOST_ERROR],
        }
        if max(stable[1].count, candidate[1].count) > max(len(stable[1].values), len(candidate[1].values)):
            sample["cut"] = True
        if digest:
            sample["digest"] = digest
        if hurried:
            sample["hurried"] = True
        if contents is not None:
            sample["contents"] = contents
        self._ledger.add(sample)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 3)
