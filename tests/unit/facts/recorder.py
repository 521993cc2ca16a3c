"""A control plane for tests of what asks and carries: it answers what a real one answered at a moment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from tests.unit.facts.moments import Moment, moment

from baton import verbs
from baton.errors import Refused
from baton.facts import PrunableVersion, Pruned, Status
from baton.reasons import Reason
from baton.verbs import Facade, Verb

T = TypeVar("T")

PRUNED = Pruned(
    service="ranker",
    keep=1,
    dry_run=False,
    versions=(
        PrunableVersion(1, "1", 7_100_000, goes=True),
        PrunableVersion(3, "v3.0", 7_200_000, goes=False, reason="Version 3 serves.", code=Reason.SERVES),
    ),
    bytes=7_100_000,
    free=212_000_000_000,
    under_way=False,
    problems=(),
)
"""What a control plane answers to ``ctl prune``."""


class Recorder(Facade):
    """Remembers the verbs that it was asked. ``error`` is raised in the place of an answer."""

    def __init__(self, name: str = "shifting") -> None:
        self.calls: list[Verb[Any]] = []
        self.error: BaseException | None = None
        self.told: Moment = moment(name)

    def at(self, name: str) -> None:
        """From now on it answers what was answered at that moment."""
        self.told = moment(name)

    def changed(self, **changes: Any) -> Status:
        """The status, with another value in a few fields of its first service."""
        first, *others = self.told.status.services
        return replace(self.told.status, services=(replace(first, **changes), *others))

    def feels(self, **health: Any) -> None:
        """Its health, with another value in a few fields."""
        self.told = replace(self.told, health=replace(self.told.health, **health))

    def ask(self, verb: Verb[T]) -> T:
        self.calls.append(verb)
        if self.error is not None:
            raise self.error
        found: T = self._answer(verb)
        return found

    def _answer(self, verb: Verb[Any]) -> Any:
        told = self.told
        match verb:
            case verbs.Rollout(id=number):
                if found := [one for one in told.stories if one.id == number]:
                    return found[0]
                raise Refused(f"There is no rollout {number}.", mend="`ctl history` lists them.")
            case verbs.Pause() | verbs.Resume():
                return moment("paused").paused
            case verbs.Prune(dry_run=dry_run):
                return replace(PRUNED, dry_run=dry_run)
            case verbs.Change() | verbs.Expect():
                return told.ticket or moment("a way back").ticket
        return getattr(told, verbs.name_of(type(verb)))

    # For the metrics

    def acting(self) -> bool:
        return True

    def loop_at(self) -> float:
        return self.told.loop_at

    def counts(self) -> dict[tuple[str, str], int]:
        return self.told.counts
