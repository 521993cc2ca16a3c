"""Reading a folder that somebody else may still be writing.

Everything here looks before it opens: a fifo would block for ever, a device would never end, and a file of 100 GB
must not be read into memory because its name ends in ``.json``.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO, RawIOBase
from pathlib import Path
from typing import Any, Final

from baton.errors import CheckpointError
from baton.ownership import user

CHUNK: Final = 4 << 20
"""Bytes read at a time: large enough that hashlib works outside the GIL nearly all the time."""
JSON_LIMIT: Final = 64 << 20
"""Bytes. Tokenizers are the largest JSON files of real checkpoints, 10 to 35 MB; parsed they take some twenty times
their size of memory, within the control plane."""
JSON_TOTAL: Final = 256 << 20
"""Bytes of all JSON files of a folder: they are parsed while the loop waits."""
SETTINGS_LIMIT: Final = 4 << 20
"""Bytes of a ``*config.json``; real ones are a few kB."""
ENTRIES_LIMIT: Final = 10_000
"""A checkpoint has tens of files. The bound keeps links that point at each other from multiplying for ever."""
DEPTH_LIMIT: Final = 32
"""Folders within folders; real checkpoints have one or two levels."""

_VANISHED: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESTALE})

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, folder, link or special file below a folder.

    ``name`` is relative to that folder, with ``/`` between parts. ``own`` is the entry's own status, ``target`` that of
    what it leads to: the same, unless it is a link, and ``None`` for a link to nowhere.
    ``loop`` marks a link to a folder that it lies in; it is not descended into.
    """

    name: str
    path: Path
    own: os.stat_result
    target: os.stat_result | None
    loop: bool = False

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.own.st_mode)

    @property
    def is_file(self) -> bool:
        return self.target is not None and stat.S_ISREG(self.target.st_mode)

    @property
    def is_folder(self) -> bool:
        return self.target is not None and stat.S_ISDIR(self.target.st_mode)

    @property
    def size(self) -> int:
        """In bytes; 0 for what is not a file."""
        return self.target.st_size if self.target is not None and self.is_file else 0


def vanished(error: OSError) -> bool:
    """Whether the error only says that something was removed in the meantime."""
    return error.errno in _VANISHED


def is_there(path: Path) -> bool:
    """Whether a name exists, be it a link to nowhere; raises ``CheckpointError`` when that can't be told."""
    try:
        path.lstat()
    except OSError as error:
        if vanished(error):
            return False
        raise CheckpointError(f"{shown(path.name)} can't be looked at: {reason(error)}.") from error
    return True


def walk(folder: Path, *, deep: bool = True) -> Iterator[Entry]:
    """Yield every entry below ``folder`` in the order of names, links followed, a folder before what is in it.

    Without ``deep`` only what lies in the folder itself. What vanishes in the middle is left out. Raises ``OSError``
    when a folder can't be listed, and ``CheckpointError`` beyond ``ENTRIES_LIMIT`` entries.
    """
    try:
        status = folder.stat()
    except OSError as error:
        if vanished(error):
            return
        raise
    entries = _descend(folder, "", ((status.st_dev, status.st_ino),), deep=deep)
    for count, entry in enumerate(entries):
        if count >= ENTRIES_LIMIT:
            raise CheckpointError(
                f"{shown(folder.name)} holds more than {ENTRIES_LIMIT:,} files, links counted as what they lead to.",
                mend="A version folder holds one checkpoint: remove the links or the files that are not part of it.",
            )
        yield entry


def _descend(folder: Path, prefix: str, above: tuple[tuple[int, int], ...], *, deep: bool) -> Iterator[Entry]:
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        if vanished(error):
            return
        raise
    for path in paths:
        try:
            own = path.lstat()
        except OSError as error:
            if vanished(error):
                continue
            raise
        target = _target(path, own)
        name = prefix + path.name
        if target is None or not stat.S_ISDIR(target.st_mode):
            yield Entry(name, path, own, target)
            continue
        here = (target.st_dev, target.st_ino)
        yield Entry(name, path, own, target, loop=here in above)
        if len(above) > DEPTH_LIMIT:
            raise CheckpointError(
                f"{shown(name[:80])}... lies more than {DEPTH_LIMIT} folders deep.",
                mend="A version folder holds one checkpoint: remove the folders that are not part of it.",
            )
        if deep and here not in above:
            yield from _descend(path, name + "/", (*above, here), deep=deep)


def _target(path: Path, own: os.stat_result) -> os.stat_result | None:
    if not stat.S_ISLNK(own.st_mode):
        return own
    try:
        return path.stat()
    except OSError:  # to nowhere, or a ring of links (ELOOP): either way it leads to nothing
        return None


