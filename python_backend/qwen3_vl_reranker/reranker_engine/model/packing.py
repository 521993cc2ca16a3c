"""Packs the tokens of one pass into one row without padding, and groups its spans for attention.

A pass holds slices of a few requests. Each slice has the request's prefix (system text, instruction and query, the same
for all its documents) and some of its documents; prefixes and documents are the spans of the row. A prefix attends to
itself, a document to its prefix and to itself. Everything but attention runs over the whole row at once and needs no
padding. In attention, spans of similar length share one padded call.
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
"""A span shorter than this share of its group's longest starts a new group. Padding costs in attention only, which is a
fifth of the work or less; many small calls cost more than a little padding."""
EXPANDED_BYTES = 64 * 2**20
"""Limit on the keys and values of one group. Each document of a group needs the prefix's keys beside its own; they are
copied for one group and one layer at a time, never for all."""


@dataclass(frozen=True)
class AttentionGroup:
    """Spans that attend in one call: documents after the same prefix, or prefixes, which follow nothing.

    Attributes:
        prefix: Index of the slice whose prefix they follow; None for prefixes.
        prefix_tokens: Tokens of that prefix; 0 without one.
        indices: [spans, width] indices of their tokens in the row, padded by repeating the last.
        real: [tokens] indices into the flat ``indices`` of those that are not padding; None if there is no padding.
        ends: [spans] index of each span's last token in its row of ``indices``.
        documents: [spans] which of the pass's documents they are; empty for prefixes.
    """

    prefix: int | None
    prefix_tokens: int
    indices: Tensor
    real: Tensor | None
    ends: Tensor
    documents: Tensor

    def to(self, device: torch.device) -> AttentionGroup:
        return replace(
            self,
            indices=self.indices.to(device),
            real=None if self.real is None else self.real.to(device),
            ends=self.ends.to(device),
            documents=self.documents.to(device),
        )


@dataclass(frozen=True)
class Layout:
    """One pass.

    Attributes:
        prefixes: For each slice, where its prefix is in the row; None if its keys are cached from an earlier pass.
        ends: [documents] index of each document's last token in the row.
        groups: What attends with what; each span is in one group.
    """

    prefixes: tuple[slice | None, ...]
    ends: Tensor
    groups: tuple[AttentionGroup, ...]

    def to(self, device: torch.device) -> Layout:
        """The same with its indices on another device."""
        return replace(self, ends=self.ends.to(device), groups=tuple(group.to(device) for group in self.groups))


@dataclass(frozen=True)
class SliceLengths:
    """Lengths of one request's part of a pass.

    Attributes:
        prefix: Tokens of its prefix.
        cached: The prefix's keys are cached from an earlier pass, so that it is not in the row.
        documents: Tokens of each of its documents.
    """

    prefix: int
    cached: bool
    documents: tuple[int, ...]


def layout(slices: Sequence[SliceLengths], bytes_per_token: int, device: torch.device) -> Layout:
    """Lay out a pass: for each slice its prefix, unless that is cached, then its documents, in the given order.

    Args:
        slices: At least one, with at least one document altogether.
        bytes_per_token: Of one token's keys and values in one layer.
        device: Where the indices go.
    """
    budget = EXPANDED_BYTES // bytes_per_token
    prefixes: list[slice | None] = []
    prefix_spans: list[tuple[int, int]] = []
    ends: list[int] = []
    groups: list[AttentionGroup] = []
    start = 0
    for index, one in enumerate(slices):
        prefixes.append(None if one.cached else slice(start, start + one.prefix))
        if not one.cached:
            prefix_spans.append((start, one.prefix))
            start += one.prefix
        *starts, start = accumulate(one.documents, initial=start)
        spans = list(zip(starts, one.documents, strict=True))
        for members in _similar_lengths(one.documents, one.prefix, budget):
            numbers = [len(ends) + at for at in members]
            groups.append(_group([spans[at] for at in members], index, one.prefix, numbers, device))
        ends += [first + length - 1 for first, length in spans]
    groups += [
        _group([prefix_spans[at] for at in members], None, 0, [], device)
        for members in _similar_lengths([length for _, length in prefix_spans], 0, budget)
    ]
    return Layout(tuple(prefixes), torch.tensor(ends, device=device), tuple(groups))


def _similar_lengths(lengths: Sequence[int], prefix_tokens: int, budget: int) -> Iterator[list[int]]:
    """Indices of ``lengths`` in groups of similar length.

    Padded, and with the prefix before each member, a group stays within ``budget`` tokens.
    """
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda at: -lengths[at]):
        longest = lengths[group[0]] if group else 0
        full = (len(group) + 1) * (prefix_tokens + longest) > budget
        if group and (full or lengths[index] < MIN_FILL * longest):
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def _group(
    spans: Sequence[tuple[int, int]], prefix: int | None, prefix_tokens: int, documents: list[int], device: torch.device
) -> AttentionGroup:
    starts = torch.tensor([start for start, _ in spans])[:, None]
    lengths = torch.tensor([length for _, length in spans])[:, None]
    steps = torch.arange(int(lengths.max()))
    indices = starts + torch.minimum(steps, lengths - 1)
    real = steps < lengths
    return AttentionGroup(
        prefix=prefix,
        prefix_tokens=prefix_tokens,
        indices=indices.to(device),
        real=None if bool(real.all()) else real.flatten().nonzero()[:, 0].to(device),
        ends=(lengths[:, 0] - 1).to(device),
        documents=torch.tensor(documents, dtype=torch.long, device=device),
    )
