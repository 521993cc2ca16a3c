"""The whole model: vision tower, decoder, and the difference of the "yes" and "no" rows as the scoring head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .decoder import Decoder
from .vision import VisionTower, VisualFeatures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .config import ModelConfig
    from .vision import Grid


@dataclass(frozen=True)
class Row:
    """One (query, document) pair as the decoder sees it.

    Attributes:
        tokens: [n] token ids; visual places hold the image's or video's pad id.
        positions: [3, n] M-RoPE positions.
        visual_places: [v] indices of the visual tokens in ``tokens``, ascending.
        features: Their features, in the same order; None when there are none.
    """

    tokens: Tensor
    positions: Tensor
    visual_places: Tensor
    features: VisualFeatures | None


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
        return self.head.device

    def see(self, patches: Tensor, grids: Sequence[Grid]) -> VisualFeatures:
        """Features of images and videos; see ``VisionTower.forward``."""
        features: VisualFeatures = self.visual(patches.to(self.device), grids)
        return features

    def forward(self, rows: Sequence[Row]) -> Tensor:
        """Logits [rows] in fp32; a score is their sigmoid.

        Rows are padded on the right to the longest one. Arithmetic on a row does not depend on the others but for the
        rounding of differently shaped matrix products (about 1e-6 in fp32).
        """
        device = self.device
        lengths = torch.tensor([row.tokens.shape[0] for row in rows], device=device)
        width = max(row.tokens.shape[0] for row in rows)
        tokens = torch.zeros(len(rows), width, dtype=torch.long)
        positions = torch.zeros(3, len(rows), width, dtype=torch.long)
        for index, row in enumerate(rows):
            count = row.tokens.shape[0]
            tokens[index, :count] = row.tokens
            positions[:, index, :count] = row.positions
        embeds = self.language_model.embed_tokens(tokens.to(device))
        visual = self._visual(rows, width)
        if visual is not None:
            places, features = visual
            flat = embeds.flatten(0, 1).index_copy(0, places, features.embeds.to(embeds.dtype))
            embeds = flat.view_as(embeds)
        hidden = self.language_model(
            embeds, positions.to(device), None if visual is None else (visual[0], visual[1].deepstack)
        )
        last = hidden[torch.arange(len(rows), device=device), lengths - 1]
        logits: Tensor = self.language_model.norm(last).float() @ self.head
        return logits

    def _visual(self, rows: Sequence[Row], width: int) -> tuple[Tensor, VisualFeatures] | None:
        """Flat places and features of all rows' visual tokens."""
        seen = [(index, row.visual_places, row.features) for index, row in enumerate(rows) if row.features is not None]
        if not seen:
            return None
        places = torch.cat([index * width + where for index, where, _ in seen]).to(self.device)
        features = [found for _, _, found in seen if found is not None]
        deepstack = [torch.cat(level) for level in zip(*(found.deepstack for found in features), strict=True)]
        return places, VisualFeatures(torch.cat([found.embeds for found in features]), deepstack)
