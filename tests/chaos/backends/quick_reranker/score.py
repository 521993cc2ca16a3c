"""What the quick engine answers; the clients of ``make chaos`` work it out as well, and compare."""

from __future__ import annotations

import json
import zlib
from typing import Any

MARKS = 50
"""Checkpoints are told apart by so many marks; each moves all scores by ``STEP``."""
STEP = 1e-5
"""Far above the rounding of a 32-bit float, and ``MARKS`` of it below the tolerance of the gate ``output``."""


def score(query: str, document: str, mark: int) -> float:
    """The score in 0..1 of one pair, by the checkpoint with that mark: half common words, half chance."""
    asked = set(query.lower().split())
    overlap = len(asked & set(document.lower().split())) / max(len(asked), 1)
    chance = zlib.crc32(f"{query}\0{document}".encode()) / 2**32
    return 0.1 + 0.6 * overlap + 0.2 * chance + STEP * mark


def text(item: Any) -> str:
    """The text of a query or a document; whatever else it holds counts as the words that name it."""
    return item["text"] if isinstance(item.get("text"), str) else json.dumps(item, sort_keys=True)
