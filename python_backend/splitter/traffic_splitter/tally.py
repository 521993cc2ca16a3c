"""The samples that are written down, in one form for every reader."""

from __future__ import annotations

from typing import Any

from .request import Scores
from .samples import Ledger

MOST_ERROR = 200
MOST_ID = 200


class Tally:
    """Writes answers and pairs into the ledger. Outcomes: ``ok failed late refused dropped client_error``."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def answer(
        self,
        role: str,
        request_id: str,
        took_s: float | None,
        outcome: str,
        error: str = "",
        scores: Scores | None = None,
    ) -> None:
        scores = scores or Scores()
        self._ledger.add(
            {
                "what": "answer",
                "role": role,
                "took_ms": _ms(took_s),
                "outcome": outcome,
                "error": error[:MOST_ERROR],
                "id": request_id[:MOST_ID],
                "top": scores.top,
                "mean": scores.mean,
                "n": scores.count,
            }
        )

    def pair(
        self,
        request_id: str,
        kind: str,
        stable: tuple[float, Scores],
        candidate: tuple[float | None, Scores],
        outcome: str,
        error: str = "",
        contents: dict[str, list[str]] | None = None,
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
        if contents is not None:
            sample["contents"] = contents
        self._ledger.add(sample)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 3)
