"""What a splitter follows, by its own word: to be shown, and held against what was asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from baton.facts import SplitterStatus


class Followed(NamedTuple):
    """A route, as far as clients feel it. Shares in percent."""

    candidate: int | None = None
    weight: float = 0.0
    shadow: float = 0.0
    contents: bool = False

    @classmethod
    def of(cls, route: Mapping[str, Any]) -> Followed:
        """Of a route as it is sent and reported; other keys are passed over."""
        return cls(**{key: route[key] for key in cls._fields if key in route})

    def __str__(self) -> str:
        if self.candidate is None:
            return "no route (the stable version alone answers)"
        kept = "documents kept" if self.contents else "no documents kept"
        return f"{self.weight:.3g} % to version {self.candidate}, {self.shadow:.3g} % mirrored, {kept}"


NOTHING = Followed()


def now_followed(report: Mapping[str, Any], age_s: float) -> tuple[Followed, float]:
    """What a report of that age says of now, and the seconds left of its lease: one that ran out since is over."""
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
    """That somebody else steered it, in words."""
    return (
        f"The splitter on server {server} followed a route that this control plane did not send: {followed}. Somebody "
        f"else has its token. It was replaced within a second, and could not exceed what is configured. `ctl abort` "
        f"ends the split, and the next one has a new token; see docs/explanation/security.md for who can read it."
    )


def locked(server: str) -> str:
    """That it can't be steered, in words."""
    return (
        f"The splitter on server {server} takes no route from this control plane: it was loaded with another token or "
        f"other limits. It is loaded again; when its lease is over the stable version alone answers."
    )


def otherwise(server: str, does: Followed, asked: Followed) -> str:
    """That it does something else than it was asked for, in words."""
    return f"The splitter on server {server} follows {does}, and was asked for {asked}."
