"""Keeps the files that Triton reads usable: what a person's edit broke is put back as it last was.

A running Triton passes over a ``config.pbtxt`` that it can't read, and one that restarts serves nothing because of it.
So such a file is not left for somebody to find: the last text that could be used is written in its place, and what
stood there is kept in the journal. Where the engine's file lacks an explicit version policy alone, only that is put in.
Every other edit is left as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from baton.errors import RepositoryError, Unreadable
from baton.journal import Journal
from baton.reasons import Reason, Why, because
from baton.triton import pbtxt
from baton.triton.config_file import CONFIG, file_errors, read, write_atomically
from baton.triton.repository import ServiceFiles

PATIENCE_S = 2.0
"""An editor that saves in place is half-way through for a moment."""
KEPT = ("engine", "alias", "splitter")
"""What a file is called whose last usable text the journal keeps."""
MOST_TEXT = 20_000
"""Characters of a broken file that the journal keeps."""
BOM = "\ufeff"
Told = Callable[[Why, Mapping[str, Any]], None]
"""Writes a line into the journal, with what belongs to it."""
T = TypeVar("T")

log = logging.getLogger(__name__)


class ConfigRepairer:
    """Of one service. Used under the loop's lock."""

    def __init__(self, files: ServiceFiles, journal: Journal, clock: Callable[[], float], tell: Told) -> None:
        self._files = files
        self._journal = journal
        self._clock = clock
        self._tell = tell
        self._bad_since: dict[str, float] = {}

    def policy(self) -> frozenset[int]:
        """As :meth:`ServiceFiles.policy` gives it. Raises ``RepositoryError`` while the file is not put back."""
        return self._kept("engine", self._files.engine_dir / CONFIG, self._files.policy)

    def alias_and_split(self) -> tuple[int | None, bool]:
        """As :meth:`ServiceFiles.alias_and_split` gives it."""
        version, split = self._kept("alias", self._files.alias_dir / CONFIG, self._files.alias_and_split)
        if version is not None:  # Triton wants the folder beside the file; both may have been removed
            with file_errors(self._files.alias_dir):
                (self._files.alias_dir / str(version)).mkdir(exist_ok=True)
        return version, split

    def splitter(self) -> int | None:
        """As :meth:`ServiceFiles.splitter` gives it."""
        return self._kept("splitter", self._files.splitter_dir / CONFIG, self._files.splitter)

    def let_go(self, name: str) -> None:
        """The file is about to be taken away by Baton itself: ``alias`` or ``splitter``."""
        self._remember(name, None)

    def _kept(self, name: str, path: Path, look: Callable[[], T]) -> T:
        before = _text(path)
        try:
            found = self._read(name, path, before, look)
        except Unreadable:
            raise  # whether it is broken nobody knows: nothing is put back
        except RepositoryError as error:
            last = self._last(name)
            if last is None:
                raise
            since = self._bad_since.setdefault(name, self._clock())
            if self._clock() - since < PATIENCE_S:
                raise RepositoryError(
                    f"{error.message} Baton restores the last good file unless somebody repairs it first."
                ) from None
            self._put_back(path, before, last, error)
            found = look()
        self._bad_since.pop(name, None)
        # Only what was the same before and after it was read is known to be what was read.
        if before is not None and before != self._last(name) and before == _text(path) and self._usable(found):
            self._remember(name, before)
        return found

    def _usable(self, found: object) -> bool:
        """A policy that lacks what serves is put right in a moment, and must not come back by being put back."""
        if not isinstance(found, frozenset):
            return found is not None
        try:
            return self._files.alias() in (None, *found)
        except RepositoryError:  # nobody knows what serves, until that file is put back
            return False

    def _read(self, name: str, path: Path, text: str | None, look: Callable[[], T]) -> T:
        if text is None and self._last(name) is not None:
            raise RepositoryError(f"{path} was removed.")
        found = look()
        if found is None and self._last(name) is not None:
            raise RepositoryError(f"{path} is no longer what Baton wrote.")
        return found

    def _put_back(self, path: Path, broken: str | None, last: str, error: RepositoryError) -> None:
        text, what = last, "the last good file"
        if broken is not None and path.parent == self._files.engine_dir:
            edited = broken.removeprefix(BOM)  # what editors on Windows put before everything
            try:
                explicit = pbtxt.parse_engine(edited, path).version_policy.HasField("specific")
                if explicit and edited != broken:
                    text, what = edited, "the file, without the byte order mark that an editor wrote"
                else:
                    policy = pbtxt.specific_versions(last, path)
                    text, what = pbtxt.with_specific_versions(edited, policy, path), "its version policy"
            except RepositoryError:
                pass  # more than that is wrong with it
        with file_errors(path):
            path.parent.mkdir(exist_ok=True)
        write_atomically(path, text)
        why = because(Reason.PUT_BACK, what=what, error=error.message)
        log.warning("%s: %s", self._files.alias_name, why)
        stood = None if broken is None else broken[:MOST_TEXT].encode(errors="surrogateescape").decode(errors="replace")
        self._tell(why, {"path": str(path), "stood_there": stood})

    def _last(self, name: str) -> str | None:
        # Asked each time: a journal that had to be begun anew must come to know it again.
        last: str | None = self._journal.memo(self._files.alias_name, memo_of(name))
        return last

    def _remember(self, name: str, text: str | None) -> None:
        self._journal.set_memo(self._files.alias_name, memo_of(name), text)


def memo_of(name: str) -> str:
    """Where the journal keeps the last usable text of one of ``KEPT``."""
    return f"file:{name}"


def _text(path: Path) -> str | None:
    """None when it is not there."""
    return read(path)
