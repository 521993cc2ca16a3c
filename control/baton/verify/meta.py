"""``version.toml``: label, release, metrics and notes that a person gives a version."""

from __future__ import annotations

import datetime as dt
import json
import math
import tomllib
from collections.abc import Mapping
from typing import Any, Final

from baton.domain import Release, VersionMeta
from baton.errors import CheckpointError
from baton.verify.files import printable

META: Final = "version.toml"
LABEL_LIMIT: Final = 100
"""Characters; a label stands in tables of the terminal and in metrics."""
_NOTES_LIMIT: Final = 10_000
META_LIMIT: Final = 1 << 20
"""Bytes."""
_LARGEST_INT: Final = 2**63
"""Whole numbers beyond it no JSON reader of the answers could take."""


def as_meta(table: Mapping[str, Any], default_label: str) -> VersionMeta:
    """Return the meta data of a table that ``parse_table`` returned; the release is ``equivalent`` unless declared."""
    return VersionMeta(
        label=table.get("label", default_label),
        release=Release(table.get("release", Release.EQUIVALENT)),
        declared="release" in table,
        trained_at=table.get("trained_at"),
        metrics=table.get("metrics", {}),
        notes=table.get("notes"),
    )


def parse_table(data: bytes) -> dict[str, Any]:
    """Return the checked keys of a ``version.toml``'s content, dates as text.

    Raises ``CheckpointError`` naming the file, the key and what is allowed there.
    """
    try:
        table = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # not only TOMLDecodeError: a number of 5,000 digits, too
        raise CheckpointError(f"{META} is not valid TOML: {error}.", mend="Mend that line.") from error
    return check_table(table)


def check_table(table: Mapping[str, Any]) -> dict[str, Any]:
    """Check and normalise keys and values; raises ``CheckpointError`` as ``parse_table`` does."""
    checked: dict[str, Any] = {}
    for key, value in table.items():
        if key not in _CHECKS:
            allowed = ", ".join(_CHECKS)
            raise CheckpointError(f"{META}: the key {printable(key)!r} is unknown.", mend=f"Allowed are {allowed}.")
        checked[key] = _CHECKS[key](key, value)
    return checked


def render_table(table: Mapping[str, Any]) -> str:
    """Return ``version.toml`` for a checked table (the standard library reads TOML, but does not write it)."""
    plain = {key: value for key, value in table.items() if key != "metrics"}
    lines = [f"{key} = {_toml(value)}" for key, value in plain.items()]
    if metrics := table.get("metrics"):
        lines += ["", "[metrics]", *(f"{_toml(key)} = {_toml(value)}" for key, value in metrics.items())]
    return "\n".join(lines) + "\n"


def _toml(value: str | float) -> str:
    if isinstance(value, float):
        return repr(value)
    # JSON's strings, whole numbers and booleans are TOML's as well; DEL is the one character TOML wants escaped too.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _wrong(key: str, value: object, allowed: str) -> CheckpointError:
    return CheckpointError(f"{META}: {key} = {str(value)[:80]!r} is not allowed.", mend=f"Allowed: {allowed}.")


def _label(key: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > LABEL_LIMIT:
        raise _wrong(key, value, f"printable text of 1 to {LABEL_LIMIT} characters")
    return value


def _release(key: str, value: object) -> str:
    names = [release.value for release in Release]
    if value not in names:
        raise _wrong(key, value, " or ".join(f'"{name}"' for name in names))
    return str(value)


def _moment(key: str, value: object) -> str:
    if isinstance(value, dt.date | dt.time):  # a datetime is a date
        return value.isoformat()
    if not isinstance(value, str) or not value.isprintable() or len(value) > LABEL_LIMIT:
        raise _wrong(key, value, f"a date, a time, or printable text of at most {LABEL_LIMIT} characters")
    return value


def _metrics(key: str, value: object) -> dict[str, str | float | bool]:
    if not isinstance(value, dict):
        raise _wrong(key, value, "a table of names to numbers, text or true/false")
    for name, metric in value.items():
        if isinstance(metric, str):
            usable = metric.isprintable() and len(metric) <= LABEL_LIMIT
        elif isinstance(metric, float):
            usable = math.isfinite(metric)
        else:
            usable = isinstance(metric, int) and abs(metric) < _LARGEST_INT
        if not usable or not name.isprintable() or len(name) > LABEL_LIMIT:
            raise _wrong(f"{key}.{printable(name)}", metric, "a finite number, text, or true/false")
    return dict(value)


def _notes(key: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > _NOTES_LIMIT:
        raise _wrong(key, value, f"text of at most {_NOTES_LIMIT:,} characters")
    if not all(character.isprintable() or character in "\n\t" for character in value):
        raise _wrong(key, printable(value), "text without control characters")
    return value


_CHECKS: Final = {
    "label": _label,
    "release": _release,
    "trained_at": _moment,
    "metrics": _metrics,
    "notes": _notes,
}
