"""Reads a checkpoint's safetensors into a ``Reranker``, as transformers 5 would: no pickle and no code is ever read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import torch

from .config import read_config, read_json
from .errors import CheckpointError
from .placement import divide, free_bytes
from .reranker import Reranker
from .shards import Shard

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor, nn

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PREFIX = "model."
OUTPUT_EMBEDDING = "lm_head.weight"
INPUT_EMBEDDING = "model.language_model.embed_tokens.weight"
LAST = "model.language_model.norm.weight"
"""The last norm, which goes to the device of the last layer."""
LAYER = re.compile(r"model\.language_model\.layers\.(\d+)\.")
COMPUTED = ".inv_freq"
"""Older releases saved this part of the rotary embedding; it follows from config.json."""
PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")


class Weights(NamedTuple):
    """A model with its weights; ``mapped`` is the share of their bytes, 0 to 1, that are mappings of the files."""

    model: Reranker
    mapped: float


def load(
    folder: Path, *, dtype: torch.dtype, devices: Sequence[torch.device], yes: int, no: int, mapped: bool = False
) -> Weights:
    """Build the model and fill it from the checkpoint in ``folder``.

    Args:
        folder: The checkpoint; only read.
        dtype: Type of the weights and activations; the scoring head is fp32 whatever this is.
        devices: Where the weights go: the decoder's layers are divided among several by free memory.
        yes: Token id of "yes".
        no: Token id of "no".
        mapped: Map tensors from the files where possible: those of type ``dtype``, aligned to it, and for the CPU. A
            file that is then changed in place changes scores; one that is truncated ends the process.

    Raises:
        CheckpointError: A file is missing or damaged, a tensor is missing, left over, misshapen or not finite.
        MemoryError: It does not fit on several devices together.
    """
    config = read_config(folder)
    with torch.device("meta"):
        model = Reranker(config)
    place = _places(model, dtype, devices)
    state: dict[str, Tensor] = {}
    total = left = 0
    head = tied = None
    for path, names in _shards(folder).items():
        with Shard(folder / path) as shard:
            for name in names if names is not None else shard.locations:
                if name.endswith(COMPUTED):
                    continue
                if name == OUTPUT_EMBEDDING:
                    # Scoring needs two rows of this tensor, which is a tenth of some models. A head in the file is
                    # used whatever tie_word_embeddings says: merging an adapter leaves that setting as it was.
                    head = _head(folder, shard, name, yes, no)
                    continue
                if config.tie_word_embeddings and _full(name) == INPUT_EMBEDDING:
                    tied = _head(folder, shard, name, yes, no)
                tensor, device = None, place(_full(name))
                if mapped and device.type == "cpu" and shard.location(name).dtype is dtype:
                    tensor = shard.mapped(name)
                if tensor is not None:
                    left += tensor.nbytes
                else:
                    tensor = shard.read(name, dtype=dtype, device=device)
                total += tensor.nbytes
                state[name.removeprefix(PREFIX)] = tensor
    head = tied if head is None else head
    if head is None:
        untied = f"{OUTPUT_EMBEDDING} is missing, and config.json does not tie it to the input"
        raise CheckpointError(f"{folder}: {f'{INPUT_EMBEDDING} is missing' if config.tie_word_embeddings else untied}")
    state["head"] = head.to(devices[-1])
    try:
        model.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: the weights do not fit config.json: {error}") from error
    return Weights(model.requires_grad_(requires_grad=False).eval(), left / total)


def _places(model: Reranker, dtype: torch.dtype, devices: Sequence[torch.device]) -> Callable[[str], torch.device]:
    """A function from a tensor's name to its device."""
    if len(devices) == 1:
        return lambda _: devices[0]
    decoder = model.language_model
    layers = [_bytes(layer, dtype) for layer in decoder.layers]
    first = _bytes(model.visual, dtype) + _bytes(decoder.embed_tokens, dtype)
    last = _bytes(decoder.norm, dtype) + model.head.nbytes
    chosen = divide(layers, first, last, [free_bytes(device) for device in devices])

    def place(name: str) -> torch.device:
        if (layer := LAYER.match(name)) is not None and int(layer[1]) < len(chosen):
            return devices[chosen[int(layer[1])]]
        return devices[-1] if name == LAST else devices[0]

    return place


def _full(name: str) -> str:
    """A tensor's published name: tools that save only the inner model leave the prefix out."""
    return name if name.startswith(PREFIX) else PREFIX + name


def _bytes(part: nn.Module, dtype: torch.dtype) -> int:
    return sum(parameter.numel() for parameter in part.parameters()) * dtype.itemsize


def _head(folder: Path, shard: Shard, name: str, yes: int, no: int) -> Tensor:
    """[hidden] in fp32, on the CPU: the difference of the two rows that scoring needs."""
    shape = shard.location(name).shape
    if not shape or max(yes, no) >= shape[0]:
        count = shape[0] if shape else 0
        raise CheckpointError(f"{folder}: the tokenizer numbers beyond the {count} rows of the embedding")
    rows = shard.rows(name, (yes, no)).float()
    return rows[0] - rows[1]


def _shards(folder: Path) -> dict[str, list[str] | None]:
    """The shard files and the tensors to read from each (None: all of them)."""
    if (folder / INDEX).exists():
        weight_map = read_json(folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{folder}: {INDEX} has no weight_map")
        shards: dict[str, list[str] | None] = {}
        for name, shard in weight_map.items():
            if "/" in shard or not shard.endswith(".safetensors"):
                raise CheckpointError(f"{folder}: {INDEX} names {shard!r}, which is no safetensors file beside it")
            names = shards.setdefault(shard, [])
            if names is not None:
                names.append(name)
        return shards
    if (folder / SINGLE).exists():
        return {SINGLE: None}
    if pickles := sorted(path.name for pattern in PICKLES for path in folder.glob(pattern)):
        raise CheckpointError(
            f"{folder}: the weights are in {pickles[0]}, a pickle, which runs code when it is read; "
            "save them as safetensors"
        )
    raise CheckpointError(f"{folder}: neither {INDEX} nor {SINGLE} is there, so this is not a checkpoint folder")
