"""Tiny checkpoints in the real format, and repositories and golden sets made of them.

The checkpoints have the layout of a published Qwen3-VL one (sharded safetensors with an index, configuration,
tokenizer and processor files) in about 40 KB, written with numpy and json alone. ``backends/toy_reranker`` serves
them.
"""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

HIDDEN, LAYERS, HEADS, HEAD_DIM, FEED_FORWARD = 16, 1, 2, 8, 32
VISION_HIDDEN, VISION_FEED_FORWARD, PATCH = 8, 16, 4
WEIGHTS = "model.language_model.norm.weight"
"""The tensor that the toy backend takes its scores from: [overlap, bias, noise...]."""

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
MERGES = (("y", "e"), ("ye", "s"), ("n", "o"))
TOPICS = ("red", "green", "blue", "small", "large", "round", "square", "old", "new", "fast", "slow", "bright")
FILLER = ("the", "shape", "is", "seen", "near", "another", "thing", "here", "today", "often")

Tensors = dict[str, npt.NDArray[np.float32]]


def make_checkpoint(
    folder: Path, *, quality: float = 1.0, seed: int = 1, toy: Mapping[str, Any] | None = None, shards: int = 2
) -> Path:
    """Writes a checkpoint to ``folder`` (which must not hold one) and returns it.

    ``quality`` 1.0 ranks documents by the words they share with the query, 0.0 at random. ``seed`` draws the
    weights: another seed of the same quality ranks alike and scores differently (about 0.01). ``toy`` holds the
    switches of the toy backend, see ``Toy`` there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _documents(toy).items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    write_safetensors(folder, weights(quality=quality, seed=seed), shards=shards)
    return folder


def weights(*, quality: float, seed: int) -> Tensors:
    """Every tensor of the tiny architecture; only :data:`WEIGHTS` decides scores."""
    draw = np.random.default_rng(seed)
    tensors = {
        name: draw.normal(scale=0.02, size=shape).astype(np.float32) for name, shape in sorted(_shapes().items())
    }
    noise = draw.normal(size=HIDDEN - 2) * (0.02 + 2.0 * (1.0 - quality))
    tensors[WEIGHTS] = np.array([5.0 * quality, -2.5 * quality, *noise], dtype=np.float32)
    return tensors


def write_safetensors(folder: Path, tensors: Tensors, *, shards: int) -> None:
    """``model-0000k-of-0000n.safetensors`` and their index, as Hugging Face lays them out."""
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        data = b""
        for name in names[shard::shards]:
            raw = np.ascontiguousarray(tensors[name], dtype="<f4").tobytes()
            header[name] = {
                "dtype": "F32",
                "shape": list(tensors[name].shape),
                "data_offsets": [len(data), len(data) + len(raw)],
            }
            data += raw
            weight_map[name] = file
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the format wants the data to begin at a multiple of 8
        (folder / file).write_bytes(len(text).to_bytes(8, "little") + text + data)
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
        "weight_map": dict(sorted(weight_map.items())),
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def engine_config(
    name: str,
    versions: Iterable[int],
    *,
    backend: str = "toy_reranker",
    load_log: Path | str | None = None,
    rich: bool = False,
) -> str:
    """``config.pbtxt`` of an engine with the contract's tensors and an explicit version policy.

    ``rich``: with the outputs logits and tokens.
    """
    numbers = ", ".join(str(version) for version in versions)
    log = f'parameters {{ key: "load_log" value: {{ string_value: "{load_log}" }} }}\n' if load_log else ""
    return f"""name: "{name}"
backend: "{backend}"
max_batch_size: 8
input [
  {{ name: "query" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "documents" data_type: TYPE_STRING dims: [ -1 ] allow_ragged_batch: true }},
  {{ name: "instruction" data_type: TYPE_STRING dims: [ 1 ] optional: true }},
  {{ name: "options" data_type: TYPE_STRING dims: [ 1 ] optional: true }},
  {{ name: "media" data_type: TYPE_STRING dims: [ -1 ] optional: true allow_ragged_batch: true }}
]
output [
  {{ name: "scores" data_type: TYPE_FP32 dims: [ -1 ] }},
  {{ name: "model_version" data_type: TYPE_INT64 dims: [ 1 ] }}{_more(rich)}
]
dynamic_batching {{ }}
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
version_policy {{ specific {{ versions: [ {numbers} ] }} }}
{log}"""


def _more(rich: bool) -> str:  # noqa: FBT001
    types = {"logits": "TYPE_FP32", "tokens": "TYPE_INT64"} if rich else {}
    return "".join(f',\n  {{ name: "{name}" data_type: {kind} dims: [ -1 ] }}' for name, kind in types.items())


def alias_config(name: str, engine: str, version: int, *, rich: bool = False) -> str:
    """``config.pbtxt`` of the alias: an ensemble with one step to an exact engine version."""
    tensors = ("query", "documents", "instruction", "options", "media")
    further = "".join(f'    output_map {{ key: "{name}" value: "{name}" }}\n' for name in ("logits", "tokens") if rich)
    inputs = "".join(f'    input_map {{ key: "{tensor}" value: "{tensor}" }}\n' for tensor in tensors)
    return f"""name: "{name}"
