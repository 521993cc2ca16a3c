"""The journal, copied while it is in use, and put back.

The journal is all that the state directory holds for good: sockets, locks and logs are of the day. What Triton serves
stands in the repository's files, which no restore touches.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from contextlib import closing
from itertools import count
from pathlib import Path

from baton.config import Config
from baton.controller.config_repairer import memo_of
from baton.controller.loop import PAUSED
from baton.domain import Kind, Model, Outcome, Rollout, Stop
from baton.durable import sync_directory
from baton.errors import Refused
from baton.facts import Backup, Restored, iso
from baton.journal import JOURNAL, Journal
from baton.plan.traffic import before_traffic
from baton.reasons import Reason, because
from baton.schema import JournalError, proved
from baton.triton.repository import ServiceFiles

_PRIVATE = 0o600


def backup(state: Path, target: Path, *, force: bool) -> Backup:
    """Copy the journal to a file, or into a directory under a name with the time; the file is whole or not there.

    Nobody needs to stand still: SQLite copies one state of it, while a control plane writes on or while none runs.

    Raises:
        Refused: there is no journal, the file is there already and ``force`` is not given, or everybody can write
            where it is to lie.
        JournalError: the journal is damaged, or the copy can't be written. An older backup stays as it was.
    """
    source = state / JOURNAL
    if not source.is_file():
        raise Refused(f"There is no journal in state directory {state}.", mend="Name the right one with --state.")
    if target.is_dir():
        target /= time.strftime("baton-%Y%m%dT%H%M%SZ.db", time.gmtime())
    if target.exists() and not force:
        raise Refused(f"{target} is there already.", mend="Name another file, or replace it with --force.")
    if target.parent.is_dir() and (mode := target.parent.stat().st_mode) & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise Refused(
            f"Every user can write in {target.parent}, and could have the journal written into a file of his own.",
            mend="Name a directory that only you can write in.",
        )
    proved(source)
    staged = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        _copy(source, staged)
        staged.replace(target)
        sync_directory(target.parent)
    except OSError as error:
        raise Refused(f"{target} can't be written: {error.strerror}.", mend="Make room, or name another.") from None
    finally:
        staged.unlink(missing_ok=True)
    with closing(sqlite3.connect(target)) as db:
        rollouts, last = db.execute("SELECT (SELECT count(*) FROM rollout), (SELECT max(at) FROM event)").fetchone()
    return Backup(str(target), target.stat().st_size, rollouts, None if last is None else iso(last))


def restore(config: Config, source: Path, *, who: str) -> Restored:
    """Put a backup in the place of the journal, of which no control plane may be in use; the old one is kept beside it.

    What became of a rollout that was under way is not known. It is turned back, unless the alias leads to its
    candidate by now: clients are never taken from where they are. And Baton is paused, since what was refused or taken
    back after the backup would count as new.

    Raises:
        JournalError: the backup is damaged or of another Baton; nothing has changed then.
        RepositoryError: it can't be told where an alias leads; nothing has changed then.
    """
    try:
        proved(source)
    except JournalError as error:
        mend = "The journal in the state directory is as it was; name another backup."
        raise JournalError(f"It can't be restored. {error.message}", mend=mend) from None
    journal = config.state / JOURNAL
    staged = journal.with_name(f"{JOURNAL}.restored")
    try:
        _copy(source, staged)
        last, stopped = _prepare(config, staged, source.name, who)
        kept = _keep(journal)
        staged.replace(journal)
        sync_directory(config.state)
    except OSError as error:
        raise Refused(f"{journal} can't be written: {error.strerror}.", mend="Make room, or mend its rights.") from None
    finally:
        staged.unlink(missing_ok=True)
    return Restored(
        journal=str(journal),
        restored_from=str(source),
        last_entry=None if last is None else iso(last),
        kept=None if kept is None else str(kept),
        turned_back=tuple(stopped),
        paused=True,
    )


def _copy(source: Path, target: Path) -> None:
    """One state of a database as one file, for its owner's eyes, proved."""
    target.unlink(missing_ok=True)
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, _PRIVATE))
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=10.0)) as old,
            closing(sqlite3.connect(target, isolation_level=None)) as new,
        ):
            old.backup(new)
            new.execute("PRAGMA journal_mode = DELETE")  # no -wal beside it
    except sqlite3.Error as error:
        raise JournalError(f"{source} can't be copied to {target.parent}: {error}.", mend="Look at both.") from None
    proved(target)


def _prepare(config: Config, staged: Path, name: str, who: str) -> tuple[float | None, list[int]]:
    """Bring the copy to the present format, and write into it what has to be known of it."""
    journal = Journal(staged)
    try:
        events = journal.events(limit=1)
        last = events[-1]["at"] if events else None
        now, why = time.time(), because(Reason.RESTORED, file=name, last=None if last is None else iso(last))
        stopped = []
        for rollout in journal.rollouts(only_open=True):
            if not _moved(config, rollout):
                outcome = Outcome.ABORTED if before_traffic(rollout) else Outcome.ROLLED_BACK
                journal.halt(rollout, Stop(outcome, who, why), now)
                stopped.append(rollout.id)
            journal.freeze(rollout)
        for service in config.services:
            for model in Model:  # its file stays as it is now: the text of that time must not be restored
                journal.set_memo(service.name, memo_of(model), None)
        journal.set_memo("", PAUSED, value=True)
        journal.log(now, "restore", why, who=who)
    finally:
        journal.close()
    return last, stopped


def _moved(config: Config, rollout: Rollout) -> bool:
    """Whether the alias leads to the rollout's candidate: then turning back would take clients from there."""
    for service in config.services:
        if service.name == rollout.service and rollout.kind is not Kind.CHECK:
            return ServiceFiles(config.repository, service.name, service.engine).alias() == rollout.candidate
    return False


def _keep(journal: Path) -> Path | None:
    """Give the old journal a second name, under which SQLite finds what belongs to it. There is one at any time."""
    if not journal.exists():
        return None
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    names = (journal.with_name(f"{JOURNAL}.before-{stamp}{f'-{n}' if n else ''}") for n in count())
    kept = next(name for name in names if not name.exists())
    kept.hardlink_to(journal)
    wal = journal.with_name(f"{JOURNAL}-wal")
    if wal.exists():
        wal.rename(kept.with_name(f"{kept.name}-wal"))
    journal.with_name(f"{JOURNAL}-shm").unlink(missing_ok=True)
    return kept
