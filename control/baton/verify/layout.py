"""What a Hugging Face checkpoint is made of: which files must be there, and what they are called."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from baton.errors import CheckpointError
from baton.verify.files import read_object, shown

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

PICKLES: Final = frozenset(
    {".bin", ".pt", ".pth", ".pt2", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".npy", ".npz", ".mar"}
)
"""Suffixes of files that hold a pickle, or may: reading one runs whatever code its author put in."""
_CODE: Final = re.compile(r".*\.(py|pyc|pyo|pyd|pyx|so(\.\d+)*|dll|dylib|exe)", re.IGNORECASE)
_EXAMPLE: Final = re.compile(r"scripts/[^/]+\.py")

_TEXT_PICKLE: Final = re.compile(rb"\(*c[A-Za-z_][\w.]*\n[A-Za-z_][\w.]*\n")
HEAD: Final = 256
"""Bytes from which ``hidden_danger`` tells what a file is."""

_TEMPORARY: Final = (
    re.compile(r"\..+\.[A-Za-z0-9]{6}"),  # rsync: .NAME.XXXXXX
    re.compile(r".*\.(part|partial|filepart|incomplete|crdownload|download|tmp|temp|aria2|gstmp|swp)", re.IGNORECASE),
    re.compile(r".*\.safetensors\.[A-Za-z0-9_-]{6,16}"),  # aws s3 cp: NAME.XXXXXXXX; mktemp: NAME.XXXXXX
    re.compile(r"\.~tmp~|\.rsync-partial|\.(nfs|fuse_hidden)[0-9a-f]+|\.in\..+"),
)
_SHARD: Final = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")


def is_pickle(name: str) -> bool:
    return Path(name).suffix.lower() in PICKLES


def is_code(name: str) -> bool:
    """Whether the file, named from the folder, is code that something might come to run.

    The published Qwen3-VL-Reranker checkpoints carry a usage example, ``scripts/NAME.py``. transformers runs code only
    from beside ``config.json``, and nothing loads that one: a published checkpoint stays fit to serve unmodified.
    """
    return _CODE.fullmatch(name) is not None and _EXAMPLE.fullmatch(name) is None


def hidden_danger(name: str, head: bytes) -> str | None:
    """What a file is by its first ``HEAD`` bytes, whatever it is called; ``None`` when it holds data only.

    A pickle stays one under the name of a text: who opens it with a library that looks at the content runs it.
    """
    if (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05" and len(head) > 1) or _TEXT_PICKLE.match(head):
        return "is a pickle by its content, which runs code when it is read"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "is a zip file by its content, as PyTorch's pickles are"
    if head.startswith((b"\x93NUMPY", b"\x89HDF\r\n")):
        return "is a NumPy or HDF5 file by its content, which may hold pickles or code"
    if head.startswith((b"\x7fELF", b"MZ\x90\0", b"#!")) and _EXAMPLE.fullmatch(name) is None:
        return "is a program by its content"
    return None


def is_temporary(name: str) -> bool:
    """Whether a copying program (rsync, scp clients, wget, hf, aws, gsutil, rclone) uses such a name on the way."""
    return any(pattern.fullmatch(name) for pattern in _TEMPORARY)


def is_shard(name: str) -> bool:
    """Whether the file is one of a numbered series, which only an index makes into a whole."""
    return _SHARD.fullmatch(name) is not None


def has_vision(config: Mapping[str, Any]) -> bool:
    return isinstance(config.get("vision_config"), dict)


def has_video(config: Mapping[str, Any]) -> bool:
    return has_vision(config) and config.get("video_token_id") is not None


def read_index(folder: Path) -> dict[str, str]:
    """Return tensor name to file name from the index; raises ``CheckpointError`` naming what is wrong with it."""
    table = read_object(folder / INDEX).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f"{INDEX} has no weight_map that names a file for each tensor.", mend="Save it again.")
    for tensor, file in table.items():
        # A name with a path in it would have Baton, and later the engine, read outside the version folder.
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointError(
                f"{INDEX} puts tensor {tensor[:200]!r} into {shown(str(file)[:200])!r}, "
                "which is not the name of a safetensors file beside it.",
                mend="Save the checkpoint again.",
            )
    return table


def absent_helpers(names: Collection[str], config: Mapping[str, Any] | None, folder: Path) -> list[str]:
    """Return a sentence for each tokenizer or processor file that is not among ``names``.

    Which processor files belong to it ``config.json`` tells, so nothing is said of them while ``config`` is ``None``.
    """
    absent = []
    if not any(needed <= set(names) for needed in _VOCABULARIES):
        absent.append(f"{TOKENIZER} is not there")
    if TOKENIZER_CONFIG not in names:
        absent.append(f"{TOKENIZER_CONFIG} is not there")
    if config is None or not has_vision(config):
        return absent
    wanted = [(IMAGES, "image_processor")]
    if has_video(config):
        wanted.append((VIDEOS, "video_processor"))
    lacking = [(file, part) for file, part in wanted if file not in names]
    joint: Mapping[str, Any] = {}
    if lacking and PROCESSOR in names:
        try:
            joint = read_object(folder / PROCESSOR)
        except CheckpointError:
            # Half of it, or no JSON: it can't stand in for the others. What is wrong with it is told elsewhere.
            joint = {}
    absent += [f"{file} is not there" for file, part in lacking if not isinstance(joint.get(part), dict)]
    return absent
