"""Whether a folder is complete or still being copied, by sizes and headers alone.

No hashing and no reading of weights: every scan asks this of folders that somebody may be filling at this moment, in
any order of files and at any speed. Not covered: whether the content is right (``check_integrity``).
"""

from __future__ import annotations

from baton.verify.checkpoint import Checkpoint
from baton.verify.files import UnfinishedError, printable
from baton.verify.layout import (
    CONFIG,
    INDEX,
    PROCESSOR,
    SETTINGS,
    SINGLE,
    absent_helpers,
    is_shard,
    is_temporary,
    other_weights,
)
from baton.verify.sums import SUMS


class CutShort(str):
    """What a copy in progress brings within moments, or never: the end of a shard that is there, or a small file.

    ``[services.rollout] cut_after`` is how long Baton waits for it.
    """

    __slots__ = ()


def missing_parts(checkpoint: Checkpoint) -> tuple[str, ...]:
    """A short sentence for each thing that a copy still lacks; empty when nothing is known to be missing.

    A sentence about a shard that ends too early, or about a tokenizer or processor file that is not there, is a
    ``CutShort``. A file that is wrong (too long, no safetensors at all) is not missing: ``check_integrity`` refuses it.
    More files may still come (a README, a second copy of the vocabulary), so a folder must also have been unchanged for
    a while. Only served files count, and their temporary names.
    """
    if checkpoint.fault is not None:
        # Reported as missing, so that Baton waits: only a person can remove what is too much.
        return (checkpoint.fault.message,)
    errors = [part.error for part in checkpoint.parts.values() if isinstance(part.error, UnfinishedError)]
    unfinished = [CutShort(error.lack) if error.cut else error.lack for error in errors]
    return tuple(dict.fromkeys(unfinished + absent_parts(checkpoint)))


def absent_parts(checkpoint: Checkpoint) -> list[str]:
    """The sentences about files that are not there."""
    if not checkpoint.listing.is_folder:
        return ["the folder is gone"]
    top = checkpoint.top
    files = {entry.name for entry in checkpoint.files}
    lacks = [f"{printable(name)} is the temporary name of a copy under way" for name in top if is_temporary(name)]
    broken = [entry.name for entry in checkpoint.served.values() if entry.target is None]
    lacks += [f"{printable(name)} is a link to what is not there" for name in broken]
    if CONFIG not in files:
        lacks.append(_no_config(checkpoint))
    lacks += _absent_weights(checkpoint, files)
    helpers = absent_helpers(files, checkpoint.value_or_none(CONFIG), checkpoint.value_or_none(PROCESSOR))
    lacks += [CutShort(f"{sentence} yet") for sentence in helpers]
    listed = checkpoint.value_or_none(SUMS) or {}
    absent = [name for name in sorted(listed) if name not in top and name in SETTINGS]
    return lacks + [f"{printable(name)} is listed in {SUMS} and not there yet" for name in absent]


def _no_config(checkpoint: Checkpoint) -> str:
    # An unpacked archive often has one folder too many; sub-models have a config.json of their own beside ours.
    deeper = [e for e in checkpoint.listing.entries if e.is_file and e.name.count("/") == 1 and e.path.name == CONFIG]
    if len(deeper) == 1:
        inner = printable(deeper[0].path.parent.name)
        return f"{CONFIG} is not there yet (one lies in {inner}/: if that is the checkpoint, move it one level up)"
    return f"{CONFIG} is not there yet"


def _absent_weights(checkpoint: Checkpoint, files: set[str]) -> list[str]:
    if INDEX in files:
        # Errors of the index itself are reported of that file.
        expected = sorted(set((checkpoint.value_or_none(INDEX) or {}).values()))
        return [f"{printable(name)} is not there yet" for name in expected if name not in files]
    if SINGLE in files:
        return []
    if any(map(is_shard, checkpoint.top)):
        return [f"{INDEX} is not there yet"]
    other = other_weights(checkpoint.top)
    return [CutShort(f"{SINGLE} is not there yet, and {other}") if other else f"{SINGLE} is not there yet"]
