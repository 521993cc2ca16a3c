"""Copies a source folder into a staging folder, where ``ctl push`` makes a version of it.

The folder is ``<repository>.staging-<user id>/<engine>/<key>``, beside the repository: a new entry in the engine's
directory that is no version makes Triton reload all versions, and a rename is atomic only within one file system. It is
private (mode 0700) and used by its descriptor, so nobody else can change what was checked, nor get anything removed or
written elsewhere. ``<key>`` comes from the source's path, so an interrupted push finds what it had copied.
``<key>.json`` beside it records each file that is on the disk: those files are kept, and checked again with the rest. A
file that was interrupted is copied again (its first part can't be trusted after a power loss).

What happens to the staging folder:

- published: it became the version;
- interrupted (Ctrl-C, a crash, a source that can't be read for a moment): it stays, the next push goes on with it;
- the source is not a whole, harmless checkpoint: removed, there is nothing to go on with;
- the disk is full: removed, since Triton's logs and Baton's journal may need that room. Space is checked before the
  first byte is written, so this takes somebody else who fills the disk at the same time.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, Final, Self

from baton.domain import Verdict
from baton.errors import CheckpointError, NoRoom, Refused, RepositoryError, Untrusted
from baton.ownership import Found, follow, new_file, open_folder, open_own, own_folder, unlink
from baton.reasons.words import format_bytes
from baton.verify.checkpoint import describe
from baton.verify.files import CHUNK, error_text, printable, read_whole
from baton.verify.integrity import check_integrity
from baton.verify.listing import Entry, vanished
from baton.verify.meta import META, render_table
from baton.verify.sums import SUMS, SUMS_LIMIT, parse_sums, render_sums

Progress = Callable[[int, int, str], None]
"""Called with (bytes done, bytes in all, what): first for the copy, ``what`` being the file's name, then once more
from 0 on for reading it all back, ``what`` being ``VERIFYING``."""

VERIFYING: Final = "verifying the copy"
RESERVE: Final = 64 << 20
"""Bytes that must stay free beyond the copy: logs and the journal lie on this disk as well."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_READABLE: Final = 0o644
"""Whoever runs Triton must be able to read it; downloads are often written with mode 0600."""


class Source:
    """The folder that is pushed, which may be another user's; ``path`` is without links.

    What is copied becomes readable for everybody. So each file is opened only by ``open``, with the rule for links of
    ``baton.ownership``: another user's link must not publish what that user can't read. One exception: links of a
    snapshot of the Hugging Face cache to the blobs of its own model, whoever downloaded those.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self.path = path
        self._at = descriptor

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path) -> Iterator[Self]:
        """Raises ``OSError`` for what is no folder, ``Untrusted`` for another user's link to one that is not his."""
        with open_folder(path) as (descriptor, real):
            yield cls(descriptor, real)

    def check(self, names: Iterable[str]) -> None:
        """Whether these files may be copied, as they are now; raises ``Untrusted`` naming the file."""
        for name in names:
            with contextlib.suppress(OSError), self._found(name):
                pass  # what is not there, or no file, is reported elsewhere

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[FileIO]:
        """One file, which was judged by the descriptor that it is read from.

        Raises ``Untrusted`` where it is not to be copied, ``Refused`` where it is no plain file by now, ``OSError``.
        """
        with self._found(name) as found:
            if not found.is_file:
                raise Refused(f"{printable(name)} is not a plain file.", mend="Put the file itself in its place.")
            reader = found.open()
        with reader:
            yield reader

    def read(self, name: str, limit: int) -> bytes | None:
        """A small file's content, None when it is not there; raises ``CheckpointError`` and ``Untrusted``."""
        try:
            with self.open(name) as file:
                return read_whole(file, name, limit)
        except OSError as error:
            if vanished(error):
                return None
            raise CheckpointError(f"{printable(name)} can't be opened: {error_text(error)}.") from error

    @contextlib.contextmanager
    def _found(self, name: str) -> Iterator[Found]:
        with follow(name, self._at) as found:
            blob = self._is_blob(found)
            if not blob:
                found.check_links()
            if found.is_file:
                found.check_public(inside=blob or found.path.is_relative_to(self.path))
            yield found

    def _is_blob(self, found: Found) -> bool:
        """Whether it lies in ``../../blobs`` of a folder in ``snapshots``, none of which is a link."""
        try:
            blobs, snapshots = (
                os.stat(f"../../{name}", dir_fd=self._at, follow_symlinks=False) for name in ("blobs", "snapshots")
            )
            above = os.stat("..", dir_fd=self._at)
        except OSError:
            return False
        return os.path.samestat(snapshots, above) and os.path.samestat(blobs, os.fstat(found.folder))


