"""The folder of what serves: known by the hashes of its files, and accepted again when only its times have changed.

Triton loads a live version once more in its next load call when anything about its folder is newer, so Baton makes none
while it does not know that the content is what serves. A backup, a ``touch`` or files that were put back leave it so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from baton.domain import Folder
from baton.errors import Refused
from baton.journal import Journal
from baton.reasons import Reason, because

LOADED, UNEXPECTED = "loaded_fingerprints", "known_strays"
"""Memos of the journal: how each version's folder, and what else lies there, looked when it was last loaded."""
Manifest = Callable[[int], Mapping[str, str]]
"""SHA-256 of every file of a version's folder."""


class ContentVerifier:
    """Of one service. Both methods may take minutes, and are called without the loop's lock."""

    def __init__(self, service: str, journal: Journal, manifest: Manifest, clock: Callable[[], float]) -> None:
        self._service = service
        self._journal = journal
        self._manifest = manifest
        self._clock = clock

    def known(self, version: int) -> bool:
        """Whether the version's content was written down when it was whole."""
        return self._journal.memo(self._service, _key(version)) is not None

    def learn(self, version: int) -> None:
        """Write down what the folder of a version holds that was found serving."""
        self._journal.set_memo(self._service, _key(version), dict(self._manifest(version)))

    def accept(self, version: int, folder: Folder, who: str) -> None:
        """Hash a live version's folder, and note that it holds what serves.

        Raises:
            Refused: it does not, or nobody knows what served.
        """
        known: Mapping[str, str] | None = self._journal.memo(self._service, _key(version))
        if known is None:
            raise Refused(
                because(Reason.NOT_RECORDED, version=version),
                mend="Push the content as a new version, restart Triton in a maintenance window, or name it with --to.",
            )
        found = self._manifest(version)
        wrong = sorted(name for name, digest in known.items() if found.get(name) != digest)
        if wrong:
            raise Refused(
                because(Reason.DIFFERS, version=version, file=wrong[0], more=len(wrong) - 1),
                mend="Restore the files as they were, or push the new content as a new version.",
            )
        # Of the folder as it looked before it was hashed: what changes meanwhile is another change.
        loaded = self._journal.memo(self._service, LOADED, {}) | {str(version): folder.fingerprint}
        why = because(Reason.PROVED_UNCHANGED, version=version)
        self._journal.log(self._clock(), "retry", why, who=who, service=self._service)
        self._journal.set_memo(self._service, LOADED, loaded)


def _key(version: int) -> str:
    return f"manifest:{version}"
