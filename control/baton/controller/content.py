"""Verifies the folder of what serves by the hashes of its files, and accepts it when only its times have changed.

Triton loads a live version again in its next load call when anything in the version's folder is newer. So Baton makes
no load call unless it knows that the content is what serves. A backup, a ``touch`` or restored files change times only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from baton.domain import Folder
from baton.errors import Refused
from baton.journal import Journal
from baton.reasons import Reason, because
from baton.verify.meta import META

Manifest = Callable[[int], Mapping[str, str]]
"""SHA-256 of every file of a version's folder."""


def differing(known: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """The files that are others, gone, or new. What a person says of a version is none of what it computes with."""
    return sorted(name for name in {*known, *found} - {META} if known.get(name) != found.get(name))


class ContentVerifier:
    """Of one service. Both methods may take minutes, and are called without the loop's lock."""

    def __init__(self, service: str, journal: Journal, manifest: Manifest, clock: Callable[[], float]) -> None:
        self._service = service
        self._journal = journal
        self._manifest = manifest
        self._clock = clock

    def known(self, version: int) -> bool:
        """Whether the journal has the hashes of the version's files."""
        return self._journal.notes.manifest(version).get(self._service) is not None

    def learn(self, version: int) -> None:
        """Record the hashes of a version that was found serving."""
        self._journal.notes.manifest(version).put(self._service, self._manifest(version))

    def accept(self, version: int, folder: Folder, who: str) -> None:
        """Hash a live version's folder, and record that it holds what serves.

        Raises:
            Refused: it does not, or the journal has no hashes of what serves.
        """
        known = self._journal.notes.manifest(version).get(self._service)
        if known is None:
            raise Refused(because(Reason.NOT_RECORDED, version=version))
        found = self._manifest(version)
        if wrong := differing(known, found):
            raise Refused(because(Reason.DIFFERS, version=version, file=wrong[0], more=len(wrong) - 1))
        # The fingerprint from before the hashing: what changes meanwhile is another change.
        noted = self._journal.notes.loaded()
        loaded = {**(noted.get(self._service) or {}), version: folder.fingerprint}
        why = because(Reason.PROVED_UNCHANGED, version=version)
        self._journal.events.append(self._clock(), "retry", why, who=who, service=self._service)
        noted.put(self._service, loaded)
