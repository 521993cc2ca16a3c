"""Which releases of Triton Baton was run with, which it knows by their sources, and which it can't work with.

docs/reference/triton-releases.md says what differs between them, and a test holds the two together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Known(StrEnum):
    """How a release is known. The values stand in the table of the page."""

    RUN = "run"
    """All tests were run with it."""
    READ = "read"
    """The sources of server, core and Python backend were read, and nothing was found that keeps Baton from working."""
    PARTLY = "partly read"
    UNKNOWN = "unknown"
    REFUSED = "refused"
    """It is known not to work."""


@dataclass(frozen=True, slots=True)
class Release:
    container: str
    """NVIDIA's name, by year and month."""
    server: str
    """The server's own version."""
    known: Known


_FIRST = (2, 49)
"""24.08. Before it each load call loads all versions anew, the live one too (core, pull request 388)."""
_PAGE = "docs/reference/triton-releases.md says what differs."

RELEASES = (
    Release("24.08", "2.49.0", Known.READ),
    Release("24.09", "2.50.0", Known.READ),
    Release("24.10", "2.51.0", Known.RUN),
    Release("24.11", "2.52.0", Known.READ),
    Release("24.12", "2.53.0", Known.READ),
    Release("25.01", "2.54.0", Known.READ),
    Release("25.02", "2.55.0", Known.READ),
    Release("25.03", "2.56.0", Known.READ),
    Release("25.04", "2.57.0", Known.READ),
    Release("25.05", "2.58.0", Known.READ),
    Release("25.06", "2.59.0", Known.READ),
    Release("25.07", "2.59.1", Known.READ),
    Release("25.08", "2.60.0", Known.READ),
    Release("25.09", "2.61.0", Known.READ),
    Release("25.10", "2.62.0", Known.READ),
    Release("25.11", "2.63.0", Known.READ),
    Release("25.12", "2.64.0", Known.READ),
    Release("26.01", "2.65.0", Known.READ),
    Release("26.02", "2.66.0", Known.READ),
    Release("26.03", "2.67.0", Known.READ),
    Release("26.04", "2.68.0", Known.READ),
    Release("26.05", "2.69.0", Known.READ),
    Release("26.06", "2.70.0", Known.READ),
    Release("26.07", "2.71.0", Known.PARTLY),
    Release("26.08", "2.72.0", Known.PARTLY),
)


def known(server: str) -> Known:
    """How the release with that version of the server is known."""
    listed = {release.server: release.known for release in RELEASES}
    if server in listed:
        return listed[server]
    number = re.match(r"(\d{1,9})\.(\d{1,9})", server)
    return Known.REFUSED if number and (int(number[1]), int(number[2])) < _FIRST else Known.UNKNOWN


def said(server: str) -> str:
    """The same as a sentence."""
    name = next((f"Triton {server} ({r.container})" for r in RELEASES if r.server == server), f"Triton {server}")
    match known(server):
        case Known.RUN:
            return f"Baton's tests run with {name}."
        case Known.READ:
            return f"Baton's tests were not run with {name}; its sources were read."
        case Known.REFUSED:
            return f"{name} loads every version anew in each load call, the live one too: Baton needs 2.49 (24.08)."
        case _:
            return f"{name} is not known to Baton: try it beside the one that you have. {_PAGE}"
