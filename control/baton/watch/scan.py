"""Scans an engine's directory: which entries it has, and since when each is unchanged. It only reads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from baton.domain import Folder
from baton.errors import RepositoryError
from baton.verify.checkpoint import read
from baton.verify.completeness import CutShort, missing_parts
from baton.verify.files import error_text, printable
from baton.verify.listing import Listing, look, vanished
from baton.verify.names import ends_triton, is_number, name_problem, version_of

OWN_ENTRIES: Final = frozenset({"config.pbtxt", "warmup", "initial_state"})
"""Entries that belong beside the versions: the configuration and two folders that Triton reads itself."""


class Scanner:
    """Scans engine directories again and again, and remembers since when each entry is unchanged.

    One scanner serves any number of directories. It is not safe for use by several threads at once.
    """

    def __init__(self) -> None:
        self._seen: dict[Path, dict[str, Folder]] = {}

    def scan(self, engine_dir: Path, now: float) -> list[Folder]:
        """Return every entry of the directory except Triton's own, versions in numerical order first.

        ``now`` is in seconds since the epoch. A directory that does not exist has no entries; one that can't be
        listed raises ``RepositoryError``. Entries that vanish in the middle are left out.
        """
        try:
            paths = sorted(engine_dir.iterdir())
        except OSError as error:
            if vanished(error):
                self._seen.pop(engine_dir, None)
                return []
            raise RepositoryError(
                f"The engine directory {engine_dir} can't be listed: {error_text(error)}.",
                mend="Give the control plane's user the right to read it.",
            ) from error
        before = self._seen.get(engine_dir, {})
        found = {}
        for path in paths:
            if path.name in OWN_ENTRIES:
                continue
            folder = _look(path, before.get(path.name), now)
            if folder is not None:
                found[path.name] = folder
        self._seen[engine_dir] = found  # what vanished is forgotten: if it returns, it is new
        return sorted(found.values(), key=lambda folder: (folder.version is None, folder.version or 0, folder.name))


def _look(path: Path, before: Folder | None, now: float) -> Folder | None:
    """One entry as it is now; ``None`` when it has vanished."""
    listing = look(path)
    if listing.root is None and listing.fault is None:
        return None
    fingerprint = listing.fingerprint
    problem = str(listing.fault) if listing.fault is not None else name_problem(path.name) or _kind_problem(listing)
    same = before is not None and before.fingerprint == fingerprint
    version = version_of(path.name) if problem is None else None
    # Reading headers takes longer than reading statuses: what was complete and is unchanged is still complete.
    whole = before is not None and same and before.complete
    missing = () if version is None or whole else missing_parts(read(listing, values=False))
    return Folder(
        name=path.name,
        version=version,
        fingerprint=fingerprint,
        missing=missing,
        problem=problem,
        quiet_since=before.quiet_since if before is not None and same else now,
        first_seen=before.first_seen if before is not None else now,
        size=listing.size,
        own_size=listing.own_size,
        newest=listing.newest,
        harmless=problem is not None and is_number(path.name) and listing.is_there,
        deadly=listing.is_folder and ends_triton(path.name),
        cut=bool(missing) and all(isinstance(part, CutShort) for part in missing),
        uses=before.uses if before is not None and same else uses(listing),
    )


def uses(listing: Listing) -> frozenset[int]:
    """The other versions beside a version's folder that its links lead into."""
    home = listing.path.parent.resolve()
    inside = (path.relative_to(home) for path in _led_to(listing) if path.is_relative_to(home))
    numbers = {version_of(path.parts[0]) for path in inside if path.parts}
    return frozenset(number for number in numbers if number is not None and str(number) != listing.path.name)


def _led_to(listing: Listing) -> Iterator[Path]:
    """Where each link leads, and the first step there: that may be a link itself, which can be removed as well."""
    for entry in (listing.root, *listing.entries):
        if entry is not None and entry.is_link:
            with suppress(OSError, RuntimeError):  # it has vanished, or is a ring
                yield Path(os.path.normpath(entry.path.parent.resolve() / entry.path.readlink()))
                yield entry.path.resolve()


def _kind_problem(listing: Listing) -> str | None:
    if listing.is_folder:
        return None
    if listing.is_there:
        return "A file where a version's folder belongs: move it out."
    try:
        to = printable(str(listing.path.readlink()))
    except OSError:
        return "It vanished while it was looked at."
    return f"A link to what is not there ({to}): remove it or put its target back."
