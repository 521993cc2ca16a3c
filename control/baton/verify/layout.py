"""What a Hugging Face checkpoint is made of: which files must be there, and what they are called."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from baton.errors import CheckpointError
from baton.verify.files import printable
from baton.verify.meta import META

CONFIG: Final = "config.json"
INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
TOKENIZER: Final = "tokenizer.json"
IMAGES: Final = "preprocessor_config.json"
VIDEOS: Final = "video_preprocessor_config.json"
PROCESSOR: Final = "processor_config.json"
"""transformers 5 saves the image and video settings as parts of this one file; releases before it do not read that."""

_VOCABULARIES: Final = (
    {TOKENIZER}, {"vocab.json", "merges.txt"}, {"tokenizer.model"}, {"spiece.model"}, {"vocab.txt"}, {"tekken.json"},
)  # fmt: skip

SETTINGS: Final = frozenset(
    {
        *(CONFIG, INDEX, TOKENIZER_CONFIG, IMAGES, VIDEOS, PROCESSOR, META, *(n for v in _VOCABULARIES for n in v)),
        *("generation_config.json", "special_tokens_map.json", "added_tokens.json"),
        *("chat_template.json", "chat_template.jinja"),
    }
)
"""What is served beside the weights: settings, tokenizer, processor, template, what a person says of the version."""

_OTHER_FORMATS: Final = (
    (
        re.compile(r"adapter_model\.(safetensors|bin)|adapter_config\.json"),
        "belongs to a LoRA adapter: merge it into its base model (`merge_and_unload` of peft) and save that",
    ),
    (
        re.compile(r"(pytorch_model.*|consolidated.*|model.*)\.(bin|pt|pth|ckpt)"),
        "is a pickle, which runs code when it is read: save the model as safetensors (`save_pretrained` does)",
    ),
    (
        re.compile(r".*\.(gguf|ggml|onnx|tflite|msgpack|h5|nemo|mlpackage)|openvino_model\..*|tf_model.*|flax_model.*"),
        "is of another format: save the model as safetensors (`save_pretrained` of transformers does)",
    ),
)
"""Weights that are not served, by name, and what to do with them."""

_TEMPORARY: Final = (
    re.compile(r"\.(?P<name>.+)\.[A-Za-z0-9]{6}"),  # rsync: .NAME.XXXXXX
    re.compile(
        r"[._~]*(?P<name>.+)\.(part|partial|filepart|incomplete|crdownload|download|tmp|temp|aria2|gstmp)",
        re.IGNORECASE,
    ),
    re.compile(r"(?P<name>.+\.safetensors)[._][A-Za-z0-9_-]{6,16}"),  # aws s3 cp: NAME.XXXXXXXX; mktemp: NAME.XXXXXX
    re.compile(r"\.in\.(?P<name>.+)\."),
)
_SHARD: Final = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
HEAD: Final = 256
"""Bytes from which ``true_kind`` tells what a file is."""


def true_kind(head: bytes) -> str | None:
    """What a file is by its first ``HEAD`` bytes that can't be read as what its name says; ``None`` when unknown."""
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer and not the file itself: run `git lfs pull` where it comes from"
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05" and len(head) > 1:
        return "it is a pickle by its content, which runs code when it is read"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "it is a zip file by its content, as PyTorch's pickles are"
    if head.startswith((b"\x93NUMPY", b"\x89HDF\r\n")):
        return "it is a NumPy or HDF5 file by its content, which may hold pickles or code"
    if head.startswith((b"\x7fELF", b"MZ\x90\0", b"#!")):
        return "it is a program by its content"
    if head.lstrip()[:9].lower() in (b"<!doctype", b"<html><he", b"<?xml ver"):
        return "it is a web page, perhaps the error of a download: download it again"
    return None


def is_temporary(name: str) -> bool:
    """Whether copying programs (rsync, scp clients, wget, hf, aws, gsutil) use such a name for what will be served."""
    names = (found["name"] for pattern in _TEMPORARY if (found := pattern.fullmatch(name)))
    return any(one in SETTINGS or one.endswith(".safetensors") for one in names)


def other_weights(names: Iterable[str]) -> str | None:
    """The first file that holds weights which are not served, and what to do with it; ``None`` without any."""
    for name in sorted(names):
        for pattern, mend in _OTHER_FORMATS:
            if pattern.fullmatch(name):
                return f"{printable(name)} {mend}"
    return None


def is_shard(name: str) -> bool:
    """Whether the file is one of a numbered series, which only an index makes into a whole."""
    return _SHARD.fullmatch(name) is not None


def has_vision(config: Mapping[str, Any]) -> bool:
    return isinstance(config.get("vision_config"), dict)


def weight_map(index: object) -> dict[str, str]:
    """Return tensor name to file name from the parsed index; raises ``CheckpointError`` for what is wrong with it."""
    table = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f"{INDEX} has no weight_map that names a file for each tensor.", mend="Save it again.")
    for tensor, file in table.items():
        # A name with a path in it would have Baton, and later the engine, read outside the version folder.
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointError(
                f"{INDEX} puts tensor {tensor[:200]!r} into {printable(str(file)[:200])!r}, "
                "which is not the name of a safetensors file beside it.",
                mend="Save the checkpoint again.",
            )
    return table


def absent_helpers(names: Collection[str], config: object, processor: object) -> list[str]:
    """Return a sentence for each tokenizer or processor file that is not among ``names``.

    Which processor files belong to it ``config.json`` tells, so nothing is said of them while ``config`` is no object.
    ``processor`` is what ``processor_config.json`` holds.
    """
    absent = []
    if not any(needed <= set(names) for needed in _VOCABULARIES):
        absent.append(f"{TOKENIZER} is not there")
    if TOKENIZER_CONFIG not in names:
        absent.append(f"{TOKENIZER_CONFIG} is not there")
    if not isinstance(config, dict) or not has_vision(config):
        return absent
    wanted = [(IMAGES, "image_processor")]
    if config.get("video_token_id") is not None:
        wanted.append((VIDEOS, "video_processor"))
    joint = processor if isinstance(processor, dict) else {}
    lacking = [file for file, part in wanted if file not in names and not isinstance(joint.get(part), dict)]
    return absent + [f"{file} is not there" for file in lacking]