class Stage:
    """The staging folder of one source. ``at`` is the descriptor of the engine's, ``place`` its path for people.

    ``files`` are what is copied of the source, as they were when it was checked.
    """

    def __init__(self, at: int, place: Path, source: Source, files: Sequence[Entry]) -> None:
        self._files = files
        self.name = hashlib.sha256(os.fsencode(source.path)).hexdigest()[:16]
        self._at, self._place, self._source = at, place, source
        self._record = f"{self.name}.json"
        self._folder = -1

    def fill(self, table: Mapping[str, Any] | None, progress: Progress) -> tuple[int, bool]:
        """Make the folder a whole, proven version; return its size in bytes and whether files were kept."""
        try:
            with own_folder(self.name, self._at, self._place / self.name, mode=0o755) as self._folder:
                return self._fill(table, progress)
        except CheckpointError:
            self.remove()
            raise
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self.remove()
            raise RepositoryError(
                f"The disk of {self._place} is full: {error_text(error)}. What was copied was removed again.",
                mend="Clients are not affected. Make room, then push again.",
            ) from error

    def remove(self) -> None:
        shutil.rmtree(self.name, ignore_errors=True, dir_fd=self._at)
        self.forget()

    def forget(self) -> None:
        """Remove the record of what was copied."""
        unlink(self._record, self._at)

    @property
    def _path(self) -> Path:
        """The folder itself, for what takes a path, whatever has its name by now."""
        return Path(f"/proc/self/fd/{self._folder}")

    def _fill(self, table: Mapping[str, Any] | None, progress: Progress) -> tuple[int, bool]:
        files = [entry for entry in self._files if table is None or entry.name != META]
        digests = self._keep(files)
        resumed = bool(digests)
        total = sum(entry.size for entry in files)
        done = sum(entry.size for entry in files if entry.name in digests)
        self._check_space(total - done)
        sums = self._source.read(SUMS, SUMS_LIMIT)
        expected = {} if sums is None else parse_sums(sums)
        for entry in files:
            if entry.name in digests:
                continue
            progress(done, total, entry.name)
            for size in self._copy(entry, digests):
                done += size
                progress(done, total, entry.name)
            digest = digests[entry.name]
            if expected.get(entry.name, digest) != digest:
                raise CheckpointError(
                    f"{printable(entry.name)} of {self._source.path} has SHA-256 {digest[:12]}..., "
                    f"but its {SUMS} says {expected[entry.name][:12]}....",
                    mend="The source is damaged, and no version was made of it. Fetch that file again, then push.",
                )
            self._note(entry, digest)
        self._write_texts(table, digests)
        os.fsync(self._folder)
        return self._check_copy(progress), resumed

    def _keep(self, files: list[Entry]) -> dict[str, str]:
        """Return name to SHA-256 of the files that an earlier try left whole, and remove everything else.

        Nothing is kept that was not made here: a link, a second name of another file, a file of another user. That
        they hold what was noted ``_check_copy`` shows, as of the others.
        """
        noted = self._noted()
        sources = {entry.name: entry for entry in files}
        kept = {}
        for name in os.listdir(self._folder):  # noqa: PTH208 - of a descriptor
            old = os.stat(name, dir_fd=self._folder, follow_symlinks=False)
            source, note = sources.get(name), noted.get(name)
            if (
                source is not None
                and note is not None
                and note[:2] == _identity(source)
                and old.st_size == source.size
                and stat.S_ISREG(old.st_mode)
                and old.st_uid == os.geteuid()
                and old.st_nlink == 1
            ):
                kept[name] = note[2]
            elif stat.S_ISDIR(old.st_mode):
                shutil.rmtree(name, dir_fd=self._folder)
            else:
                unlink(name, self._folder)
        return kept

    def _noted(self) -> dict[str, tuple[int, int, str]]:
        """What the record tells: name to (size, mtime in ns, SHA-256); nothing if it can't be read."""
        try:
            with open(open_own(self._record, os.O_RDONLY, at=self._at), encoding="utf-8") as file:  # noqa: PTH123
                table = json.load(file)
            return {name: (int(size), int(mtime), str(digest)) for name, (size, mtime, digest) in table.items()}
        except (OSError, Untrusted, ValueError, TypeError, AttributeError, RecursionError):
            return {}  # a record that was cut off costs a copy, no more

    def _note(self, entry: Entry, digest: str) -> None:
        noted = self._noted() | {entry.name: (*_identity(entry), digest)}
        with new_file(f"{self._record}.new", self._at, 0o600) as file:
            file.write(json.dumps(noted).encode())
        os.replace(f"{self._record}.new", self._record, src_dir_fd=self._at, dst_dir_fd=self._at)

    def _copy(self, entry: Entry, digests: dict[str, str]) -> Iterator[int]:
        """Copy one file to the disk, yielding the bytes of each chunk, and put its SHA-256 into ``digests``."""
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(CHUNK))
        with self._source.open(entry.name) as reader:
            with new_file(entry.name, self._folder, _READABLE) as writer:
                while size := reader.readinto(buffer):
                    digest.update(buffer[:size])
                    writer.write(buffer[:size])
                    yield size
                copied = writer.tell()
            after = os.fstat(reader.fileno())
        if (after.st_size, after.st_mtime_ns) != _identity(entry) or copied != after.st_size:
            unlink(entry.name, self._folder)
            raise Refused(
                f"{printable(entry.name)} changed while it was copied.",
                mend="No version was made of it. Push again when nothing writes there any more.",
            )
        digests[entry.name] = digest.hexdigest()

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self._path).free
        if needed + RESERVE > free:
            raise NoRoom(
                f"The copy of {printable(self._source.path.name)} needs {format_bytes(needed)}, and "
                f"{format_bytes(RESERVE)} must stay free. {format_bytes(free)} are free on the disk of {self._place}. "
                f"Nothing was copied.",
                mend="Make room, then push again.",
            )

    def _write_texts(self, table: Mapping[str, Any] | None, digests: Mapping[str, str]) -> None:
        # META holds a person's words, not the model's bytes: mending a note must not look like a damaged file.
        texts = {SUMS: render_sums({name: digest for name, digest in digests.items() if name != META})}
        if table is not None:
            texts[META] = render_table(table)
        for name, text in texts.items():
            with new_file(name, self._folder, _READABLE) as file:
                file.write(text.encode(errors="surrogateescape"))

    def _check_copy(self, progress: Progress) -> int:
        """Read everything back: what is published is what was checked, not what was meant to be written. Its bytes."""
        copy = describe(self._path)
        result = check_integrity(copy, progress=lambda done, total: progress(done, total, VERIFYING))
        if result.verdict is not Verdict.PASS:
            raise CheckpointError(f"{self._source.path} can't become a version: {result.message}")
        return copy.listing.size


def _identity(entry: Entry) -> tuple[int, int]:
    return (entry.size, entry.target.st_mtime_ns if entry.target is not None else 0)
