"""What the engine's tests share; importing it makes the engine and the training code importable.

They are found by their folders, as Triton and a person at the shell find them.
"""

from __future__ import annotations

import io
import json
import sys
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

ROOT = Path(__file__).resolve().parents[3]
BACKEND = ROOT / "python_backend" / "qwen3_vl_reranker"
BASE = ROOT / "demo" / "checkpoints" / "base"
RETRAINED = ROOT / "demo" / "checkpoints" / "retrained"

# pytest puts tests/ on the path for the packages in it, and there "import triton" finds our folder of that name; torch
# takes it for the compiler. None is how Python marks a module that must not be found.
sys.modules.setdefault("triton", None)  # type: ignore[arg-type]
for folder in (BACKEND, ROOT / "tools" / "make_checkpoints"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


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


def official_prompt(query: str, document: str) -> str:
    """The whole prompt of a pair of texts as the official implementation writes it, control tokens and all."""
    from reranker_engine.inference.prompt import SYSTEM
    from reranker_engine.inference.request import DEFAULT_INSTRUCTION

    return (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n<Instruct>: {DEFAULT_INSTRUCTION}<Query>:{query}"
        f"\n<Document>:{document}<|im_end|>\n<|im_start|>assistant\n"
    )


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def data_uri(image: Image.Image) -> str:
    return "data:image/png;base64," + b64encode(png(image)).decode()
