"""What tests say of reasons."""

from __future__ import annotations

from baton.reasons import Reason, Why, because


def plain(text: str) -> Why:
    """Where it does not matter what the reason is."""
    return because(Reason.OTHER, text=text)


HASTY = plain("hasty")
"""Of a decision that no plan makes: planted to be found."""


def within(why: Why | None) -> set[Reason]:
    """The reason, and those that it is made of."""
    if why is None:
        return set()
    return {why.reason}.union(*(within(v) for v in why.figures.values() if isinstance(v, Why)))
