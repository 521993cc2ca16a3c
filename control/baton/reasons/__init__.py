"""Why something is so, as data: a reason and its figures. :mod:`baton.reasons.words` makes the sentence of it.

Code compares reasons and figures, never sentences.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Union

from baton.reasons.reason import Reason as Reason
from baton.reasons.words import named as named, say, what_to_do


Figure = Union[str, int, float, "tuple[Figure, ...]", "Why", None]
"""Hashable, and the same after it was written to JSON and read. Times are seconds; versions are in sorted tuples."""
REASON = "reason"
"""The key of a reason among its figures, in JSON."""


@dataclass(frozen=True, slots=True)
class Why:
    """A reason with its figures, made by :func:`because`. ``str`` gives the sentence."""

    reason: Reason
    _figures: tuple[tuple[str, Figure], ...] = ()

    def __str__(self) -> str:
        return say(self.reason, self.figures)

    @property
    def mend(self) -> str | None:
        """What a person who was refused for this can do."""
        return what_to_do(self.reason, self.figures)

    @property
    def figures(self) -> dict[str, Any]:
        """By name, as the sentence uses them."""
        return dict(self._figures)

    @property
    def cause(self) -> Why | None:
        """The reason that it gives for itself."""
        why = self.figures.get("why")
        return why if isinstance(why, Why) else None

    @property
    def root(self) -> Why:
        """The last of its causes; itself where it gives none."""
        return self if self.cause is None else self.cause.root

    def without_cause(self) -> Why:
        """What happened, and not why."""
        return because(self.reason, **{name: value for name, value in self.figures.items() if name != "why"})

    def on(self, server: str) -> Why:
        """The call, on this server."""
        return because(self.reason, **{**self.figures, "server": server})

    def topic(self) -> tuple[Any, ...]:
        """Equal for two that differ only in measured or counted figures: the second one is no news."""
        return (self.reason, *((k, _topic(v)) for k, v in self._figures if not isinstance(v, float) and k != "count"))

    def data(self) -> dict[str, Any]:
        """As JSON holds it: the figures, and the reason among them."""
        return {REASON: self.reason, **{name: _data(value) for name, value in self._figures}}

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Why:
        """Read what :meth:`data` gave. A reason that only a later Baton knows becomes OTHER, with the data as its text.

        Raises:
            KeyError, TypeError: the data is of another kind.
        """
        figures = {name: value for name, value in data.items() if name != REASON}
        if data[REASON] not in Reason.__members__.values():
            return because(Reason.OTHER, text=json.dumps(dict(data)))
        return because(Reason(data[REASON]), **{name: _figure(value) for name, value in figures.items()})


def because(reason: Reason, **figures: Figure | frozenset[int]) -> Why:
    """The reason with the figures that its sentence names."""
    held = ((name, tuple(sorted(v)) if isinstance(v, frozenset) else v) for name, v in sorted(figures.items()))
    return Why(reason, tuple(held))


def _topic(value: Figure) -> Any:
    return value.topic() if isinstance(value, Why) else value


def _data(value: Figure) -> Any:
    if isinstance(value, Why):
        return value.data()
    return [_data(v) for v in value] if isinstance(value, tuple) else value


def _figure(value: Any) -> Figure:
    if isinstance(value, dict):
        return Why.of(value)
    return tuple(map(_figure, value)) if isinstance(value, list) else value