def open_regular(path: Path) -> FileIO:
    """Open a file to read bytes from; anything that is not a plain file is refused.

    Raises ``CheckpointError`` naming the file and the cause.
    """
    try:
        # Looked at before it is opened, by one descriptor: opening a fifo never ends, opening a device may do things.
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            plain = stat.S_ISREG(os.fstat(place).st_mode)
            file = FileIO(f"/proc/self/fd/{place}") if plain else None
        finally:
            os.close(place)
    except (OSError, ValueError) as error:
        mend = None
        if isinstance(error, PermissionError):
            me = user(os.geteuid())
            mend = f"Give user {me}, who runs Baton, and the user who runs Triton the right to read it: chmod a+r"
        raise CheckpointError(f"{shown(path.name)} can't be opened: {reason(error)}.", mend=mend) from error
    if file is None:
        raise CheckpointError(f"{shown(path.name)} is not a plain file.", mend="Put the file itself in its place.")
    return file


def read_bytes(path: Path, limit: int) -> bytes:
    """Return a whole file of at most ``limit`` bytes; raises ``CheckpointError`` naming the file."""
    with open_regular(path) as file:
        return read_whole(file, path.name, limit)


def read_whole(file: RawIOBase, name: str, limit: int) -> bytes:
    """Return all of an open file, as ``read_bytes`` does."""
    try:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise CheckpointError(f"{shown(name)} is {size:,} bytes; such a file is {limit:,} bytes at most.")
        parts = []
        # A raw read may return less than asked for, and the file may grow while it is read.
        while part := file.read(limit + 1):
            parts.append(part)
            limit -= len(part)
            if limit < 0:
                raise CheckpointError(f"{shown(name)} grew while it was read.")
        return b"".join(parts)
    except OSError as error:
        raise CheckpointError(f"{shown(name)} can't be read: {reason(error)}.") from error


def parse_json(data: bytes, name: str) -> Any:
    """Parse UTF-8 JSON; raises ``JsonError`` for anything that is not, and for an object that names a key twice."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise JsonError(name, f"byte {error.start:,} is not UTF-8", early=error.start >= len(data) - 4) from error
    try:
        return json.loads(text, object_pairs_hook=_no_twins)
    except json.JSONDecodeError as error:
        # Text that was cut off fails within its last token (at most a number, a \uXXXX or "-Infinity" long) or
        # inside a string that never closes; a file allocated in advance is zeros behind what was written.
        early = error.pos >= len(text.rstrip()) - 16 or error.msg.startswith("Unterminated string") or "\x00" in text
        raise JsonError(name, f"{error.msg} (line {error.lineno}, column {error.colno})", early=early) from error
    except (ValueError, RecursionError) as error:
        raise JsonError(name, str(error), early=False) from error


class JsonError(CheckpointError):
    """A file that must hold JSON does not."""

    def __init__(self, name: str, cause: str, *, early: bool) -> None:
        what = "ends early" if early else "is not valid JSON"
        super().__init__(f"{shown(name)} {what}: {cause}.", mend="Copy it again.")
        self.cause = cause
        self.early = early
        """Whether it looks like the first part of a file of which the rest is still to come."""


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers may take different ones of two equal keys: what was checked would not be what is used."""
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:200]!r} stands twice in one object")
            seen.add(key)
    return table


def read_json(path: Path) -> Any:
    """Read a JSON file; raises ``CheckpointError`` (``JsonError`` when the text is at fault)."""
    limit = SETTINGS_LIMIT if path.name.endswith("config.json") else JSON_LIMIT
    return parse_json(read_bytes(path, limit), path.name)


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that must hold an object; raises ``CheckpointError``."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise CheckpointError(f"{shown(path.name)} holds a {type(value).__name__} where an object {{...}} belongs.")
    return value


def hash_file(
    path: Path, *, count: Callable[[int], None] | None = None, cancelled: Callable[[], bool] | None = None
) -> str | None:
    """SHA-256 of a file as lower-case hex, or ``None`` when ``cancelled`` said so.

    ``count`` is told the bytes of each chunk. Raises ``CheckpointError`` when the file can't be read.
    """
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK))
    with open_regular(path) as file:
        try:
            while size := file.readinto(buffer):
                if cancelled is not None and cancelled():
                    return None
                digest.update(buffer[:size])
                if count is not None:
                    count(size)
        except OSError as error:
            raise CheckpointError(f"{shown(path.name)} can't be read: {reason(error)}.") from error
    return digest.hexdigest()


def shown(name: str) -> str:
    """Return a name as it may be printed: control characters and broken encodings become escapes."""
    if name.isprintable():
        return name
    return name.encode("unicode_escape", "backslashreplace").decode("ascii")


def reason(error: BaseException) -> str:
    """The operating system's words for an error, without the path that the message names already."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def figure(size: float) -> str:
    """Return a number of bytes for a person: ``812 bytes``, ``4.2 MiB``, ``16.3 GiB``."""
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if abs(size) >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size:.0f} bytes"
