"""How the tokens of one pass lie in one row without padding, and which stretches of it attend in one call.

A pass is a few requests' shares: each its prefix (system text, instruction and query, the same for all its documents)
and some of its documents. A prefix attends to itself, a document to its prefix and to itself. Everything but attention
runs over the whole row at once and has nothing to pad; in attention, stretches of similar length make one padded call.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MIN_FILL = 0.75
"""A stretch shorter than this share of its group's longest starts a group of its own. Padding costs attention only,
which is a fifth of the work or less; many small calls cost more than a little padding."""
EXPANDED_BYTES = 64 * 2**20
"""What one group's keys and values may take. Each document of a group needs the prefix's keys beside its own; they are
copied for one group and one layer at a time, never for all."""


@dataclass(frozen=True)
class Group:
    """Stretches that attend in one call, after the same prefix or, being prefixes, after nothing.

    Attributes:
        prefix: Which share's prefix they follow; None for prefixes themselves.
        ahead: Tokens of that prefix; 0 without one.
        places: [stretches, width] their tokens' places in the row, filled up by repeating the last.
        real: [tokens] indices into the flat ``places`` of what is not filling; None where nothing is.
        ends: [stretches] index of each one's last token in its row of ``places``.
        documents: [stretches] which of the pass's documents they are; empty for prefixes.
    """

    prefix: int | None
    ahead: int
    places: Tensor
    real: Tensor | None
    ends: Tensor
    documents: Tensor

    def to(self, device: torch.device) -> Group:
        return replace(
            self,
            places=self.places.to(device),
            real=None if self.real is None else self.real.to(device),
            ends=self.ends.to(device),
            documents=self.documents.to(device),
        )


@dataclass(frozen=True)
class Layout:
    """One pass.

    Attributes:
        prefixes: For each share its prefix's place in the row; None where its keys are kept from an earlier pass.
        ends: [documents] place of each document's last token in the row.
        groups: Who attends with whom; each stretch is in one group.
    """

    prefixes: tuple[slice | None, ...]
    ends: Tensor
    groups: tuple[Group, ...]

    def to(self, device: torch.device) -> Layout:
        """The same with its indices on another device."""
        return replace(self, ends=self.ends.to(device), groups=tuple(group.to(device) for group in self.groups))


@dataclass(frozen=True)
class Share:
    """Lengths of one request's part of a pass.

    Attributes:
        prefix: Tokens of its prefix.
        kept: Whether the prefix's keys are kept from an earlier pass, so that it is not in the row.
        documents: Tokens of each of its documents.
    """

    prefix: int
    kept: bool
    documents: tuple[int, ...]


def layout(shares: Sequence[Share], bytes_per_token: int, device: torch.device) -> Layout:
    """Lay out a pass: for each share its prefix, unless that is kept, then its documents, in the order given.

    Args:
        shares: At least one, with at least one document altogether.
        bytes_per_token: Of one token's keys and values in one layer.
        device: Where the indices go.
    """
    budget = EXPANDED_BYTES // bytes_per_token
    prefixes: list[slice | None] = []
    own: list[tuple[int, int]] = []
    ends: list[int] = []
    groups: list[Group] = []
    start = 0
    for index, share in enumerate(shares):
        prefixes.append(None if share.kept else slice(start, start + share.prefix))
        if not share.kept:
            own.append((start, share.prefix))
            start += share.prefix
        *starts, start = accumulate(share.documents, initial=start)
        spans = list(zip(starts, share.documents, strict=True))
        for members in _alike(share.documents, share.prefix, budget):
            numbers = [len(ends) + at for at in members]
            groups.append(_group([spans[at] for at in members], index, share.prefix, numbers, device))
        ends += [first + length - 1 for first, length in spans]
    lengths = [length for _, length in own]
    groups += [_group([own[at] for at in members], None, 0, [], device) for members in _alike(lengths, 0, budget)]
    return Layout(tuple(prefixes), torch.tensor(ends, device=device), tuple(groups))


def _alike(lengths: Sequence[int], ahead: int, budget: int) -> Iterator[list[int]]:
    """Indices of ``lengths`` in groups of similar length that, padded and behind ``ahead``, stay within ``budget``."""
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda at: -lengths[at]):
        longest = lengths[group[0]] if group else 0
        full = (len(group) + 1) * (ahead + longest) > budget
        if group and (full or lengths[index] < MIN_FILL * longest):
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def _group(
    spans: Sequence[tuple[int, int]], prefix: int | None, ahead: int, documents: list[int], device: torch.device
) -> Group:
    starts = torch.tensor([start for start, _ in spans])[:, None]
    lengths = torch.tensor([length for _, length in spans])[:, None]
    steps = torch.arange(int(lengths.max()))
    places = starts + torch.minimum(steps, lengths - 1)
    real = steps < lengths
    return Group(
        prefix=prefix,
        ahead=ahead,
        places=places.to(device),
        real=None if bool(real.all()) else real.flatten().nonzero()[:, 0].to(device),
        ends=(lengths[:, 0] - 1).to(device),
        documents=torch.tensor(documents, dtype=torch.long, device=device),
    )
