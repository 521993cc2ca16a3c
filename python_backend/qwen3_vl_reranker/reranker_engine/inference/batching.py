"""Forms batches: which documents share a forward pass, and which images share a pass of the vision tower."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .pixels import Visual

MAX_SKIPPED = 3
"""A request that was left out of this many passes in a row goes before smaller ones."""
VISION_BATCH_PATCHES = 2048
"""Patches of one pass of the vision tower over several images: eight images of 256x256 pixels. One at a time, they took
a sixth longer; larger batches were no faster, and need more memory."""


@dataclass
class RemainingWork:
    """What is left to compute of one request.

    Attributes:
        prefix: Tokens of its prefix.
        documents: Tokens of each of its documents; there is at least one.
        order: Its documents, the longest first, so that documents of similar length share an attention call.
        scheduled: How many of ``order`` have been given to a pass. The prefix goes with the first.
        skipped: Passes in a row that left the request out.
        tokens_left: Tokens still to compute, those of the prefix included.
    """

    prefix: int
    documents: Sequence[int]
    order: list[int] = field(init=False)
    scheduled: int = 0
    skipped: int = 0
    tokens_left: int = field(init=False)

    def __post_init__(self) -> None:
        self.order = sorted(range(len(self.documents)), key=lambda at: -self.documents[at])
        self.tokens_left = self.prefix + sum(self.documents)

    @property
    def finished(self) -> bool:
        return self.scheduled == len(self.order)

    @property
    def cached_tokens(self) -> int:
        """Tokens whose keys and values stay in memory until the next pass."""
        return self.prefix if self.scheduled and not self.finished else 0


@dataclass(frozen=True)
class BatchSlice:
    """A request's part of one pass.

    Attributes:
        request: Index of the request.
        documents: Indices of its documents; at least one.
        tokens: Tokens that this pass computes for it.
        first: This pass also computes the request's prefix; later passes use the prefix's keys and values.
        last: No later pass has documents of this request.
    """

    request: int
    documents: tuple[int, ...]
    tokens: int
    first: bool
    last: bool


def next_pass(works: Sequence[RemainingWork], budget: int, max_slice: int | None = None) -> list[BatchSlice]:
    """Form the next pass, and record it in ``works``.

    Requests with the fewest tokens left come first, so that a small request never waits for the end of a large one, and
    a request is split over several passes only if it must be. A request that was left out ``MAX_SKIPPED`` times comes
    before all others, so that a stream of small ones cannot starve it.

    A request that is split keeps its prefix's keys and values in memory. Those of all requests together stay within
    ``budget`` tokens, unless they are a single request's: another request is only started if it fits into the pass as a
    whole.

    Args:
        works: The requests; at least one is not finished.
        budget: Tokens of one pass. A document that is longer with its prefix gets a pass of its own.
        max_slice: Tokens of the pass that one request may take if it has more than one document left; None: no limit.
    """
    slices: list[BatchSlice] = []
    room = budget
    waiting = [at for at, work in enumerate(works) if not work.finished]
    for at in sorted(waiting, key=lambda at: (works[at].skipped < MAX_SKIPPED, works[at].tokens_left)):
        work = works[at]
        cached = sum(one.cached_tokens for one in works)
        batch_slice = _next_slice(at, work, room, room if max_slice is None else min(room, max_slice), alone=not slices)
        if batch_slice is None or (
            batch_slice.first and not batch_slice.last and cached and cached + work.prefix > budget
        ):
            work.skipped += 1
            continue
        work.skipped = 0
        work.scheduled += len(batch_slice.documents)
        work.tokens_left -= batch_slice.tokens
        room -= batch_slice.tokens
        slices.append(batch_slice)
    return slices


def _next_slice(request: int, work: RemainingWork, room: int, share: int, *, alone: bool) -> BatchSlice | None:
    """As many documents as fit into ``share`` tokens; at least one if that fits into ``room``, or if ``alone``.

    None: no document fits.
    """
    first = work.scheduled == 0
    tokens = work.prefix if first else 0
    taken = work.scheduled
    while taken < len(work.order):
        length = work.documents[work.order[taken]]
        limit = share if taken > work.scheduled else room
        if tokens + length > limit and not (alone and taken == work.scheduled):
            break
        tokens += length
        taken += 1
    if taken == work.scheduled:
        return None
    return BatchSlice(
        request, tuple(work.order[work.scheduled : taken]), tokens, first=first, last=taken == len(work.order)
    )


def vision_batches(visuals: Sequence[Visual], max_patches: int) -> Iterator[list[Visual]]:
    """Images and videos in batches of at most ``max_patches``, equal sizes next to each other.

    One with more patches is a batch of its own. With ``max_patches`` 0 each is.
    """
    batch: list[Visual] = []
    patches = 0
    for visual in sorted(visuals, key=lambda visual: visual.grid):
        size = prod(visual.grid)
        if batch and patches + size > max_patches:
            yield batch
            batch, patches = [], 0
        batch.append(visual)
        patches += size
    if batch:
        yield batch
