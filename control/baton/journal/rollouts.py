"""Rollouts: the one under way of each service, how far it is, and how all others ended."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from baton.codec import as_text, decode, encode
from baton.domain import GateResult, Outcome, Phase, Rollout, Stop, Verdict, VersionRecord
from baton.errors import Refused
from baton.journal.database import Database
from baton.journal.events import insert_event
from baton.journal.notes import Notes, Salt
from baton.journal.versions import insert_version
from baton.lifecycle import ALLOWED
from baton.reasons import Reason, Why, because


class Rollouts:
    """Each change is written together with the event that tells of it."""

    def __init__(self, database: Database, notes: Notes) -> None:
        self._database = database
        self._salt = notes.salt()

    def begin(self, rollout: Rollout) -> Rollout:
        """Open a rollout; its id and its salt are given here.

        Raises:
            Refused: one is under way already.
        """
        _allow(None, rollout.phase)
        with self._database.transaction() as db:
            if self.current(rollout.service) is not None:
                raise Refused(because(Reason.UNDER_WAY, service=rollout.service))
            cursor = db.execute(
                "INSERT INTO rollout (service, kind, candidate, previous, phase, who, why, release, label, fingerprint,"
                " started_at, phase_since, promoted, full) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (rollout.service, rollout.kind, rollout.candidate, rollout.previous, rollout.phase, rollout.who,
                 as_text(rollout.why), rollout.release, rollout.label, rollout.fingerprint, rollout.started_at,
                 rollout.phase_since, rollout.promoted, rollout.full),
            )  # fmt: skip
            opened = replace(rollout, id=int(cursor.lastrowid or 0), salt=secrets.token_bytes(16).hex())
            self._salt.write(db, rollout.service, Salt(opened.id, opened.salt))
            why = because(Reason.BEGUN, kind=rollout.kind, version=rollout.candidate, why=rollout.why)
            _log(db, opened, rollout.started_at, "begin", why, rollout.who, {"previous": rollout.previous})
        return opened

    def advance(self, rollout: Rollout, phase: Phase, why: Why, at: float) -> None:
        """Move a rollout to its next phase."""
        _allow(rollout.phase, phase)
        with self._database.transaction() as db:
            moved = at if phase is Phase.BAKING else rollout.moved_at
            _update(db, rollout, phase=phase, phase_since=at, moved_at=moved)
            if rollout.phase is Phase.SHADOWING:
                # The traffic steps start from zero: the time of the shadow does not count for them.
                _update(db, rollout, progress=0, progressed_at=None)
            moved_on = because(Reason.MOVED_ON, before=rollout.phase, after=phase, why=why)
            _log(db, rollout, at, "phase", moved_on)

    def halt(self, rollout: Rollout, stop: Stop, at: float) -> None:
        """Note that the rollout has to go back, and why. A reason that is there already stays."""
        with self._database.transaction() as db:
            db.execute("UPDATE rollout SET stop = ? WHERE id = ? AND stop IS NULL", (as_text(stop), rollout.id))
            _log(db, rollout, at, "halt", stop.why, stop.who, {"outcome": stop.outcome})

    def promote(self, rollout: Rollout, who: str, at: float, *, full: bool = False, approve: bool = False) -> None:
        """Note that a person lets the rollout go past its waits.

        ``full``: past the traffic steps that remain; ``approve``: past the pause step before which it stands.
        """
        with self._database.transaction() as db:
            db.execute(
                "UPDATE rollout SET promoted = 1, full = max(full, ?), approvals = approvals + ? WHERE id = ?",
                (full, approve, rollout.id),
            )
            _log(db, rollout, at, "promote", because(Reason.GOES_ON, version=rollout.candidate, full=full), who)

    def drop_holds(self, rollout: Rollout, who: str, why: Why, at: float) -> Rollout:
        """Forget the verdicts of gates that hold, so that these gates are asked again. Gives the rollout without them.

        Verdicts that pass or fail stay.
        """
        with self._database.transaction() as db:
            for gate, result in rollout.gates.items():
                if result.verdict is Verdict.HOLD:
                    db.execute("DELETE FROM verdict WHERE rollout = ? AND gate = ?", (rollout.id, gate))
            _log(db, rollout, at, "ask_again", why, who)
        return self._again(rollout)

    def cap_times(self, rollout: Rollout, now: float) -> Rollout:
        """The clock was set back: times of the rollout that lie in the future become ``now``. Gives the rollout so."""
        with self._database.transaction() as db:
            for column in ("started_at", "phase_since", "progressed_at", "renewed_at"):
                db.execute(f"UPDATE rollout SET {column} = ? WHERE id = ? AND {column} > ?", (now, rollout.id, now))
            db.execute("UPDATE verdict SET at = ? WHERE rollout = ? AND at > ?", (now, rollout.id, now))
            _log(db, rollout, now, "clock", because(Reason.CLOCK_SET_BACK))
        return self._again(rollout)

    def take_over(self, rollout: Rollout, why: Why, at: float) -> None:
        """Note that the candidate is to have all traffic at once, since the stable version is dead."""
        with self._database.transaction() as db:
            _update(db, rollout, full=True)
            _log(db, rollout, at, "take_over", why, "health")

    def freeze(self, rollout: Rollout) -> None:
        """A pause counts also for a rollout that a person promoted before."""
        with self._database.transaction() as db:
            _update(db, rollout, promoted=False)

    def renew(self, rollout: Rollout, at: float) -> None:
        """Note that the splitters may follow the route for one more lease."""
        with self._database.transaction() as db:
            _update(db, rollout, renewed_at=at)

    def progress(self, rollout: Rollout, seconds: float, at: float, why: Why, result: GateResult | None) -> None:
        """Note that the rollout went on by so many seconds of its traffic steps, and the verdict that let it."""
        with self._database.transaction() as db:
            reached = rollout.progress + seconds
            _update(db, rollout, progress=reached, progressed_at=at)
            if result is not None:
                _insert_verdict(db, rollout, result, at)
            _log(db, rollout, at, "progress", why, data={"progress": reached})

    def record(self, rollout: Rollout, result: GateResult, at: float) -> None:
        """Write down a gate's verdict, in the place of an earlier one of the same gate."""
        with self._database.transaction() as db:
            _insert_verdict(db, rollout, result, at)
            why = because(Reason.VERDICT, gate=result.gate, verdict=result.verdict, said=result.message)
            _log(db, rollout, at, "verdict", why, "gate", encode(result))

    def end(self, rollout: Rollout, outcome: Outcome, why: Why, at: float, records: list[VersionRecord]) -> None:
        """Close a rollout, and write down what it decided about versions."""
        _allow(rollout.phase, None)
        with self._database.transaction() as db:
            _update(db, rollout, ended_at=at, outcome=outcome, message=as_text(why))
            for record in records:
                insert_version(db, rollout.service, record)
            _log(db, rollout, at, "end", because(Reason.ENDED, outcome=outcome, why=why))

    def current(self, service: str) -> Rollout | None:
        """The rollout under way, or None."""
        return next(iter(self._read("WHERE ended_at IS NULL AND service = ?", service)), None)

    def under_way(self) -> list[Rollout]:
        """The rollouts under way of all services, the newest first."""
        return self._read("WHERE ended_at IS NULL ORDER BY id DESC")

    def get(self, number: int) -> Rollout | None:
        """One rollout by its id."""
        return next(iter(self._read("WHERE id = ?", number)), None)

    def newest(self, *, service: str | None = None, limit: int = 100) -> list[Rollout]:
        """The newest rollouts, of one service or of all, the newest first."""
        if service is None:
            return self._read("ORDER BY id DESC LIMIT ?", limit)
        return self._read("WHERE service = ? ORDER BY id DESC LIMIT ?", service, limit)

    def served(self, service: str) -> list[int]:
        """Versions that are known to have served, the latest first; those that were adopted stand as ``previous``."""
        with self._database.reading() as db:
            rows = db.execute(
                "SELECT candidate, previous FROM rollout WHERE service = ? AND outcome = ? ORDER BY ended_at DESC",
                (service, Outcome.LIVE),
            ).fetchall()
        return [v for r in rows for v in (r["candidate"], r["previous"]) if v is not None]

    def counts(self) -> dict[tuple[str, str], int]:
        """Ended rollouts by service and outcome."""
        with self._database.reading() as db:
            rows = db.execute(
                "SELECT service, outcome, count(*) n FROM rollout WHERE ended_at IS NOT NULL GROUP BY service, outcome"
            ).fetchall()
        return {(r["service"], r["outcome"]): r["n"] for r in rows}

    def _again(self, rollout: Rollout) -> Rollout:
        found = self.get(rollout.id)
        assert found is not None  # noqa: S101 - rollouts are never deleted
        return found

    def _read(self, which: str, *values: object) -> list[Rollout]:
        with self._database.reading() as db:
            return [self._rollout(db, row) for row in db.execute(f"SELECT * FROM rollout {which}", values).fetchall()]

    def _rollout(self, db: sqlite3.Connection, row: sqlite3.Row) -> Rollout:
        verdicts = db.execute("SELECT * FROM verdict WHERE rollout = ?", (row["id"],)).fetchall()
        salt = ""
        if row["ended_at"] is None:
            noted = self._salt.get(row["service"])
            # A rollout that an older Baton began has no salt of its own: with its id, request ids stay where they are.
            salt = noted.salt if noted is not None and noted.rollout == row["id"] else str(row["id"])
        read: dict[str, Any] = {
            **dict(row),
            "why": json.loads(row["why"]),
            "stop": json.loads(row["stop"] or "null"),
            "ended_why": json.loads(row["message"] or "null"),
            "promoted": bool(row["promoted"]),
            "full": bool(row["full"]),
            "gates": {verdict["gate"]: json.loads(verdict["result"]) for verdict in verdicts},
            "gate_times": {verdict["gate"]: verdict["at"] for verdict in verdicts},
            "salt": salt,
        }
        return decode(Rollout, read)


def _allow(before: Phase | None, after: Phase | None) -> None:
    if (before, after) not in ALLOWED:
        raise AssertionError(f"{before} to {after} is not in the lifecycle: a defect of Baton, please report it")


def _update(db: sqlite3.Connection, rollout: Rollout, **columns: object) -> None:
    given = ", ".join(f"{column} = ?" for column in columns)
    db.execute(f"UPDATE rollout SET {given} WHERE id = ?", (*columns.values(), rollout.id))


def _log(
    db: sqlite3.Connection, rollout: Rollout, at: float, kind: str, why: Why, who: str = "baton",
    data: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    insert_event(db, at, kind, why, who=who, service=rollout.service, rollout=rollout.id, data=data)


def _insert_verdict(db: sqlite3.Connection, rollout: Rollout, result: GateResult, at: float) -> None:
    db.execute("INSERT OR REPLACE INTO verdict VALUES (?,?,?,?)", (rollout.id, result.gate, at, as_text(result)))
