"""What was decided about each version of a service: released, adopted, refused or taken back, and why."""

from __future__ import annotations

import sqlite3

from baton.codec import as_text, from_text
from baton.domain import ReleaseStatus, VersionRecord
from baton.journal.database import Database
from baton.journal.events import insert_event
from baton.reasons import Reason, Why, because


class Versions:
    def __init__(self, database: Database) -> None:
        self._database = database

    def records(self, service: str) -> dict[int, VersionRecord]:
        """By version. One that is not there counts as new."""
        with self._database.reading() as db:
            rows = db.execute("SELECT * FROM version WHERE service = ?", (service,)).fetchall()
            return {row["version"]: _record(row) for row in rows}

    def put(self, service: str, record: VersionRecord) -> None:
        """Write down what was decided about a version, in the place of what was decided before."""
        with self._database.transaction() as db:
            insert_version(db, service, record)

    def forget(self, service: str, version: int, who: str, at: float) -> None:
        """Take a decision about a version back, so that it counts as new."""
        with self._database.transaction() as db:
            db.execute("DELETE FROM version WHERE service = ? AND version = ?", (service, version))
            insert_event(db, at, "retry", because(Reason.COUNTS_AS_NEW, version=version), who=who, service=service)

    def highest(self, service: str) -> int:
        """The highest version number that the journal has ever met: no number is used twice."""
        with self._database.reading() as db:
            row = db.execute(
                "SELECT max(n) FROM (SELECT max(candidate) n FROM rollout WHERE service = ?"
                " UNION ALL SELECT max(version) FROM version WHERE service = ?)",
                (service, service),
            ).fetchone()
        return int(row[0] or 0)


def insert_version(db: sqlite3.Connection, service: str, record: VersionRecord) -> None:
    """As :meth:`Versions.put`, as part of a transaction."""
    db.execute(
        "INSERT OR REPLACE INTO version VALUES (?,?,?,?,?,?,?)",
        (service, record.version, record.status, as_text(record.reason), record.fingerprint, record.loaded, record.at),
    )


def _record(row: sqlite3.Row) -> VersionRecord:
    status, reason = ReleaseStatus(row["standing"]), from_text(Why, row["reason"])
    return VersionRecord(row["version"], status, reason, row["fingerprint"], bool(row["loaded"]), row["at"])
