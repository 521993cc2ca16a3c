"""Tells what lies in an engine's directory, and since when it has lain there unchanged."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from baton.domain import Folder
from baton.errors import CheckpointError, RepositoryError
from baton.verify.completeness import missing_parts
from baton.verify.files import reason, shown, vanished, walk

LARGEST: Final = 2**31 - 1
"""The largest version number. The bound is Baton's own: Triton counts in 64 bits, and lets ``std::stoll`` throw for
more digits than that (core, ``VersionsToLoad``); within 31 bits a number survives every client, dashboard and JSON
reader, and a date such as 20260131 still fits."""

OWN_ENTRIES: Final = frozenset({"config.pbtxt", "warmup", "initial_state"})
"""What belongs beside the versions: the configuration and the two folders that Triton reads itself."""

_CANONICAL: Final = re.compile(r"[1-9][0-9]*")
_LEADING_ZEROS: Final = re.compile(r"0+([1-9][0-9]*)")
_LEADING_NUMBER: Final = re.compile(r"[+-]?0*([0-9]+)")
_AWAY: Final = "move it out: anything new beside the versions makes Triton reload all of them at its next load"


def version_of(name: str) -> int | None:
    """Return the version that a folder name means, or ``None`` when it means none."""
    if _CANONICAL.fullmatch(name) and len(name) <= len(str(LARGEST)) and int(name) <= LARGEST:
        return int(name)
    return None


def highest_number(names: Iterable[str]) -> int:
    """Return the highest number that any of the names could be taken for, ``007`` and ``9b`` included; 0 for none."""
    numbers = (int(found[1][:20]) for name in names if (found := _LEADING_NUMBER.match(name)))
    return max((number for number in numbers if number <= LARGEST), default=0)


def name_problem(name: str) -> str | None:
    """Return what keeps a name from being a version, with the mend; ``None`` for a canonical one."""
    if version_of(name) is not None:
        return None
    if found := _LEADING_ZEROS.fullmatch(name):
        return f"Triton ignores version folders with leading zeros: rename it to {found[1][:20]}."
    if _CANONICAL.fullmatch(name):
        return f"The number is larger than {LARGEST:,}, the largest version number: rename it to a smaller one."
    if name == "0":
        return "Versions count from 1: rename it to the next free number."
    if name.startswith("."):
        return f"A hidden entry, such as a copy under way leaves; {_AWAY}. ctl push stages outside the repository."
    if found := re.match(r"[0-9]+", name):
        return (
            f"Not a number, but Triton would read it as version {int(found[0][:20])}, up to the first other character: "
            "rename it to a free number or move it out."
        )
    return f"Not a version number; {_AWAY}."


class Scanner:
    """Looks at engine directories again and again, and remembers since when each entry has been what it is.

    One scanner serves any number of directories. It is not safe for use by several threads at once.
    """

    def __init__(self) -> None:
        self._seen: dict[Path, dict[str, Folder]] = {}

    def scan(self, engine_dir: Path, now: float) -> list[Folder]:
        """Return every entry of the directory except Triton's own, versions in numerical order first.

        ``now`` is in seconds since the epoch. A directory that does not exist has no entries; one that can't be
        listed raises ``RepositoryError``. Entries that vanish in the middle are left out.
        """
        try:
            paths = sorted(engine_dir.iterdir())
        except OSError as error:
            if vanished(error):
                self.forget(engine_dir)
                return []
            raise RepositoryError(
                f"The engine directory {engine_dir} can't be listed: {reason(error)}.",
                mend="Give the control plane's user the right to read it.",
            ) from error
        before = self._seen.get(engine_dir, {})
        found = {}
        for path in paths:
            if path.name in OWN_ENTRIES:
                continue
            folder = _look(path, before.get(path.name), now)
            if folder is not None:
                found[path.name] = folder
        self._seen[engine_dir] = found  # what vanished is forgotten: if it returns, it is new
        return sorted(found.values(), key=lambda folder: (folder.version is None, folder.version or 0, folder.name))

    def forget(self, engine_dir: Path) -> None:
        """Drop what is remembered of a directory, as when its service is no longer configured."""
        self._seen.pop(engine_dir, None)


def fingerprint_of(path: Path) -> tuple[str, int]:
    """Return a fingerprint (hex) and the size in bytes of everything at ``path``, links followed.

    It changes when Triton would count the version as changed: Triton (24.10) takes the newest mtime or ctime of every
    file and folder below it, links followed. Size and inode catch what a coarse clock does not tell apart.
    Raises ``OSError`` or ``CheckpointError`` as ``walk`` does.
    """
    digest = hashlib.sha256()
    try:
        status = path.stat()
    except OSError:
        status = path.lstat()  # a link to nowhere; OSError when it vanished altogether
    _add(digest, ".", status)
    size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    if stat.S_ISDIR(status.st_mode):
        for entry in walk(path):
            _add(digest, entry.name, entry.target or entry.own)
            size += entry.size
    return digest.hexdigest(), size


def _add(digest: hashlib._Hash, name: str, status: os.stat_result) -> None:
    figures = (stat.S_IFMT(status.st_mode), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    digest.update(os.fsencode(name) + b"\0" + repr(figures).encode())


def _look(path: Path, before: Folder | None, now: float) -> Folder | None:
    """One entry as it is now; ``None`` when it has vanished."""
    try:
        fingerprint, size = fingerprint_of(path)
    except (OSError, CheckpointError) as error:
        if isinstance(error, OSError) and vanished(error):
            return None
        fingerprint, size, problem = "", 0, f"It can't be read: {reason(error)}"
    else:
        problem = name_problem(path.name) or _kind_problem(path)
    same = before is not None and before.fingerprint == fingerprint
    version = version_of(path.name) if problem is None else None
    # Reading headers takes longer than reading statuses: what was whole and has not changed since is whole.
    whole = before is not None and same and before.complete
    return Folder(
        name=path.name,
        version=version,
        fingerprint=fingerprint,
        missing=() if version is None or whole else missing_parts(path),
        problem=problem,
        quiet_since=before.quiet_since if before is not None and same else now,
        first_seen=before.first_seen if before is not None else now,
        size=size,
    )


def _kind_problem(path: Path) -> str | None:
    try:
        mode = path.stat().st_mode
    except OSError:
        if path.is_symlink():
            return f"A link to what is not there ({shown(os.readlink(path))}): remove it or put its target back."
        return "It vanished while it was looked at."
    return None if stat.S_ISDIR(mode) else "A file where a version's folder belongs: move it out."
