"""Which documents of which requests go through the model together, one pass at a time, and which images are seen so."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .pixels import Visual

PATIENCE = 3
"""Passes in a row that may go by without a request before it is served ahead of smaller ones."""
SEEN_PATCHES = 2048
"""Patches that the vision tower sees at once, where it may see several images together: eight images of 256x256 pixels.
One by one such images took a sixth longer; more at once were no faster, and need more memory."""


@dataclass
class Work:
    """What is left to do of one request.

    Attributes:
        prefix: Tokens of its prefix.
        documents: Tokens of each of its documents; there is at least one.
        order: Its documents, the longest first: neighbours of similar length share an attention call.
        done: How many of ``order`` were dealt out. The prefix goes with the first.
        passed_over: Passes in a row that it was not part of.
    """

    prefix: int
    documents: Sequence[int]
    order: list[int] = field(init=False)
    done: int = 0
    passed_over: int = 0
    left: int = field(init=False)
    """Tokens, the prefix's until it is computed included."""

    def __post_init__(self) -> None:
        self.order = sorted(range(len(self.documents)), key=lambda at: -self.documents[at])
        self.left = self.prefix + sum(self.documents)

    @property
    def finished(self) -> bool:
        return self.done == len(self.order)

    @property
    def kept(self) -> int:
        """Tokens whose keys and values stay in memory until the next pass."""
        return self.prefix if self.done and not self.finished else 0


@dataclass(frozen=True)
class Portion:
    """A request's part of one pass.

    Attributes:
        request: Which request.
        documents: Which of its documents; at least one.
        tokens: How many are computed, the prefix's included where it is.
        first: The request's prefix is computed in this pass; later ones use its keys and values.
        last: No later pass has documents of this request.
    """

    request: int
    documents: tuple[int, ...]
    tokens: int
    first: bool
    last: bool


def next_pass(works: Sequence[Work], budget: int, turn: int | None = None) -> list[Portion]:
    """Deal out the next pass, and note in ``works`` what it does.

    The request that has least left comes first, so that a small one never waits for a large one's end, and a request is
    cut into several passes only if it has to be. One that was passed over ``PATIENCE`` times comes before all, so that
    no stream of small ones keeps it waiting for ever.

    A request that is cut leaves its prefix's keys and values in memory. Those of all requests together stay within
    ``budget`` tokens, or are a single request's: another one begins only where it fits wholly into the pass.

    Args:
        works: Requests, at least one of them not finished.
        budget: Tokens of one pass. A document that is longer, its prefix counted in, gets a pass of its own.
        turn: Tokens of one pass that may go to one request, where it has more than one document left; None: all.
    """
    portions: list[Portion] = []
    room = budget
    waiting = [at for at, work in enumerate(works) if not work.finished]
    for at in sorted(waiting, key=lambda at: (works[at].passed_over < PATIENCE, works[at].left)):
        work = works[at]
        kept = sum(one.kept for one in works)
        portion = _portion(at, work, room, room if turn is None else min(room, turn), alone=not portions)
        if portion is None or (portion.first and not portion.last and kept and kept + work.prefix > budget):
            work.passed_over += 1
            continue
        work.passed_over = 0
        work.done += len(portion.documents)
        work.left -= portion.tokens
        room -= portion.tokens
        portions.append(portion)
    return portions


def _portion(request: int, work: Work, room: int, share: int, *, alone: bool) -> Portion | None:
    """As many documents as ``share`` holds, else one that ``room`` holds, or one that has the pass to itself."""
    first = work.done == 0
    tokens = work.prefix if first else 0
    taken = work.done
    while taken < len(work.order):
        length = work.documents[work.order[taken]]
        limit = share if taken > work.done else room
        if tokens + length > limit and not (alone and taken == work.done):
            break
        tokens += length
        taken += 1
    if taken == work.done:
        return None
    return Portion(request, tuple(work.order[work.done : taken]), tokens, first=first, last=taken == len(work.order))


def seen_together(visuals: Sequence[Visual], most: int) -> Iterator[list[Visual]]:
    """Images and videos in groups of at most ``most`` patches, equal sizes next to each other.

    One that has more patches makes a group of its own; so does each, where ``most`` is 0.
    """
    group: list[Visual] = []
    patches = 0
    for visual in sorted(visuals, key=lambda visual: visual.grid):
        size = prod(visual.grid)
        if group and patches + size > most:
            yield group
            group, patches = [], 0
        group.append(visual)
        patches += size
    if group:
        yield group
