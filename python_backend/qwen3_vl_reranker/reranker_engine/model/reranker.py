"""The whole model: vision tower, decoder, and the difference of the "yes" and "no" rows as the scoring head."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .decoder import Decoder
from .packing import Share, layout
from .vision import VisionTower, VisualFeatures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .config import ModelConfig
    from .decoder import Past
    from .vision import Grid


@dataclass(frozen=True)
class Stretch:
    """Tokens that follow each other in a prompt: a request's prefix, or one of its documents.

    Attributes:
        tokens: [n] token ids; visual places hold the image's or video's pad id.
        positions: [3, n] M-RoPE positions; a document's go on from its prefix.
        visual_places: [v] indices of the visual tokens in ``tokens``, ascending.
        features: Those of each image and video, in the order of their places.
    """

    tokens: Tensor
    positions: Tensor
    visual_places: Tensor
    features: tuple[VisualFeatures, ...] = ()


@dataclass(frozen=True)
class Prompts:
    """One request's part of a pass: its prefix, and the documents that follow it, each on its own.

    Attributes:
        prefix: Tokens to be computed, or the keys and values that an earlier pass kept of them.
        documents: At least one.
        keep: Whether a later pass needs the prefix's keys and values.
    """

    prefix: Stretch | Past
    documents: tuple[Stretch, ...]
    keep: bool = False


class Reranker(nn.Module):
    """A Qwen3-VL reranker; ``visual`` and ``language_model`` are named as in published checkpoints."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.visual = VisionTower(config.vision)
        self.language_model = Decoder(config.text)
        # Row of "yes" minus row of "no" of the output embedding, always fp32: in bf16 the head and the sigmoid leave
        # 36 distinct scores for 48 documents, that is ties; in fp32 they cost nothing.
        self.head = nn.Parameter(torch.zeros(config.text.hidden_size, dtype=torch.float32))

    @property
    def device(self) -> torch.device:
        """Where tokens and pixels go in. Of a model that is divided among several devices it is the first."""
        return self.language_model.embed_tokens.weight.device

    def see(self, patches: Tensor, grids: Sequence[Grid]) -> VisualFeatures:
        """Features of images and videos; see ``VisionTower.forward``."""
        features: VisualFeatures = self.visual(patches.to(self.device), grids)
        return features

    def forward(self, prompts: Sequence[Prompts]) -> tuple[Tensor, list[Past | None]]:
        """Score some documents of some requests in one pass.

        Arithmetic on a pair does not depend on the others but for the rounding of differently shaped matrix products
        (about 1e-6 in fp32).

        Returns:
            Logits [documents of all ``prompts``, in order] in fp32, whose sigmoids are the scores; and for each of
            ``prompts`` the prefix's keys and values, if it asks to keep them.
        """
        device, decoder = self.device, self.language_model
        row: list[Stretch] = []
        shares, pasts = [], []
        for one in prompts:
            past = None if isinstance(one.prefix, Stretch) else one.prefix
            row += [one.prefix, *one.documents] if isinstance(one.prefix, Stretch) else one.documents
            ahead = len(one.prefix.tokens if isinstance(one.prefix, Stretch) else one.prefix[0][0])
            shares.append(Share(ahead, past is not None, tuple(len(document.tokens) for document in one.documents)))
            pasts.append(past)
        tokens = torch.cat([stretch.tokens for stretch in row]).to(device)
        positions = torch.cat([stretch.positions for stretch in row], dim=1).to(device)
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
            layout(shares, bytes_per_token, device),
            pasts,
        )
        logits: Tensor = decoder.norm(ends.to(self.head.device)).float() @ self.head
        return logits, [_own(past) if one.keep else None for one, past in zip(prompts, found, strict=True)]

    def _visual(self, row: Sequence[Stretch]) -> tuple[Tensor, VisualFeatures] | None:
        """Places in the row and features of all its visual tokens."""
        features = [found for stretch in row for found in stretch.features]
        if not features:
            return None
        starts = accumulate((len(stretch.tokens) for stretch in row), initial=0)
        places = torch.cat([start + stretch.visual_places for start, stretch in zip(starts, row, strict=False)])
        deepstack = [torch.cat(level) for level in zip(*(found.deepstack for found in features), strict=True)]
        return places.to(self.device), VisualFeatures(torch.cat([found.embeds for found in features]), deepstack)


def _own(past: Past) -> Past:
    """A copy of what are views of a whole row's keys and values, which would otherwise all stay in memory."""
    return tuple((keys.clone(), values.clone()) for keys, values in past)
