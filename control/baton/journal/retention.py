"""How long the journal keeps events: those of old rollouts are removed, and one event says how many they were.

Of versions whose folder is gone, what was decided and the hashes of their files are removed as well, where nothing
needs them: a folder of that number that comes again is another one. What was decided stays of versions above the one
that serves, since without it such a folder would be taken up by itself, and of those that were taken back, since a
rollback must not choose them.

The rollout itself stays, with who, when, why, verdicts, outcome and times. A rollout is old when it ended longer ago
than ``keep_s`` and is not among the newest ``keep_rollouts`` of its service. Two keep their events in any case: that of
the version that serves, and that of the version that a rollback would go to. Events between rollouts are removed by
their age alone.
"""

from __future__ import annotations

import json
import logging
import sqlite3

from baton.domain import Outcome, ReleaseStatus
from baton.journal.database import Database
from baton.journal.events import insert_event
from baton.journal.notes import OF_VERSIONS
from baton.reasons import Reason, because
from baton.schema import JournalDamaged, JournalError

EVERY_S = 3600.0
"""How often old events are searched for."""
MOST_EVENTS, MOST_ROLLOUTS = 1_000, 50
"""How much one transaction removes. It takes some milliseconds, in which nobody else can write."""
FOLD = "fold"
"""The kind of the event that stands for those that were removed."""
_OLD = f"""
WITH live AS (
  SELECT max(r.id) id, r.candidate FROM rollout r
  LEFT JOIN version v ON v.service = r.service AND v.version = r.candidate
  WHERE r.service = :service AND r.outcome = '{Outcome.LIVE}' AND v.standing IS NOT '{ReleaseStatus.WITHDRAWN}'
  GROUP BY r.candidate)
SELECT id FROM rollout r WHERE service = :service AND ended_at < :before
  AND id NOT IN (SELECT id FROM rollout WHERE service = :service ORDER BY id DESC LIMIT :keep)
  AND id NOT IN (SELECT id FROM live WHERE candidate = :serving)
  AND id NOT IN (SELECT id FROM live ORDER BY id DESC LIMIT 2)
  AND EXISTS (SELECT 1 FROM event WHERE rollout = r.id AND kind != '{FOLD}' AND at < :before)
ORDER BY id LIMIT :most"""
"""Rollouts whose events are to go, the oldest first."""

log = logging.getLogger(__name__)


class Retention:
    """Used from one thread."""

    def __init__(self, database: Database, keep_s: float, keep_rollouts: int) -> None:
        self._database = database
        self._keep_s = keep_s
        self._keep_rollouts = keep_rollouts
        self._due: dict[str, float] = {}

    def apply(self, service: str, serving: int | None, now: float, there: frozenset[int] | None = None) -> None:
        """Remove some old events of a service that is at rest. While more are left, the next call goes on.

        Else the next hour's calls do nothing. ``serving`` is the version that the alias leads to, ``there`` are all
        that are on disk, named or loaded; None: that is not known now. A journal that can't be written stays as it is,
        and a warning in the log tells why.

        Raises:
            JournalDamaged: a row does not hold what was written there.
        """
        if now < self._due.get(service, now):
            return
        try:
            more = self._fold(service, serving, now, there)
        except JournalDamaged:
            raise
        except JournalError as error:
            log.warning("%s: old events stay in the journal for now, nothing is lost: %s", service, error)
            more = False
        self._due[service] = now if more else now + EVERY_S

    def _fold(self, service: str, serving: int | None, now: float, there: frozenset[int] | None) -> bool:
        """One transaction. True when there may be more to do."""
        before, keep, left = now - self._keep_s, self._keep_rollouts, MOST_EVENTS
        named = {"service": service, "before": before, "keep": keep, "serving": serving, "most": MOST_ROLLOUTS}
        with self._database.transaction() as db, self._database.reading():
            if db.execute("SELECT 1 FROM rollout WHERE service = ? AND ended_at IS NULL", (service,)).fetchone():
                return True
            old = [row["id"] for row in db.execute(_OLD, named)]
            if there is not None:
                _forget_gone(db, service, serving, there)
            for rollout in (None, *old):
                left -= _fold(db, service, rollout, before, now, left)
        return len(old) == MOST_ROLLOUTS or left == 0


def _forget_gone(db: sqlite3.Connection, service: str, serving: int | None, there: frozenset[int]) -> None:
    """Remove what nothing needs of versions that are not ``there``."""
    below = "SELECT version FROM version WHERE service = ? AND version < ? AND standing != ?"
    known = db.execute(below, (service, serving, ReleaseStatus.WITHDRAWN)).fetchall()
    gone = [(service, row["version"]) for row in known if row["version"] not in there]
    db.executemany("DELETE FROM version WHERE service = ? AND version = ?", gone)
    for row in db.execute("SELECT key FROM memo WHERE service = ?", (service,)).fetchall():
        kind, _, version = row["key"].partition(":")
        if kind in OF_VERSIONS and int(version) not in there:
            db.execute("DELETE FROM memo WHERE service = ? AND key = ?", (service, row["key"]))


def _fold(db: sqlite3.Connection, service: str, rollout: int | None, before: float, now: float, most: int) -> int:
    """Remove the oldest events of a rollout, or those between rollouts (None). Gives how many.

    The one event that stands for removed ones counts them, too.
    """
    its = "service = ? AND rollout IS ?"
    chosen = f"SELECT id FROM event WHERE {its} AND kind != '{FOLD}' AND at < ? ORDER BY id LIMIT ?"
    removed = db.execute(f"DELETE FROM event WHERE id IN ({chosen})", (service, rollout, before, most)).rowcount
    if removed:
        folded = db.execute(
            f"SELECT id, data FROM event WHERE {its} AND kind = '{FOLD}'", (service, rollout)
        ).fetchall()
        count = removed + sum(json.loads(row["data"])["removed"] for row in folded)
        db.executemany("DELETE FROM event WHERE id = ?", [(row["id"],) for row in folded])
        why = because(Reason.EVENTS_REMOVED, count=count)
        insert_event(db, now, FOLD, why, service=service, rollout=rollout, data={"removed": count})
    return removed
