"""What a value of ``baton.toml`` may be: each function checks one and returns it in the form that the code uses."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
ALL = 100.0
"""Percent."""
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LARGEST = 1e12
"""The largest of any number: beyond it are mistakes, infinity, and whole numbers that no float holds."""


class Invalid(ValueError):
    """What is allowed, as the second half of a sentence."""


def duration(value: Any) -> float:
    """Seconds from ``"90s"``, ``"10m"``, ``"1.5h"``, ``"90d"``, ``"500ms"`` or a bare number of seconds."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _LARGEST:
        return float(value)
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or (seconds := float(match[1]) * _UNITS[match[2]]) > _LARGEST:
        raise Invalid('a duration such as "90s", "10m" or "1.5h"')
    return seconds


def positive_duration(value: Any) -> float:
    if (seconds := duration(value)) <= 0:
        raise Invalid('a duration above zero, such as "5s"')
    return seconds


def age(value: Any) -> float:
    try:
        return math.inf if value == "forever" else positive_duration(value)
    except Invalid:
        raise Invalid('a duration above zero, such as "90d", or "forever"') from None


def number(allowed: str, fits: Callable[[float], bool]) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not fits(value):
            raise Invalid(allowed)
        return float(value)

    return check


def above(low: float) -> Callable[[Any], float]:
    return number(f"a number above {low:g}", lambda value: low < value <= _LARGEST)


fraction = number("a number from 0 to 1", lambda value: 0 <= value <= 1)
percent = number("a number of percent from 0 to 100", lambda value: 0 <= value <= ALL)


def fitting(allowed: str, fits: Callable[[Any], object]) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if not fits(value):
            raise Invalid(allowed)
        return value

    return check


def one_of(*allowed: str) -> Callable[[Any], str]:
    return fitting(" or ".join(f'"{a}"' for a in allowed), lambda value: value in allowed)


def matching(pattern: str, allowed: str) -> Callable[[Any], str]:
    return fitting(allowed, lambda value: isinstance(value, str) and re.fullmatch(pattern, value))


def whole(least: int) -> Callable[[Any], Any]:
    allowed = f"a whole number of at least {least}"
    return fitting(allowed, lambda value: type(value) is int and least <= value <= _LARGEST)


count = whole(1)
flag = fitting("true or false", lambda value: isinstance(value, bool))
name = matching(r"[A-Za-z0-9][A-Za-z0-9_.-]*", "a name of letters, digits, '_', '-' and '.'")
address = matching(r"[^\s:/]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", 'an address such as "127.0.0.1:8001"')
host = matching(r"[A-Za-z0-9][A-Za-z0-9.-]*", 'a host name such as "triton.example"')
text = matching(r"(?s).+", "a text that is not empty")


def address_or_false(value: Any) -> str | Literal[False]:
    return False if value is False else address(value)


def path(value: Any) -> Path:
    return Path(fitting("a path", lambda value: isinstance(value, str | Path) and str(value))(value)).expanduser()
