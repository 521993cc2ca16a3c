"""The description of a version folder, which completeness, integrity, compatibility and capacity share.

``describe`` lists the folder and reads the served files. It never raises: a file's error is part of the description. Of
weights only the headers are read. A file that changes between listing and reading gets an ``UnfinishedError``, so two
descriptions with the same fingerprint are equal. An unchanged file is parsed once, however often its folder is
described. Not covered: hashes (``integrity``).
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final

from baton.domain import VersionMeta
from baton.errors import CheckpointError
from baton.reasons.words import format_bytes
from baton.verify import tokens
from baton.verify.files import (
    UnfinishedError,
    changed,
    error_text,
    open_regular,
    printable,
    read_json,
    read_whole,
)
from baton.verify.layout import (
    CONFIG,
    HEAD,
    INDEX,
    PROCESSOR,
    SETTINGS,
    SINGLE,
    TOKENIZER,
    TOKENIZER_CONFIG,
    true_kind,
    weight_map,
)
from baton.verify.listing import Entry, Listing, entry_of, look, vanished
from baton.verify.meta import META, META_LIMIT, as_meta, parse_table
from baton.verify.safetensors import Header, Tensor, read_header
from baton.verify.sums import SUMS, SUMS_LIMIT, parse_sums

JSON_TOTAL: Final = 256 << 20
"""The most bytes of all JSON files of a folder: they are parsed while the loop waits."""
HEADERS_TOTAL: Final = 64 << 20
"""Bytes of all headers of its weights; those of the largest published models are some 10 MB."""
KEPT: Final = 24 << 20
"""Bytes of text whose parsed values are kept in memory: enough for a stable version and a candidate with tokenizers of
11 MB. A vocabulary takes twice its text in memory, hostile text some twenty times."""
_OVERHEAD: Final = 1 << 10
_GRAIN_S: Final = 2.0
"""The coarsest file time of a file system in use. Within one tick a file can change unnoticed."""
_VOCABULARIES: Final = ("vocab.json", "added_tokens.json")


@dataclass(frozen=True, slots=True)
class Part:
    """The result of reading a file: a value, or the error."""

    value: Any = None
    error: CheckpointError | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One version folder at one moment.

    ``top`` are the entries directly in it, by name, and ``served`` those that the engine and the gates read. Everything
    else (a clone's history, records of a download, a trainer's state, a README) is not read and not judged;
    ``tests/unit/verify/test_served.py`` checks that the engine never opens it. ``parts`` are the contents of the served
    files and of ``SHA256SUMS``. ``fault`` is why nothing could be read.
    """

    listing: Listing
    top: Mapping[str, Entry]
    served: Mapping[str, Entry]
    parts: Mapping[str, Part]
    fault: CheckpointError | None = None

    @property
    def name(self) -> str:
        """The folder's, as it may be printed."""
        return printable(self.listing.path.name)

    @property
    def files(self) -> list[Entry]:
        """The plain files that are served."""
        return [entry for entry in self.served.values() if entry.is_file]

    @property
    def beside(self) -> list[Entry]:
        """The files at any depth that are not served."""
        known = {*self.served, SUMS}
        return [entry for entry in self.listing.entries if entry.is_file and entry.name not in known]

    def value(self, name: str) -> Any:
        """A file's content, as its reader returns it; raises ``CheckpointError`` when there is none."""
        part = self.parts.get(name, Part()) if self.fault is None else Part(error=self.fault)
        if part.error is not None:
            # A new one: an error keeps its traceback, and with it what the parser held.
            raise CheckpointError(part.error.message, mend=part.error.mend)
        if name not in self.parts:
            raise CheckpointError(f"{name} can't be opened: it is not there.")
        return part.value

    def settings(self, name: str) -> dict[str, Any]:
        """A ``*config.json``; raises ``CheckpointError`` when there is none, or it holds no object."""
        value = self.value(name)
        if not isinstance(value, dict):
            raise CheckpointError(f"{name} holds a {type(value).__name__} where an object {{...}} belongs.")
        return value

    def value_or_none(self, name: str) -> Any:
        """A file's content, ``None`` when it is not there or can't be read."""
        part = self.parts.get(name)
        return None if part is None else part.value

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Name and tensor of all weights, file by file; raises ``CheckpointError`` for what can't be read."""
        if INDEX in self.top:
            files = sorted(set(self.value(INDEX).values()))
        elif SINGLE in self.top or self.fault is not None:
            files = [SINGLE]
        else:
            raise CheckpointError(f"{self.name} has neither {INDEX} nor {SINGLE}.", mend="Copy the weights.")
        for file in files:
            yield from self.value(file).tensors.items()

    def tokenizer(self) -> tokens.Tokenizer:
        """From whichever files it is in; raises ``CheckpointError`` naming the one that is not as it must be."""
        if TOKENIZER in self.top:
            return self.value(TOKENIZER)  # type: ignore[no-any-return]
        vocabulary, added = _VOCABULARIES
        if vocabulary not in self.top:
            return tokens.Tokenizer(None, None)
        more = self.value(added) if added in self.top else {}
        return tokens.older_tokenizer(self.value(vocabulary), more, self.settings(TOKENIZER_CONFIG))

    def meta(self) -> VersionMeta:
        """What ``version.toml`` says; raises ``CheckpointError``."""
        return as_meta(self.value(META) if META in self.top else {}, self.listing.path.name)


