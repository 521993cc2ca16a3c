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
    from .packing import Group, Layout

Rotary = tuple[Tensor, Tensor]
KeysValues = tuple[Tensor, Tensor]
"""Keys and values, each [tokens, heads, head_dim]."""
Past = tuple[KeysValues, ...]
"""Those of a prefix, of every layer."""
QUERY_BLOCK = 1024
"""Longer stretches attend in blocks of so many queries: a mask of all pairs of a long document's tokens would be
hundreds of megabytes, and half of what it computes would be thrown away."""


class RMSNorm(nn.Module):
    """Root mean square norm; the mean is taken in fp32 whatever the weights' type is."""

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

    ``k`` and ``v`` may have fewer heads, each of which then serves as many neighbours of ``q``'s. ``mask`` is true
    where a token is seen, broadcast against [batch, heads, tokens of q, tokens of k].
    """
    if mask is not None and wants_equal_heads(q.device):
        k, v = (part.repeat_interleave(q.shape[2] // part.shape[2], dim=2) for part in (k, v))
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
    return out.transpose(1, 2)


def wants_equal_heads(device: torch.device) -> bool:
    """Whether a mask leaves no fused kernel for keys with fewer heads than the queries.

    On CUDA flash attention takes no mask, and the memory-efficient kernel no groups of heads: SDPA would compute and
    keep the scores of all pairs of tokens.
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
        """What the heads found, as an update of the hidden states."""
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
        """Where the layer's weights lie; a model may be divided among several devices."""
        return self.input_layernorm.weight.device

    def after(self, x: Tensor, heads: Tensor) -> Tensor:
        """The layer's output for its input ``x`` and what the heads found for it."""
        x = x + self.self_attn.join(heads)
        result: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return result


class Decoder(nn.Module):
    """Token embeddings and decoder layers, under the names that published checkpoints use."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.beat: Callable[[], None] = lambda: None
        """Called after each layer; does nothing unless somebody wants to know."""
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([DecoderLayer(config) for _ in range(config.num_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def rotary(self, positions: Tensor) -> Rotary:
        """(cos, sin), each [..., tokens, 1, head_dim], of M-RoPE ``positions`` [3, ..., tokens].

        The rows of ``positions`` are time, height and width. Frequencies are dealt out in turn (t, h, w, t, h, w, ...)
        until the height's and the width's shares in ``mrope_section`` are used up; the rest turn with time. Angles are
        computed in fp32: at position 10,000 a half-precision angle would be off by whole radians.
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
        pasts: Sequence[Past | None],
    ) -> tuple[Tensor, list[Past]]:
        """Run one pass, whose tokens lie in one row as ``layout`` says.

        Everything comes in on one device and moves along with the hidden states where the next layer lies elsewhere;
        keys and values stay where they are computed.

        Args:
            embeds: [tokens, hidden].
            positions: [3, tokens].
            visual: Places of the visual tokens, and for each of the first layers the features [visual tokens, hidden]
                to be added to its output there (DeepStack, arXiv:2406.04334).
            layout: Who stands where and attends with whom.
            pasts: For each share the keys and values of its prefix, where they are kept from an earlier pass.

        Returns:
            The documents' last hidden states [documents, hidden] before the last norm, where the last layer lies, and
            each share's keys and values of its prefix, which are views of the whole row's unless they came in.
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
                past[index] if past is not None else (k[place], v[place])
                for past, place in zip(pasts, layout.prefixes, strict=True)
            ]
            for kept, prefix in zip(found, prefixes, strict=True):
                kept.append(prefix)
            if index == len(self.layers) - 1:
                # Of the last layer only the documents' last tokens are wanted; all it needs of the others are keys.
                ends = layout.ends
                q = layer.self_attn.queries(normed[ends], (rotary[0][ends], rotary[1][ends]))
                x = layer.after(x[ends], _attend_ends(q, k, v, layout, prefixes))
            else:
                q = layer.self_attn.queries(normed, rotary)
                x = layer.after(x, _attend_all(q, k, v, layout, prefixes))
                if visual is not None and index < len(levels):
                    x = x.index_add(0, visual[0], levels[index].to(x.dtype))
            self.beat()
        return x, [tuple(kept) for kept in found]


def _attend_all(q: Tensor, k: Tensor, v: Tensor, layout: Layout, prefixes: Sequence[KeysValues]) -> Tensor:
    """What each token of the row [tokens, heads, head_dim] finds in its prefix and in its own stretch up to itself."""
    out = torch.empty_like(q)
    for group in layout.groups:
        keys, values = _expanded(k, v, group, prefixes)
        width = group.places.shape[1]
        blocks = []
        for start in range(0, width, QUERY_BLOCK):
            stop = min(start + QUERY_BLOCK, width)
            seen = group.ahead + stop
            mask = None
            if group.ahead + start > 0:
                mask = torch.ones(stop - start, seen, dtype=torch.bool, device=q.device).tril(group.ahead + start)
            blocks.append(attend(q[group.places[:, start:stop]], keys[:, :seen], values[:, :seen], mask))
        heads = (blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)).flatten(0, 1)
        if group.real is None:
            out[group.places.flatten()] = heads
        else:
            out[group.places.flatten()[group.real]] = heads[group.real]
    return out


def _attend_ends(q: Tensor, k: Tensor, v: Tensor, layout: Layout, prefixes: Sequence[KeysValues]) -> Tensor:
    """What each document's last token [documents, heads, head_dim] finds in its prefix and in its document."""
    out = torch.empty_like(q)
    for group in layout.groups:
        if group.prefix is None:
            continue
        keys, values = _expanded(k, v, group, prefixes)
        seen = torch.arange(keys.shape[1], device=q.device) <= group.ahead + group.ends[:, None]
        out[group.documents] = attend(q[group.documents][:, None], keys, values, seen[:, None, None])[:, 0]
    return out


def _expanded(k: Tensor, v: Tensor, group: Group, prefixes: Sequence[KeysValues]) -> KeysValues:
    """Keys and values [stretches, ahead + width, heads, head_dim] of a group: its prefix's before each one's own."""
    if group.prefix is None:
        return k[group.places], v[group.places]
    both = []
    for before, own in zip(prefixes[group.prefix], (k, v), strict=True):
        both.append(torch.cat((before.expand(len(group.places), -1, -1, -1), own[group.places]), dim=1))
    return both[0], both[1]
