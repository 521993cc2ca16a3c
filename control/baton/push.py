"""Copies a checkpoint into the repository as the next version, so that it appears there whole or not at all.

The copy is staged in ``<repository>.staging/<engine>/<key>``, beside the repository: anything new inside the engine's
directory that is no version makes Triton reload all of its versions, and a rename is atomic only within one file
system. ``<key>`` comes from the source's path, so that an interrupted push finds what it had copied. ``<key>.json``
beside it records each file once it is on the disk: such files are kept, the file that was cut off is copied again
(its first part can't be trusted after a power loss).

What happens to the staging folder:

- published: it became the version;
- interrupted (Ctrl-C, a crash, a source that can't be read for a moment): it stays, the next push goes on with it;
- the source is not a whole, harmless checkpoint: removed, there is nothing to go on with;
- the disk is full: removed, since Triton's logs and Baton's journal may need that room. Space is checked before the
  first byte is written, so this takes somebody else who fills the disk at the same time.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from baton.domain import Release, Verdict
from baton.durable import sync_directory
from baton.errors import CheckpointError, Refused, RepositoryError, UsageError
from baton.verify.files import CHUNK, Entry, figure, read_json, reason, shown, walk
from baton.verify.integrity import cheap_problems, check_integrity, told
from baton.verify.meta import META, check_table, read_table, render_table
from baton.verify.names import LARGEST, highest_number
from baton.verify.sums import SUMS, read_sums, render_sums

Progress = Callable[[int, int, str], None]
"""Called with (bytes done, bytes in all, what): first for the copy, ``what`` being the file's name, then once more
from 0 on for reading it all back, ``what`` being ``VERIFYING``."""

VERIFYING: Final = "verifying the copy"
RESERVE: Final = 64 << 20
"""Bytes that must stay free beyond the copy: logs and the journal lie on this disk as well."""

_log = logging.getLogger(__name__)

_NOT_COPIED: Final = frozenset({".git", ".cache", "__pycache__"})
"""Traces of how the source came here (a clone's history, the download records of ``hf``), not parts of the model."""
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_TAKEN: Final = frozenset({errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR})


@dataclass(frozen=True, slots=True)
class Pushed:
    """A version that was pushed. ``bytes`` is its size, ``resumed`` whether files of an earlier try were kept."""

    version: int
    folder: Path
    bytes: int
    seconds: float
    resumed: bool


def push(
    source: Path,
    repository: Path,
    engine: str,
    *,
    number: int | None = None,
    floor: int = 0,
    label: str | None = None,
    release: Release | None = None,
    progress: Progress | None = None,
) -> Pushed:
    """Copy ``source`` to ``repository/engine/<next number>`` and return the version.

    The number is one more than every number in the directory and than ``floor``, the highest that the journal knows:
    a number that was ever used is never used again, since response caches and clients' records know it. ``number``
    asks for a certain one. ``label`` and ``release`` go to ``version.toml``, its other keys stay. Links in the source
    are followed and copied as what they lead to. A second push to the same engine waits for the first one.

    Raises ``UsageError`` for a source that is no folder, ``CheckpointError`` for one that can't serve (before
    anything is copied where it shows by then), ``Refused`` for a number that is taken and a source within the
    repository, ``RepositoryError`` when the repository can't be written to. The engine's directory is touched by one
    rename only, in the end, so live traffic never notices a push that fails.
    """
    began = time.monotonic()
    repository = repository.resolve()
    source = source.resolve()
    home = repository / engine
    staging = repository.with_name(repository.name + ".staging") / engine
    _check_places(source, repository, home, engine)
    # Before the first byte of a long copy: most sources that are refused can be refused now.
    table = _meta_table(source, label, release)
    _refuse_early(source)
    if number is not None:
        _check_number(number, home, floor)
    try:
        _make_folder(staging)
        _check_file_system(staging, home)
        with _lock(staging / ".lock"):
            stage = _Stage(staging, source)
            size, resumed = stage.fill(table, progress)
            version, folder = _publish(stage.folder, home, number, floor)
            stage.record.unlink(missing_ok=True)
    except OSError as error:
        raise RepositoryError(
            f"{shown(source.name)} could not be pushed: {reason(error)} ({error.filename or staging}).",
            mend="The repository is as it was; mend that and push again.",
        ) from error
    return Pushed(version, folder, size, time.monotonic() - began, resumed)


def _check_places(source: Path, repository: Path, home: Path, engine: str) -> None:
    if Path(engine).name != engine or engine.startswith("."):
        raise UsageError(f"{engine!r} is not the name of an engine.")
    if not source.is_dir():
        raise UsageError(f"{source} is not a folder.", mend="Name the folder that config.json lies in.")
    if not home.is_dir():
        raise Refused(f"{repository} has no engine {engine}.", mend="Check --repository and the configuration.")
    staging_root = repository.with_name(repository.name + ".staging")
    for place in (repository, staging_root, home.resolve()):
        if source.is_relative_to(place) or place.is_relative_to(source):
            raise Refused(
                f"The source {source} and the repository {repository} lie within each other.",
                mend="Copy the checkpoint to a place of its own first.",
            )


def _meta_table(source: Path, label: str | None, release: Release | None) -> dict[str, Any] | None:
    """What ``version.toml`` must say, ``None`` when the source's own (or none) is right as it is."""
    table = read_table(source)
    asked = {"label": label, "release": release.value if release is not None else None}
    wanted = check_table({**table, **{key: value for key, value in asked.items() if value is not None}})
    return None if wanted == table else wanted


def _refuse_early(source: Path) -> None:
    try:
        problems = cheap_problems(source, links_may_leave=True, skip=_NOT_COPIED)
    except OSError as error:
        raise CheckpointError(f"{shown(source.name)} can't be read: {reason(error)}.") from error
    if problems:
        raise CheckpointError(f"{source} can't become a version: {told(problems)}")


def _check_number(number: int, home: Path, floor: int) -> None:
    if not 1 <= number <= LARGEST:
        raise UsageError(f"{number} is not a version number.", mend=f"They go from 1 to {LARGEST:,}.")
    if number <= floor or os.path.lexists(home / str(number)):
        raise Refused(
            f"Version {number} was used already, and a number is never used again.",
            mend="Leave the number away to get the next free one.",
        )


def _check_file_system(staging: Path, home: Path) -> None:
    if staging.stat().st_dev != home.stat().st_dev:
        raise RepositoryError(
            f"{staging} and {home} are on different file systems, so that no rename can publish at once.",
            mend="Mount the folder above the repository instead of the repository itself.",
        )


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the engine's lock; the kernel lets go of it when the process dies in whatever way."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.info("Another push to this engine is under way: waiting until it is done.")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class _Stage:
    """The staging folder of one source."""

    def __init__(self, staging: Path, source: Path) -> None:
        key = hashlib.sha256(os.fsencode(source)).hexdigest()[:16]
        self.source = source
        self.folder = staging / key
        self.record = staging / f"{key}.json"

    def fill(self, table: Mapping[str, Any] | None, progress: Progress | None) -> tuple[int, bool]:
        """Make the folder a whole, proven version; return its size in bytes and whether files were kept."""
        try:
            return self._fill(table, progress)
        except CheckpointError:
            self.remove()
            raise
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self.remove()
            raise RepositoryError(
                f"The disk of {self.folder.parent} is full: {reason(error)}. What was copied was removed again.",
                mend="Make room and push again; what is served was not touched.",
            ) from error

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.record.unlink(missing_ok=True)

    def _fill(self, table: Mapping[str, Any] | None, progress: Progress | None) -> tuple[int, bool]:
        written_here = {META} if table is not None else set()
        found = [entry for entry in walk(self.source, skip=_NOT_COPIED) if entry.name not in written_here]
        files = [entry for entry in found if entry.is_file]
        _make_folder(self.folder)
        digests = self._keep(files)
        resumed = bool(digests)
        total = sum(entry.size for entry in files)
        done = sum(entry.size for entry in files if entry.name in digests)
        self._check_space(total - done)
        for folder in (entry.name for entry in found if entry.is_folder):
            _make_folder(self.folder / folder)
        expected = read_sums(self.source)
        for entry in files:
            if entry.name in digests:
                continue
            if progress is not None:
                progress(done, total, entry.name)
            for size in self._copy(entry, digests):
                done += size
                if progress is not None:
                    progress(done, total, entry.name)
            digest = digests[entry.name]
            if expected is not None and expected.get(entry.name, digest) != digest:
                raise CheckpointError(
                    f"{shown(entry.name)} of {self.source} has SHA-256 {digest[:12]}..., "
                    f"its {SUMS} says {expected[entry.name][:12]}....",
                    mend="The source is damaged: fetch that file again.",
                )
            self._note(entry, digest)
        self._write_texts(table, expected, digests)
        _sync_folders(self.folder)
        self._prove(progress)
        return sum(entry.size for entry in walk(self.folder)), resumed

    def _keep(self, files: list[Entry]) -> dict[str, str]:
        """Return name to SHA-256 of the files that an earlier try left whole, and remove everything else."""
        noted = self._noted()
        sources = {entry.name: entry for entry in files}
        kept = {}
        for old in list(walk(self.folder)):
            if old.is_folder:
                continue
            source, note = sources.get(old.name), noted.get(old.name)
            if (
                source is not None
                and note is not None
                and note[:2] == _identity(source)
                and old.size == source.size
                and old.is_file
                and not old.is_link
            ):
                kept[old.name] = note[2]
            else:
                old.path.unlink()
        return kept

    def _noted(self) -> dict[str, tuple[int, int, str]]:
        """What the record tells: name to (size, mtime in ns, SHA-256); nothing if it can't be read."""
        try:
            table = read_json(self.record)
            return {name: (int(size), int(mtime), str(digest)) for name, (size, mtime, digest) in table.items()}
        except (CheckpointError, ValueError, TypeError, AttributeError):
            return {}  # a record that was cut off costs a copy, no more

    def _note(self, entry: Entry, digest: str) -> None:
        noted = self._noted() | {entry.name: (*_identity(entry), digest)}
        fresh = self.record.with_suffix(".new")
        fresh.write_text(json.dumps(noted), "utf-8")
        fresh.replace(self.record)

    def _copy(self, entry: Entry, digests: dict[str, str]) -> Iterator[int]:
        """Copy one file to the disk, yielding the bytes of each chunk, and put its SHA-256 into ``digests``."""
        target = self.folder / entry.name
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(CHUNK))
        with entry.path.open("rb", buffering=0) as reader, target.open("xb") as writer:
            while size := reader.readinto(buffer):
                digest.update(buffer[:size])
                writer.write(buffer[:size])
                yield size
            writer.flush()
            # Whoever runs Triton must be able to read it; downloads are often written with mode 0600.
            os.fchmod(writer.fileno(), 0o644)
            os.fsync(writer.fileno())
            after, written = os.fstat(reader.fileno()), os.fstat(writer.fileno())
        if (after.st_size, after.st_mtime_ns) != _identity(entry) or written.st_size != after.st_size:
            target.unlink()
            raise Refused(
                f"{shown(entry.name)} changed while it was copied.", mend="Push again when the source is at rest."
            )
        digests[entry.name] = digest.hexdigest()

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if needed + RESERVE > free:
            raise RepositoryError(
                f"{shown(self.source.name)} needs {figure(needed)} and {figure(RESERVE)} in reserve, "
                f"{figure(free)} are free where {self.folder.parent} lies. Nothing was copied.",
                mend="Make room and push again.",
            )

    def _write_texts(
        self, table: Mapping[str, Any] | None, expected: Mapping[str, str] | None, digests: Mapping[str, str]
    ) -> None:
        if table is not None:
            _write(self.folder / META, render_table(table))
        sums = dict(digests) | dict(expected or {})
        sums.pop(SUMS, None)
        if expected is None or META not in expected:
            # A person's words, not the model's bytes: mending a note must not look like a damaged file.
            sums.pop(META, None)
        elif table is not None:
            sums[META] = hashlib.sha256(render_table(table).encode()).hexdigest()
        if sums != expected:
            _write(self.folder / SUMS, render_sums(sums))

    def _prove(self, progress: Progress | None) -> None:
        """Read everything back: what is published is what was checked, not what was meant to be written."""

        def told_of(done: int, total: int) -> None:
            if progress is not None:
                progress(done, total, VERIFYING)

        result = check_integrity(self.folder, progress=told_of)
        if result.verdict is not Verdict.PASS:
            raise CheckpointError(f"{self.source} can't become a version: {result.message}")


