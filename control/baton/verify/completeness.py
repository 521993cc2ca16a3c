"""Tells a folder that is still being copied from one that is whole, from sizes and headers alone.

Nothing is hashed here and no weights are read: this runs on every scan of a folder that somebody may be filling at
this moment, in any order of files and at any speed. The full proof is ``check_integrity``.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from baton.errors import CheckpointError
from baton.verify.files import (
    JSON_TOTAL,
    Entry,
    JsonError,
    figure,
    read_json,
    read_object,
    reason,
    shown,
    vanished,
    walk,
)
from baton.verify.layout import (
    CONFIG,
    INDEX,
    SETTINGS,
    SINGLE,
    absent_helpers,
    is_shard,
    is_temporary,
    other_weights,
    read_index,
    served,
)
from baton.verify.meta import META
from baton.verify.safetensors import TruncatedError, read_header
from baton.verify.sums import SUMS, CutSumsError, read_sums

_NEVER_EMPTY: Final = frozenset({".json", ".jinja", ".model"})
_NEVER_EMPTY_NAMES: Final = frozenset({"merges.txt", "vocab.txt", META})


class CutShort(str):
    """What a copy under way brings within moments, or never: the end of a shard that is there, or a small file.

    Time tells the two apart.
    """

    __slots__ = ()


def missing_parts(folder: Path) -> tuple[str, ...]:
    """Return a short sentence for each thing that a copy still lacks; empty when nothing is known to be missing.

    A sentence about a shard that is there and ends too early, or a tokenizer or processor file that is not there, is
    a ``CutShort``.

    Only what time can mend is told. A file that is there and wrong (too long, no safetensors at all) is not missing:
    ``check_integrity`` refuses it. Nothing missing does not prove that nothing more comes (a README, or a second
    copy of the vocabulary), which is why a folder must have been quiet for a while too. Only files that are served
    are looked at, and the temporary names of such.

    Never raises: a folder that changes or vanishes under it lacks what could not be seen.
    """
    try:
        entries = list(walk(folder, deep=False))
        if not entries and not folder.is_dir():
            return ("the folder is gone",)
        return tuple(dict.fromkeys(_lacks(folder, entries)))
    except OSError as error:
        return ("a file vanished while it was read" if vanished(error) else f"it can't be read: {reason(error)}",)
    except CheckpointError as error:
        return (error.message,)


def _lacks(folder: Path, listed: list[Entry]) -> list[str]:
    everything = {entry.name for entry in listed}
    entries = served(folder, listed)
    files = {entry.name: entry for entry in entries if entry.is_file}
    lacks = [
        f"{shown(name)} is the temporary name of a copy under way" for name in sorted(everything) if is_temporary(name)
    ]
    texts = sum(entry.size for entry in files.values() if entry.path.suffix == ".json")
    if texts > JSON_TOTAL:
        # Before the first is parsed. Told as lacking: what a folder holds too much of, only a person can take away.
        raise CheckpointError(f"its JSON files are {figure(texts)} together; at most {figure(JSON_TOTAL)} are allowed")
    for entry in entries:
        name = shown(entry.name)
        if entry.is_link and entry.target is None:
            lacks.append(f"{name} is a link to what is not there")
        elif entry.is_file and entry.size == 0 and _never_empty(entry.path):
            lacks.append(f"{name} is empty so far")
        elif entry.is_file and entry.path.suffix == ".json" and (early := _ends_early(entry)):
            lacks.append(early)
    config = _config(folder) if CONFIG in files else None
    if CONFIG not in files:
        lacks.append(_no_config(listed))
    lacks += _lacking_weights(folder, files, everything)
    lacks += [CutShort(f"{sentence} yet") for sentence in absent_helpers(files.keys(), config, folder)]
    lacks += _lacking_listed(folder, everything)
    return lacks


def _never_empty(path: Path) -> bool:
    return path.suffix in _NEVER_EMPTY or path.name in _NEVER_EMPTY_NAMES


def _no_config(listed: list[Entry]) -> str:
    deeper = [entry.name for entry in listed if entry.is_folder and (entry.path / CONFIG).is_file()]
    # An unpacked archive often has one folder too many; sub-models have a config.json of their own beside ours.
    if len(deeper) == 1:
        inner = shown(deeper[0])
        return f"{CONFIG} is not there yet (one lies in {inner}/: if that is the checkpoint, move it one level up)"
    return f"{CONFIG} is not there yet"


def _config(folder: Path) -> dict[str, Any] | None:
    try:
        return read_object(folder / CONFIG)
    except CheckpointError:
        return None  # told as a JSON file that ends early, or by check_integrity


def _lacking_weights(folder: Path, files: dict[str, Entry], everything: set[str]) -> list[str]:
    present = [name for name in files if name.endswith(".safetensors")]
    lacks: list[str] = []
    if INDEX in files:
        try:
            expected = sorted(set(read_index(folder).values()))
        except CheckpointError:
            expected = []  # told as a JSON file that ends early, or by check_integrity
        lacks += [f"{shown(name)} is not there yet" for name in expected if name not in files]
    elif SINGLE not in files:
        if any(map(is_shard, everything)):
            lacks.append(f"{INDEX} is not there yet")
        elif (other := other_weights(everything)) is not None:
            lacks.append(CutShort(f"{SINGLE} is not there yet, and {other}"))
        else:
            lacks.append(f"{SINGLE} is not there yet")
    for name in present:
        try:
            read_header(folder / name)
        except TruncatedError as error:
            if error.need is None:
                lacks.append(f"{shown(name)}: its header is not there yet")
            else:
                lacks.append(CutShort(f"{shown(name)}: {error.have:,} of {error.need:,} bytes"))
        except CheckpointError:
            continue  # whole or not, it is broken: waiting does not mend it, and check_integrity tells why
    return lacks


def _lacking_listed(folder: Path, everything: set[str]) -> list[str]:
    """What ``SHA256SUMS`` names, is not there, and would be served."""
    if SUMS not in everything:
        return []
    try:
        listed = read_sums(folder) or {}
    except CutSumsError:
        return [f"{SUMS} ends early"]
    except CheckpointError:
        return []  # it will not get better by waiting; check_integrity names the line
    if not listed and (folder / SUMS).stat().st_size == 0:
        return [f"{SUMS} is empty so far"]
    absent = (name for name in sorted(listed) if name not in everything and name in SETTINGS)
    return [f"{shown(name)} is listed in {SUMS} and not there yet" for name in absent]


def _ends_early(entry: Entry) -> str | None:
    status = entry.target
    if status is None:
        return None
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return _json_ends_early(entry.path, entry.name, key)


@lru_cache(maxsize=512)
def _json_ends_early(path: Path, name: str, _status: tuple[int, ...]) -> str | None:
    """Whether the text stops before its end; remembered by file status, since tokenizers take 0.2 s to parse."""
    try:
        read_json(path)
    except JsonError as error:
        return f"{shown(name)} ends early" if error.early else None
    except CheckpointError as error:
        return error.message if not path.exists() else None
    return None
