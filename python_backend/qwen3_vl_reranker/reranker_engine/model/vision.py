"""The vision tower: patches of images and video frames in, features for the decoder out."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name it has everywhere

from .decoder import Rotary, rotate
from .layers import Conv3d, Embedding, Linear

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .config import VisionConfig

Grid = tuple[int, int, int]
"""(frame groups, patch rows, patch columns) of one image or video; an image has one group."""

LAYER_NORM_EPS = 1e-6
ROPE_THETA = 10000.0


class VisualFeatures(NamedTuple):
    """What the decoder gets for visual tokens."""

    embeds: Tensor
    """[tokens, hidden], in place of the token embeddings."""
    deepstack: list[Tensor]
    """For each of the decoder's first layers [tokens, hidden], to be added to its output."""

    def split(self, tokens: Sequence[int]) -> list[VisualFeatures]:
        """Of each image and video, given their numbers of ``tokens``; copies if there are several.

        A view of one would keep the features of all in memory.
        """
        if len(tokens) == 1:
            return [self]
        parts = (torch.split(part, list(tokens)) for part in (self.embeds, *self.deepstack))
        owned = ([part.clone() for part in of_one] for of_one in zip(*parts, strict=True))
        return [VisualFeatures(embeds, deepstack) for embeds, *deepstack in owned]


class VisionAttention(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = Linear(config.hidden_size, config.hidden_size * 3)
        self.proj = Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, rotary: Rotary, runs: Sequence[tuple[int, int]]) -> Tensor:
        """Attend within each frame. ``runs`` are (frames, patches a frame) of neighbours of equal size."""
        qkv = self.qkv(x).view(x.shape[0], 3, self.num_heads, -1)
        # Rotated in fp32, as the checkpoints were trained; queries and keys at once, which is faster.
        q, k = rotate(qkv[:, :2].float(), rotary).to(x.dtype).unbind(1)
        v = qkv[:, 2]
        outs = []
        start = 0
        for frames, length in runs:
            stop = start + frames * length
            parts = [t[start:stop].view(frames, length, self.num_heads, -1).transpose(1, 2) for t in (q, k, v)]
            out = F.scaled_dot_product_attention(parts[0], parts[1], parts[2])
            outs.append(out.transpose(1, 2).reshape(stop - start, -1))
            start = stop
        result: Tensor = self.proj(outs[0] if len(outs) == 1 else torch.cat(outs))
        return result


