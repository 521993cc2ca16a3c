"""``SHA256SUMS``, in the format of ``sha256sum`` of the GNU coreutils."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Final

from baton.errors import CheckpointError
from baton.verify.files import UnfinishedError, printable

SUMS: Final = "SHA256SUMS"
SUMS_LIMIT: Final = 16 << 20
"""Bytes."""
_LINE: Final = re.compile(r"(?P<escaped>\\?)(?P<digest>[0-9a-fA-F]{64}) [ *](?P<name>.+)")
_ESCAPES: Final = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}


def parse_sums(data: bytes) -> dict[str, str]:
    """Return name to lower-case SHA-256 for every file that the content of a ``SHA256SUMS`` lists.

    A line for ``SHA256SUMS`` itself is left out: ``sha256sum * > SHA256SUMS`` writes one, and it can't be right.
    Raises ``CheckpointError`` naming the line that can't be read or that leads out of the folder, ``UnfinishedError``
    for a last line that is only half there.
    """
    sums: dict[str, str] = {}
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    for number, line in enumerate(lines, 1):
        stripped = line.rstrip("\r")
        if not stripped.strip() or stripped.startswith("#"):
            continue
        match = _LINE.fullmatch(stripped)
        if match is None:
            if number == len(lines):
                raise UnfinishedError(f"{SUMS} ends early, in line {number}.", f"{SUMS} ends early")
            raise CheckpointError(
                f"{SUMS}, line {number}, is not '<64 hex digits>  <file>': {printable(stripped[:80])!r}.",
                mend="Write it with: sha256sum FILES > SHA256SUMS",
            )
        name = match["name"]
        if match["escaped"]:
            name = re.sub(r"\\[\\nr]", lambda found: _ESCAPES[found[0]], name)
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts:
            raise CheckpointError(
                f"{SUMS}, line {number}, names {printable(name)!r}, which is outside the folder.",
                mend="List files of this folder only, relative to it.",
            )
        if str(pure) != SUMS:
            sums[str(pure)] = match["digest"].lower()
    return sums


def render_sums(sums: Mapping[str, str]) -> str:
    """Return the text of a ``SHA256SUMS`` for name to SHA-256; ``sha256sum --check`` reads it."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
