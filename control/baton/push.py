"""Copies a checkpoint into the repository as the next version, so that it appears there whole or not at all.

``baton.staging`` gathers it beside the repository; here it gets its number, by one rename.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from baton.beside import beside, check_file_system, folder_beside
from baton.domain import Release
from baton.errors import CheckpointError, Refused, RepositoryError, UsageError
from baton.ownership import open_folder, open_own
from baton.staging import Progress, Source, Stage
from baton.verify.checkpoint import Checkpoint, describe
from baton.verify.files import error_text, printable
from baton.verify.integrity import ignored, problems, summary
from baton.verify.meta import META, META_LIMIT, check_table, parse_table
from baton.verify.names import LARGEST, highest_number
from baton.verify.sums import SUMS

_log = logging.getLogger(__name__)

_TAKEN: Final = frozenset({errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR})


@dataclass(frozen=True, slots=True)
class Pushed:
    """A version that was pushed. ``bytes`` is its size, ``resumed`` whether files of an earlier try were kept.

    ``ignored`` tells how many files of the source are not served, and were not copied; empty for none.
    """

    version: int
    folder: Path
    bytes: int
    seconds: float
    resumed: bool
    ignored: str = ""
    free: int | None = None
    """Bytes that are free on the repository's disk now."""


def push(
    source: Path,
    repository: Path,
    engine: str,
    *,
    floor: int = 0,
    label: str | None = None,
    release: Release | None = None,
    progress: Progress | None = None,
) -> Pushed:
    """Copy ``source`` to ``repository/engine/<next number>`` and return the version.

    The number is one more than every number in the directory and than ``floor``, the highest that the journal knows:
    a number that was ever used is never used again, since response caches and clients' records know it. ``label`` and
    ``release`` go to ``version.toml``, its other keys stay. Only what is served is copied, links in the source as what
    they lead to, where ``Source`` follows them. A user's second push to the same engine waits for the first one.

    Raises ``Untrusted`` for a file that the source's writer may not give away, or a staging folder that others may
    change; ``UsageError`` for a source that is no folder, ``CheckpointError`` for one that can't serve (before anything
    is copied where it shows by then), ``Refused`` for a source within the repository, ``RepositoryError`` when the
    repository can't be written to. The engine's directory is touched by one rename only, in the end, so live traffic
    never notices a push that fails.
    """
    began = time.monotonic()
    named, repository = repository, repository.resolve()
    if not source.is_dir():
        raise UsageError(
            f"{source} is not a folder.", mend="Name the folder of the checkpoint, with config.json in it."
        )
    try:
        with ExitStack() as stack:
            origin = stack.enter_context(Source.opened(source))
            _check_places(origin.path, repository, repository / engine, engine)
            # Before the first byte of a long copy: most sources that are refused can be refused now.
            table = _meta_table(origin, label, release)
            described = describe(origin.path)
            _refuse_early(origin, described)
            home, _ = stack.enter_context(open_folder(named / engine))
            staging, place = stack.enter_context(beside(repository, engine))
            stack.enter_context(_lock(staging))
            check_file_system(staging, place, home, repository / engine)
            stage = Stage(staging, place, origin, described.files)
            size, resumed = stage.fill(table, progress or (lambda *_: None))
            version = _publish(stage.name, staging, home, floor)
            stage.forget()
            free = shutil.disk_usage(repository).free
            folder, not_served = repository / engine / str(version), ignored(described)
    except OSError as error:
        raise RepositoryError(
            f"{printable(source.name)} could not be pushed: {error_text(error)} ({error.filename or repository}).",
            mend="Clients are not affected: the repository is as it was. Remove the cause, then push again.",
        ) from error
    return Pushed(version, folder, size, time.monotonic() - began, resumed, not_served, free)


def _check_places(source: Path, repository: Path, home: Path, engine: str) -> None:
    if Path(engine).name != engine or engine.startswith("."):
        raise UsageError(f"{engine!r} can't be the name of an engine: it is a path, or begins with a dot.")
    if not home.is_dir():
        raise Refused(
            f"There is no engine {engine} in {repository}. Nothing was copied.",
            mend="Check --repository and the configuration.",
        )
    for place in (repository, folder_beside(repository), home.resolve()):
        if source.is_relative_to(place) or place.is_relative_to(source):
            raise Refused(
                f"One of the source {source} and the repository {repository} lies in the other. Nothing was copied.",
                mend="Copy the checkpoint to another place first.",
            )


def _meta_table(source: Source, label: str | None, release: Release | None) -> dict[str, Any] | None:
    """What ``version.toml`` must say, ``None`` when the source's own (or none) is right as it is."""
    text = source.read(META, META_LIMIT)
    table = {} if text is None else parse_table(text)
    asked = {"label": label, "release": release.value if release is not None else None}
    wanted = check_table({**table, **{key: value for key, value in asked.items() if value is not None}})
    return None if wanted == table else wanted


def _refuse_early(source: Source, described: Checkpoint) -> None:
    source.check((SUMS, *described.served))
    # Described by its path, which may lead elsewhere by now: a refusal is all that comes of it. The copy is proved.
    if found := problems(described, links_may_leave=True):
        raise CheckpointError(f"{source.path} can't become a version: {summary(found)}", mend="Nothing was copied.")


@contextmanager
def _lock(folder: int) -> Iterator[None]:
    """Hold the lock of this user's pushes; the kernel lets go of it when the process dies in whatever way."""
    descriptor = open_own(".lock", os.O_RDWR | os.O_CREAT, at=folder)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.info("Another push to this engine is under way. This one waits for its end.")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _publish(name: str, stage: int, home: int, floor: int) -> int:
    """Rename the staged folder to its number: the one moment at which Triton's directory changes."""
    while True:
        version = max(highest_number(os.listdir(home)), floor) + 1
        if version > LARGEST:
            raise Refused(
                f"The number after {version - 1:,} is larger than any version may be.",
                mend="Remove the folder of that number, if it is no version. Nothing was published.",
            )
        try:
            os.stat(str(version), dir_fd=home, follow_symlinks=False)
        except FileNotFoundError:
            pass
        else:
            continue  # it came just now; the next listing counts it
        try:
            os.rename(name, str(version), src_dir_fd=stage, dst_dir_fd=home)
        except OSError as error:
            if error.errno in _TAKEN:
                continue  # likewise, between the look and the rename
            raise
        os.fsync(home)
        os.fsync(stage)
        return version