def describe(folder: Path) -> Checkpoint:
    """The folder as it is now. Never raises."""
    return read(look(folder))


def read(listing: Listing, *, values: bool = True) -> Checkpoint:
    """The contents of a listed folder's files, as they were when it was listed. Never raises.

    Without ``values`` the contents may be missing that completeness does not need.
    """
    top = {entry.name: entry for entry in listing.entries if "/" not in entry.name}
    served = {name: entry for name, entry in top.items() if name in SETTINGS}
    fault = listing.fault if not top else None
    # Before the first is parsed.
    texts = sum(entry.size for name, entry in served.items() if name.endswith(".json"))
    if texts > JSON_TOTAL:
        fault = CheckpointError(
            f"Its JSON files are {format_bytes(texts)} together; at most {format_bytes(JSON_TOTAL)} are allowed.",
            mend="No model has so many: remove what is not part of it.",
        )
    if fault is not None:
        return Checkpoint(listing, top, served, {}, fault)
    readers = {name: _reader(name, joint=TOKENIZER in top) for name in (*served, SUMS) if name in top}
    needed = readers.keys() if values else {CONFIG, PROCESSOR, INDEX, SUMS}
    parts = {name: _CACHE.part(top[name], reader, value=name in needed) for name, reader in readers.items()}
    index = parts[INDEX].value or {} if INDEX in parts else {}
    headers = 0
    for name in sorted({SINGLE, *index.values()} & top.keys()):
        served[name] = top[name]
        parts[name] = _CACHE.part(top[name], read_header)
        headers += _length(parts[name])
        if headers > HEADERS_TOTAL:
            fault = CheckpointError(
                f"The headers of its weights are more than {format_bytes(HEADERS_TOTAL)} together.",
                mend="No model has so many tensors: save the checkpoint again.",
            )
            return Checkpoint(listing, top, served, {}, fault)
    return Checkpoint(listing, top, served, parts)


def read_meta(folder: Path) -> VersionMeta:
    """What ``version.toml`` says; no other file is read. Raises ``CheckpointError``.

    Without the file the label is the folder's name, and the release ``equivalent``.
    """
    try:
        entry = entry_of(folder / META, META)
    except OSError as error:
        if vanished(error):
            return as_meta({}, folder.name)
        raise CheckpointError(f"{META} can't be looked at: {error_text(error)}.") from error
    top = {META: entry}
    return Checkpoint(Listing(folder, None), top, top, {META: _CACHE.part(entry, _table)}).meta()


Reader = Callable[[FileIO, str], Any]
"""Takes an open file and its name; raises ``CheckpointError`` or ``OSError``."""


def _reader(name: str, *, joint: bool) -> Reader:
    """The reader of a served file. ``joint``: the vocabulary is in ``tokenizer.json``, and no other one counts."""
    if name in _VOCABULARIES and not joint:
        return _vocabulary
    if name in _READERS:
        return _READERS[name]
    if name.endswith("config.json"):
        return read_json
    return _any_json if name.endswith(".json") else _head


def _vocabulary(file: FileIO, name: str) -> dict[str, int]:
    return tokens.numbers(read_json(file, name), name)


