"""The durable record: every decision, verdict and action, with who, when and why, written before it is acted on.

SQLite in the state directory, in WAL mode with full synchronisation: what a method wrote is on disk when it
returns. Besides the log of events, the journal holds what can be read from nowhere else: the rollout under
way, what was decided about each version, and how the folders looked when Triton loaded them.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from baton.codec import decode, encode
from baton.domain import (
    Gate,
    GateResult,
    Kind,
    Outcome,
    Phase,
    Release,
    ReleaseStatus,
    Rollout,
    Stop,
    Verdict,
    VersionRecord,
)
from baton.durable import close_to_others, make_private
from baton.errors import Refused
from baton.lifecycle import ALLOWED
from baton.migration import upgrade
from baton.ownership import open_own
from baton.reasons import Reason, Why, because
from baton.schema import (
    BROKEN,
    SCHEMA_VERSION,
    JournalDamaged,
    JournalError,
    aside,
    create,
    journal_errors,
    proved,
    set_aside,
)

JOURNAL = "journal.db"
"""The journal's file in the state directory."""
SALT = "salt"
"""The memo that holds the salt of a service's newest rollout, with its id."""


class Journal:
    """All methods may be called from any thread; times are seconds since the epoch, given by the caller.

    Raises:
        JournalError: the disk is full, or the file is damaged; the message says which, and what to do.
        Untrusted: it is a link or another user's.
    """

    def __init__(self, path: Path, held: Callable[[], None] = lambda: None) -> None:
        """``held`` raises when this process may not act for the state directory any more; it is asked at each use."""
        self._path = path
        self._held = held
        self._ours: os.stat_result | None = None
        self._damage: tuple[str, Path] | None = None
        """Why the file is put aside, and as what, as long as there is nothing in its place."""
        self._lock = threading.RLock()
        self._connect()

    def _connect(self) -> None:
        with suppress(OSError):  # told by SQLite, which makes it where it is not there
            os.close(open_own(self._path, os.O_RDONLY))
        with journal_errors(self._path):
            make_private(self._path.parent)
            if not self._path.exists():
                create(self._path)
            for part in (self._path, *(self._path.with_name(f"{self._path.name}{end}") for end in ("-wal", "-shm"))):
                with suppress(FileNotFoundError):
                    close_to_others(part)
            # Before anything is written: what is damaged stays as it is.
            found = proved(self._path)
            self._db = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None, timeout=10.0)
        try:
            self._open(found)
        except BaseException:
            self._db.close()
            raise

    def _open(self, found: int) -> None:
        self._ours = None
        with self._guard():
            self._db.row_factory = sqlite3.Row
            self._db.text_factory = bytes.decode  # of what is no text it says so in Python's own way
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            if found < SCHEMA_VERSION:
                upgrade(self._db, found)
            self._ours = self._path.stat()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def check(self) -> None:
        """Whether what is written here is what a later start will read, and this process may act on it.

        Raises:
            JournalError: the file was removed or replaced: SQLite would go on writing to one that nobody finds again.
            Refused: the state directory is not this process's any more.
        """
        self._held()
        try:
            same = self._ours is None or os.path.samestat(self._path.stat(), self._ours)
        except OSError:
            same = False
        if not same:
            raise JournalError(
                f"The journal {self._path} was removed or replaced while it was in use; nothing more is done.",
                mend="Start the control plane again, and put a journal back with `ctl restore` alone.",
            )

    @contextmanager
    def _guard(self) -> Iterator[None]:
        with self._lock, journal_errors(self._path):
            self.check()
            if self._damage is not None:
                raise JournalDamaged(self._damage[0])
            yield

    def prove(self) -> None:
        """Read all that decisions are made of.

        Raises:
            JournalDamaged: some of it is not what was written.
        """
        self.rollouts(limit=10_000)
        with self._reading():
            services = [r["service"] for r in self._db.execute("SELECT DISTINCT service FROM version")]
            for row in self._db.execute("SELECT value FROM memo"):
                json.loads(row["value"])
        for service in services:
            self.version_records(service)

    def begin_anew(self, at: float, why: str) -> None:
        """Put the damaged file aside, under a name with the time, and go on with an empty one in its place.

        Raises:
            JournalError: it can't be done now, the disk may be full. Until it is done by another call, each use of the
                journal raises ``JournalDamaged``.
        """
        with self._lock:
            why, kept = self._damage or (why, aside(self._path, at))
            try:
                with suppress(sqlite3.Error):  # it is what can't be read
                    self._db.close()
                set_aside(self._path, kept)
                self._damage = None
                self._connect()
                self.tell_damage(at, why, kept)
            except BaseException:
                self._damage, self._ours = (why, kept), None  # what is in its place is nobody's yet
                raise

    def tell_damage(self, at: float, why: str, kept: Path) -> None:
        """Say in this journal that it follows one that was put aside."""
        self.log(at, "damaged", because(Reason.PUT_ASIDE, error=why, kept=kept.name))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """SQLite notices damage to its own structure alone; what rows hold has to make sense as well."""
        with self._guard():
            try:
                yield
            except (ValueError, KeyError, TypeError) as error:
                journal_errors = f"The journal {self._path} fails: a row holds what was never written there ({error})."
                raise JournalDamaged(journal_errors, mend=BROKEN) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._guard():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    # Events

    def log(
        self, at: float, kind: str, why: Why, *, who: str = "baton", service: str | None = None,
        rollout: int | None = None, data: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Append one event."""
        with self._transaction() as db:
            _log(db, at, kind, why, who, service, rollout, data)

    def events(
        self, *, service: str | None = None, rollout: int | None = None, limit: int = 200
    ) -> list[dict[str, Any]]:
        """The newest events, oldest first, each with its ``why``, and the sentence of that as ``message``."""
        where, values = _where(service=service, rollout=rollout)
        with self._reading():
            rows = self._db.execute(
                f"SELECT * FROM event {where} ORDER BY id DESC LIMIT ?", (*values, limit)
            ).fetchall()
            return [_event(r) for r in reversed(rows)]

    # Rollouts

    def begin(self, rollout: Rollout) -> Rollout:
        """Open a rollout; its id is given here.

        Raises:
            Refused: one is under way already.
        """
        _allow(None, rollout.phase)
        with self._transaction() as db:
            if self.open_rollout(rollout.service) is not None:
                raise Refused(because(Reason.UNDER_WAY, service=rollout.service), mend="`ctl abort` ends it.")
            cursor = db.execute(
                "INSERT INTO rollout (service, kind, candidate, previous, phase, who, why, release, label, fingerprint,"
                " started_at, phase_since, promoted, full) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (rollout.service, rollout.kind, rollout.candidate, rollout.previous, rollout.phase, rollout.who,
                 _text(rollout.why), rollout.release, rollout.label, rollout.fingerprint, rollout.started_at,
                 rollout.phase_since, rollout.promoted, rollout.full),
            )  # fmt: skip
            opened = replace(rollout, id=int(cursor.lastrowid or 0), salt=secrets.token_bytes(16).hex())
            memo = json.dumps({"rollout": opened.id, "salt": opened.salt})
            db.execute("INSERT OR REPLACE INTO memo VALUES (?,?,?)", (rollout.service, SALT, memo))
            why = because(Reason.BEGUN, kind=rollout.kind, version=rollout.candidate, why=rollout.why)
            _log(db, rollout.started_at, "begin", why, rollout.who, rollout.service, opened.id,
                 {"previous": rollout.previous})  # fmt: skip
        return opened

    def advance(self, rollout: Rollout, phase: Phase, why: Why, at: float) -> None:
        """Move a rollout to its next phase."""
        _allow(rollout.phase, phase)
        with self._transaction() as db:
            moved = at if phase is Phase.BAKING else rollout.moved_at
            db.execute(
                "UPDATE rollout SET phase = ?, phase_since = ?, moved_at = ? WHERE id = ?",
                (phase, at, moved, rollout.id),
            )
            if rollout.phase is Phase.SHADOWING:
                # The way through the traffic steps begins anew; what the shadow took is no part of it.
                db.execute("UPDATE rollout SET progress = 0, progressed_at = NULL WHERE id = ?", (rollout.id,))
            moved_on = because(Reason.MOVED_ON, before=rollout.phase, after=phase, why=why)
            _log(db, at, "phase", moved_on, "baton", rollout.service, rollout.id, None)

    def halt(self, rollout: Rollout, stop: Stop, at: float) -> None:
        """Note that the rollout has to go back, and why. The first reason stands."""
        with self._transaction() as db:
            db.execute("UPDATE rollout SET stop = ? WHERE id = ? AND stop IS NULL", (_stop_text(stop), rollout.id))
            _log(db, at, "halt", stop.why, stop.who, rollout.service, rollout.id, {"outcome": stop.outcome})

    def promote(self, rollout: Rollout, who: str, at: float, *, full: bool = False, approve: bool = False) -> None:
        """Note that a person lets the rollout go past its waits.

        ``full``: past the traffic steps that remain; ``approve``: past the pause step before which it stands.
        """
        with self._transaction() as db:
            db.execute(
                "UPDATE rollout SET promoted = 1, full = max(full, ?), approvals = approvals + ? WHERE id = ?",
                (full, approve, rollout.id),
            )
            why = because(Reason.GOES_ON, version=rollout.candidate, full=full)
            _log(db, at, "promote", why, who, rollout.service, rollout.id, None)

    def ask_again(self, rollout: Rollout, who: str, why: Why, at: float) -> Rollout:
        """Forget the verdicts of gates that hold for want of evidence, so that they are asked anew. Gives the rest."""
        with self._transaction() as db:
            for gate, result in rollout.gates.items():
                if result.verdict is Verdict.HOLD:
                    db.execute("DELETE FROM verdict WHERE rollout = ? AND gate = ?", (rollout.id, gate))
            _log(db, at, "ask_again", why, who, rollout.service, rollout.id, None)
        found = self.rollout(rollout.id)
        assert found is not None  # noqa: S101 - rollouts are never deleted
        return found

    def set_back(self, rollout: Rollout, now: float) -> Rollout:
        """The clock was set back since: no time of an open rollout lies in the future. Gives it as it is then."""
        with self._transaction() as db:
            for column in ("started_at", "phase_since", "progressed_at", "renewed_at"):
                db.execute(f"UPDATE rollout SET {column} = ? WHERE id = ? AND {column} > ?", (now, rollout.id, now))
            db.execute("UPDATE verdict SET at = ? WHERE rollout = ? AND at > ?", (now, rollout.id, now))
            why = because(Reason.CLOCK_SET_BACK)
            _log(db, now, "clock", why, "baton", rollout.service, rollout.id, None)
        found = self.rollout(rollout.id)
        assert found is not None  # noqa: S101 - rollouts are never deleted
        return found

    def take_over(self, rollout: Rollout, why: Why, at: float) -> None:
        """Note that the candidate is to have all traffic at once, since the stable version is dead."""
        with self._transaction() as db:
            db.execute("UPDATE rollout SET full = 1 WHERE id = ?", (rollout.id,))
            _log(db, at, "take_over", why, "health", rollout.service, rollout.id, None)

    def freeze(self, rollout: Rollout) -> None:
        """A pause counts also for a rollout that a person promoted before."""
        with self._transaction() as db:
            db.execute("UPDATE rollout SET promoted = 0 WHERE id = ?", (rollout.id,))

    def renew(self, rollout: Rollout, at: float) -> None:
        """Note that the splitters may follow the route for one more lease."""
        with self._transaction() as db:
            db.execute("UPDATE rollout SET renewed_at = ? WHERE id = ?", (at, rollout.id))

    def progress(self, rollout: Rollout, seconds: float, at: float, why: Why, result: GateResult | None) -> None:
        """Note that the rollout went on by so many seconds of its way, and the verdict that let it."""
        with self._transaction() as db:
            db.execute(
                "UPDATE rollout SET progress = ?, progressed_at = ? WHERE id = ?",
                (rollout.progress + seconds, at, rollout.id),
            )
            if result is not None:
                _verdict(db, rollout, result, at)
            progress = {"progress": rollout.progress + seconds}
            _log(db, at, "progress", why, "baton", rollout.service, rollout.id, progress)

    def record(self, rollout: Rollout, result: GateResult, at: float) -> None:
        """Write down a gate's verdict; a new one replaces an earlier one of the same gate."""
        with self._transaction() as db:
            _verdict(db, rollout, result, at)
            why = because(Reason.VERDICT, gate=result.gate, verdict=result.verdict, said=result.message)
            _log(db, at, "verdict", why, "gate", rollout.service, rollout.id, encode(result))

    def end(self, rollout: Rollout, outcome: Outcome, why: Why, at: float, standings: list[VersionRecord]) -> None:
        """Close a rollout, and with it what it decided about versions."""
        _allow(rollout.phase, None)
        with self._transaction() as db:
            db.execute(
                "UPDATE rollout SET ended_at = ?, outcome = ?, message = ? WHERE id = ?",
                (at, outcome, _text(why), rollout.id),
            )
            for record in standings:
                _stand(db, rollout.service, record)
            ended = because(Reason.ENDED, outcome=outcome, why=why)
            _log(db, at, "end", ended, "baton", rollout.service, rollout.id, None)

    def open_rollout(self, service: str) -> Rollout | None:
        """The rollout under way, or None."""
        found = self.rollouts(service=service, only_open=True)
        return found[0] if found else None

    def rollout(self, number: int) -> Rollout | None:
        """One rollout by its id."""
        with self._reading():
            row = self._db.execute("SELECT * FROM rollout WHERE id = ?", (number,)).fetchone()
            return self._rollout(row) if row else None

    def rollouts(self, *, service: str | None = None, only_open: bool = False, limit: int = 100) -> list[Rollout]:
        """The newest rollouts, newest first."""
        where, values = _where(service=service)
        if only_open:
            where = f"{where} {'AND' if where else 'WHERE'} ended_at IS NULL"
        with self._reading():
            rows = self._db.execute(
                f"SELECT * FROM rollout {where} ORDER BY id DESC LIMIT ?", (*values, limit)
            ).fetchall()
            return [self._rollout(r) for r in rows]

    def served(self, service: str) -> list[int]:
        """Versions that are known to have served, the latest first; those that were adopted stand as ``previous``."""
        with self._reading():
            rows = self._db.execute(
                "SELECT candidate, previous FROM rollout WHERE service = ? AND outcome = ? ORDER BY ended_at DESC",
                (service, Outcome.LIVE),
            ).fetchall()
        return [v for r in rows for v in (r["candidate"], r["previous"]) if v is not None]

    def counts(self) -> dict[tuple[str, str], int]:
        """Ended rollouts by service and outcome."""
        with self._reading():
            rows = self._db.execute(
                "SELECT service, outcome, count(*) n FROM rollout WHERE ended_at IS NOT NULL GROUP BY service, outcome"
            ).fetchall()
        return {(r["service"], r["outcome"]): r["n"] for r in rows}

    # Versions and memos

    def version_records(self, service: str) -> dict[int, VersionRecord]:
        with self._reading():
            rows = self._db.execute("SELECT * FROM version WHERE service = ?", (service,)).fetchall()
            return {r["version"]: _record(r) for r in rows}

    def stand(self, service: str, record: VersionRecord) -> None:
        with self._transaction() as db:
            _stand(db, service, record)

    def forget(self, service: str, version: int, who: str, at: float) -> None:
        """Take a decision about a version back, so that it counts as new."""
        with self._transaction() as db:
            db.execute("DELETE FROM version WHERE service = ? AND version = ?", (service, version))
            _log(db, at, "retry", because(Reason.COUNTS_AS_NEW, version=version), who, service, None, None)

    def highest(self, service: str) -> int:
        """The highest version number the journal has ever met: numbers are never used again."""
        with self._reading():
            row = self._db.execute(
                "SELECT max(n) FROM (SELECT max(candidate) n FROM rollout WHERE service = ?"
                " UNION ALL SELECT max(version) FROM version WHERE service = ?)",
                (service, service),
            ).fetchone()
        return int(row[0] or 0)

    def memo(self, service: str, key: str, default: Any = None) -> Any:
        with self._reading():
            row = self._db.execute("SELECT value FROM memo WHERE service = ? AND key = ?", (service, key)).fetchone()
            return json.loads(row["value"]) if row else default

    def set_memo(self, service: str, key: str, value: Any) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO memo VALUES (?,?,?)", (service, key, json.dumps(value)))

    def _rollout(self, row: sqlite3.Row) -> Rollout:
        verdicts = self._db.execute("SELECT * FROM verdict WHERE rollout = ?", (row["id"],)).fetchall()
        salt = ""
        if row["ended_at"] is None:
            memo = self.memo(row["service"], SALT, {})
            # One that began before rollouts had a salt of their own goes on as it began: ids stay where they are.
            salt = str(memo["salt"] if memo.get("rollout") == row["id"] else row["id"])
        results = {Gate(v["gate"]): decode(GateResult, json.loads(v["result"])) for v in verdicts}
        return Rollout(
            id=row["id"], service=row["service"], kind=Kind(row["kind"]), candidate=row["candidate"],
            previous=row["previous"], phase=Phase(row["phase"]), who=row["who"], why=_why(row["why"]),
            release=Release(row["release"]), label=row["label"], fingerprint=row["fingerprint"],
            started_at=row["started_at"], phase_since=row["phase_since"], gates=results,
            gate_times={Gate(v["gate"]): v["at"] for v in verdicts}, promoted=bool(row["promoted"]),
            stop=_stop(row["stop"]), moved_at=row["moved_at"], ended_at=row["ended_at"],
            outcome=Outcome(row["outcome"]) if row["outcome"] else None,
            ended_why=_why(row["message"]) if row["message"] else None,
            full=bool(row["full"]), progress=row["progress"], progressed_at=row["progressed_at"],
            approvals=row["approvals"], renewed_at=row["renewed_at"], salt=salt,
        )  # fmt: skip


def _allow(before: Phase | None, after: Phase | None) -> None:
    if (before, after) not in ALLOWED:
        raise AssertionError(f"{before} to {after} is not in the lifecycle: a defect of Baton, please report it")


def _where(**columns: Any) -> tuple[str, tuple[Any, ...]]:
    given = {k: v for k, v in columns.items() if v is not None}
    if not given:
        return "", ()
    return "WHERE " + " AND ".join(f"{k} = ?" for k in given), tuple(given.values())


def _log(
    db: sqlite3.Connection, at: float, kind: str, why: Why, who: str, service: str | None, rollout: int | None,
    data: Mapping[str, Any] | None,
) -> None:  # fmt: skip
    db.execute(
        "INSERT INTO event (at, service, rollout, kind, who, message, data) VALUES (?,?,?,?,?,?,?)",
        (at, service, rollout, kind, who, _text(why), json.dumps(data or {})),
    )


def _event(row: sqlite3.Row) -> dict[str, Any]:
    why = _why(row["message"])
    return {**dict(row), "message": str(why), "why": why, "data": json.loads(row["data"])}


def _text(why: Why) -> str:
    return json.dumps(why.data())


def _why(text: str) -> Why:
    return Why.of(json.loads(text))


def _stand(db: sqlite3.Connection, service: str, record: VersionRecord) -> None:
    db.execute(
        "INSERT OR REPLACE INTO version VALUES (?,?,?,?,?,?,?)",
        (service, record.version, record.status, _text(record.reason), record.fingerprint, record.loaded, record.at),
    )


def _record(row: sqlite3.Row) -> VersionRecord:
    standing, reason = ReleaseStatus(row["standing"]), _why(row["reason"])
    return VersionRecord(row["version"], standing, reason, row["fingerprint"], bool(row["loaded"]), row["at"])


def _verdict(db: sqlite3.Connection, rollout: Rollout, result: GateResult, at: float) -> None:
    text = json.dumps(encode(result))
    db.execute("INSERT OR REPLACE INTO verdict VALUES (?,?,?,?)", (rollout.id, result.gate, at, text))


def _stop_text(stop: Stop) -> str:
    return json.dumps({"outcome": stop.outcome, "who": stop.who, "why": stop.why.data(), "gate": stop.gate})


def _stop(text: str | None) -> Stop | None:
    if text is None:
        return None
    data = json.loads(text)
    gate = Gate(data["gate"]) if data["gate"] else None
    return Stop(Outcome(data["outcome"]), data["who"], Why.of(data["why"]), gate)
