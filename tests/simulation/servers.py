"""The servers of the simulation, what stands for the gates, and what listens for defects."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from tests.support.rules import ALIAS, ENGINE, Broken

from baton.domain import Gate, GateResult, Rollout, Verdict
from baton.errors import KeyRefused, RepositoryError, TimedOut, TritonError
from baton.probe import Cancelled
from baton.testing import FakeTriton
from baton.triton.port import Counts, Index, Tensors, Triton

if TYPE_CHECKING:
    from tests.simulation.yard import Yard

QUESTION: Tensors = {
    "query": np.array([[b"q"]], dtype=np.object_),
    "documents": np.array([[b'{"text": "d"}']], dtype=np.object_),
}


REFUSED_KEY = "refused the admin key"


class Server(FakeTriton):
    """A fake server whose callers take turns; calls may come twice, or late."""

    def __init__(self, name: str, yard: Yard, boot: tuple[str, ...]) -> None:
        self.lag = 0.0
        """The next load or unload call is carried out so many seconds after it came."""
        self.twice = False
        """The next call comes twice, as when a connection broke and was tried again."""
        self.refuses_until = 0.0
        """Until then it takes no key, and so none of the calls that need one."""
        self.yard = yard
        super().__init__(name, yard.files, clock=lambda: yard.seconds, boot=boot)

    def index(self) -> Index:
        self.yard.turn()
        self._want_key("repository index")
        self.yard.looks_at(self)
        return super().index()

    def refuses(self) -> bool:
        return self.yard.seconds < self.refuses_until

    def _want_key(self, what: str) -> None:
        if self.refuses() and not self.away():
            raise KeyRefused(f"Triton, server {self.name}, {REFUSED_KEY}: {what}.")

    def infer(
        self, model: str, version: int | None, inputs: Tensors, timeout_s: float, request_id: str | None = None
    ) -> Tensors:
        # A lease that is in a message is relative: of a message that is on its way for long nobody can tell.
        if "baton_control" not in inputs:
            self.yard.turn()
        return super().infer(model, version, inputs, timeout_s, request_id)

    def counts(self) -> Mapping[str, Mapping[int, Counts]]:
        self.yard.turn()
        return super().counts()

    def begin(self, verb: str, model: str) -> Any:
        self.yard.turn()
        self._want_key(f"{verb}ing {model}")
        self.yard.called(self, verb, model)
        if self.twice:
            self.twice = False
            super().begin(verb, model)
        return super().begin(verb, model)

    def away(self) -> bool:
        return not self.reachable or any(not c.done for c in self._booting)

    def advance(self) -> None:
        self.yard.guard(self)
        super().advance()

    def _abort(self) -> None:
        self.yard.need(not self.yard._acting(), f"a question of Baton's took server {self.name} down")
        self.yard.upset(self)
        super()._abort()

    def _wait(self, condition: Callable[[], bool]) -> None:
        self.advance()
        if not condition():
            self.yard.wait(condition)

    def _load(self, model: str) -> Iterator[float]:
        yield from self._late()
        wrong = self.yard.files.hands.wrong(model)
        try:
            yield from super()._load(model)
        finally:
            if wrong:  # Triton did what a person wrote
                self.yard.upset(self)

    def _unload(self, model: str) -> Iterator[float]:
        yield from self._late()
        if model == ENGINE:  # checked when it was decided on; it may come late, or its answer be lost
            self.yard.blamed.add(self.name)
        yield from super()._unload(model)

    def _late(self) -> Iterator[float]:
        lag, self.lag = self.lag, 0.0
        if lag:
            yield self._clock() + lag


class Processes:
    """What a control plane on the servers' machine sees of theirs; on another one it sees none."""

    def __init__(self, model: str, yard: Yard) -> None:
        self._model = model
        self._yard = yard
        self._watched: dict[tuple[str, int], int] = {}
        """By server and version: the load that began what runs it."""

    def running(self, server: str, version: int) -> int:
        slots = self._yard.servers[server].models.slots.get(self._model, {})
        return int(self._yard.near and version in slots and not slots[version].dead)

    def watch(self, server: str, version: int) -> None:
        if self.running(server, version):
            self._watched[server, version] = self._load(server, version)

    def lost(self, server: str, version: int) -> bool:
        begun = self._watched.get((server, version))
        return begun is not None and not (self.running(server, version) and begun == self._load(server, version))

    def why(self, _server: str, _version: int) -> str:
        return "its process has ended"

    def guard(self, server: str, versions: Collection[int], _as_of: float) -> None:
        if self._yard.near:
            self._yard.guarded[server, self._model] = {v: self._load(server, v) for v in versions}
            for version in versions:
                self._watched.setdefault((server, version), self._load(server, version))

    def end(self, server: str, version: int) -> int:
        ended = self.running(server, version)
        if ended:
            self._yard.servers[server].die(self._model, version)
        return ended

    def _load(self, server: str, version: int) -> int:
        return self._yard.servers[server].loads[self._model, version]


class Remover:
    """Takes folders out of the yard, each at once; what is left of them is deleted later."""

    def __init__(self, yard: Yard) -> None:
        self._yard = yard

    def take_out(self, version: int) -> None:
        self._act(f"remove the folder of version {version}")
        self._yard.take_out(version)

    def left(self) -> tuple[int, ...]:
        return tuple(sorted(self._yard.rubbish))

    def delete(self) -> None:
        for version in self.left():
            self._yard.turn()
            self._act(f"delete what is left of version {version}")
            self._yard.rubbish -= {version}

    def _act(self, what: str) -> None:
        try:
            self._yard.act(what)
        except OSError as error:
            raise RepositoryError(f"It can't be removed: {error.strerror}.") from None


class Asker:
    """Stands for the gates: each asks the candidate one request, and says what was ordered, or that it passes."""

    def __init__(self, yard: Yard, servers: Mapping[str, Triton]) -> None:
        self.yard = yard
        self._servers = servers

    def ask(self, gate: Gate, rollout: Rollout, cancelled: Callable[[], bool]) -> GateResult:
        yard = self.yard
        ordered = yard.gates.get(gate)
        verdict = ordered.pop(0) if ordered else Verdict.PASS
        if gate is Gate.INTEGRITY:
            manifest = {"weights": yard.content(rollout.candidate)}
            assert yard.plane is not None
            yard.plane.journal.notes.manifest(rollout.candidate).put(ALIAS, manifest)
        elif gate not in (Gate.COMPATIBILITY, Gate.CAPACITY):
            try:
                next(iter(self._servers.values())).infer(ENGINE, rollout.candidate, QUESTION, 10.0)
            except (TritonError, TimedOut) as error:
                return GateResult(gate, Verdict.FAIL, f"It did not answer: {error}")
        else:
            yard.turn()
        if cancelled():
            raise Cancelled("Nobody wants the verdict any more.")
        if verdict is Verdict.PASS:
            yard.passed.setdefault((rollout.candidate, rollout.fingerprint), set()).add(gate)
        return GateResult(gate, verdict, f"gate {gate} says {verdict}.")


class Defects(logging.Handler):
    """What the engine catches so that one service's defect does not stop the others is a failure here."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        cause = record.exc_info[1] if record.exc_info else None
        told = str(cause) if isinstance(cause, Broken) else f"a defect in the engine: {record.getMessage()} {cause!r}"
        self.found.append(told)
