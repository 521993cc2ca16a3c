"""The route that a splitter reports to follow: to be shown, and compared with what was asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from baton.facts import SplitterStatus


class Followed(NamedTuple):
    """The part of a route that clients notice. Shares in percent."""

    candidate: int | None = None
    weight: float = 0.0
    shadow: float = 0.0
    contents: bool = False

    @classmethod
    def of(cls, route: Mapping[str, Any]) -> Followed:
        """From a route as it is sent and reported; other keys are ignored."""
        return cls(**{key: route[key] for key in cls._fields if key in route})

    def __str__(self) -> str:
        if self.candidate is None:
            return "no route (the stable version alone answers)"
        kept = "documents kept" if self.contents else "no documents kept"
        return f"{self.weight:.3g} % to version {self.candidate}, {self.shadow:.3g} % mirrored, {kept}"


NOTHING = Followed()


def now_followed(report: Mapping[str, Any], age_s: float) -> tuple[Followed, float]:
    """The route that holds now by a report of that age, and the seconds left of its lease. An ended lease: no route."""
    route = report.get("route")
    left_s = 0.0 if route is None else max(0.0, route["lease_left_s"] - age_s)
    return (Followed.of(route) if route is not None and left_s > 0 else NOTHING), left_s


def shown(server: str, report: Mapping[str, Any], age_s: float) -> SplitterStatus:
    """As ``ctl status`` shows it."""
    followed, left_s = now_followed(report, age_s)
    return SplitterStatus(
        server=server,
        candidate=followed.candidate,
        weight=round(followed.weight, 2),
        shadow=round(followed.shadow, 2),
        contents=followed.contents,
        lease_left_s=round(left_s, 1),
        answered_s=round(age_s, 1),
    )


def foreign(server: str, followed: Followed) -> str:
    """The sentence for a splitter that somebody else sent a route to."""
    return (
        f"The splitter on server {server} followed a route that this control plane did not send: {followed}. Somebody "
        f"else has its token. It was replaced within a second, and could not exceed what is configured. `ctl abort` "
        f"ends the split, and the next one has a new token; see docs/explanation/security.md for who can read it."
    )


def locked(server: str) -> str:
    """The sentence for a splitter that refuses routes."""
    return (
        f"The splitter on server {server} takes no route from this control plane: it was loaded with another token or "
        f"other limits. It is loaded again; when its lease is over the stable version alone answers."
    )


def otherwise(server: str, does: Followed, asked: Followed) -> str:
    """The sentence for a splitter that does something else than it was asked for."""
    return f"The splitter on server {server} follows {does}, and was asked for {asked}."
