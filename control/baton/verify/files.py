"""Reading files that somebody else may still be writing, and the words for them in messages.

A file's kind and size are checked before it is read: a fifo would block without end, a device would never end, and a
file of 100 GB must not be read into memory because its name ends in ``.json``.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
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
SETTINGS_LIMIT: Final = 4 << 20
"""Bytes of a ``*config.json``; real ones are a few kB."""


class UnfinishedError(CheckpointError):
    """The file is incomplete, as during a copy: only its first part is there, or it changed while it was read.

    ``lack`` says so in a few words, for a list of what is not there yet. ``cut``: a copy in progress brings the rest
    within moments, or never.
    """

    def __init__(self, message: str, lack: str, *, cut: bool = False, mend: str = "Copy it again.") -> None:
        super().__init__(message, mend=mend)
        self.lack = lack
        self.cut = cut


class MalformedError(ValueError):
    """Text that is not JSON. ``early``: it looks like the first part of a text whose rest is still to come."""

    def __init__(self, cause: str, *, early: bool = False) -> None:
        super().__init__(cause)
        self.early = early


def stat_key(status: os.stat_result) -> tuple[int, int, int, int]:
    """What changes whenever a file is written, replaced, or given other rights."""
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def open_regular(path: Path) -> FileIO:
    """Open a file to read bytes from; anything that is not a plain file is refused.

    Raises ``CheckpointError`` naming the file and the cause.
    """
    try:
        # Checked before it is opened, by one descriptor: opening a fifo may block, opening a device may do things.
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
        raise CheckpointError(f"{printable(path.name)} can't be opened: {error_text(error)}.", mend=mend) from error
    if file is None:
        raise CheckpointError(f"{printable(path.name)} is not a plain file.", mend="Put the file itself in its place.")
    return file


def changed(name: str) -> UnfinishedError:
    """The error for a file that was not the same before and after it was read."""
    words = f"{printable(name)} changed while it was read"
    return UnfinishedError(f"{words}.", words, mend="Try again when the folder is at rest.")


def read_whole(file: RawIOBase, name: str, limit: int) -> bytes:
    """Return all of an open file of at most ``limit`` bytes; raises ``CheckpointError`` naming it, and ``OSError``."""
    size = os.fstat(file.fileno()).st_size
    if size > limit:
        raise CheckpointError(f"{printable(name)} is {size:,} bytes; such a file is {limit:,} bytes at most.")
    parts = []
    # A raw read may return less than asked for, and the file may grow while it is read.
    while part := file.read(limit + 1):
        parts.append(part)
        limit -= len(part)
        if limit < 0:
            raise changed(name)
    return b"".join(parts)


def parse_json(data: bytes) -> Any:
    """Parse UTF-8 JSON; raises ``MalformedError``, also for an object that names a key twice."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"byte {error.start:,} is not UTF-8", early=error.start >= len(data) - 4) from error
    try:
        return json.loads(text, object_pairs_hook=_no_twins)
    except json.JSONDecodeError as error:
        # Text that was cut off fails within its last token (at most a number, a \uXXXX or "-Infinity" long) or
        # inside a string that never closes; a file allocated in advance is zeros behind what was written.
        early = error.pos >= len(text.rstrip()) - 16 or error.msg.startswith("Unterminated string") or "\x00" in text
        raise MalformedError(f"{error.msg} (line {error.lineno}, column {error.colno})", early=early) from error
    except (ValueError, RecursionError) as error:
        raise MalformedError(str(error)) from error


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuses an object that has a key twice: another reader may use the other value than the one that was checked."""
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:200]!r} stands twice in one object")
            seen.add(key)
    return table


def read_json(file: RawIOBase, name: str) -> Any:
    """Read an open JSON file; raises ``CheckpointError``, ``UnfinishedError`` when the text ends early."""
    data = read_whole(file, name, SETTINGS_LIMIT if name.endswith("config.json") else JSON_LIMIT)
    try:
        return parse_json(data)
    except MalformedError as error:
        if error.early:
            raise UnfinishedError(f"{printable(name)} ends early: {error}.", f"{printable(name)} ends early") from error
        raise CheckpointError(f"{printable(name)} is not valid JSON: {error}.", mend="Copy it again.") from error


def pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value in what was parsed, at any depth. JSON may be nested deeper than calls may be."""
    rest = [value]
    while rest:
        part = rest.pop()
        if isinstance(part, dict):
            yield from part.items()
            rest += part.values()
        elif isinstance(part, list):
            rest += part


def printable(name: str) -> str:
    """A name that is safe to print: control characters and broken encodings become escapes."""
    if name.isprintable():
        return name
    return name.encode("unicode_escape", "backslashreplace").decode("ascii")


def error_text(error: BaseException) -> str:
    """The operating system's text of an error, without the path, which the message names already."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
