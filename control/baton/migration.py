"""Brings the journal of an earlier Baton to the present format, in one transaction: all of it, or nothing.

Until format 3 the journal held sentences in the place of reasons. Here each becomes its reason, by the wording of that
time, since Baton decides by reasons: whether a version is adopted, who turned a rollout back, which gate failed. A
sentence that is not known here is kept as it is, as the text of ``OTHER``.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Mapping
from typing import Any

from baton.reasons import Figure, Reason, Why, because
from baton.schema import BROKEN, SCHEMA_VERSION, JournalDamaged

_STEPS = (
    "ALTER TABLE rollout ADD COLUMN full INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE rollout ADD COLUMN progress REAL NOT NULL DEFAULT 0",
    "ALTER TABLE rollout ADD COLUMN progressed_at REAL",
    "ALTER TABLE rollout ADD COLUMN approvals INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE rollout ADD COLUMN renewed_at REAL",
)
"""From format 1, which knows no traffic steps, to format 2."""

_SENTENCES: tuple[tuple[re.Pattern[str], Reason], ...] = tuple(
    (re.compile(pattern, re.DOTALL), reason)
    for pattern, reason in (
        ("Triton serves it already, without a public name in front", Reason.ADOPTED),
        ("a new version folder is complete", Reason.NEW_VERSION),
        ("a new version folder is there, cut off, and nothing more of it arrives", Reason.CUT_OFF),
        ("promoted", Reason.PROMOTED),
        ("tried again(?:, declared (?P<release>.+))?", Reason.TRIED_AGAIN),
        ("verification", Reason.VERIFICATION),
        ("rolled back by (?P<who>.+)", Reason.ASKED_BACK),
        ("aborted by (?P<who>.+)", Reason.ABORTED),
        (r"Version (?P<version>\d+) serves\.", Reason.SERVES),
        (r"Back on version (?P<version>\d+)\.", Reason.BACK_ON),
        (r"Version (?P<version>\d+): every gate passed; nothing was promoted\.", Reason.VERIFIED),
        (r"Version (?P<version>\d+) arrived, and newer versions supersede older ones here\.", Reason.SUPERSEDED),
        (r"The folder of version (?P<version>\d+) was removed meanwhile\.", Reason.FOLDER_REMOVED_MEANWHILE),
        (
            (
                r"The folder of version (?P<version>\d+) was changed meanwhile(?P<proved>; what was proved no longer "
                r"holds)?\."
            ),
            Reason.FOLDER_CHANGED_MEANWHILE,
        ),
        (
            (
                r"Version (?P<version>\d+) was found serving, and the journal (?:does not know how it came to|calls it "
                r"(?P<standing>\w+) \((?P<before>.*)\))\. It is taken as it is\."
            ),
            Reason.FOUND_SERVING,
        ),
        (r"served before version (?P<alias>\d+), as far as the files tell; the journal was lost", Reason.INHERITED),
        (r"(?P<kind>rollout|rollback|check) of version (?P<version>\d+): (?P<why>.+)", Reason.BEGUN),
        (r"(?P<before>[a-z_]+) to (?P<after>[a-z_]+): (?P<why>.+)", Reason.MOVED_ON),
        (
            r"(?P<outcome>live|verified|rolled_back|rejected|aborted|superseded): (?P<why>.+)",
            Reason.ENDED,
        ),
    )
)
"""The wording of format 2. It never changes: journals that hold it are on disk."""
_NUMBERS = frozenset({"version", "alias"})
_FAILED = frozenset({"rejected", "rolled_back"})
"""Outcomes of a rollout that a gate turned back because it failed, and not for want of evidence."""


def upgrade(db: sqlite3.Connection, found: int) -> None:
    """``db`` commits by itself; ``found`` is the format that it has.

    Raises:
        JournalDamaged: a row does not hold what was written there.
        sqlite3.DatabaseError: it can't be written.
    """
    db.execute("BEGIN IMMEDIATE")
    try:
        for statement in _STEPS if found == 1 else ():
            db.execute(statement)
        _give_reasons(db)
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    except BaseException as error:
        db.execute("ROLLBACK")
        if isinstance(error, ValueError | KeyError | TypeError):
            path = str(db.execute("PRAGMA database_list").fetchone()[2])
            raise JournalDamaged(because(Reason.JOURNAL_ROW, path=path, error=str(error)), mend=BROKEN) from error
        raise
    db.execute("COMMIT")


def _give_reasons(db: sqlite3.Connection) -> None:
    known: dict[str, Why] = {}
    """The reasons of stops. Only a stop names its gate; its sentence stands in the rollout's end, and elsewhere."""
    for number, text in db.execute("SELECT id, stop FROM rollout WHERE stop IS NOT NULL").fetchall():
        stop = json.loads(text)
        why = known[stop["why"]] = _reason_of_stop(stop)
        db.execute("UPDATE rollout SET stop = ? WHERE id = ?", (json.dumps(stop | {"why": why.data()}), number))

    def reason_of(text: bytes) -> str:
        return json.dumps(_reason_of(text.decode(errors="replace"), known).data())

    def verdict_of(text: bytes, data: bytes) -> str:
        why = _reason_of_verdict(data)
        return reason_of(text) if why is None else json.dumps(why.data())

    # They get bytes: SQLite tells a text that can't be decoded as an error of its own.
    db.create_function("reason_of", 1, reason_of, deterministic=True)
    db.create_function("verdict_of", 2, verdict_of, deterministic=True)
    db.execute("UPDATE rollout SET why = reason_of(CAST(why AS BLOB))")
    db.execute("UPDATE rollout SET message = reason_of(CAST(message AS BLOB)) WHERE message != ''")
    db.execute("UPDATE version SET reason = reason_of(CAST(reason AS BLOB))")
    db.execute("UPDATE event SET message = reason_of(CAST(message AS BLOB)) WHERE kind != 'verdict'")
    db.execute(
        "UPDATE event SET message = verdict_of(CAST(message AS BLOB), CAST(data AS BLOB)) WHERE kind = 'verdict'"
    )


def _reason_of_stop(stop: Mapping[str, Any]) -> Why:
    if stop["gate"] and stop["outcome"] in _FAILED:
        return because(Reason.GATE_FAILED, gate=stop["gate"], said=stop["why"])
    return _reason_of(stop["why"], {})


def _reason_of_verdict(data: bytes) -> Why | None:
    try:
        result = json.loads(data)
        return because(Reason.VERDICT, gate=result["name"], verdict=result["verdict"], said=result["message"])
    except (ValueError, KeyError, TypeError):  # nothing is decided by an event: its sentence is enough
        return None


def _reason_of(text: str, known: Mapping[str, Why]) -> Why:
    """The reason that a sentence of format 2 gave."""
    if text in known:
        return known[text]
    for pattern, reason in _SENTENCES:
        if (found := pattern.fullmatch(text)) is not None:
            return because(reason, **{name: _figure(name, value, known) for name, value in found.groupdict().items()})
    return because(Reason.OTHER, text=text)


def _figure(name: str, value: str | None, known: Mapping[str, Why]) -> Figure:
    if name == "why" and value is not None:
        return _reason_of(value, known)
    if name == "proved":
        return value is not None
    return int(value) if value is not None and name in _NUMBERS else value
