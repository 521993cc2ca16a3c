"""The Qwen3 decoder: RMSNorm, grouped-query attention with normalised queries and keys, SwiGLU, interleaved M-RoPE."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name it has everywhere

from .layers import Embedding, Linear

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .config import TextConfig
    from .packing import AttentionGroup, Layout

Rotary = tuple[Tensor, Tensor]
KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one layer, each [tokens, heads, head_dim]."""
PrefixCache = tuple[KeysValues, ...]
"""Keys and values of a request's prefix, of every layer."""
QUERY_BLOCK = 1024
"""Longer spans attend in blocks of so many queries. A mask over all pairs of a long document's tokens would take
hundreds of megabytes, and half of the computed pairs would be masked out."""


class RMSNorm(nn.Module):
    """Root mean square norm; the mean is taken in fp32, whatever the type of the weights."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Turn each half-split pair of ``x`` by its angle; ``rotary`` is (cos, sin), broadcast against ``x``."""
    cos, sin = rotary
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of ``q`` [batch, tokens, heads, head_dim] over ``k`` and ``v``; without a ``mask`` it is causal.

    ``k`` and ``v`` may have fewer heads, each for several neighbouring heads of ``q`` (grouped-query attention).
    ``mask`` is true where a token is attended to, broadcast against [batch, heads, tokens of q, tokens of k].
    """
    if mask is not None and wants_equal_heads(q.device):
        k, v = (part.repeat_interleave(q.shape[2] // part.shape[2], dim=2) for part in (k, v))
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
    return out.transpose(1, 2)


def wants_equal_heads(device: torch.device) -> bool:
    """Whether torch has no fused kernel for a mask together with fewer heads of keys than of queries.

    On CUDA, flash attention takes no mask, and the memory-efficient kernel no grouped heads. torch's SDPA would fall
    back to computing and storing the scores of all pairs of tokens.
    """
    return device.type == "cuda"


class Attention(nn.Module):
    """Projections of [..., tokens, hidden] to and from heads [..., tokens, heads, head_dim]."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        size, dim, bias = config.hidden_size, config.head_dim, config.attention_bias
        self.head_dim = dim
        self.q_proj = Linear(size, config.num_heads * dim, bias=bias)
        self.k_proj = Linear(size, config.num_kv_heads * dim, bias=bias)
        self.v_proj = Linear(size, config.num_kv_heads * dim, bias=bias)
        self.o_proj = Linear(config.num_heads * dim, size, bias=bias)
        self.q_norm = RMSNorm(dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(dim, config.rms_norm_eps)

    def queries(self, x: Tensor, rotary: Rotary) -> Tensor:
        return rotate(self.q_norm(self._heads(self.q_proj(x))), rotary)

    def keys_values(self, x: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor]:
        return rotate(self.k_norm(self._heads(self.k_proj(x))), rotary), self._heads(self.v_proj(x))

    def join(self, heads: Tensor) -> Tensor:
        """The attention output of the heads, as an update of the hidden states."""
        result: Tensor = self.o_proj(heads.flatten(-2))
        return result

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], -1, self.head_dim)