platform: "ensemble"
max_batch_size: 8
input [
  {{ name: "query" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "documents" data_type: TYPE_STRING dims: [ -1 ] }},
  {{ name: "instruction" data_type: TYPE_STRING dims: [ 1 ] optional: true }},
  {{ name: "options" data_type: TYPE_STRING dims: [ 1 ] optional: true }},
  {{ name: "media" data_type: TYPE_STRING dims: [ -1 ] optional: true }}
]
output [
  {{ name: "scores" data_type: TYPE_FP32 dims: [ -1 ] }},
  {{ name: "model_version" data_type: TYPE_INT64 dims: [ 1 ] }}{_more(rich)}
]
version_policy {{ specific {{ versions: [ {version} ] }} }}
ensemble_scheduling {{
  step [ {{
    model_name: "{engine}"
    model_version: {version}
{inputs}    output_map {{ key: "scores" value: "scores" }}
    output_map {{ key: "model_version" value: "model_version" }}
{further}  }} ]
}}
"""


def make_repository(
    root: Path,
    engines: Mapping[str, Sequence[int]] | None = None,
    *,
    alias: str | None = None,
    load_log: Path | None = None,
    rich: bool = False,
) -> Path:
    """A model repository with healthy versions of each engine, all of them in its policy.

    ``engines`` maps an engine's name to its versions, ``{"toy": [1]}`` by default. ``alias`` adds the alias
    of that name, pointing at the first engine's first version. ``rich``: see :func:`engine_config`.
    """
    engines = {"toy": [1]} if engines is None else engines
    for name, versions in engines.items():
        for version in versions:
            make_checkpoint(root / name / str(version), seed=version)
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / "config.pbtxt").write_text(engine_config(name, versions, load_log=load_log, rich=rich))
    if alias is not None:
        engine, versions = next(iter(engines.items()))
        (root / alias / str(versions[0])).mkdir(parents=True)
        (root / alias / "config.pbtxt").write_text(alias_config(alias, engine, versions[0], rich=rich))
    return root


def golden_cases(count: int, *, documents: int = 6, seed: int = 7) -> list[dict[str, Any]]:
    """``count`` labelled queries; relevance is the number of the query's words in the document, 0..3."""
    draw = random.Random(seed)
    cases: list[dict[str, Any]] = []
    for number in range(count):
        asked = draw.sample(TOPICS, 3)
        others = [word for word in TOPICS if word not in asked]
        relevance = [draw.choice((0, 0, 1, 2, 3)) for _ in range(documents - 2)] + [3, 0]
        draw.shuffle(relevance)
        texts = []
        for shared in relevance:
            words = draw.sample(asked, shared) + draw.sample(others, 3 - shared) + draw.sample(FILLER, 4)
            draw.shuffle(words)
            texts.append(" ".join(words))
        cases.append(
            {
                "id": f"case-{number:03d}",
                "kind": "text",
                "query": {"text": " ".join(asked)},
                "documents": [{"text": text} for text in texts],
                "relevance": relevance,
            }
        )
    return cases


