"""Which documents of which requests go through the model together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Portion:
    """A request's part of one pass.

    Attributes:
        request: Which request.
        documents: Which of its documents; at least one.
        first: The request's prefix is computed in this pass; later ones use its keys and values.
        last: No later pass has documents of this request.
    """

    request: int
    documents: tuple[int, ...]
    first: bool
    last: bool


def passes(prefixes: Sequence[int], documents: Sequence[Sequence[int]], budget: int) -> list[list[Portion]]:
    """Deal the documents of some requests out to passes through the model.

    Small requests come first, so that a request is cut into several passes only if it has to be. A request's
    documents go by length, the longest first: neighbours of similar length share an attention call.

    Args:
        prefixes: Tokens of each request's prefix.
        documents: Tokens of each request's documents; each has at least one.
        budget: Tokens of one pass. A document that is longer, its prefix counted in, gets a pass of its own.
    """
    result: list[list[Portion]] = [[]]
    room = budget
    for request in sorted(range(len(prefixes)), key=lambda at: prefixes[at] + sum(documents[at])):
        lengths = documents[request]
        order = sorted(range(len(lengths)), key=lambda at: -lengths[at])
        done = 0
        while done < len(order):
            taken = done
            left = room if done else room - prefixes[request]
            while taken < len(order) and lengths[order[taken]] <= left:
                left -= lengths[order[taken]]
                taken += 1
            if taken == done and not result[-1]:
                left -= lengths[order[taken]]
                taken += 1
            if taken > done:
                chosen = tuple(order[done:taken])
                result[-1].append(Portion(request, chosen, first=done == 0, last=taken == len(order)))
                room, done = left, taken
            if done < len(order):
                result.append([])
                room = budget
    return [portions for portions in result if portions]
