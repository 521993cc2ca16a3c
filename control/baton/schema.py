"""The journal's file: its format, how it begins, and whether it is sound."""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from baton.durable import open_private, sync_directory
from baton.errors import BatonError
from baton.reasons import Reason, Why, because

SCHEMA_VERSION = 3
"""3: reasons in the place of sentences; 2: traffic steps. :mod:`baton.migration` brings older ones to this."""
SCHEMA = """
CREATE TABLE event (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, service TEXT, rollout INTEGER, kind TEXT NOT NULL,
  who TEXT NOT NULL, message TEXT NOT NULL, data TEXT NOT NULL DEFAULT '{}');
CREATE INDEX event_rollout ON event (rollout);
CREATE TABLE rollout (
  id INTEGER PRIMARY KEY, service TEXT NOT NULL, kind TEXT NOT NULL, candidate INTEGER NOT NULL, previous INTEGER,
  phase TEXT NOT NULL, who TEXT NOT NULL, why TEXT NOT NULL, release TEXT NOT NULL, label TEXT NOT NULL,
  fingerprint TEXT NOT NULL, started_at REAL NOT NULL, phase_since REAL NOT NULL, promoted INTEGER NOT NULL DEFAULT 0,
  stop TEXT, moved_at REAL, ended_at REAL, outcome TEXT, message TEXT NOT NULL DEFAULT '',
  full INTEGER NOT NULL DEFAULT 0, progress REAL NOT NULL DEFAULT 0, progressed_at REAL,
  approvals INTEGER NOT NULL DEFAULT 0, renewed_at REAL);
CREATE UNIQUE INDEX rollout_open ON rollout (service) WHERE ended_at IS NULL;
CREATE TABLE verdict (
  rollout INTEGER NOT NULL, gate TEXT NOT NULL, at REAL NOT NULL, result TEXT NOT NULL, PRIMARY KEY (rollout, gate));
CREATE TABLE version (
  service TEXT NOT NULL, version INTEGER NOT NULL, standing TEXT NOT NULL, reason TEXT NOT NULL,
  fingerprint TEXT NOT NULL, loaded INTEGER NOT NULL, at REAL NOT NULL, PRIMARY KEY (service, version));
CREATE TABLE memo (service TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (service, key));
"""

BROKEN = (
    "Clients are not affected. A control plane that starts puts the file aside and adopts what is served; "
    "`ctl restore FILE` puts a backup in its place."
)
"""What a damaged journal means, and what to do."""


class JournalError(BatonError):
    """The journal can't be written or read. Baton then changes nothing, since it writes down first what it does."""


class JournalDamaged(JournalError):
    """The journal's file does not hold what was written there."""


@contextmanager
def journal_errors(path: Path) -> Iterator[None]:
    """Tells an error of SQLite in its own words, with what to do."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if _damaged(error):
            raise JournalDamaged(_fails(path, str(error)), mend=BROKEN) from error
        mend = (
            "Make room on the disk, or let Baton's user write there. Baton then goes on by itself. "
            "Clients are not affected."
        )
        raise JournalError(_fails(path, str(error)), mend=mend) from error


def _fails(path: Path, error: str) -> Why:
    return because(Reason.JOURNAL_FAILS, path=str(path), error=error.rstrip("."))


def _damaged(error: sqlite3.DatabaseError) -> bool:
    """Whether SQLite calls the file damaged, or no database."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)  # the module's own errors have none
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def create(path: Path) -> None:
    """Make an empty journal. It gets its name when it is whole, so a file without tables is a damaged one."""
    made = path.with_name(f"{path.name}.new")
    made.unlink(missing_ok=True)
    open_private(made).close()  # SQLite gives what it puts beside it the same mode
    with closing(sqlite3.connect(made, isolation_level=None)) as db:
        db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    made.rename(path)
    sync_directory(path.parent)


def check_file(path: Path) -> int:
    """Check a journal, and give its format. Nothing is written.

    Raises:
        JournalDamaged: it is damaged or empty.
        JournalError: it is of another Baton.
    """
    with journal_errors(path), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        found: int = db.execute("PRAGMA user_version").fetchone()[0]
        wrong = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
    if wrong != "ok":
        raise JournalDamaged(_fails(path, f"malformed, {' '.join(wrong.split())}"), mend=BROKEN)
    if found == 0:
        raise JournalDamaged(because(Reason.JOURNAL_EMPTY, path=str(path)), mend=BROKEN)
    if not 1 <= found <= SCHEMA_VERSION:
        raise JournalError(
            because(Reason.JOURNAL_FORMAT, path=str(path), found=found, known=SCHEMA_VERSION),
            mend="Start the Baton that wrote it, or give another --state directory.",
        )
    return found


def aside_name(path: Path, at: float, why: str = "damaged") -> Path:
    """The name under which a journal that is not used any more is kept: with the time, and not taken yet."""
    named = (f"{path.name}.{why}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(at + n))}" for n in itertools.count())
    return next(kept for name in named if not (kept := path.with_name(name)).exists())


def put_aside(path: Path, kept: Path) -> None:
    """Rename a damaged journal, and the files that SQLite keeps beside it. After a failure it can be repeated."""
    if kept.exists():
        return
    for suffix in ("-wal", "-shm", ""):  # the journal itself comes last
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).replace(kept.with_name(kept.name + suffix))
