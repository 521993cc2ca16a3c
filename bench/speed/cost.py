"""What a request costs in arithmetic, and what a device can do of it: together, how well the engine uses the device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from reranker_engine.inference.scoring import PreparedRequest
from reranker_engine.model.reranker import Reranker

SIDES = (4096, 8192, 16384)
"""Of the square matrices whose product is timed: which one a device is fastest at differs."""
SECONDS = 0.5
"""How long each product is repeated."""


class Flops(NamedTuple):
    """Floating-point operations of matrix products, a multiplication and an addition being two.

    Attributes:
        linear: With weights.
        attention: Of queries with keys, and with values; of a causal one only what is seen.
    """

    linear: float
    attention: float

    @property
    def total(self) -> float:
        return self.linear + self.attention


def flops(model: Reranker, prepared: PreparedRequest) -> Flops:
    """What scoring a request takes when nothing of it is in the cache: no padding, no pair that a mask hides.

    Each weight of a layer meets each of its tokens once: 2 FLOPs a weight and token. The query's tokens count once, and
    of the decoder's last layer keys and values of all tokens and the rest for the documents' last ones, as the engine
    computes it. Norms, activations, rotations and the head, a hundredth or less, are left out.
    """
    return Flops(*(sum(parts) for parts in zip(_decoder(model, prepared), _tower(model, prepared), strict=True)))


def matrix_rate(
    device: torch.device, dtype: torch.dtype, sides: tuple[int, ...] = SIDES, seconds: float = SECONDS
) -> float:
    """FLOPs a second of the device's best square matrix product of random numbers (of zeros it would be a tenth more).

    Args:
        device: CPU or GPU.
        dtype: Of the matrices.
        sides: Rows of the matrices; each is tried.
        seconds: How long to repeat each; its median counts.
    """
    # Where a torch made for GPUs finds none, this import warns on stderr.
    from torch.utils.benchmark import Timer

    found = []
    for side in sides:
        a, b = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
        # The timer waits for the GPU before and after, and warms up.
        timer = Timer(
            "torch.mm(a, b, out=c)",
            globals={"torch": torch, "a": a, "b": b, "c": torch.empty_like(a)},
            num_threads=torch.get_num_threads(),
        )
        found.append(2 * side**3 / timer.blocked_autorange(min_run_time=seconds).median)
    return max(found)


def _decoder(model: Reranker, prepared: PreparedRequest) -> Flops:
    text, layers = model.config.text, model.language_model.layers
    prefix = len(prepared.query.tokens)
    documents = [len(document.tokens) for document in prepared.documents]
    tokens = prefix + sum(documents)
    last = layers[-1]
    keys_values = _weights(last.self_attn.k_proj) + _weights(last.self_attn.v_proj)
    linear = tokens * (sum(_weights(layer) for layer in layers[:-1]) + keys_values)
    linear += len(documents) * (_weights(last) - keys_values)
    # A document's token sees the prefix, and of the document what lies before it and itself.
    seen = prefix * (prefix + 1) / 2 + sum(own * prefix + own * (own + 1) / 2 for own in documents)
    ends = sum(prefix + own for own in documents)
    pairs = seen * (len(layers) - 1) + ends
    return Flops(2 * linear, 4 * text.num_heads * text.head_dim * pairs)


def _tower(model: Reranker, prepared: PreparedRequest) -> Flops:
    vision, tower = model.config.vision, model.visual
    parts = (prepared.query, *prepared.documents)
    grids = {visual.digest: visual.grid for part in parts for visual in part.visuals}.values()
    merged = vision.spatial_merge_size**2
    linear = attention = 0
    for frames, rows, columns in grids:
        patches = frames * rows * columns
        linear += patches * (_weights(tower.patch_embed) + _weights(tower.blocks))
        linear += patches // merged * (_weights(tower.merger) + _weights(tower.deepstack_merger_list))
        attention += frames * (rows * columns) ** 2 * vision.depth
    return Flops(2 * linear, 4 * vision.hidden_size * attention)


def _weights(part: nn.Module) -> int:
    """Of its matrices; of the vision tower's only convolution, which is a matrix product, too."""
    return sum(module.weight.numel() for module in part.modules() if isinstance(module, nn.Linear | nn.Conv3d))
