"""The durable record: every decision, verdict and action, with who, when and why, written before it is acted on.

One SQLite file in the state directory. What a method wrote is on disk when it returns. The journal holds what can be
read from nowhere else: the rollout under way, what was decided about each version, and how the folders looked when
Triton loaded them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

from baton.journal.database import Database
from baton.journal.events import Events
from baton.journal.notes import EVERY_SERVICE as EVERY_SERVICE, Note as Note, Notes
from baton.journal.rollouts import Rollouts
from baton.journal.versions import Versions
from baton.reasons import Reason, because
from baton.schema import JournalDamaged, aside_name, put_aside


JOURNAL = "journal.db"
"""The journal's file in the state directory."""

log = logging.getLogger(__name__)


class Journal:
    """All methods may be called from any thread; times are seconds since the epoch, given by the caller.

    Raises:
        JournalError: the disk is full, or the file is damaged; the message says which, and what to do.
        Untrusted: the file is a link or another user's.
    """

    def __init__(self, path: Path, held: Callable[[], None] = lambda: None) -> None:
        """``held`` raises when this process may not act for the state directory any more; each use asks it."""
        self.database = Database(path, held)
        self.events = Events(self.database)
        self.notes = Notes(self.database)
        self.rollouts = Rollouts(self.database, self.notes)
        self.versions = Versions(self.database)

    def close(self) -> None:
        self.database.close()

    def check(self) -> None:
        """Raises as :meth:`Database.check` does when this process may not write here any more."""
        self.database.check()

    def read_all(self) -> None:
        """Read all that decisions are made of. Raises ``JournalDamaged`` when some of it is not what was written."""
        self.rollouts.newest(limit=10_000)
        with self.database.reading() as db:
            for row in db.execute("SELECT value FROM memo"):
                json.loads(row["value"])
            services = [row["service"] for row in db.execute("SELECT DISTINCT service FROM version")]
        for service in services:
            self.versions.records(service)

    def start_over(self, at: float, error: str) -> None:
        """Put the damaged file aside, and go on with an empty one. What fails, on a full disk say, can be repeated."""
        with self.database.replaced(at, error) as (first_error, kept):
            self.note_damage(at, first_error, kept)

    def note_damage(self, at: float, error: str, kept: Path) -> None:
        """Write down that this journal follows a damaged one, and the name of that."""
        self.events.append(at, "damaged", because(Reason.PUT_ASIDE, error=error, kept=kept.name))


def open_journal(path: Path, clock: Callable[[], float], held: Callable[[], None] = lambda: None) -> Journal:
    """The journal of a control plane that is about to act. A damaged one is put aside and never written to again.

    Nobody is needed for a control plane to come back: the files and Triton tell what serves. What only the damaged file
    knew (the history, what was refused) can be read from it by other means.

    Raises:
        JournalError: the state directory can't be written, or the journal is of another Baton.
    """
    try:
        journal = Journal(path, held)
    except JournalDamaged as error:
        log.error("%s", error.message)  # noqa: TRY400 - a fault of the disk's, not of the code's
        put_aside(path, kept := aside_name(path, clock()))
        journal = Journal(path, held)
        journal.note_damage(clock(), error.message, kept)
        return journal
    try:
        journal.read_all()
    except JournalDamaged as error:
        log.error("%s", error.message)  # noqa: TRY400 - as above
        journal.start_over(clock(), error.message)
    return journal
