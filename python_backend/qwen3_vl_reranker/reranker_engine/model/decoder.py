"""The Qwen3 decoder: RMSNorm, grouped-query attention with normalised queries and keys, SwiGLU, interleaved M-RoPE."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name it has everywhere

from .layers import Embedding, Linear

if TYPE_CHECKING:
    from .config import TextConfig

Rotary = tuple[Tensor, Tensor]


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


class Attention(nn.Module):
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

    def project(self, x: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of ``x`` [batch, tokens, hidden], each [batch, heads, tokens, head_dim]."""
        shape = (*x.shape[:-1], -1, self.head_dim)
        q = self.q_norm(self.q_proj(x).view(shape)).transpose(1, 2)
        k = self.k_norm(self.k_proj(x).view(shape)).transpose(1, 2)
        v = self.v_proj(x).view(shape).transpose(1, 2)
        return rotate(q, rotary), rotate(k, rotary), v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attention output [batch, tokens, hidden]; without a ``mask`` it is causal."""
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
        result: Tensor = self.o_proj(out.transpose(1, 2).flatten(2))
        return result


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

    def forward(self, x: Tensor, rotary: Rotary) -> Tensor:
        q, k, v = self.self_attn.project(self.input_layernorm(x), rotary)
        x = x + self.self_attn.attend(q, k, v, None)
        result: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return result


class Decoder(nn.Module):
    """Token embeddings and decoder layers, under the names that published checkpoints use."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([DecoderLayer(config) for _ in range(config.num_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def rotary(self, positions: Tensor) -> Rotary:
        """(cos, sin), each [batch, 1, tokens, head_dim], of M-RoPE ``positions`` [3, batch, tokens].

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
        both = torch.cat((mixed, mixed), dim=-1)[:, None]
        dtype = self.embed_tokens.weight.dtype
        return both.cos().to(dtype), both.sin().to(dtype)

    def forward(self, embeds: Tensor, positions: Tensor, visual: tuple[Tensor, list[Tensor]] | None) -> Tensor:
        """Hidden states [batch, tokens, hidden] before the last norm, for rows padded on the right.

        Args:
            embeds: [batch, tokens, hidden].
            positions: [3, batch, tokens].
            visual: Flat indices of the visual tokens in [batch * tokens], and for each of the first layers the
                features [visual tokens, hidden] to be added to its output at those places (DeepStack,
                arXiv:2406.04334).

        Padding stands on the right, so causal attention alone keeps it out of every real token's sight, and no mask is
        needed. The last norm is left to the caller, who needs it for one token a row only.
        """
        rotary = self.rotary(positions)
        x = embeds
        for index, layer in enumerate(self.layers):
            x = layer(x, rotary)
            if visual is not None and index < len(visual[1]):
                flat = x.flatten(0, 1).index_add(0, visual[0], visual[1][index].to(x.dtype))
                x = flat.view_as(x)
        return x