def _any_json(file: FileIO, name: str) -> None:
    """Checks only that it is JSON: its content is not used."""
    read_json(file, name)


def _head(file: FileIO, name: str) -> None:
    """For text without a format and binary vocabularies: checks only that it is nothing else, such as a pickle."""
    if kind := true_kind(file.read(HEAD)):
        raise CheckpointError(f"{printable(name)} is not what its name says: {kind}.")


def _table(file: FileIO, _name: str) -> dict[str, Any]:
    return parse_table(read_whole(file, META, META_LIMIT))


_READERS: Final[Mapping[str, Reader]] = {
    INDEX: lambda file, name: weight_map(read_json(file, name)),
    TOKENIZER: lambda file, name: tokens.tokenizer_of(read_json(file, name)),
    META: _table,
    SUMS: lambda file, _: parse_sums(read_whole(file, SUMS, SUMS_LIMIT)),
}


class _Cache:
    """Reads files, and keeps their contents while they are unchanged; the one longest unused is dropped first.

    Safe for use by several threads.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._held = 0
        self._parts: OrderedDict[tuple[Path, Reader, object], tuple[Part | None, int]] = OrderedDict()
        """Contents and their bytes; None: the file was read without an error, and its content was too large to keep."""
        self._lock = threading.Lock()

    def part(self, entry: Entry, reader: Reader, *, value: bool = True) -> Part:
        """A file's content. Without ``value`` only its error, which is remembered for files of any size."""
        key = (entry.path, reader, entry.stat_key)
        with self._lock:
            if key in self._parts and (self._parts[key][0] is not None or not value):
                self._parts.move_to_end(key)
                return self._parts[key][0] or Part()
        part, sure = _read(entry, reader)
        if sure:
            size = _length(part) if reader is read_header else entry.size if part.value is not None else 0
            with self._lock:
                self._held -= self._parts.pop(key, (None, 0))[1]
                self._put(key, part if size <= self._room // 2 else None, size)
        return part if value else Part(error=part.error)

    def _put(self, key: tuple[Path, Reader, object], part: Part | None, size: int) -> None:
        self._parts[key] = part, _OVERHEAD + (size if part is not None else 0)
        self._held += self._parts[key][1]
        while self._held > self._room:
            oldest, (old, held) = self._parts.popitem(last=False)
            self._held -= held
            if old is not None and old.value is not None:
                self._put(oldest, None, 0)


_CACHE: Final = _Cache(KEPT)


def _read(entry: Entry, reader: Reader) -> tuple[Part, bool]:
    """A file's content, and whether that holds for as long as its status is unchanged."""
    name = Path(entry.name).name
    lasting = False  # a file that can't be opened now may be opened a moment later
    began = time.time()
    try:
        with open_regular(entry.path) as file:
            part = _parsed(file, name, reader)
        lasting = True
    except CheckpointError as error:
        part = Part(error=error)
    except OSError as error:
        part = Part(error=CheckpointError(f"{printable(name)} can't be read: {error_text(error)}."))
    if not entry.is_as_listed():
        return (part if isinstance(part.error, UnfinishedError) else Part(error=changed(name))), False
    if part.error is None:
        return part, True
    # An error's traceback would keep what the parser held.
    part.error.__traceback__ = part.error.__cause__ = part.error.__context__ = None
    status = entry.target or entry.own
    return part, lasting and began - max(status.st_mtime, status.st_ctime) > _GRAIN_S


def _parsed(file: FileIO, name: str, reader: Reader) -> Part:
    if reader is not read_header and os.fstat(file.fileno()).st_size == 0:
        return Part(error=UnfinishedError(f"{printable(name)} is empty so far.", f"{printable(name)} is empty so far"))
    try:
        return Part(reader(file, name))
    except UnfinishedError as error:
        return Part(error=error)
    except CheckpointError as error:
        # What kind of file it really is says more than the parser's error.
        file.seek(0)
        kind = true_kind(file.read(HEAD))
        known = kind is None or reader is _head
        return Part(error=error if known else CheckpointError(f"{printable(name)} can't be used: {kind}."))


def _length(part: Part) -> int:
    """Bytes of a header; none for a file that has none."""
    return part.value.length if isinstance(part.value, Header) else 0
