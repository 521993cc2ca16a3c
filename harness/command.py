"""The command lines of programs that have no options, and their short form."""

from __future__ import annotations

import argparse
import os
from typing import TypeVar

T = TypeVar("T")

SHORT = os.environ.get("SHORT", "") not in ("", "0")
"""``make TARGET SHORT=1``: the same code with the smallest counts, in minutes. It shows that everything runs; how fast
things were is printed and not judged, for that would take more."""


def few(count: T, short: T) -> T:
    """``count``, or ``short`` in the short form."""
    return short if SHORT else count


def no_options(program: str, about: str | None) -> None:
    """There is nothing to choose: unknown words are refused, and --help tells ``about`` the program."""
    plain = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(prog=program, description=about, formatter_class=plain).parse_args()
