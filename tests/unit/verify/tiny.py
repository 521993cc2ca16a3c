"""Writes a checkpoint of a few hundred bytes in the published layout, by hand: no library takes part."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

from baton.verify.files import open_regular
from baton.verify.safetensors import Header, read_header

HIDDEN, VOCABULARY, LAYERS = 4, 8, 2
ARCHITECTURE = "Qwen3VLForConditionalGeneration"


def safetensors(tensors: dict[str, tuple[int, ...]], *, fill: int = 0, dtype: str = "F32", width: int = 4) -> bytes:
    header, reached = {}, 0
    for name, shape in tensors.items():
        size = width
        for side in shape:
            size *= side
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [reached, reached + size]}
        reached += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + bytes([fill]) * reached


def shards() -> dict[str, dict[str, tuple[int, ...]]]:
    return {
        "model-00001-of-00002.safetensors": {
            "model.language_model.embed_tokens.weight": (VOCABULARY, HIDDEN),
            "model.language_model.layers.0.mlp.up_proj.weight": (HIDDEN, HIDDEN),
        },
        "model-00002-of-00002.safetensors": {
            "model.language_model.layers.1.mlp.up_proj.weight": (HIDDEN, HIDDEN),
            "model.visual.blocks.0.mlp.linear_fc1.weight": (HIDDEN, HIDDEN),
        },
    }


def config() -> dict:
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "qwen3_vl",
        "tie_word_embeddings": True,
        "video_token_id": 7,
        "text_config": {"hidden_size": HIDDEN, "vocab_size": VOCABULARY, "num_hidden_layers": LAYERS},
        "vision_config": {"depth": 1, "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2},
    }


def tokenizer(tokens: int = VOCABULARY - 2) -> dict:
    return {
        "model": {"type": "BPE", "vocab": {f"t{number}": number for number in range(tokens)}, "merges": []},
        "added_tokens": [{"id": tokens, "content": "<|im_end|>", "special": True}],
    }


def files(*, fill: int = 0) -> dict[str, bytes]:
    """Name to content of a whole checkpoint; ``fill`` makes one that differs in its weights."""
    content = {name: safetensors(tensors, fill=fill) for name, tensors in shards().items()}
    index = {tensor: name for name, tensors in shards().items() for tensor in tensors}
    texts = {
        "config.json": config(),
        "model.safetensors.index.json": {"metadata": {"total_size": 1}, "weight_map": index},
        "tokenizer.json": tokenizer(),
        "tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer"},
        "preprocessor_config.json": {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2},
        "video_preprocessor_config.json": {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2},
    }
    return content | {name: json.dumps(value).encode() for name, value in texts.items()}


def write(folder: Path, content: dict[str, bytes] | None = None, *, sums: bool = False, fill: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content = files(fill=fill) if content is None else content
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    if sums:
        lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in content.items()]
        (folder / "SHA256SUMS").write_text("".join(lines))
    return folder


def header_of(path: Path) -> Header:
    with open_regular(path) as file:
        return read_header(file, path.name)


def edit(folder: Path, name: str, **changes: object) -> None:
    """Change keys of a JSON file; ``None`` removes a key."""
    table = json.loads((folder / name).read_text())
    table |= changes
    (folder / name).write_text(json.dumps({key: value for key, value in table.items() if value is not None}))
