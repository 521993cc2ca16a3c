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
from demo.speed import ROOT
from layout import write_weights
from PIL import Image
from torch import nn

from reranker_engine.inference.scorer import Prepared, Scorer
from reranker_engine.model.config import read_config
from reranker_engine.model.reranker import Reranker

SOURCE = ROOT / "demo" / "checkpoints" / "base"
COUNTS = (1, 8, 32, 100)
PROMISED_AT = 32
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


def make_checkpoint(folder: Path, *, text: dict[str, Any] = TEXT, vision: dict[str, Any] = VISION) -> None:
    """A checkpoint with random weights, 35 million by default, and the demo's tokenizer; in the published layout."""
    ignore = shutil.ignore_patterns("*.safetensors", "*.index.json")
    shutil.copytree(SOURCE, folder, ignore=ignore)
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    raw["text_config"] |= text
    raw["vision_config"] |= vision
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    model = Reranker(read_config(folder))
    torch.manual_seed(7)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv3d | nn.Embedding):
            nn.init.normal_(module.weight, std=0.04)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)
    write_weights(folder, {f"model.{name}": value for name, value in model.state_dict().items() if name != "head"})


@dataclass(frozen=True)
class Request:
    query: dict[str, Any]
    documents: list[dict[str, Any]]
    media: list[bytes]

    def prepared(self, scorer: Scorer) -> Prepared:
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
