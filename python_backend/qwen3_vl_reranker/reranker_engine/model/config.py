"""The numbers in a checkpoint's ``config.json``, read from the published layout and from the one transformers 5 writes.

transformers is not imported for this: importing it costs seconds of one core at every load, and only some thirty
numbers are needed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

ARCHITECTURE = "Qwen3VLForConditionalGeneration"
IMAGES, VIDEOS, PROCESSOR = "preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json"


@dataclass(frozen=True)
class TextConfig:
    """The decoder. ``mrope_section`` holds the rotary frequencies given to (time, height, width)."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    mrope_section: tuple[int, int, int]
    attention_bias: bool


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower. ``deepstack_layers`` are the layers whose features also enter the decoder's first layers."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    in_channels: int
    patch_size: int
    temporal_patch_size: int
    spatial_merge_size: int
    out_hidden_size: int
    num_position_embeddings: int
    deepstack_layers: tuple[int, ...]


@dataclass(frozen=True)
class ModelConfig:
    text: TextConfig
    vision: VisionConfig
    image_token_id: int
    video_token_id: int
    vision_start_token_id: int
    vision_end_token_id: int
    tie_word_embeddings: bool


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object of a checkpoint.

    Raises:
        CheckpointError: The file is missing, is not JSON, or does not hold an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent}: {path.name} is missing, so this is not a checkpoint folder") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a {type(value).__name__}, not an object")
    return value


def read_config(folder: Path) -> ModelConfig:
    """Read ``config.json`` of a checkpoint folder.

    Raises:
        CheckpointError: It is missing, is of another architecture, asks for custom code, or lacks a number.
    """
    raw = read_json(folder / "config.json")
    architectures = raw.get("architectures") or []
    if architectures != [ARCHITECTURE]:
        raise CheckpointError(f"{folder}: config.json names the architectures {architectures}, not [{ARCHITECTURE!r}]")
    if "auto_map" in raw:
        raise CheckpointError(f"{folder}: config.json asks for custom code (auto_map), which is never run")
    try:
        text, vision = raw["text_config"], raw["vision_config"]
        config = ModelConfig(
            text=_text(text),
            vision=_vision(vision),
            image_token_id=int(raw["image_token_id"]),
            video_token_id=int(raw["video_token_id"]),
            vision_start_token_id=int(raw["vision_start_token_id"]),
            vision_end_token_id=int(raw["vision_end_token_id"]),
            tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        )
    except KeyError as error:
        raise CheckpointError(f"{folder}: config.json lacks {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder}: config.json holds a value of the wrong type: {error}") from error
    _check(folder, config)
    return config


def read_normalisation(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, of 0 to 1, for images and videos alike.

    transformers 5 saves the settings of both as parts of ``processor_config.json``, and takes them from there first;
    releases before it have a file for each.

    Raises:
        CheckpointError: They are missing, or ask for something else than the reference pipeline does.
    """
    joint = read_json(folder / PROCESSOR) if (folder / PROCESSOR).exists() else {}
    image, image_file = joint.get("image_processor"), PROCESSOR
    if image is None:
        image, image_file = read_json(folder / IMAGES), IMAGES
    video, video_file = joint.get("video_processor"), PROCESSOR
    if video is None:
        video_file = VIDEOS if (folder / VIDEOS).exists() else image_file
        video = read_json(folder / VIDEOS) if video_file == VIDEOS else image
    found = []
    for file, settings in ((image_file, image), (video_file, video)):
        if not isinstance(settings, dict):
            raise CheckpointError(f"{folder}: {file} does not hold the settings as an object")
        if not settings.get("do_rescale", True) or not settings.get("do_normalize", True):
            raise CheckpointError(f"{folder}: {file} turns do_rescale or do_normalize off, which is not supported")
        try:
            if abs(settings.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:  # noqa: PLR2004 - it is written rounded
                raise CheckpointError(f"{folder}: {file} has another rescale_factor than 1/255, which is not supported")
            # Image settings have defaults that depend on the class; those of videos are one for all checkpoints.
            default = {} if settings is image else {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
            both = {**default, **settings}
            mean, std = (tuple(float(part) for part in both[key]) for key in ("image_mean", "image_std"))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{folder}: {file} lacks image_mean or image_std ({error})") from error
        found.append((mean, std))
    if found[0] != found[1]:
        raise CheckpointError(f"{folder}: {video_file} has other image_mean or image_std than {image_file}")
    return found[0]


def _text(raw: dict[str, Any]) -> TextConfig:
    # Published checkpoints: rope_theta beside rope_scaling. transformers 5 writes both into rope_parameters.
    rope = raw.get("rope_parameters") or {"rope_theta": raw.get("rope_theta"), **(raw.get("rope_scaling") or {})}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type not in ("default", "mrope"):
        raise ValueError(f"rope_type {rope_type!r} is not supported")
    if raw.get("hidden_act", "silu") != "silu":
        raise ValueError(f"hidden_act {raw['hidden_act']!r} is not supported")
    heads = int(raw["num_attention_heads"])
    time, height, width = rope["mrope_section"]
    return TextConfig(
        vocab_size=int(raw["vocab_size"]),
        hidden_size=int(raw["hidden_size"]),
        intermediate_size=int(raw["intermediate_size"]),
        num_layers=int(raw["num_hidden_layers"]),
        num_heads=heads,
        num_kv_heads=int(raw.get("num_key_value_heads") or heads),
        head_dim=int(raw.get("head_dim") or raw["hidden_size"] // heads),
        rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        rope_theta=float(rope["rope_theta"]),
        mrope_section=(int(time), int(height), int(width)),
        attention_bias=bool(raw.get("attention_bias", False)),
    )


def _vision(raw: dict[str, Any]) -> VisionConfig:
    if raw.get("hidden_act", "gelu_pytorch_tanh") != "gelu_pytorch_tanh":
        raise ValueError(f"vision hidden_act {raw['hidden_act']!r} is not supported")
    return VisionConfig(
        depth=int(raw["depth"]),
        hidden_size=int(raw["hidden_size"]),
        intermediate_size=int(raw["intermediate_size"]),
        num_heads=int(raw["num_heads"]),
        in_channels=int(raw.get("in_channels", 3)),
        patch_size=int(raw.get("patch_size", 16)),
        temporal_patch_size=int(raw.get("temporal_patch_size", 2)),
        spatial_merge_size=int(raw.get("spatial_merge_size", 2)),
        out_hidden_size=int(raw["out_hidden_size"]),
        num_position_embeddings=int(raw["num_position_embeddings"]),
        deepstack_layers=tuple(int(layer) for layer in raw["deepstack_visual_indexes"]),
    )


def _check(folder: Path, config: ModelConfig) -> None:
    text, vision = config.text, config.vision
    if sum(text.mrope_section) * 2 != text.head_dim:
        raise CheckpointError(
            f"{folder}: config.json: mrope_section {list(text.mrope_section)} does not sum to half of head_dim "
            f"{text.head_dim}"
        )
    if vision.out_hidden_size != text.hidden_size:
        raise CheckpointError(
            f"{folder}: config.json: the vision tower gives {vision.out_hidden_size} features a token, the decoder "
            f"takes {text.hidden_size}"
        )
    if round(vision.num_position_embeddings**0.5) ** 2 != vision.num_position_embeddings:
        raise CheckpointError(f"{folder}: config.json: num_position_embeddings is not a square")