def _identity(entry: Entry) -> tuple[int, int]:
    return (entry.size, entry.target.st_mtime_ns if entry.target is not None else 0)


def _write(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with path.open("x", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())


def _make_folder(path: Path) -> None:
    """Make a folder, and those above it, that everybody can read, whatever the umask."""
    if path.is_dir():
        return
    _make_folder(path.parent)
    path.mkdir(exist_ok=True)
    path.chmod(0o755)


def _sync_folders(folder: Path) -> None:
    for entry in walk(folder):
        if entry.is_folder:
            sync_directory(entry.path)
    sync_directory(folder)


def _publish(staged: Path, home: Path, number: int | None, floor: int) -> tuple[int, Path]:
    """Rename the staged folder to its number: the one moment at which Triton's directory changes."""
    while True:
        if number is not None:
            _check_number(number, home, floor)
        version = number or max(highest_number(path.name for path in home.iterdir()), floor) + 1
        if version > LARGEST:
            raise Refused(f"The number after {version - 1:,} is larger than any version may be.")
        folder = home / str(version)
        if os.path.lexists(folder):
            continue  # it came just now; the next listing counts it
        try:
            staged.rename(folder)
        except OSError as error:
            if error.errno in _TAKEN:
                continue  # likewise, between the look and the rename
            raise
        sync_directory(home)
        sync_directory(staged.parent)
        return version, folder
