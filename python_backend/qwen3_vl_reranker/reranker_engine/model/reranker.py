"""The whole model: vision tower, decoder, and the difference of the "yes" and "no" rows as the scoring head."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .decoder import Decoder
from .packing import SliceLengths, layout
from .vision import VisionTower, VisualFeatures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .config import ModelConfig
    from .decoder import PrefixCache
    from .vision import Grid


@dataclass(frozen=True)
class TokenSpan:
    """Consecutive tokens of a prompt: a request's prefix, or one of its documents.

    Attributes:
        tokens: [n] token ids; visual tokens hold the pad id of images or of videos.
        positions: [3, n] M-RoPE positions; those of a document continue those of its prefix.
        visual_places: [v] indices of the visual tokens in ``tokens``, ascending.
        features: Of each image and video, in the order of ``visual_indices``.
    """

    tokens: Tensor
    positions: Tensor
    visual_indices: Tensor
    features: tuple[VisualFeatures, ...] = ()


@dataclass(frozen=True)
class SliceInput:
    """What one request brings to a pass: its prefix, and documents that each follow the prefix.

    Attributes:
        prefix: Tokens to compute, or their keys and values from an earlier pass.
        documents: At least one.
        keep: A later pass needs the prefix's keys and values.
    """

    prefix: TokenSpan | PrefixCache
    documents: tuple[TokenSpan, ...]
    keep: bool = False


class Reranker(nn.Module):
    """A Qwen3-VL reranker; ``visual`` and ``language_model`` are named as in published checkpoints."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.visual = VisionTower(config.vision)
        self.language_model = Decoder(config.text)
        # Row of "yes" minus row of "no" of the output embedding, always in fp32: a head and a sigmoid in bf16 gave 48
        # documents 36 distinct scores, which means ties; fp32 costs nothing here.
        self.head = nn.Parameter(torch.zeros(config.text.hidden_size, dtype=torch.float32))

    @property
    def device(self) -> torch.device:
        """The device that tokens and pixels go to: the first, if the model is divided among several."""
        return self.language_model.embed_tokens.weight.device

    def encode_visuals(self, patches: Tensor, grids: Sequence[Grid]) -> VisualFeatures:
        """Features of images and videos; see ``VisionTower.forward``."""
        features: VisualFeatures = self.visual(patches.to(self.device), grids)
        return features

    def forward(self, slices: Sequence[SliceInput]) -> tuple[Tensor, list[PrefixCache | None]]:
        """Score some documents of some requests in one pass.

        A pair's score does not depend on the others, except for rounding in matrix products of other shapes (about 1e-6
        in fp32).

        Returns:
            Logits [documents of all ``slices``, in order] in fp32, whose sigmoids are the scores; and for each of
            ``slices`` the prefix's keys and values, if it asks to keep them.
        """
        device, decoder = self.device, self.language_model
        row: list[TokenSpan] = []
        lengths, caches = [], []
        for one in slices:
            cached = None if isinstance(one.prefix, TokenSpan) else one.prefix
            row += [one.prefix, *one.documents] if isinstance(one.prefix, TokenSpan) else one.documents
            prefix_tokens = len(one.prefix.tokens if isinstance(one.prefix, TokenSpan) else one.prefix[0][0])
            documents = tuple(len(document.tokens) for document in one.documents)
            lengths.append(SliceLengths(prefix_tokens, cached is not None, documents))
            caches.append(cached)
        tokens = torch.cat([span.tokens for span in row]).to(device)
        positions = torch.cat([span.positions for span in row], dim=1).to(device)
        embeds = decoder.embed_tokens(tokens)
        visual = self._visual(row)
        if visual is not None:
            embeds = embeds.index_copy(0, visual[0], visual[1].embeds.to(embeds.dtype))
        config = self.config.text
        bytes_per_token = 2 * config.num_kv_heads * config.head_dim * embeds.element_size()
        ends, found = decoder(
            embeds,
            positions,
            None if visual is None else (visual[0], visual[1].deepstack),
            layout(lengths, bytes_per_token, device),
            caches,
        )
        logits: Tensor = decoder.norm(ends.to(self.head.device)).float() @ self.head
        return logits, [
            _copied(prefix_cache) if one.keep else None for one, prefix_cache in zip(slices, found, strict=True)
        ]

    def _visual(self, row: Sequence[TokenSpan]) -> tuple[Tensor, VisualFeatures] | None:
        """Indices in the row, and features, of all visual tokens."""
        features = [found for span in row for found in span.features]
        if not features:
            return None
        starts = accumulate((len(span.tokens) for span in row), initial=0)
        indices = torch.cat([start + span.visual_indices for start, span in zip(starts, row, strict=False)])
        deepstack = [torch.cat(level) for level in zip(*(found.deepstack for found in features), strict=True)]
        return indices.to(self.device), VisualFeatures(torch.cat([found.embeds for found in features]), deepstack)


def _copied(prefix_cache: PrefixCache) -> PrefixCache:
    """A copy. The originals are views, which would keep the whole row's keys and values in memory."""
    return tuple((keys.clone(), values.clone()) for keys, values in prefix_cache)
