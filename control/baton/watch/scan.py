"""Tells what lies in an engine's directory, and since when it has lain there unchanged."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Final

from baton.domain import Folder
from baton.errors import CheckpointError, RepositoryError
from baton.verify.completeness import CutShort, missing_parts
from baton.verify.files import reason, shown, vanished, walk
from baton.verify.names import name_problem, version_of

OWN_ENTRIES: Final = frozenset({"config.pbtxt", "warmup", "initial_state"})
"""What belongs beside the versions: the configuration and the two folders that Triton reads itself."""


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


def _newest(path: Path) -> float:
    """The newest modification time at or below a path, in seconds since the epoch."""
    try:
        return max([path.stat().st_mtime, *(e.target.st_mtime for e in walk(path) if e.target is not None)])
    except (OSError, CheckpointError):  # it changes, and is looked at again
        return 0.0


def _add(digest: hashlib._Hash, name: str, status: os.stat_result) -> None:
    figures = (stat.S_IFMT(status.st_mode), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    digest.update(os.fsencode(name) + b"\0" + repr(figures).encode())


def _look(path: Path, before: Folder | None, now: float) -> Folder | None:
    """One entry as it is now; ``None`` when it has vanished."""
    problem: str | None
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
    missing = () if version is None or whole else missing_parts(path)
    return Folder(
        name=path.name,
        version=version,
        fingerprint=fingerprint,
        missing=missing,
        problem=problem,
        quiet_since=before.quiet_since if before is not None and same else now,
        first_seen=before.first_seen if before is not None else now,
        size=size,
        newest=before.newest if before is not None and same else _newest(path),
        harmless=problem is not None and path.name.isdigit() and path.exists(),
        cut=bool(missing) and all(isinstance(part, CutShort) for part in missing),
    )


def _kind_problem(path: Path) -> str | None:
    try:
        mode = path.stat().st_mode
    except OSError:
        if path.is_symlink():
            return f"A link to what is not there ({shown(str(path.readlink()))}): remove it or put its target back."
        return "It vanished while it was looked at."
    return None if stat.S_ISDIR(mode) else "A file where a version's folder belongs: move it out."