class VisionMLP(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.linear_fc1 = Linear(config.hidden_size, config.intermediate_size)
        self.linear_fc2 = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.linear_fc2(F.gelu(self.linear_fc1(x), approximate="tanh"))
        return result


class VisionBlock(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.attn = VisionAttention(config)
        self.mlp = VisionMLP(config)

    def forward(self, x: Tensor, rotary: Rotary, runs: Sequence[tuple[int, int]]) -> Tensor:
        x = x + self.attn(self.norm1(x), rotary, runs)
        result: Tensor = x + self.mlp(self.norm2(x))
        return result


class PatchMerger(nn.Module):
    """Joins merge x merge neighbouring patches into one token of the decoder's width."""

    def __init__(self, config: VisionConfig, *, norm_after_merge: bool) -> None:
        super().__init__()
        self.merged_size = config.hidden_size * config.spatial_merge_size**2
        self.norm_after_merge = norm_after_merge
        self.norm = nn.LayerNorm(self.merged_size if norm_after_merge else config.hidden_size, eps=LAYER_NORM_EPS)
        self.linear_fc1 = Linear(self.merged_size, self.merged_size)
        self.linear_fc2 = Linear(self.merged_size, config.out_hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        if self.norm_after_merge:
            x = self.norm(x.view(-1, self.merged_size))
        else:
            x = self.norm(x).view(-1, self.merged_size)
        result: Tensor = self.linear_fc2(F.gelu(self.linear_fc1(x)))
        return result


class PatchEmbed(nn.Module):
    """The patch projection. Published weights are those of a Conv3d whose kernel is its stride.

    Such a convolution is one matrix product over flattened patches, which took 11 ms where Conv3d took 64 ms on a CPU.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        kernel = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.proj = Conv3d(config.in_channels, config.hidden_size, kernel_size=kernel, stride=kernel)

    def forward(self, patches: Tensor) -> Tensor:
        return F.linear(patches.to(self.proj.weight.dtype), self.proj.weight.flatten(1), self.proj.bias)


class VisionTower(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.heartbeat: Callable[[], None] = lambda: None
        """Called after each block."""
        self.patch_embed = PatchEmbed(config)
        self.pos_embed = Embedding(config.num_position_embeddings, config.hidden_size)
        self.blocks = nn.ModuleList([VisionBlock(config) for _ in range(config.depth)])
        self.merger = PatchMerger(config, norm_after_merge=False)
        self.deepstack_merger_list = nn.ModuleList(
            [PatchMerger(config, norm_after_merge=True) for _ in config.deepstack_layers]
        )

    def forward(self, patches: Tensor, grids: Sequence[Grid]) -> VisualFeatures:
        """Features of several images and videos.

        Args:
            patches: [sum of t*h*w over ``grids``, channels * temporal * patch * patch], each frame's patches ordered by
                merge block, as ``inference.pixels`` makes them.
            grids: One for each image or video; neighbours of equal size are computed faster.
        """
        x = self.patch_embed(patches)
        # What depends on positions alone is computed once for each size of frame: a video's frames have one size, and
        # images often do.
        sizes = dict.fromkeys((rows, columns) for _, rows, columns in grids)
        alike = {size: self._position_inputs(size, patches.device) for size in sizes}
        frames = [alike[rows, columns] for groups, rows, columns in grids for _ in range(groups)]
        learned, cos, sin = (torch.cat(parts) for parts in zip(*frames, strict=True))
        x = x + learned.to(x.dtype)
        lengths = [rows * columns for groups, rows, columns in grids for _ in range(groups)]
        runs = [(len(list(same)), length) for length, same in groupby(lengths)]
        deepstack = []
        for index, block in enumerate(self.blocks):
            x = block(x, (cos, sin), runs)
            self.heartbeat()
            if index in self.config.deepstack_layers:
                merger = self.deepstack_merger_list[self.config.deepstack_layers.index(index)]
                deepstack.append(merger(x))
        return VisualFeatures(self.merger(x), deepstack)

    def _position_inputs(self, size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Learned position embeddings, cos and sin of the rotation, for the patches of one frame."""
        positions = self._patch_positions(*size).to(device)
        return self._position_embedding(positions, size), *self._rotary(positions)

    def _patch_positions(self, rows: int, columns: int) -> Tensor:
        """(row, column) of each patch [rows * columns, 2], ordered by merge block."""
        merge = self.config.spatial_merge_size
        grid = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), dim=-1)
        blocks = grid.view(rows // merge, merge, columns // merge, merge, 2)
        return blocks.transpose(1, 2).reshape(-1, 2)

    def _rotary(self, positions: Tensor) -> Rotary:
        """(cos, sin) of fp32, [patches, 1, 1, head_dim]: half the pairs turn with the row, half with the column."""
        spatial = self.config.hidden_size // self.config.num_heads // 2
        exponents = torch.arange(0, spatial, 2, dtype=torch.float32, device=positions.device) / spatial
        angles = (positions[..., None].float() * (1.0 / ROPE_THETA**exponents)).flatten(1)
        both = torch.cat((angles, angles), dim=-1)[:, None, None]
        return both.cos(), both.sin()

    def _position_embedding(self, positions: Tensor, frame: tuple[int, int]) -> Tensor:
        """The learned square position grid, resampled bilinearly (corners aligned) to the patches of one frame."""
        side = round(self.config.num_position_embeddings**0.5)
        table = self.pos_embed.weight.float()
        size = torch.tensor([max(edge - 1, 1) for edge in frame], device=positions.device)
        source = positions.float() * (side - 1) / size
        low = source.floor().long()
        high = (low + 1).clamp(max=side - 1)
        weight = source - low
        result = torch.zeros(positions.shape[0], table.shape[1], device=positions.device)
        for row, row_weight in ((low[:, 0], 1 - weight[:, 0]), (high[:, 0], weight[:, 0])):
            for column, column_weight in ((low[:, 1], 1 - weight[:, 1]), (high[:, 1], weight[:, 1])):
                result = result + table[row * side + column] * (row_weight * column_weight)[:, None]
        return result
