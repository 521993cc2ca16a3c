"""The shapes in which Qwen3-VL-Reranker is published: of its two ``config.json`` what decides on time and memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """What differs from the demo's ``config.json``.

    Attributes:
        name: As people call it.
        text: Of ``text_config``.
        vision: Of ``vision_config``.
        tied: Whether the output embedding is the input's; where not, it lies in the checkpoint beside it.
    """

    name: str
    text: dict[str, Any]
    vision: dict[str, Any]
    tied: bool = True


DECODER = {
    "vocab_size": 151936,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
    "rope_theta": 5000000,
}
TOWER = {"num_heads": 16, "num_position_embeddings": 2304}

# Qwen/Qwen3-VL-Reranker-2B and -8B on Hugging Face; those of Qwen3-VL-2B-Instruct and -8B-Instruct are the same.
PUBLISHED = (
    Shape(
        "2B",
        DECODER | {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
        TOWER
        | {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "depth": 24,
            "deepstack_visual_indexes": [5, 11, 17],
            "out_hidden_size": 2048,
        },
    ),
    Shape(
        "8B",
        DECODER | {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
        TOWER
        | {
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "depth": 27,
            "deepstack_visual_indexes": [8, 16, 24],
            "out_hidden_size": 4096,
        },
        tied=False,
    ),
)
