"""What answers the verbs: one function each. ``ctl``, the local API and the metrics are faces of it.

Everything that is answered is one of ``baton.facts``. Every refusal is a ``BatonError`` that says what to do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from baton import verbs
from baton.app import changes, queries
from baton.clock import ForwardClock
from baton.config import Config
from baton.controller.build import build
from baton.controller.engine_info import ByServer
from baton.controller.loop import Loop
from baton.controller.memory import VersionMemory
from baton.controller.service import Service
from baton.journal import Journal
from baton.verbs import Facade, Verb

T = TypeVar("T")


class App(Facade):
    """A running control plane. All methods may be called from any thread."""

    def __init__(
        self,
        config: Config,
        loop: Loop,
        journal: Journal,
        manifest: Callable[[str, int], dict[str, str]],
        memory: Callable[[str], Mapping[int, VersionMemory]],
        engines: Callable[[str], Mapping[int, ByServer]],
    ) -> None:
        self.config = config
        self.source: Path | None = None
        """The file that ``config`` was read from."""
        self.loop, self.journal = loop, journal
        self.manifest, self.memory, self.engines = manifest, memory, engines
        self.services = {s.name: s for s in loop.services}

    def ask(self, verb: Verb[T]) -> T:
        answer: T = HANDLERS[type(verb)](self, verb)
        return answer

    def service(self, name: str | None) -> Service:
        """The service of that name, or the only one. Raises ``UsageError``."""
        return self.services[self.config.service(name).name]

    # For the metrics

    def acting(self) -> bool:
        """Whether this process acts, and does not stand by."""
        return True

    def loop_at(self) -> float:
        """When the loop last went round, in seconds since the epoch."""
        return self.loop.loop_at

    def counts(self) -> dict[tuple[str, str], int]:
        """Rollouts by service and outcome, over the life of the journal."""
        return self.journal.rollouts.counts()


HANDLERS: Mapping[type[Verb[Any]], Callable[[App, Any], Any]] = {
    verbs.Status: queries.status,
    verbs.Versions: queries.versions,
    verbs.History: queries.history,
    verbs.Rollout: queries.rollout,
    verbs.Health: queries.health,
    verbs.Promote: changes.promote,
    verbs.Rollback: changes.rollback,
    verbs.Abort: changes.abort,
    verbs.Retry: changes.retry,
    verbs.Verify: changes.verify,
    verbs.Prune: changes.prune,
    verbs.Pause: changes.pause,
    verbs.Resume: changes.resume,
    verbs.Expect: queries.expect,
}
"""The function of each verb. tests/unit/api/test_verbs.py holds their types to the verbs'."""


@contextmanager
def open_app(config: Config, held: Callable[[], None] = lambda: None) -> Iterator[App]:
    """Start the control plane in this process, and stop it at the end.

    ``held`` raises when the state directory is not this process's any more.
    """
    wake = threading.Event()
    parts = build(config, clock=ForwardClock(), wake=wake, held=held)
    parts.start()
    try:
        yield App(config, parts.loop, parts.journal, parts.manifest, parts.memory.of, parts.engines.of)
    finally:
        parts.close()