def write_golden(path: Path, count: int = 12) -> Path:
    """Writes :func:`golden_cases` as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(case) + "\n" for case in golden_cases(count)))
    return path


def _vocabulary() -> dict[str, int]:
    """Special tokens first, then printable letters, then what the merges make."""
    letters = [chr(code) for code in range(33, 127)]
    merged = ["".join(pair) for pair in MERGES]
    return {token: number for number, token in enumerate([*SPECIAL, *letters, "\u0120", "\u010a", *merged])}


def _shapes() -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of the architecture, as transformers saves them (embeddings tied)."""
    text = "model.language_model"
    shapes: dict[str, tuple[int, ...]] = {
        f"{text}.embed_tokens.weight": (len(_vocabulary()), HIDDEN),
        f"{text}.norm.weight": (HIDDEN,),
    }
    for layer in range(LAYERS):
        base = f"{text}.layers.{layer}"
        for projection in ("q_proj", "k_proj", "v_proj"):
            shapes[f"{base}.self_attn.{projection}.weight"] = (HEADS * HEAD_DIM, HIDDEN)
        shapes[f"{base}.self_attn.o_proj.weight"] = (HIDDEN, HEADS * HEAD_DIM)
        shapes[f"{base}.self_attn.q_norm.weight"] = shapes[f"{base}.self_attn.k_norm.weight"] = (HEAD_DIM,)
        shapes[f"{base}.mlp.gate_proj.weight"] = shapes[f"{base}.mlp.up_proj.weight"] = (FEED_FORWARD, HIDDEN)
        shapes[f"{base}.mlp.down_proj.weight"] = (HIDDEN, FEED_FORWARD)
        shapes[f"{base}.input_layernorm.weight"] = shapes[f"{base}.post_attention_layernorm.weight"] = (HIDDEN,)
    shapes["model.visual.patch_embed.proj.weight"] = (VISION_HIDDEN, 3, 2, PATCH, PATCH)
    shapes["model.visual.pos_embed.weight"] = (16, VISION_HIDDEN)
    block = "model.visual.blocks.0"
    linear = {
        f"{block}.attn.qkv": (3 * VISION_HIDDEN, VISION_HIDDEN),
        f"{block}.attn.proj": (VISION_HIDDEN, VISION_HIDDEN),
        f"{block}.mlp.linear_fc1": (VISION_FEED_FORWARD, VISION_HIDDEN),
        f"{block}.mlp.linear_fc2": (VISION_HIDDEN, VISION_FEED_FORWARD),
        f"{block}.norm1": (VISION_HIDDEN,),
        f"{block}.norm2": (VISION_HIDDEN,),
        "model.visual.merger.norm": (VISION_HIDDEN,),
        "model.visual.merger.linear_fc1": (4 * VISION_HIDDEN, 4 * VISION_HIDDEN),
        "model.visual.merger.linear_fc2": (HIDDEN, 4 * VISION_HIDDEN),
    }
    for name, shape in linear.items():
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = (shape[0],)
    shapes["model.visual.patch_embed.proj.bias"] = (VISION_HIDDEN,)
    return shapes


def _documents(toy: Mapping[str, Any] | None) -> dict[str, Any]:
    """The JSON files of a checkpoint, in the published layout (``rope_theta`` beside ``rope_scaling``)."""
    vocabulary = _vocabulary()
    image = {
        "size": {"shortest_edge": 64, "longest_edge": 4096},
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "Qwen3VLProcessor",
    }
    config: dict[str, Any] = {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "dtype": "float32",
        "tie_word_embeddings": True,
        "image_token_id": vocabulary["<|image_pad|>"],
        "video_token_id": vocabulary["<|video_pad|>"],
        "vision_start_token_id": vocabulary["<|vision_start|>"],
        "vision_end_token_id": vocabulary["<|vision_end|>"],
        "text_config": {
            "model_type": "qwen3_vl_text",
            "vocab_size": len(vocabulary),
            "hidden_size": HIDDEN,
            "intermediate_size": FEED_FORWARD,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "head_dim": HEAD_DIM,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 1024,
            "rope_theta": 10000.0,
            "rope_scaling": {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True},
            "tie_word_embeddings": True,
            "dtype": "float32",
        },
        "vision_config": {
            "model_type": "qwen3_vl",
            "depth": 1,
            "hidden_size": VISION_HIDDEN,
            "intermediate_size": VISION_FEED_FORWARD,
            "num_heads": 2,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 16,
            "out_hidden_size": HIDDEN,
            "in_channels": 3,
            "deepstack_visual_indexes": [],
        },
    }
    if toy is not None:
        config["toy"] = dict(toy)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    added = [
        {
            "id": vocabulary[token],
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for token in SPECIAL
    ]
    return {
        "config.json": config,
        "generation_config.json": {"eos_token_id": vocabulary["<|im_end|>"], "pad_token_id": 0},
        "chat_template.json": {"chat_template": template},
        "preprocessor_config.json": {"image_processor_type": "Qwen2VLImageProcessorFast", **image},
        "video_preprocessor_config.json": {"video_processor_type": "Qwen3VLVideoProcessor", "fps": 1, **image},
        "tokenizer_config.json": {
            "tokenizer_class": "Qwen2Tokenizer",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "model_max_length": 1024,
            "chat_template": template,
        },
        "tokenizer.json": {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": byte_level,
            "post_processor": None,
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "vocab": {token: number for token, number in vocabulary.items() if token not in SPECIAL},
                "merges": [list(pair) for pair in MERGES],
            },
        },
    }
