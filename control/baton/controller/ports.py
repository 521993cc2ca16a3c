"""What one service is made of: what it reads and changes (``Ports``), and how its versions are checked (``Checks``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from baton.controller.content import ContentVerifier
from baton.domain import Folder, Gate, GateResult, Rollout, VersionMeta
from baton.journal import Journal
from baton.local.processes import Processes
from baton.triton.port import Tensors, Triton
from baton.triton.repository import ServiceFiles

Question = Callable[[Triton, int, float], None]
"""Sends a version on a server one real request, for at most so many seconds; raises the errors of ``Triton.infer``."""


UNSEEN = Processes("", {})
"""Of no server: where no process can be seen. What it remembers is that there was none."""


class Asker(Protocol):
    """Asks a gate about a version; see ``baton.controller.gates``."""

    def ask(self, gate: Gate, rollout: Rollout, cancelled: Callable[[], bool]) -> GateResult:
        """The gate's verdict. May take minutes; ``cancelled`` turns true when nobody needs it any more."""
        ...


class Remover(Protocol):
    """Takes version folders out of the repository; see ``baton.removal``. Raises ``BatonError``."""

    def take_out(self, version: int) -> None:
        """At once, or not at all."""
        ...

    def left(self) -> tuple[int, ...]:
        """The versions that were taken out and whose files are still to be deleted."""
        ...

    def delete(self) -> None:
        """Delete those files. May take minutes."""
        ...


@dataclass(frozen=True)
class Ports:
    """What one service reads and changes outside of this process's memory, and the time."""

    files: ServiceFiles
    servers: Mapping[str, Triton]
    journal: Journal
    scan: Callable[[], list[Folder]]
    """Lists the engine's directory; see ``baton.watch.scan``."""
    remover: Remover
    read_meta: Callable[[int], VersionMeta]
    """Reads what a version's folder says of itself. Raises ``CheckpointError``."""
    clock: Callable[[], float]
    wake: Callable[[], None]
    """Makes the loop look again at once."""
    engines: Processes = UNSEEN
    splitters: Processes = UNSEEN


@dataclass(frozen=True)
class Checks:
    """How a service's versions are checked. Without a golden set there is no question and no golden request."""

    gates: Asker
    question: Question | None = None
    """The health probe."""
    golden: Sequence[Tensors] = ()
    """The golden requests that are sent when clients send none."""
    content: ContentVerifier | None = None
