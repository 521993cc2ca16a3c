"""Backup and restore of the journal.

Of the state directory only the journal needs a backup: sockets, locks and logs are made anew. What Triton serves stands
in the repository's files, which a restore does not touch.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path

from baton.config import Config
from baton.domain import Kind, Model, Outcome, Rollout, Stop
from baton.durable import sync_directory
from baton.errors import Refused
from baton.facts import Backup, Restored, iso
from baton.journal import EVERY_SERVICE, JOURNAL, Journal
from baton.plan.traffic import before_traffic
from baton.reasons import Reason, because
from baton.schema import JournalError, aside_name, check_file
from baton.triton.repository import ServiceFiles

_PRIVATE = 0o600


def backup(state: Path, target: Path, *, force: bool) -> Backup:
    """Copy the journal to a file, or into a directory under a name with the time.

    The copy is one state of the journal, also while a control plane writes. It gets its name when it is complete.

    Raises:
        Refused: there is no journal, the file is there already and ``force`` is not given, or every user can write
            to its directory.
        JournalError: the journal is damaged, or the copy can't be written. An older backup stays as it was.
    """
    source = state / JOURNAL
    if not source.is_file():
        raise Refused(f"There is no journal in state directory {state}.", mend="Name the right one with --state.")
    if target.is_dir():
        named, folder = time.strftime("baton-%Y%m%dT%H%M%SZ", time.gmtime()), target
        target, more = folder / f"{named}.db", 1
        while target.exists():  # another one of the same second
            more += 1
            target = folder / f"{named}-{more}.db"
    if target.exists() and not force:
        raise Refused(f"{target} is there already.", mend="Name another file, or replace it with --force.")
    if target.parent.is_dir() and (mode := target.parent.stat().st_mode) & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise Refused(
            f"Every user can write in {target.parent}, and could get hold of the backup.",
            mend="Name a directory that only you can write in.",
        )
    check_file(source)
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
    """Put a backup in the place of the journal, which no control plane may use. The old one is kept beside it.

    Nobody knows how a rollout of the backup went on. It is turned back, unless the alias leads to its candidate by now:
    clients stay with the version that serves them. Baton is paused, because what was refused or taken back after the
    backup would count as new.

    Raises:
        JournalError: the backup is damaged or of another Baton; nothing has changed then.
        RepositoryError: where an alias leads can't be read; nothing has changed then.
    """
    try:
        check_file(source)
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
    """Copy one state of a database to one file that only its owner can read, and check it."""
    target.unlink(missing_ok=True)
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, _PRIVATE))
    try:
        with closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=10.0)) as db:
            db.execute("VACUUM INTO ?", (str(target),))  # without the space that the journal has free
    except sqlite3.Error as error:
        raise JournalError(f"{source} can't be copied to {target.parent}: {error}.", mend="Look at both.") from None
    check_file(target)


def _prepare(config: Config, staged: Path, name: str, who: str) -> tuple[float | None, list[int]]:
    """Bring the copy to the present format, stop its rollouts, and pause. Gives its last entry and those rollouts."""
    journal = Journal(staged)
    try:
        events = journal.events.newest(limit=1)
        last = events[-1]["at"] if events else None
        now, why = time.time(), because(Reason.RESTORED, file=name, last=None if last is None else iso(last))
        stopped = []
        for rollout in journal.rollouts.under_way():
            if not _moved(config, rollout):
                outcome = Outcome.ABORTED if before_traffic(rollout) else Outcome.ROLLED_BACK
                journal.rollouts.halt(rollout, Stop(outcome, who, why), now)
                stopped.append(rollout.id)
            journal.rollouts.freeze(rollout)
        for service in config.services:
            journal.notes.pruning().put(service.name, None)  # it was asked for of the folders of that time
            journal.notes.golden_scores().put(service.name, None)  # another version may have the number by now
            for model in Model:  # the files stay as they are now: their older texts must not be put back
                journal.notes.config_text(model).put(service.name, None)
        journal.notes.paused().put(EVERY_SERVICE, value=True)
        journal.events.append(now, "restore", why, who=who)
    finally:
        journal.close()
    return last, stopped


def _moved(config: Config, rollout: Rollout) -> bool:
    """Whether the alias leads to the rollout's candidate: to turn back would then move clients."""
    for service in config.services:
        if service.name == rollout.service and rollout.kind is not Kind.CHECK:
            return ServiceFiles(config.repository, service.name, service.engine).alias() == rollout.candidate
    return False


def _keep(journal: Path) -> Path | None:
    """Give the old journal a second name, and its -wal file the name that belongs to it.

    A journal lies under the first name at any moment.
    """
    if not journal.exists():
        return None
    kept = aside_name(journal, time.time(), "before")
    kept.hardlink_to(journal)
    wal = journal.with_name(f"{JOURNAL}-wal")
    if wal.exists():
        wal.rename(kept.with_name(f"{kept.name}-wal"))
    journal.with_name(f"{JOURNAL}-shm").unlink(missing_ok=True)
    return kept
