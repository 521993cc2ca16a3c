"""The command lines of the demo's programs that have no options."""

from __future__ import annotations

import argparse


def no_options(program: str, about: str | None) -> None:
    """There is nothing to choose: unknown words are refused, and --help tells ``about`` the program."""
    plain = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(prog=program, description=about, formatter_class=plain).parse_args()
