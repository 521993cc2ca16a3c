"""The official way of computing, to measure the engine against: one (query, document) pair at a time.

The official class (``src/models/qwen3_vl_reranker.py`` of QwenLM/Qwen3-VL-Embedding) is not part of a package, and its
processor needs torchvision. What it does for texts and images is done here with transformers' own parts: the chat
template, the tokenizer with its left padding, the image processor without resizing, and the model's forward pass over
one pair, the hidden state of the last token times the difference of the "yes" and "no" rows, and a sigmoid.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils.logging import disable_progress_bar

from reranker_engine.inference.pixels import IMAGE_MAX_TOKENS, IMAGE_MIN_TOKENS, token_aligned_size
from reranker_engine.inference.prompt import SYSTEM
from reranker_engine.inference.request import DEFAULT_INSTRUCTION

IMAGE_PAD = "<|image_pad|>"
EDGE = 32
CLOSING = 5
MAX_LENGTH = 10240


class OnePair:
    def __init__(self, folder: Path, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> None:
        """Load the checkpoint in ``folder``, by default in fp32 on the CPU."""
        disable_progress_bar()
        self._device = device or torch.device("cpu")
        whole = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=dtype)
        self._model = whole.model.eval().to(self._device)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self._images = Qwen2VLImageProcessorPil.from_pretrained(folder)
        words = self._tokenizer.get_vocab()
        rows = whole.lm_head.weight.data
        # The head and the sigmoid are in the weights' type, as in the official class.
        self._head = (rows[words["yes"]] - rows[words["no"]]).to(self._device)

    @torch.no_grad()
    def scores(self, query: dict[str, Any], documents: list[dict[str, Any]], media: list[bytes]) -> list[float]:
        """Scores of contents with ``text`` and ``image`` (``{"media": k}``), in document order."""
        found = []
        for document in documents:
            hidden = self._model(**self._inputs(query, document, media)).last_hidden_state[:, -1]
            # The model keeps the last multimodal prompt's offset and would add it to a plain text after it.
            self._model.rope_deltas = None
            found += torch.sigmoid(hidden @ self._head).tolist()
        return found

    def _inputs(self, query: dict[str, Any], document: dict[str, Any], media: list[bytes]) -> dict[str, Any]:
        lead = [{"type": "text", "text": f"<Instruct>: {DEFAULT_INSTRUCTION}"}]
        parts = [*lead, *_parts(query, "<Query>:"), *_parts(document, "\n<Document>:")]
        messages = [
            {"role": "system", "content": [{"type": "text", "text": SYSTEM}]},
            {"role": "user", "content": parts},
        ]
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        pictures = [_picture(media[one["image"]["media"]]) for one in (query, document) if "image" in one]
        vision: dict[str, Any] = {}
        if pictures:
            vision = dict(self._images(pictures, do_resize=False, return_tensors="pt"))
            for grid in vision["image_grid_thw"].tolist():
                tokens = grid[0] * grid[1] * grid[2] // self._images.merge_size**2
                text = text.replace(IMAGE_PAD, "<|placeholder|>" * tokens, 1)
            text = text.replace("<|placeholder|>", IMAGE_PAD)
        ids = self._tokenizer(text)["input_ids"]
        ids = ids[:-CLOSING][:MAX_LENGTH] + ids[-CLOSING:]
        padded = dict(self._tokenizer.pad({"input_ids": [ids]}, padding=True, return_tensors="pt"))
        pad = self._tokenizer.convert_tokens_to_ids(IMAGE_PAD)
        inputs = {**padded, **vision, "mm_token_type_ids": (padded["input_ids"] == pad).long()}
        return {name: tensor.to(self._device) for name, tensor in inputs.items()}


def _parts(content: dict[str, Any], lead: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"type": "text", "text": lead}]
    if "image" in content:
        found.append({"type": "image"})
    if "text" in content:
        found.append({"type": "text", "text": content["text"]})
    return found


def _picture(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    area = EDGE**2
    height, width = token_aligned_size(
        image.height, image.width, EDGE, IMAGE_MIN_TOKENS * area, IMAGE_MAX_TOKENS * area
    )
    return image.resize((width, height), Image.Resampling.BICUBIC)
