"""The engine and the training code are found by their folders, as Triton and a person at the shell find them."""

from __future__ import annotations

import io
import json
import random
import sys
from base64 import b64encode
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
for folder in ("python_backend/qwen3_vl_reranker", "demo/train"):
    sys.path.insert(0, str(ROOT / folder))

import torch  # noqa: E402
from PIL import Image  # noqa: E402

from reranker_engine.inference.scorer import Scorer, ScorerSettings  # noqa: E402
from reranker_engine.service.allocator import keep_freed_memory  # noqa: E402

BASE = ROOT / "demo" / "checkpoints" / "base"
RETRAINED = ROOT / "demo" / "checkpoints" / "retrained"


@pytest.fixture(scope="session", autouse=True)
def _lean():
    torch.set_num_threads(1)
    keep_freed_memory()


@pytest.fixture(scope="session")
def base():
    return Scorer(BASE, ScorerSettings())


def score(scorer, query, documents, *, media=(), instruction=None, options=None):
    """Scores of plain Python objects."""
    request = scorer.parse(
        json.dumps(query).encode(),
        [json.dumps(document).encode() for document in documents],
        None if instruction is None else instruction.encode(),
        None if options is None else json.dumps(options).encode(),
        media,
    )
    return scorer.score([scorer.prepare(request)])[0]


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def data_uri(image: Image.Image) -> str:
    return "data:image/png;base64," + b64encode(png(image)).decode()


@pytest.fixture
def rng():
    return random.Random(7)
