"""What the journal keeps of a service beside its rollouts: one value of each kind, and a new one replaces it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from baton.codec import as_text, from_text
from baton.domain import Model, Pruning, Release, Removed
from baton.journal.database import Database
from baton.samples import GoldenScores, Noise

T = TypeVar("T")
EVERY_SERVICE = ""
"""The service of a note that holds for all."""

OF_VERSIONS = ("manifest", "release")
"""Keys of notes that are kept of single versions, with the number after a colon."""


class Note(Generic[T]):
    """One kind of note. The key and the form of the value stand in journals on disk: they stay as they are."""

    def __init__(self, database: Database, key: str, kind: Any) -> None:
        """``kind`` is the type ``T``, by which :mod:`baton.codec` reads the value."""
        self._key = key
        self._database = database
        self._kind = kind

    def get(self, service: str) -> T | None:
        """None where nothing was noted."""
        with self._database.reading() as db:
            row = db.execute("SELECT value FROM memo WHERE service = ? AND key = ?", (service, self._key)).fetchone()
            found: T | None = None if row is None else from_text(self._kind | None, row["value"])
            return found

    def put(self, service: str, value: T | None) -> None:
        """None takes the note back."""
        with self._database.transaction() as db:
            self.write(db, service, value)

    def write(self, db: sqlite3.Connection, service: str, value: T | None) -> None:
        """As :meth:`put`, as part of a transaction."""
        db.execute("INSERT OR REPLACE INTO memo VALUES (?,?,?)", (service, self._key, as_text(value)))


@dataclass(frozen=True, slots=True)
class Salt:
    """The salt of a service's newest rollout, and the id of that rollout."""

    rollout: int
    salt: str


class Notes:
    def __init__(self, database: Database) -> None:
        self._database = database

    def paused(self) -> Note[bool]:
        """Whether a person paused Baton. Of ``EVERY_SERVICE``."""
        return Note(self._database, "paused", bool)

    def loaded(self) -> Note[Mapping[int, str]]:
        """The fingerprint of each version's folder as it was when Triton last loaded it."""
        return Note(self._database, "loaded_fingerprints", Mapping[int, str])

    def unexpected(self) -> Note[Mapping[str, str]]:
        """The fingerprint of each unexpected entry, by name, as it was at the last load call."""
        return Note(self._database, "known_strays", Mapping[str, str])

    def manifest(self, version: int) -> Note[Mapping[str, str]]:
        """The SHA-256 of each file of a version, by name, taken when its folder was known to be whole."""
        return Note(self._database, f"manifest:{version}", Mapping[str, str])

    def release(self, version: int) -> Note[Release]:
        """What a person declared a version to be at ``ctl retry``, in the place of what its folder says."""
        return Note(self._database, f"release:{version}", Release)

    def golden_scores(self) -> Note[Mapping[int, GoldenScores]]:
        """What the stable version and the last candidate gave for the golden set while nobody else asked them."""
        return Note(self._database, "golden_scores", Mapping[int, GoldenScores])

    def noise(self) -> Note[Noise]:
        """How far the scores of this service's versions move by themselves in half precision, measured once."""
        return Note(self._database, "noise", Noise)

    def config_text(self, model: Model) -> Note[str]:
        """The last usable text of a model's ``config.pbtxt``."""
        return Note(self._database, f"file:{model}", str)

    def pruning(self) -> Note[Pruning]:
        """Version folders that are to be removed. Empty once a rollout begins: it may need them."""
        return Note(self._database, "pruning", Pruning)

    def removed(self) -> Note[Mapping[int, Removed]]:
        """Which versions were removed from disk, and when. A folder of such a number may have come again."""
        return Note(self._database, "removed", Mapping[int, Removed])

    def salt(self) -> Note[Salt]:
        """The secret by which splitters place request ids. It is not shown with a rollout."""
        return Note(self._database, "salt", Salt)
