"""The gate ``integrity``: every file that is served is there and whole, and none of them can run code."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from baton.domain import Gate, GateResult, Verdict
from baton.errors import CheckpointError, Refused
from baton.evidence import IntegrityEvidence
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
from baton.verify.layout import HEAD, INDEX, SINGLE, read_index, served, true_kind
from baton.verify.meta import read_table
from baton.verify.safetensors import Header, read_header
from baton.verify.sums import SUMS, read_sums

Cancelled = Callable[[], bool]

_READ_STRICTLY: Final = frozenset({".json", ".safetensors", ".toml"})
"""What has such a name is read by a reader that takes nothing else."""
_TOLD: Final = 3
"""Problems told in the message; all of them are in the evidence."""


def check_integrity(
    folder: Path, *, progress: Progress | None = None, cancelled: Cancelled | None = None
) -> GateResult:
    """Prove that a version folder is whole and harmless, by reading all of what ``SHA256SUMS`` lists.

    FAIL names the file and the figure; ``observed`` is then the number of problems. PASS tells the bytes hashed
    (``evidence.hashed_bytes``), and says so when there was no ``SHA256SUMS`` to hash against. HOLD means that
    ``cancelled`` stopped it. Never raises for what is in the folder. ``progress`` is told bytes hashed and to hash.
    """
    evidence, hashed = IntegrityEvidence(hashed_bytes=0, hashed_files=0), list[int]()
    sums: dict[str, str] | None = None
    problems: list[str] = []
    try:
        problems += cheap_problems(folder, links_may_leave=False)
        if not problems and (sums := read_sums(folder)) is not None:
            entries = served(folder, walk(folder, deep=False))
            files = [entry for entry in entries if entry.is_file and entry.name in sums]
            evidence = replace(evidence, unchecked_sums=len(sums) - len(files))
            problems += _unlike(files, sums, hashed, progress, cancelled)
        if not problems:
            evidence = _totals(folder, evidence)
    except _StoppedError:
        evidence = replace(evidence, hashed_bytes=sum(hashed), hashed_files=len(hashed))
        return GateResult(Gate.INTEGRITY, Verdict.HOLD, "Stopped before all files were hashed.", evidence=evidence)
    except CheckpointError as error:
        problems.append(str(error))
    except OSError as error:  # it changes or vanishes while it is looked at, or the disk fails
        problems.append(f"{shown(folder.name)} can't be read: {reason(error)}.")
    evidence = replace(evidence, hashed_bytes=sum(hashed), hashed_files=len(hashed))
    if problems:
        evidence = replace(evidence, problems=tuple(problems))
        return GateResult(Gate.INTEGRITY, Verdict.FAIL, told(problems), float(len(problems)), 0.0, evidence=evidence)
    whole = f"{evidence.tensors:,} tensors in {evidence.files} files ({figure(evidence.bytes or 0)}) are whole"
    if sums is None:
        message = f"{whole}, by their own headers and index; there is no {SUMS} to hash against."
    else:
        message = f"{whole}; {evidence.hashed_bytes:,} bytes of {evidence.hashed_files} files match {SUMS}."
        if unchecked := evidence.unchecked_sums:
            message += f" Of {SUMS} {unchecked} lines name files that are not served, and were not checked."
    if evidence.ignored_files:
        message += f" Ignored: {ignored(evidence.ignored_files, evidence.ignored_bytes or 0)}."
    return GateResult(Gate.INTEGRITY, Verdict.PASS, message, 0.0, 0.0, evidence=evidence)


def cheap_problems(folder: Path, *, links_may_leave: bool) -> list[str]:
    """Return a sentence for everything wrong with the files that are served, as far as it shows without hashing.

    ``links_may_leave`` is for a source that is about to be copied. In a version folder such a link would let its
    content change behind every check, unless it leads to a blob of the Hugging Face cache, whose name is its hash.
    Raises ``OSError`` or ``CheckpointError`` when the folder can't be listed.
    """
    entries = served(folder, walk(folder, deep=False))
    root = folder.resolve()
    if sum(entry.size for entry in entries if entry.path.suffix == ".json") > JSON_TOTAL:
        return [f"The checkpoint's JSON files are more than {figure(JSON_TOTAL)} together: no model has so many."]
    problems = [text for entry in entries for text in _unwelcome(entry, root, links_may_leave=links_may_leave)]
    problems += _wrong_texts(entries)
    problems += _wrong_weights(folder, entries)
    # What is cut off is told above already, with its figures.
    told_of = tuple(name + mark for text in problems for name in (text.split(" ", 1)[0],) for mark in (" ", ":"))
    problems += [f"{part}." for part in missing_parts(folder) if not part.startswith(told_of)]
    try:
        read_table(folder)
    except CheckpointError as error:
        problems.append(str(error))
    return problems


def manifest(
    folder: Path,
    *,
    known: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
) -> dict[str, str]:
    """Return name to SHA-256 (hex) of every file that is served, links followed.

    What is ``known`` is taken from there and not read. Raises ``CheckpointError`` when a file can't be read,
    ``Refused`` when ``cancelled`` said so.
    """
    known = known or {}
    try:
        files = [entry for entry in served(folder, walk(folder, deep=False)) if entry.is_file]
    except OSError as error:
        raise CheckpointError(f"{shown(folder.name)} can't be read: {reason(error)}.") from error
    fresh = [entry for entry in files if entry.name not in known]
    try:
        found = {name: digest for name, digest, _ in _hashed(fresh, progress, cancelled)}
    except _StoppedError as error:
        raise Refused(f"Hashing {shown(folder.name)} was cancelled.") from error
    return {
        entry.name: known.get(entry.name) or found[entry.name] for entry in files if entry.name in {**known, **found}
    }


def ignored(files: int, size: int) -> str:
    """What lies in a folder and is not served, for a person: ``14 files, 1.2 GiB``."""
    return f"{files} file{'s' if files != 1 else ''}, {figure(size)}"


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
    files: list[Entry],
    sums: dict[str, str],
    hashed: list[int],
    progress: Progress | None,
    cancelled: Cancelled | None,
) -> list[str]:
    """Compare the files with the list; ``hashed`` gets the size of each that was read."""
    unlike = []
    for name, digest, size in _hashed(files, progress, cancelled):
        hashed.append(size)
        if digest != sums[name]:
            unlike.append(
                f"{shown(name)} ({size:,} bytes) has SHA-256 {digest[:12]}..., {SUMS} says {sums[name][:12]}...: "
                "copy it again."
            )
    return unlike


def _unwelcome(entry: Entry, root: Path, *, links_may_leave: bool) -> Iterator[str]:
    name = shown(entry.name)
    if not entry.path.name.isprintable():
        yield f"{name} has control characters or broken encoding in its name: rename it."
    if entry.is_link and entry.target is not None and not links_may_leave:
        real = entry.path.resolve()
        if not real.is_relative_to(root) and not _is_blob(real, root):
            yield (
                f"{name} is a link that leads out of the folder, to {shown(str(real))}: "
                "put the file itself there (ctl push copies what links lead to)."
            )
    if entry.is_folder:
        yield f"{name} is a folder: put the file itself in its place."
    elif entry.target is not None and not entry.is_file:
        yield f"{name} is {_kind(entry.target.st_mode)}: put the file itself in its place."
    elif entry.is_file and entry.path.suffix not in _READ_STRICTLY and (kind := _true_kind(entry)):
        yield f"{name} is not what its name says: {kind}."


def _is_blob(real: Path, root: Path) -> bool:
    """Whether a file is a blob of the Hugging Face cache that the snapshot ``root`` belongs to."""
    return root.parent.name == "snapshots" and real.parent == root.parent.parent / "blobs"


def _true_kind(entry: Entry) -> str | None:
    """What a file really is, where its first bytes tell; also what keeps it from being opened."""
    try:
        with open_regular(entry.path) as file:
            return true_kind(file.read(HEAD))
    except CheckpointError as error:
        return str(error)


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
            yield _with_kind(error, entry)
            continue
        # Only settings are searched: in a vocabulary the same word is just a token.
        if entry.path.name.endswith("config.json") and (key := _code_key(value)):
            yield f"{shown(entry.name)} has the key {key!r}, which names code to import: remove it."


def _with_kind(error: CheckpointError, entry: Entry) -> str:
    """Why a file can't be read; what it really is tells more than where its reader stumbled."""
    kind = _true_kind(entry)
    return str(error) if kind is None or kind == str(error) else f"{shown(entry.name)} can't be used: {kind}."


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
    weights = {entry.name: entry for entry in entries if entry.is_file and entry.name.endswith(".safetensors")}
    headers: dict[str, Header] = {}
    for name, entry in weights.items():
        try:
            headers[name] = read_header(entry.path)
        except CheckpointError as error:
            yield _with_kind(error, entry)
    if not any(entry.name == INDEX for entry in entries):
        if SINGLE in headers and not headers[SINGLE].tensors:
            yield f"{SINGLE} holds no tensors."
        return
    try:
        index = read_index(folder)
    except CheckpointError as error:
        yield str(error)
        return
    if SINGLE in weights and SINGLE not in index.values():
        yield f"{SINGLE} and {INDEX} are both there, and one can't tell which weights are meant: remove one."
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


def _totals(folder: Path, evidence: IntegrityEvidence) -> IntegrityEvidence:
    files = [entry for entry in served(folder, walk(folder, deep=False)) if entry.is_file]
    weights = [entry for entry in files if entry.name.endswith(".safetensors")]
    beside, size = not_served(folder)
    return replace(
        evidence,
        files=len(files),
        bytes=sum(entry.size for entry in files),
        tensors=sum(len(read_header(entry.path).tensors) for entry in weights),
        ignored_files=beside,
        ignored_bytes=size,
    )


def not_served(folder: Path) -> tuple[int, int]:
    """How many files lie in a version folder, or in a source of one, that are not served; and their bytes.

    Raises ``OSError`` or ``CheckpointError`` as ``walk`` does.
    """
    entries = list(walk(folder))
    names = {entry.name for entry in served(folder, entries)} | {SUMS}
    rest = [entry for entry in entries if entry.is_file and entry.name not in names]
    return len(rest), sum(entry.size for entry in rest)
