"""Lists a folder by the statuses of its files: no file is opened.

Triton (24.10) reloads a version when the newest mtime or ctime of anything below its folder changes, links followed. So
a folder is listed to the bottom, links followed, within bounds.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from baton.errors import CheckpointError
from baton.verify.files import error_text, printable, stat_key

ENTRIES_LIMIT: Final = 10_000
"""A checkpoint has tens of files. The bound keeps links that point at each other from multiplying for ever."""
DEPTH_LIMIT: Final = 32
"""Folders within folders; real checkpoints have one or two levels."""

_VANISHED: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESTALE})


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, folder, link or special file below a folder.

    ``name`` is relative to that folder, with ``/`` between parts. ``own`` is the entry's own status, ``target`` that of
    what it leads to: the same, unless it is a link, and ``None`` for a link to nowhere.
    """

    name: str
    path: Path
    own: os.stat_result
    target: os.stat_result | None

    @property
    def stat_key(self) -> tuple[int, ...] | None:
        """Changes whenever the file that it leads to changes; ``None`` for a link to nowhere."""
        return None if self.target is None else stat_key(self.target)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.own.st_mode)

    @property
    def is_file(self) -> bool:
        return self.target is not None and stat.S_ISREG(self.target.st_mode)

    @property
    def is_folder(self) -> bool:
        return self.target is not None and stat.S_ISDIR(self.target.st_mode)

    def is_as_listed(self) -> bool:
        """Whether its path leads to the same file, unchanged, now."""
        try:
            return stat_key(self.path.stat()) == self.stat_key
        except OSError:
            return self.target is None

    @property
    def size(self) -> int:
        """In bytes; 0 for what is not a file."""
        return self.target.st_size if self.target is not None and self.is_file else 0


@dataclass(frozen=True, slots=True)
class Listing:
    """A folder's entries at one moment; also of a path that leads to a file, or to nothing.

    ``root`` is the path itself, ``None`` when there was nothing. ``entries`` are all below it, a folder before what is
    in it, in the order of names. ``fault`` is why they are not all: without any, the folder itself could not be listed;
    otherwise all that lie directly in it are there.
    """

    path: Path
    root: Entry | None
    entries: tuple[Entry, ...] = ()
    fault: CheckpointError | None = None

    @property
    def is_there(self) -> bool:
        """Whether the path leads to anything."""
        return self.root is not None and self.root.target is not None

    @property
    def is_folder(self) -> bool:
        return self.root is not None and self.root.is_folder

    @property
    def size(self) -> int:
        """Bytes of all files; 0 when not everything could be listed."""
        return sum(entry.size for entry in self._all())

    @property
    def own_size(self) -> int:
        """Bytes that the disk gets back when it is removed: neither what a link leads to, nor a file with two names."""
        links = tuple(f"{entry.name}/" for entry in self._all() if entry.is_link)
        if self.root is None or self.root.is_link:
            return 0
        own = (e for e in self._all() if not e.is_link and not e.name.startswith(links))
        return sum(entry.size for entry in own if entry.own.st_nlink == 1)

    @property
    def newest(self) -> float:
        """The newest modification time, in seconds since the epoch; 0 when it is not known."""
        return max((e.target.st_mtime for e in self._all() if e.target is not None), default=0.0)

    @property
    def fingerprint(self) -> str:
        """Changes when Triton would count the version as changed; empty when not everything could be listed.

        Size and inode catch what a coarse clock does not tell apart. Fingerprints are kept in the journal.
        """
        if self.fault is not None:
            return ""
        digest = hashlib.sha256()
        for entry in self._all():
            status = entry.target or entry.own
            key = (stat.S_IFMT(status.st_mode), *stat_key(status))
            digest.update(os.fsencode(entry.name) + b"\0" + repr(key).encode())
        return digest.hexdigest()

    def _all(self) -> tuple[Entry, ...]:
        return () if self.root is None or self.fault is not None else (self.root, *self.entries)


def entry_of(path: Path, name: str) -> Entry:
    """What a path leads to, under that name; raises ``OSError`` when there is nothing."""
    own = path.lstat()
    target: os.stat_result | None = own
    if stat.S_ISLNK(own.st_mode):
        try:
            target = path.stat()
        except OSError:  # to nowhere, or a ring of links (ELOOP): either way it leads to nothing
            target = None
    return Entry(name, path, own, target)


def look(path: Path) -> Listing:
    """List what a path leads to. Entries that vanish meanwhile are left out. Never raises."""
    try:
        root = entry_of(path, ".")
    except OSError as error:
        return Listing(path, None, fault=None if vanished(error) else _unread(path, error))
    if not root.is_folder:
        return Listing(path, root)
    found: list[Entry] = []
    fault = None
    try:
        _descend(root, "", found, (), printable(path.name))
    except CheckpointError as error:
        fault = error
    except OSError as error:
        fault = _unread(path, error)
    return Listing(path, root, tuple(sorted(found, key=lambda entry: entry.name.split("/"))), fault)


def _unread(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{printable(path.name)} can't be read: {error_text(error)}.")


def vanished(error: OSError) -> bool:
    """Whether the error only says that something was removed in the meantime."""
    return error.errno in _VANISHED


def _descend(folder: Entry, prefix: str, found: list[Entry], above: tuple[tuple[int, int], ...], top: str) -> None:
    """Add what is in the folder, and after that what lies deeper."""
    assert folder.target is not None  # noqa: S101 - only folders come here
    here = (folder.target.st_dev, folder.target.st_ino)
    if here in above:  # a link to a folder that it lies in
        return
    if len(above) > DEPTH_LIMIT:
        raise CheckpointError(
            f"{printable(prefix[:80])}... lies more than {DEPTH_LIMIT} folders deep.",
            mend="A version folder holds one checkpoint: remove the folders that are not part of it.",
        )
    inside = _children(folder.path, prefix, ENTRIES_LIMIT - len(found), top)
    found += inside
    for entry in inside:
        if entry.is_folder:
            _descend(entry, entry.name + "/", found, (*above, here), top)


def _children(folder: Path, prefix: str, room: int, top: str) -> list[Entry]:
    inside: list[Entry] = []
    try:
        with os.scandir(folder) as listed:
            for one in listed:
                if len(inside) >= room:
                    raise CheckpointError(
                        f"{top} holds more than {ENTRIES_LIMIT:,} files, links counted as what they lead to.",
                        mend="A version folder holds one checkpoint: remove links and files that are not part of it.",
                    )
                try:
                    inside.append(entry_of(folder / one.name, prefix + one.name))
                except OSError as error:
                    if not vanished(error):
                        raise
    except OSError as error:
        if not vanished(error):
            raise
    return inside
