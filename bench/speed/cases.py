"""A checkpoint of a size worth measuring, and the requests to measure it with."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness.command import few
from harness.places import ROOT
from layout import SHARDS, write_weights
from PIL import Image
from torch import nn

from reranker_engine.inference.scorer import Scorer
from reranker_engine.inference.scoring import PreparedRequest
from reranker_engine.model.config import read_config
from reranker_engine.model.reranker import Reranker

SOURCE = ROOT / "demo" / "checkpoints" / "base"
COUNTS = few((1, 8, 32, 100), (1, 4))
SHARD_BYTES = 2 * 2**30
PROMISED_AT = few(32, 4)
WORDS = ("red", "circle", "blue", "star", "green", "ring", "square", "yellow")
TEXT = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "rope_scaling": {"mrope_interleaved": True, "mrope_section": [12, 10, 10], "rope_type": "default"},
}
VISION = {
    "hidden_size": 320,
    "intermediate_size": 1280,
    "num_heads": 5,
    "depth": 4,
    "deepstack_visual_indexes": [1],
    "out_hidden_size": 512,
}


def make_checkpoint(
    folder: Path,
    *,
    text: dict[str, Any] = TEXT,
    vision: dict[str, Any] = VISION,
    tied: bool = True,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    std: float = 0.04,
) -> None:
    """A checkpoint with random weights, 35 million by default, and the demo's tokenizer; in the published layout.

    Args:
        folder: Is made.
        text: What ``text_config`` has other than the demo's checkpoint.
        vision: Likewise, ``vision_config``.
        tied: Whether the output embedding is the input's; else it is written too.
        dtype: Of the weights in the files.
        device: Where random numbers are drawn: 16 GB of them take minutes on a CPU. Memory holds one shard at a time.
        std: Of the weights.
    """
    make_folder(folder, text=text, vision=vision, tied=tied)
    model = meta_model(folder)
    weights = {f"model.{name}": value.to(dtype) for name, value in model.state_dict().items() if name != "head"}
    drawn = {
        f"model.{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv3d | nn.Embedding)
    }
    if not tied:
        weights["lm_head.weight"] = weights["model.language_model.embed_tokens.weight"]
        drawn.add("lm_head.weight")
    torch.manual_seed(7)

    def made(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name in drawn:
            return torch.empty(tensor.shape, dtype=dtype, device=device).normal_(std=std).cpu()
        return (torch.zeros if name.endswith(".bias") else torch.ones)(tensor.shape, dtype=dtype)

    total = sum(tensor.nbytes for tensor in weights.values())
    write_weights(folder, weights, shards=max(SHARDS, -(-total // SHARD_BYTES)), made=made)


def make_folder(folder: Path, *, text: dict[str, Any], vision: dict[str, Any], tied: bool) -> None:
    """Everything of a checkpoint but its weights."""
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    raw["text_config"] |= {**text, "tie_word_embeddings": tied}
    raw["vision_config"] |= vision
    raw["tie_word_embeddings"] = tied
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")


def meta_model(folder: Path) -> Reranker:
    """The model that a folder's ``config.json`` describes, without memory for its weights."""
    with torch.device("meta"):
        return Reranker(read_config(folder))


@dataclass(frozen=True)
class Request:
    query: dict[str, Any]
    documents: list[dict[str, Any]]
    media: list[bytes]

    def prepared(self, scorer: Scorer) -> PreparedRequest:
        raw = [json.dumps(document).encode() for document in self.documents]
        return scorer.prepare(scorer.parse(json.dumps(self.query).encode(), raw, media=self.media))


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        name: With the tokens of the prefix and of a document.
        request: Makes the request of so many documents.
        promised: How many times as fast as one pair at a time the engine is at ``PROMISED_AT`` documents.
        warm: Also with all images in the cache, and what is promised then; None where that is not asked.
    """

    name: str
    request: Callable[[int], Request]
    promised: float
    warm: float | None = None


def make_cases(scorer: Scorer) -> list[Case]:
    """The six cases; texts are made as long as the tokenizer of ``scorer`` counts."""
    rng = random.Random(5)

    def text(tokens: int) -> str:
        return "".join(f" {rng.choice(WORDS)}" for _ in range(tokens))

    def size(request: Request) -> tuple[int, int]:
        prepared = request.prepared(scorer)
        return len(prepared.query.tokens), len(prepared.documents[0].tokens)

    picture = [_picture(rng, 480)]
    bare = size(Request({"text": "red"}, [{"text": "red"}], []))
    seen = size(Request({"image": {"media": 0}}, [{"image": {"media": 0}}], picture))

    def query(tokens: int) -> dict[str, Any]:
        return {"text": "red" + text(tokens - bare[0])}

    def document(tokens: int) -> dict[str, Any]:
        return {"text": "red" + text(tokens - bare[1])}

    def texts(prefix: int, lengths: Callable[[int], list[int]]) -> Callable[[int], Request]:
        asked = query(prefix)
        return lambda count: Request(asked, [document(length) for length in lengths(count)], [])

    def spread(count: int) -> list[int]:
        """Lengths from 20 to 400, evenly, in any order."""
        lengths = [20 + round(380 * (at + 0.5) / count) for at in range(count)]
        rng.shuffle(lengths)
        return lengths

    def image_query(count: int) -> Request:
        return Request(
            {"image": {"media": 0}, "text": text(317 - seen[0])}, [document(49) for _ in range(count)], picture
        )

    def image_documents(count: int) -> Request:
        pictures = [_picture(rng, 256) for _ in range(count)]
        return Request(query(92), [{"image": {"media": at}} for at in range(count)], pictures)

    return [
        Case("short texts (92 / 49)", texts(92, lambda count: [49] * count), 3),
        Case("long query (484 / 69)", texts(484, lambda count: [69] * count), 7),
        Case("image query (317 / 49)", image_query, 10),
        Case("image documents (92 / 73)", image_documents, 2, warm=3.8),
        Case("mixed lengths (92 / 20-400)", texts(92, spread), 1.5),
    ]


def _picture(rng: random.Random, side: int) -> bytes:
    """A JPEG of smooth colours, as photographs are."""
    coarse = np.frombuffer(rng.randbytes(8 * 8 * 3), dtype=np.uint8).reshape(8, 8, 3)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()
