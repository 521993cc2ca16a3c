"""Which folder names are version numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

LARGEST: Final = 2**31 - 1
"""The largest version number. The bound is Baton's own: Triton counts in 64 bits, and lets ``std::stoll`` throw for
more digits than that (core, ``VersionsToLoad``); within 31 bits a number survives every client, dashboard and JSON
reader, and a date such as 20260131 still fits."""

_CANONICAL: Final = re.compile(r"[1-9][0-9]*")
_LEADING_ZEROS: Final = re.compile(r"0+([1-9][0-9]*)")
_DIGITS: Final = re.compile(r"[0-9]+")
_READ: Final = re.compile(r"[ \t\n\v\f\r]*([+-]?)([0-9]+)")
"""What ``std::stoll`` takes of a text: spaces, a sign, and digits up to the first other character."""
_INT64: Final = 2**63
_AWAY: Final = "move it out: anything new beside the versions makes Triton reload all of them at its next load"


def version_of(name: str) -> int | None:
    """Return the version that a folder name means, or ``None`` when it means none."""
    # Counted before it is converted: int() refuses, or takes long over, thousands of digits.
    if _CANONICAL.fullmatch(name) and len(name) <= len(str(LARGEST)) and int(name) <= LARGEST:
        return int(name)
    return None


def is_number(name: str) -> bool:
    """Whether a name is of digits alone, as Triton tests it: ``007`` is one, ``٣`` and ``+5`` are not.

    A new entry with any other name makes Triton reload all versions at its next load call.
    """
    return _DIGITS.fullmatch(name) is not None


def ends_triton(name: str) -> bool:
    """Whether a folder of that name ends the whole Triton at its next load call of the model (seen on 24.10).

    Triton catches what ``std::stoll`` throws at a text, and not what it throws at a number beyond 64 bits.
    """
    found = _READ.match(name)
    if found is None or (name[0] == "0" and len(name) > 1):  # that one it leaves out
        return False
    digits = found[2].lstrip("0")
    return len(digits) > len(str(_INT64)) or int(digits or "0") >= _INT64 + (found[1] == "-")


def highest_number(names: Iterable[str]) -> int:
    """Return the highest number that any of the names could be taken for, ``007`` and ``+8`` included; 0 for none."""
    numbers = (int(found[2][-20:]) for name in names if (found := _READ.match(name)) and found[1] != "-")
    return max((number for number in numbers if number <= LARGEST), default=0)


def name_problem(name: str) -> str | None:
    """Return what keeps a name from being a version, with the mend; ``None`` for a canonical one."""
    if version_of(name) is not None:
        return None
    if ends_triton(name):
        return "Triton ends when it reads this number: move the folder out before anything is loaded."
    if found := _LEADING_ZEROS.fullmatch(name):
        return f"Triton ignores version folders with leading zeros: rename it to {found[1][:20]}."
    if _CANONICAL.fullmatch(name):
        return f"The number is larger than {LARGEST:,}, the largest version number: rename it to a smaller one."
    if name.strip("0") == "":
        return "Versions count from 1: rename it to the next free number."
    if name.startswith("."):
        return f"A hidden entry, such as a copy under way leaves; {_AWAY}. ctl push stages outside the repository."
    if found := _READ.match(name):
        return (
            f"Not a number, but Triton would read it as version {int(found[1] + found[2])}, since it passes over what "
            "stands around the digits: rename it to a free number, or move it out."
        )
    return f"Not a version number; {_AWAY}."
