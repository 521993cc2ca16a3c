"""Tells a folder that is still being copied from one that is whole, from sizes and headers alone.

Nothing is hashed here and no weights are read: this is asked on every scan of a folder that somebody may be filling at
this moment, in any order of files and at any speed. The full proof is ``check_integrity``.
"""

from __future__ import annotations

from baton.verify.checkpoint import Checkpoint
from baton.verify.files import UnfinishedError, shown
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
    """What a copy under way brings within moments, or never: the end of a shard that is there, or a small file.

    Time tells the two apart.
    """

    __slots__ = ()


def missing_parts(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return a short sentence for each thing that a copy still lacks; empty when nothing is known to be missing.

    A sentence about a shard that is there and ends too early, or a tokenizer or processor file that is not there, is
    a ``CutShort``.

    Only what time can mend is told. A file that is there and wrong (too long, no safetensors at all) is not missing:
    ``check_integrity`` refuses it. Nothing missing does not prove that nothing more comes (a README, or a second
    copy of the vocabulary), which is why a folder must have been quiet for a while too. Only files that are served
    are looked at, and the temporary names of such.
    """
    if checkpoint.fault is not None:
        # Told as lacking: what a folder holds too much of, only a person can take away.
        return (checkpoint.fault.message,)
    errors = [part.error for part in checkpoint.parts.values() if isinstance(part.error, UnfinishedError)]
    unfinished = [CutShort(error.lack) if error.cut else error.lack for error in errors]
    return tuple(dict.fromkeys(unfinished + absent_parts(checkpoint)))


def absent_parts(checkpoint: Checkpoint) -> list[str]:
    """Those sentences that tell of no file which is there."""
    if not checkpoint.listing.is_folder:
        return ["the folder is gone"]
    top = checkpoint.top
    files = {entry.name for entry in checkpoint.files}
    lacks = [f"{shown(name)} is the temporary name of a copy under way" for name in top if is_temporary(name)]
    broken = [entry.name for entry in checkpoint.served.values() if entry.target is None]
    lacks += [f"{shown(name)} is a link to what is not there" for name in broken]
    if CONFIG not in files:
        lacks.append(_no_config(checkpoint))
    lacks += _absent_weights(checkpoint, files)
    helpers = absent_helpers(files, checkpoint.told(CONFIG), checkpoint.told(PROCESSOR))
    lacks += [CutShort(f"{sentence} yet") for sentence in helpers]
    listed = checkpoint.told(SUMS) or {}
    absent = [name for name in sorted(listed) if name not in top and name in SETTINGS]
    return lacks + [f"{shown(name)} is listed in {SUMS} and not there yet" for name in absent]


def _no_config(checkpoint: Checkpoint) -> str:
    # An unpacked archive often has one folder too many; sub-models have a config.json of their own beside ours.
    deeper = [e for e in checkpoint.listing.entries if e.is_file and e.name.count("/") == 1 and e.path.name == CONFIG]
    if len(deeper) == 1:
        inner = shown(deeper[0].path.parent.name)
        return f"{CONFIG} is not there yet (one lies in {inner}/: if that is the checkpoint, move it one level up)"
    return f"{CONFIG} is not there yet"


def _absent_weights(checkpoint: Checkpoint, files: set[str]) -> list[str]:
    if INDEX in files:
        # What is wrong with the index itself is told of that file.
        expected = sorted(set((checkpoint.told(INDEX) or {}).values()))
        return [f"{shown(name)} is not there yet" for name in expected if name not in files]
    if SINGLE in files:
        return []
    if any(map(is_shard, checkpoint.top)):
        return [f"{INDEX} is not there yet"]
    other = other_weights(checkpoint.top)
    return [CutShort(f"{SINGLE} is not there yet, and {other}") if other else f"{SINGLE} is not there yet"]
