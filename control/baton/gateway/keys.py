"""API keys, hashed in a file that is read again when it changes. Metrics and logs have a key's name, never the key.

    [keys.webui]
    sha256 = "..."        # of the key: printf %s "$KEY" | sha256sum
    versions = true       # may ask for one version
    requests = 16         # at once; else [gateway] key_requests

Keys are random and long, so that a plain SHA-256 is enough (as in ``baton.triton.key``).
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baton.errors import ConfigError
from baton.gateway.problems import UNAUTHORIZED, Problem

LOOK_EVERY_S = 1.0
_KNOWN = {"sha256", "versions", "requests"}
_log = logging.getLogger("baton.gateway")


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is. Without keys all are one and the same."""

    name: str = ""
    versions: bool = False
    """May ask for one version instead of the one that serves."""
    requests: int | None = None
    """How many at once; None: what is configured for all."""


class Keys:
    """The keys of a file; without a file everybody may ask."""

    def __init__(self, path: Path | None) -> None:
        """Raises ``ConfigError`` where the file can't be used. Later, the last good one holds."""
        self._path = path
        self._callers: dict[str, Caller] = {}
        self._seen: tuple[int, ...] = ()
        self._looked = time.monotonic()
        if path is not None:
            self._seen = _stamp(path)
            self._callers = read(path)

    def __bool__(self) -> bool:
        return self._path is not None

    def caller(self, authorization: str) -> Caller:
        """Who sent this header: ``Bearer KEY``, or the key alone as TEI's clients send it.

        Raises:
            Problem: 401; nobody has this key.
        """
        if self._path is None:
            return Caller()
        self._look()
        scheme, _, rest = authorization.strip().partition(" ")
        key = rest.strip() if scheme.lower() == "bearer" else authorization.strip()
        found = self._callers.get(hashlib.sha256(key.encode("latin-1", "replace")).hexdigest()) if key else None
        if found is None:
            said = "is not known here" if key else "is missing"
            raise Problem(UNAUTHORIZED, f"The API key {said}.", mend="Send it as Authorization: Bearer KEY.")
        return found

    def _look(self) -> None:
        """Read the file again if it changed."""
        now = time.monotonic()
        if self._path is None or now < self._looked + LOOK_EVERY_S:
            return
        self._looked = now
        if (stamp := _stamp(self._path)) == self._seen:
            return
        self._seen = stamp
        try:
            self._callers = read(self._path)
        except ConfigError as error:
            _log.error("The keys stay as they were: %s", error)
        else:
            _log.info("The keys were read again: there are %d.", len(self._callers))


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino


def read(path: Path) -> dict[str, Caller]:
    """Callers by the hash of their key. Raises ``ConfigError``, which names the key's name and never a hash."""
    try:
        table: Any = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{path}, the keys of the gateway, can't be read: {cause}.") from None
    found: dict[str, Caller] = {}
    rows = table.get("keys")
    if not isinstance(rows, dict) or not rows or set(table) != {"keys"}:
        raise ConfigError(f"{path} holds no keys.", mend='Write [keys.NAME] and sha256 = "...".')
    for name, row in rows.items():
        where = f"{path}: keys.{name}"
        if not isinstance(row, dict) or set(row) - _KNOWN:
            raise ConfigError(f"{where}: unknown settings.", mend=f"Known are {', '.join(sorted(_KNOWN))}.")
        digest, versions, requests = row.get("sha256"), row.get("versions", False), row.get("requests")
        if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise ConfigError(f"{where}: sha256 must be 64 hexadecimal digits.", mend="printf %s KEY | sha256sum")
        if not isinstance(versions, bool):
            raise ConfigError(f"{where}: versions must be true or false.")
        if requests is not None and (type(requests) is not int or requests < 1):
            raise ConfigError(f"{where}: requests must be a whole number of at least 1.")
        if digest in found:
            raise ConfigError(f"{where}: its key is that of {found[digest].name}, too.", mend="Give each its own.")
        found[digest] = Caller(name, versions, requests)
    return found
