"""The gate ``integrity``: every file the checkpoint names is there and whole, and none of them can run code."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from baton.domain import Gate, GateResult, Verdict
from baton.errors import CheckpointError, Refused
from baton.verify.completeness import missing_parts
from baton.verify.files import (
    JSON_TOTAL,
    Entry,
    Progress,
    figure,
    hash_file,
    open_regular,
    read_json,
    reason,
    shown,
    walk,
)
from baton.verify.layout import HEAD, INDEX, SINGLE, hidden_danger, is_code, is_pickle, is_shard, read_index
from baton.verify.meta import read_table
from baton.verify.safetensors import Header, read_header
from baton.verify.sums import SUMS, read_sums

Cancelled = Callable[[], bool]

_TOLD: Final = 3
"""Problems told in the message; all of them are in the evidence."""


def check_integrity(
    folder: Path, *, progress: Progress | None = None, cancelled: Cancelled | None = None
) -> GateResult:
    """Prove that a version folder is whole and harmless, by reading all of what ``SHA256SUMS`` lists.

    FAIL names the file and the figure; ``observed`` is then the number of problems. PASS tells the bytes hashed
    (``evidence["hashed_bytes"]``), and says so when there was no ``SHA256SUMS`` to hash against. HOLD means that
    ``cancelled`` stopped it. Never raises for what is in the folder. ``progress`` is told bytes hashed and to hash.
    """
    evidence: dict[str, Any] = {"hashed_bytes": 0, "hashed_files": 0}
    sums: dict[str, str] | None = None
    problems: list[str] = []
    try:
        problems += cheap_problems(folder, links_may_leave=False)
        if not problems and (sums := read_sums(folder)) is not None:
            problems += _unlike(folder, sums, evidence, progress, cancelled)
        if not problems:
            evidence |= _totals(folder)
    except _StoppedError:
        return GateResult(Gate.INTEGRITY, Verdict.HOLD, "Stopped before all files were hashed.", evidence=evidence)
    except CheckpointError as error:
        problems.append(str(error))
    except OSError as error:  # it changes or vanishes while it is looked at, or the disk fails
        problems.append(f"{shown(folder.name)} can't be read: {reason(error)}.")
    if problems:
        evidence["problems"] = problems
        return GateResult(Gate.INTEGRITY, Verdict.FAIL, told(problems), float(len(problems)), 0.0, evidence=evidence)
    whole = f"{evidence['tensors']:,} tensors in {evidence['files']} files ({figure(evidence['bytes'])}) are whole"
    if sums is None:
        message = f"{whole}, by their own headers and index; there is no {SUMS} to hash against."
    else:
        message = f"{whole}; {evidence['hashed_bytes']:,} bytes of {evidence['hashed_files']} files match {SUMS}."
    return GateResult(Gate.INTEGRITY, Verdict.PASS, message, 0.0, 0.0, evidence=evidence)


def cheap_problems(folder: Path, *, links_may_leave: bool, skip: frozenset[str] = frozenset()) -> list[str]:
    """Return a sentence for everything wrong that shows without hashing.

    ``links_may_leave`` is for a source that is about to be copied: the Hugging Face cache keeps a snapshot as links
    to blobs outside it. In a version folder such a link would let its content change behind every check.
    Raises ``OSError`` or ``CheckpointError`` when the folder can't be walked through.
    """
    entries = list(walk(folder, skip=skip))
    root = folder.resolve()
    if sum(entry.size for entry in entries if entry.path.suffix == ".json") > JSON_TOTAL:
        return [
            f"The folder's JSON files are more than {figure(JSON_TOTAL)} together: remove those that are not its own."
        ]
    problems = [text for entry in entries for text in _unwelcome(entry, root, links_may_leave=links_may_leave)]
    problems += _wrong_texts(entries)
    problems += _wrong_weights(folder, entries)
    # What is cut off is told above already, with its figures.
    told_of = tuple(name + mark for text in problems for name in (text.split(" ", 1)[0],) for mark in (" ", ":"))
    problems += [f"{part}." for part in missing_parts(folder, skip=skip) if not part.startswith(told_of)]
    try:
        read_table(folder)
    except CheckpointError as error:
        problems.append(str(error))
    return problems


def manifest(folder: Path, *, progress: Progress | None = None, cancelled: Cancelled | None = None) -> dict[str, str]:
    """Return relative name to SHA-256 (hex) of every file in the folder, links followed.

    Raises ``CheckpointError`` when a file can't be read, ``Refused`` when ``cancelled`` said so.
    """
    try:
        files = [entry for entry in walk(folder) if entry.is_file]
    except OSError as error:
        raise CheckpointError(f"{shown(folder.name)} can't be read: {reason(error)}.") from error
    try:
        return {name: digest for name, digest, _ in _hashed(files, progress, cancelled)}
    except _StoppedError as error:
        raise Refused(f"Hashing {shown(folder.name)} was cancelled.") from error


def told(problems: list[str]) -> str:
    """The first problems as one message."""
    more = len(problems) - _TOLD
    return " ".join(problems[:_TOLD]) + (f" And {more} more." if more > 0 else "")


class _StoppedError(Exception):
    """``cancelled`` said so; never leaves this module."""


def _hashed(
    files: list[Entry], progress: Progress | None, cancelled: Cancelled | None
) -> Iterator[tuple[str, str, int]]:
    total = sum(entry.size for entry in files)
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(done, total)

    for entry in files:
        before = done
        digest = hash_file(entry.path, count=count, cancelled=cancelled)
        if digest is None:
            raise _StoppedError
        yield entry.name, digest, done - before


def _unlike(
    folder: Path,
    sums: dict[str, str],
    evidence: dict[str, Any],
    progress: Progress | None,
    cancelled: Cancelled | None,
) -> list[str]:
    files = [entry for entry in walk(folder) if entry.is_file and entry.name in sums]
    unlike = []
    for name, digest, size in _hashed(files, progress, cancelled):
        evidence["hashed_bytes"] += size
        evidence["hashed_files"] += 1
        if digest != sums[name]:
            unlike.append(
                f"{shown(name)} ({size:,} bytes) has SHA-256 {digest[:12]}..., {SUMS} says {sums[name][:12]}...: "
                "copy it again."
            )
    gone = sums.keys() - {entry.name for entry in files}
    return unlike + [f"{shown(name)} is listed in {SUMS} and is no file here." for name in sorted(gone)]


def _unwelcome(entry: Entry, root: Path, *, links_may_leave: bool) -> Iterator[str]:
    name = shown(entry.name)
    if not entry.path.name.isprintable():
        yield f"{name} has control characters or broken encoding in its name: rename it."
    if entry.is_link and entry.target is not None and not links_may_leave:
        real = entry.path.resolve()
        if not real.is_relative_to(root):
            yield (
                f"{name} is a link that leads out of the folder, to {shown(str(real))}: "
                "put the file itself there (ctl push copies what links lead to)."
            )
    if entry.loop:
        yield f"{name} is a link to a folder that it lies in: remove it."
    if entry.target is not None and not entry.is_file and not entry.is_folder:
        yield f"{name} is {_kind(entry.target.st_mode)}: remove it."
    if entry.is_folder:
        return
    if is_pickle(name):
        yield f"{name} may hold a pickle, which runs code when it is read: remove it, or save it as safetensors."
    elif is_code(name):
        yield f"{name} is code; a version folder holds data only: remove it."
    elif entry.is_file and (danger := _danger(entry)):
        yield f"{name} {danger}: remove it."


def _danger(entry: Entry) -> str | None:
    try:
        with open_regular(entry.path) as file:
            return hidden_danger(entry.name, file.read(HEAD))
    except CheckpointError as error:
        return f"can't be looked into ({error.message})"


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISFIFO, "a fifo"), (stat.S_ISSOCK, "a socket"), (stat.S_ISBLK, "a block device"))
    return next((text for test, text in kinds if test(mode)), "a device")


def _wrong_texts(entries: list[Entry]) -> Iterator[str]:
    for entry in entries:
        if not entry.is_file or entry.path.suffix != ".json" or entry.size == 0:
            continue
        try:
            value = read_json(entry.path)
        except CheckpointError as error:
            yield str(error)
            continue
        # Only settings are searched: in a vocabulary the same word is just a token.
        if entry.path.name.endswith("config.json") and (key := _code_key(value)):
            yield f"{shown(entry.name)} has the key {key!r}, which names code to import: remove it."


def _code_key(value: Any) -> str | None:
    """Find a key by which transformers or diffusers import code that a repository brings along."""
    if isinstance(value, list):
        return next((key for part in value if (key := _code_key(part))), None)
    if not isinstance(value, dict):
        return None
    for key in ("auto_map", "custom_pipelines"):
        if value.get(key):
            return key
    return next((key for part in value.values() if (key := _code_key(part))), None)


def _wrong_weights(folder: Path, entries: list[Entry]) -> Iterator[str]:
    names = [entry.name for entry in entries if entry.is_file and entry.name.endswith(".safetensors")]
    headers: dict[str, Header] = {}
    for name in names:
        try:
            headers[name] = read_header(folder / name)
        except CheckpointError as error:
            yield str(error)
    if not any(entry.name == INDEX for entry in entries):
        if SINGLE in headers and not headers[SINGLE].tensors:
            yield f"{SINGLE} holds no tensors."
        strays = [name for name in names if is_shard(name)]
        if SINGLE in names and strays:
            yield f"{shown(strays[0])} is one of a series, and there is no {INDEX}: remove it, or add the index."
        return
    if SINGLE in names:
        yield f"{SINGLE} and {INDEX} are both there, and one can't tell which weights are meant: remove one."
    try:
        index = read_index(folder)
    except CheckpointError as error:
        yield str(error)
        return
    yield from _disagreements(index, headers)


def _disagreements(index: dict[str, str], headers: dict[str, Header]) -> Iterator[str]:
    for tensor, file in index.items():
        if file in headers and tensor not in headers[file].tensors:
            yield f"{INDEX} says that tensor {tensor[:200]!r} is in {shown(file)}, and it is not."
    shards = set(index.values())
    for file, header in headers.items():
        if file in shards:
            for tensor in header.tensors:
                if index.get(tensor) != file:
                    elsewhere = f"puts it into {shown(index[tensor])}" if tensor in index else "does not know it"
                    yield f"{shown(file)} holds tensor {tensor[:200]!r}; {INDEX} {elsewhere}."
        elif is_shard(file):
            yield f"{shown(file)} is named by no line of {INDEX}: it is left from another copy; remove it."


def _totals(folder: Path) -> dict[str, int]:
    files = [entry for entry in walk(folder) if entry.is_file]
    weights = [entry for entry in files if entry.name.endswith(".safetensors")]
    tensors = sum(len(read_header(entry.path).tensors) for entry in weights)
    return {"files": len(files), "bytes": sum(entry.size for entry in files), "tensors": tensors}
