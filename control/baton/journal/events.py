"""The log of what happened: one event after the other, each with who, when and why."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from baton.codec import as_text, from_text
from baton.journal.database import Database
from baton.reasons import Why


class Events:
    def __init__(self, database: Database) -> None:
        self._database = database

    def append(
        self, at: float, kind: str, why: Why, *, who: str = "baton", service: str | None = None,
        rollout: int | None = None, data: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Write down one event."""
        with self._database.transaction() as db:
            insert_event(db, at, kind, why, who=who, service=service, rollout=rollout, data=data)

    def newest(
        self, *, service: str | None = None, rollout: int | None = None, limit: int = 200
    ) -> list[dict[str, Any]]:
        """The newest events, oldest first, each with its ``why``, and the sentence of that as ``message``."""
        given = {column: value for column, value in (("service", service), ("rollout", rollout)) if value is not None}
        where = f"WHERE {' AND '.join(f'{column} = ?' for column in given)}" if given else ""
        with self._database.reading() as db:
            rows = db.execute(f"SELECT * FROM event {where} ORDER BY id DESC LIMIT ?", (*given.values(), limit))
            return [_event(row) for row in reversed(rows.fetchall())]


def insert_event(
    db: sqlite3.Connection, at: float, kind: str, why: Why, *, who: str = "baton", service: str | None = None,
    rollout: int | None = None, data: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """As :meth:`Events.append`, as part of a transaction."""
    db.execute(
        "INSERT INTO event (at, service, rollout, kind, who, message, data) VALUES (?,?,?,?,?,?,?)",
        (at, service, rollout, kind, who, as_text(why), json.dumps(data or {})),
    )


def _event(row: sqlite3.Row) -> dict[str, Any]:
    why = from_text(Why, row["message"])
    return {**dict(row), "message": str(why), "why": why, "data": json.loads(row["data"])}