class MLP(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return result


class DecoderLayer(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    @property
    def device(self) -> torch.device:
        """Where the layer's weights are; a model may be divided among several devices."""
        return self.input_layernorm.weight.device

    def after(self, x: Tensor, heads: Tensor) -> Tensor:
        """The layer's output for its input ``x`` and the attention output of its heads."""
        x = x + self.self_attn.join(heads)
        result: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return result


class Decoder(nn.Module):
    """Token embeddings and decoder layers, under the names that published checkpoints use."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.heartbeat: Callable[[], None] = lambda: None
        """Called after each layer."""
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([DecoderLayer(config) for _ in range(config.num_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def rotary(self, positions: Tensor) -> Rotary:
        """(cos, sin), each [..., tokens, 1, head_dim], of M-RoPE ``positions`` [3, ..., tokens].

        The rows of ``positions`` are time, height and width. Frequencies are interleaved (t, h, w, t, h, w, ...) until
        the shares of height and width in ``mrope_section`` are used up; the rest belong to time. Angles are computed in
        fp32: at position 10,000 a half-precision angle would be off by whole radians.
        """
        dim, device = self.config.head_dim, positions.device
        exponents = torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim
        angles = positions[..., None].float() * (1.0 / self.config.rope_theta**exponents)
        mixed = angles[0].clone()
        for axis in (1, 2):
            share = slice(axis, self.config.mrope_section[axis] * 3, 3)
            mixed[..., share] = angles[axis][..., share]
        both = torch.cat((mixed, mixed), dim=-1)[..., None, :]
        dtype = self.embed_tokens.weight.dtype
        return both.cos().to(dtype), both.sin().to(dtype)

    def forward(
        self,
        embeds: Tensor,
        positions: Tensor,
        visual: tuple[Tensor, list[Tensor]] | None,
        layout: Layout,
        caches: Sequence[PrefixCache | None],
    ) -> tuple[Tensor, list[PrefixCache]]:
        """Run one pass over tokens that are packed into one row as ``layout`` says.

        All arguments are on one device. They move along with the hidden states to a layer on another device; keys and
        values stay where they are computed.

        Args:
            embeds: [tokens, hidden].
            positions: [3, tokens].
            visual: Indices of the visual tokens, and for each of the first layers the features [visual tokens, hidden]
                that are added to its output there (DeepStack, arXiv:2406.04334).
            layout: Where each span is in the row, and what attends with what.
            caches: For each slice the cached keys and values of its prefix; None if this pass computes the prefix.

        Returns:
            The last hidden states [documents, hidden] of the documents before the last norm, on the last layer's
            device; and for each slice the keys and values of its prefix: views of the whole row's, unless they were
            cached.
        """
        rotary = self.rotary(positions)
        x = embeds
        levels = [] if visual is None else visual[1]
        found: list[list[KeysValues]] = [[] for _ in layout.prefixes]
        for index, layer in enumerate(cast("Iterable[DecoderLayer]", self.layers)):
            if (device := layer.device) != x.device:
                x, layout = x.to(device), layout.to(device)
                rotary = (rotary[0].to(device), rotary[1].to(device))
                if visual is not None:
                    levels = [level.to(device) for level in levels]
                    visual = (visual[0].to(device), levels)
            normed = layer.input_layernorm(x)
            k, v = layer.self_attn.keys_values(normed, rotary)
            prefixes = [
                cache[index] if cache is not None else (k[place], v[place])
                for cache, place in zip(caches, layout.prefixes, strict=True)
            ]
            for kept, prefix in zip(found, prefixes, strict=True):
                kept.append(prefix)
            if index == len(self.layers) - 1:
                # Only the documents' last tokens are needed from the last layer; of all others, keys and values.
                ends = layout.ends
                q = layer.self_attn.queries(normed[ends], (rotary[0][ends], rotary[1][ends]))
                x = layer.after(x[ends], _attend_ends(q, k, v, layout, prefixes))
            else:
                q = layer.self_attn.queries(normed, rotary)
                x = layer.after(x, _attend_all(q, k, v, layout, prefixes))
                if visual is not None and index < len(levels):
                    x = x.index_add(0, visual[0], levels[index].to(x.dtype))
            self.heartbeat()
        return x, [tuple(kept) for kept in found]


def _attend_all(q: Tensor, k: Tensor, v: Tensor, layout: Layout, prefixes: Sequence[KeysValues]) -> Tensor:
    """Attention of each token of the row [tokens, heads, head_dim] to its prefix, and to its own span up to itself."""
    out = torch.empty_like(q)
    for group in layout.groups:
        keys, values = _expanded(k, v, group, prefixes)
        width = group.indices.shape[1]
        blocks = []
        for start in range(0, width, QUERY_BLOCK):
            stop = min(start + QUERY_BLOCK, width)
            seen = group.prefix_tokens + stop
            mask = None
            if group.prefix_tokens + start > 0:
                mask = torch.ones(stop - start, seen, dtype=torch.bool, device=q.device).tril(
                    group.prefix_tokens + start
                )
            blocks.append(attend(q[group.indices[:, start:stop]], keys[:, :seen], values[:, :seen], mask))
        heads = (blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)).flatten(0, 1)
        if group.real is None:
            out[group.indices.flatten()] = heads
        else:
            out[group.indices.flatten()[group.real]] = heads[group.real]
    return out


def _attend_ends(q: Tensor, k: Tensor, v: Tensor, layout: Layout, prefixes: Sequence[KeysValues]) -> Tensor:
    """Attention of each document's last token [documents, heads, head_dim] to its prefix and its document."""
    out = torch.empty_like(q)
    for group in layout.groups:
        if group.prefix is None:
            continue
        keys, values = _expanded(k, v, group, prefixes)
        seen = torch.arange(keys.shape[1], device=q.device) <= group.prefix_tokens + group.ends[:, None]
        out[group.documents] = attend(q[group.documents][:, None], keys, values, seen[:, None, None])[:, 0]
    return out


def _expanded(k: Tensor, v: Tensor, group: AttentionGroup, prefixes: Sequence[KeysValues]) -> KeysValues:
    """Keys and values [spans, prefix_tokens + width, heads, head_dim] of a group: the prefix's before each own."""
    if group.prefix is None:
        return k[group.indices], v[group.indices]
    both = []
    for before, own in zip(prefixes[group.prefix], (k, v), strict=True):
        both.append(torch.cat((before.expand(len(group.indices), -1, -1, -1), own[group.indices]), dim=1))
    return both[0], both[1]
