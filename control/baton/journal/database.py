"""The journal's file in use: the connection, transactions, and what is done when the file is damaged or gone."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from baton.durable import close_to_others, make_private
from baton.migration import upgrade
from baton.ownership import open_own
from baton.reasons import Reason, because
from baton.schema import (
    BROKEN,
    SCHEMA_VERSION,
    JournalDamaged,
    JournalError,
    aside_name,
    check_file,
    create,
    journal_errors,
    put_aside,
)


class Database:
    """May be used from any thread; one at a time has it.

    WAL mode with full synchronisation: what a transaction wrote is on disk when it ends.
    """

    def __init__(self, path: Path, held: Callable[[], None]) -> None:
        self._path = path
        self._held = held
        self._file: os.stat_result | None = None
        """The file that was opened."""
        self._damage: tuple[str, Path] | None = None
        """The error of a damaged file and the name that it got, as long as no empty one is in its place."""
        self._lock = threading.RLock()
        self._connect()

    def _connect(self) -> None:
        with suppress(OSError):  # SQLite tells of it, and makes the file where it is not there
            os.close(open_own(self._path, os.O_RDONLY))
        with journal_errors(self._path):
            make_private(self._path.parent)
            if not self._path.exists():
                create(self._path)
            for part in (self._path, *(self._path.with_name(f"{self._path.name}{end}") for end in ("-wal", "-shm"))):
                with suppress(FileNotFoundError):
                    close_to_others(part)
            found = check_file(self._path)  # before anything is written: a damaged file stays as it is
            self.connection = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None, timeout=10.0)
        try:
            self._open(found)
        except BaseException:
            self.connection.close()
            raise

    def _open(self, found: int) -> None:
        self._file = None
        with self._guard():
            self.connection.row_factory = sqlite3.Row
            self.connection.text_factory = bytes.decode  # of what is no text it says so in Python's own way
            self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute("PRAGMA synchronous = FULL")
            if found < SCHEMA_VERSION:
                upgrade(self.connection, found)
            self._file = self._path.stat()

    def close(self) -> None:
        with self._lock:
            self.connection.close()

    def check(self) -> None:
        """Whether a later start will read what is written here, and this process may act on it.

        Raises:
            JournalError: the file was removed or replaced: SQLite would go on writing to one that nobody finds again.
            Refused: the state directory is not this process's any more.
        """
        self._held()
        try:
            same = self._file is None or os.path.samestat(self._path.stat(), self._file)
        except OSError:
            same = False
        if not same:
            raise JournalError(
                because(Reason.JOURNAL_GONE, path=str(self._path)),
                mend="Start the control plane again. To put a journal back, use `ctl restore`.",
            )

    @contextmanager
    def _guard(self) -> Iterator[None]:
        with self._lock, journal_errors(self._path):
            self.check()
            if self._damage is not None:
                raise JournalDamaged(self._damage[0])
            yield

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """SQLite notices damage to its own structure alone. A row that makes no sense is damage as well."""
        with self._guard():
            try:
                yield self.connection
            except (ValueError, KeyError, TypeError) as error:
                why = because(Reason.JOURNAL_ROW, path=str(self._path), error=str(error))
                raise JournalDamaged(why, mend=BROKEN) from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is written within it, or nothing."""
        with self._guard():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    @contextmanager
    def replaced(self, at: float, error: str) -> Iterator[tuple[str, Path]]:
        """Put the damaged file aside, under a name with the time, and begin an empty one in its place.

        Gives the error and the name of the first try. Until this and what is done within it has succeeded, each use of
        the journal raises ``JournalDamaged``.
        """
        with self._lock:
            error, kept = self._damage or (error, aside_name(self._path, at))
            try:
                with suppress(sqlite3.Error):  # the file can't be read
                    self.connection.close()
                put_aside(self._path, kept)
                self._damage = None
                self._connect()
                yield error, kept
            except BaseException:
                self._damage, self._file = (error, kept), None  # the file in its place is not the one that was opened
                raise
