"""The gate ``integrity``: every file that is served is there and complete, and none of them can run code.

Not covered: files beside the served ones (they are listed as ignored), and whether the weights are any good.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from baton.domain import Gate, GateResult, Verdict
from baton.errors import CheckpointError, Refused
from baton.evidence import IntegrityEvidence
from baton.reasons.words import format_bytes
from baton.verify.checkpoint import Checkpoint
from baton.verify.completeness import absent_parts
from baton.verify.files import CHUNK, changed, error_text, open_regular, pairs, printable
from baton.verify.layout import INDEX, SINGLE
from baton.verify.listing import Entry
from baton.verify.safetensors import Header
from baton.verify.sums import SUMS
from baton.verify.tokens import UnfitError

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""
Cancelled = Callable[[], bool]

_CODE: Final = frozenset({"auto_map", "custom_pipelines"})
"""Keys by which transformers or diffusers import code that a repository brings along."""
_KINDS: Final = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a fifo", stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a block device",
}  # fmt: skip
_TOLD: Final = 3
"""Problems in the message; all of them are in the evidence."""


def check_integrity(
    checkpoint: Checkpoint, *, progress: Progress = lambda *_: None, cancelled: Cancelled = lambda: False
) -> GateResult:
    """Check that a version folder is complete and harmless, and hash what ``SHA256SUMS`` lists.

    FAIL names the file and the figure; ``observed`` is the number of problems. PASS says how many bytes were hashed
    (``evidence.hashed_bytes``), or that there is no ``SHA256SUMS``. HOLD means that ``cancelled`` stopped it. Never
    raises for what is in the folder.
    """
    evidence = IntegrityEvidence(hashed_bytes=0, hashed_files=0)
    sums: dict[str, str] | None = checkpoint.value_or_none(SUMS)
    found = problems(checkpoint, links_may_leave=False)
    try:
        if not found and sums is not None:
            hashed = [entry for entry in checkpoint.files if entry.name in sums]
            evidence = replace(evidence, unchecked_sums=len(sums) - len(hashed))
            digests = _hashed(hashed, checkpoint.name, progress, cancelled)
            evidence = replace(evidence, hashed_bytes=_bytes(hashed), hashed_files=len(hashed))
            found = [
                f"{printable(entry.name)} ({entry.size:,} bytes) has SHA-256 {digests[entry.name][:12]}..., "
                f"{SUMS} says {sums[entry.name][:12]}...: copy it again."
                for entry in hashed
                if digests[entry.name] != sums[entry.name]
            ]
    except Refused:
        return GateResult(Gate.INTEGRITY, Verdict.HOLD, "Stopped before all files were hashed.", evidence=evidence)
    except CheckpointError as error:
        found = [str(error)]
    if found:
        evidence = replace(evidence, problems=tuple(found))
        return GateResult(Gate.INTEGRITY, Verdict.FAIL, summary(found), float(len(found)), 0.0, evidence=evidence)
    evidence = replace(
        evidence,
        files=len(checkpoint.files),
        bytes=_bytes(checkpoint.files),
        tensors=sum(len(header.tensors) for header in _weights(checkpoint).values()),
        ignored_files=len(checkpoint.beside),
        ignored_bytes=_bytes(checkpoint.beside),
    )
    whole = f"{evidence.tensors:,} tensors in {evidence.files} files ({format_bytes(evidence.bytes or 0)}) are whole"
    if sums is None:
        message = f"{whole}, by their own headers and index; there is no {SUMS} to hash against."
    else:
        message = f"{whole}; {evidence.hashed_bytes:,} bytes of {evidence.hashed_files} files match {SUMS}."
        if unchecked := evidence.unchecked_sums:
            message += f" Of {SUMS} {unchecked} lines name files that are not served, and were not checked."
    if beside := ignored(checkpoint):
        message += f" Ignored: {beside}."
    return GateResult(Gate.INTEGRITY, Verdict.PASS, message, 0.0, 0.0, evidence=evidence)


def problems(checkpoint: Checkpoint, *, links_may_leave: bool) -> list[str]:
    """A sentence for everything wrong with the files that are served, as far as it shows without hashing.

    ``links_may_leave`` is for a source that is about to be copied: links are copied as what they lead to, and deeper
    folders are not copied, so they are not checked. In a version folder a link that leaves it would let content change
    after the check, unless it leads to a blob of the Hugging Face cache, whose name is its hash.
    """
    if checkpoint.fault is not None:
        return [str(checkpoint.fault)]
    root = checkpoint.listing.path.resolve()
    served = checkpoint.served.values()
    found = [text for entry in served for text in _entry_problems(entry, root, links_may_leave=links_may_leave)]
    for name, part in checkpoint.parts.items():
        unread = name in checkpoint.served and not checkpoint.served[name].is_file  # reported above, or as absent
        if part.error is not None and not unread and not isinstance(part.error, UnfitError):
            found.append(str(part.error))
        # Only settings are searched: in a vocabulary the same word is just a token.
        elif name.endswith("config.json"):
            keys = {key for key, value in pairs(part.value) if key in _CODE and value}
            found += [f"{name} has the key {key!r}, which names code to import: remove it." for key in sorted(keys)]
    found += _disagreements(checkpoint)
    found += [f"{part}." for part in absent_parts(checkpoint)]
    if not links_may_leave and checkpoint.listing.fault is not None:
        found.append(str(checkpoint.listing.fault))
    return found


def manifest(
    checkpoint: Checkpoint,
    *,
    known: Mapping[str, str] | None = None,
    progress: Progress = lambda *_: None,
    cancelled: Cancelled = lambda: False,
) -> dict[str, str]:
    """Name to SHA-256 (hex) of every file that is served, links followed.

    What is ``known`` is not hashed again. Raises ``CheckpointError`` when a file can't be read,
    ``Refused`` when ``cancelled`` said so.
    """
    if checkpoint.fault is not None:
        raise checkpoint.fault
    known = known or {}
    fresh = [entry for entry in checkpoint.files if entry.name not in known]
    found = _hashed(fresh, checkpoint.name, progress, cancelled)
    return {entry.name: known.get(entry.name) or found[entry.name] for entry in checkpoint.files}


def ignored(checkpoint: Checkpoint) -> str:
    """How much is in a folder and not served, for a person (``14 files, 1.2 GiB``); empty for nothing."""
    if checkpoint.listing.fault is not None:
        return "more than can be counted"
    files = checkpoint.beside
    return f"{len(files)} file{'s' if len(files) != 1 else ''}, {format_bytes(_bytes(files))}" if files else ""


def summary(found: list[str]) -> str:
    """The first problems as one message."""
    more = len(found) - _TOLD
    return " ".join(found[:_TOLD]) + (f" And {more} more." if more > 0 else "")


def _bytes(files: Iterable[Entry]) -> int:
    return sum(entry.size for entry in files)


def _hashed(files: Collection[Entry], folder: str, progress: Progress, cancelled: Cancelled) -> dict[str, str]:
    """SHA-256 as lower-case hex by name; raises as ``manifest`` does, also for a file that is not as it was listed."""
    total, done = _bytes(files), 0
    buffer = memoryview(bytearray(CHUNK))
    digests = {}
    for entry in files:
        digest = hashlib.sha256()
        try:
            with open_regular(entry.path) as file:
                while size := file.readinto(buffer):
                    if cancelled():
                        raise Refused(f"Hashing {folder} was cancelled.")
                    digest.update(buffer[:size])
                    done += size
                    progress(done, total)
        except OSError as error:
            raise CheckpointError(f"{printable(entry.name)} can't be read: {error_text(error)}.") from error
        if not entry.is_as_listed():
            raise changed(entry.name)
        digests[entry.name] = digest.hexdigest()
    return digests


def _entry_problems(entry: Entry, root: Path, *, links_may_leave: bool) -> Iterator[str]:
    name = printable(entry.name)
    if not entry.name.isprintable():
        yield f"{name} has control characters or broken encoding in its name: rename it."
    if entry.is_link and entry.target is not None and not links_may_leave:
        real = entry.path.resolve()
        if not real.is_relative_to(root) and not _is_blob(real, root):
            yield (
                f"{name} is a link that leads out of the folder, to {printable(str(real))}: "
                "put the file itself there (ctl push copies what links lead to)."
            )
    if entry.target is not None and not entry.is_file:
        kind = _KINDS.get(stat.S_IFMT(entry.target.st_mode), "a device")
        yield f"{name} is {kind}: put the file itself in its place."


def _is_blob(real: Path, root: Path) -> bool:
    """Whether a file is a blob of the Hugging Face cache that the snapshot ``root`` belongs to."""
    return root.parent.name == "snapshots" and real.parent == root.parent.parent / "blobs"


def _weights(checkpoint: Checkpoint) -> dict[str, Header]:
    return {name: part.value for name, part in checkpoint.parts.items() if isinstance(part.value, Header)}


def _disagreements(checkpoint: Checkpoint) -> Iterator[str]:
    """Yield where the index and the headers differ; what can't be read is reported of its file."""
    headers = _weights(checkpoint)
    if INDEX not in checkpoint.top:
        if SINGLE in headers and not headers[SINGLE].tensors:
            yield f"{SINGLE} holds no tensors."
        return
    index: dict[str, str] | None = checkpoint.value_or_none(INDEX)
    if index is None:
        return
    shards = set(index.values())
    if SINGLE in checkpoint.served and SINGLE not in shards:
        yield f"{SINGLE} and {INDEX} are both there, and one can't tell which weights are meant: remove one."
    listed = {(tensor, file) for tensor, file in index.items() if file in headers}
    held = {(tensor, file) for file in shards & headers.keys() for tensor in headers[file].tensors}
    for tensor, file in sorted(listed - held):
        yield f"{INDEX} says that tensor {tensor[:200]!r} is in {printable(file)}, and it is not."
    for tensor, file in sorted(held - listed):
        elsewhere = f"puts it into {printable(index[tensor])}" if tensor in index else "does not know it"
        yield f"{printable(file)} holds tensor {tensor[:200]!r}; {INDEX} {elsewhere}."
