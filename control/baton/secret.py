"""Secrets: in files that only their owner can open, and nowhere else (no argument, log or error message)."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from baton.errors import ConfigError

BYTES = 32
"""Random bytes of a secret that Baton makes: nobody guesses one, so nothing counts the tries."""
_LONGEST = 4096


def read(path: Path, setting: str) -> str:
    """The secret in a file, without the white space around it. ``setting`` is where the file's name stands.

    Raises:
        ConfigError: it can't be read, others than its owner may open it, or it holds no secret: one line of
            printable ASCII, since it travels in a header. The error never holds the content.
    """
    named = f"{path}, the {setting},"
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            text = file.read(_LONGEST + 1).decode("ascii", errors="replace").strip()
    except OSError as error:
        raise ConfigError(f"{named} can't be read: {error.strerror}.", mend="Name a file that is there.") from None
    if open_to_others(status.st_mode, status.st_uid, os.geteuid()):
        raise ConfigError(
            f"{named} may be opened by others than its owner (mode {stat.S_IMODE(status.st_mode):04o}).",
            mend=f"`chmod 600 {path}`; and if others may have read it, put a new secret in.",
        )
    if not text or not text.isascii() or not text.isprintable() or " " in text or len(text) > _LONGEST:
        raise ConfigError(
            f"{named} does not hold one line of printable ASCII without spaces.",
            mend=f"`(umask 077; openssl rand -hex 32 > {path})` makes one.",
        )
    return text


def open_to_others(mode: int, owner: int, user: int) -> bool:
    """Whether a file of that mode and owner is no place for a secret of ``user``: its group or others can open it.

    What root hands to another user's process by that user's group is one (mode 0440 or 0640): a Kubernetes secret
    under an ``fsGroup`` can't look otherwise.
    """
    handed = stat.S_IRGRP if owner == 0 and user != 0 else 0
    return bool(mode & (stat.S_IRWXG | stat.S_IRWXO) & ~handed)


def create(path: Path) -> str:
    """A new secret, written to ``path`` with mode 0600 in the place of what was there. Its directory exists.

    Raises:
        ConfigError: the file can't be written.
    """
    from baton.ownership import new_file  # Triton's image reads keys with this module, and does not have that one

    text = secrets.token_urlsafe(BYTES)
    made = path.with_name(f".{path.name}.new")
    try:
        with new_file(str(made), None, 0o600) as file:
            file.write(f"{text}\n".encode())
        made.replace(path)
    except OSError as error:
        raise ConfigError(
            f"{path} can't be written: {error.strerror}.", mend="Give the user that runs Baton its state directory."
        ) from None
    return text
