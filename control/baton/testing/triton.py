"""The fake server: Baton's port to Triton over models in memory, and the faults that a test can order.

It does with a model repository what Triton 24.10 does in explicit mode, as far as Baton can tell the difference. The
same tests hold it and the real server to that (``tests/triton/test_contract.py``). Nothing happens by itself: time
comes from the given clock, and each call first brings the server to that time.

Not covered: HTTP, authorization, GPUs, and models that are no rerankers (every engine takes and gives
:data:`~baton.testing.SIGNATURE`).
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from baton.domain import ModelState, ModelVersion, Signature
from baton.errors import TimedOut, TritonError, Unreachable
from baton.testing.behaviour import SIGNATURE, Behaviour, Call, answer
from baton.testing.files import RepositoryView
from baton.testing.models import GIVE_UP_S, LoadedModels, Slot
from baton.triton.port import Counts, EngineInfos, Heartbeats, Index, Tensors
from baton.verify.device import DeviceMemory

LOOK_AGAIN_S = 0.005
"""Real seconds between two looks at the clock while a call waits for it."""


class FakeTriton:
    """One server. Every method may be called from any thread.

    ``boot`` names the models that a restart loads, as ``--load-model`` does; nothing is loaded at first. Without
    ``metrics``, :meth:`inflight`, :meth:`engine_infos` and :meth:`heartbeats` give None.
    """

    def __init__(
        self,
        name: str,
        repository: RepositoryView,
        *,
        clock: Callable[[], float] = time.time,
        boot: tuple[str, ...] = (),
        metrics: bool = True,
    ) -> None:
        self.versions: defaultdict[int, Behaviour] = defaultdict(Behaviour)
        """How each engine version behaves from now on."""
        self.splitter = Behaviour()
        """How splitters load."""
        self.models = LoadedModels(repository, clock, self.versions, lambda: self.splitter)
        self.reachable = True
        """False: no call gets through; what is under way on the server goes on."""
        self.lost_answers = 0
        """So many of the next load and unload calls are carried out, but their answers are lost."""
        self.calls: list[tuple[str, str]] = []
        """Every load and unload call that reached the server, oldest first: (verb, model)."""
        self.gpus: Sequence[DeviceMemory] = ()
        """Its GPUs, as its metrics tell of them."""
        self.aborted = 0
        """How often the server ended itself; it was started again at once."""
        self._name = name
        self._clock = clock
        self._boot = boot
        self._metrics = metrics
        self._changed = threading.Condition(threading.RLock())
        self._pending: list[Call] = []
        self._booting: list[Call] = []

    @property
    def loads(self) -> Counter[tuple[str, int]]:
        """How often each version of each model began to load."""
        return self.models.loads

    # The port

    @property
    def name(self) -> str:
        return self._name

    def answers(self) -> bool:
        """Whether it answers now. A test asks this; a control plane does not."""
        with self._changed:
            self.advance()
            return self._is_up()

    def index(self) -> Index:
        with self._answering():
            return {
                model: {v: ModelVersion(s.state, s.reason) for v, s in sorted(slots.items())}
                for model, slots in self.models.slots.items()
            }

    def load(self, model: str, timeout_s: float) -> None:
        self._finish(self.begin("load", model), f"loading {model}", timeout_s)

    def unload(self, model: str, timeout_s: float) -> None:
        self._finish(self.begin("unload", model), f"unloading {model}", timeout_s)

    def infer(
        self, model: str, version: int | None, inputs: Tensors, timeout_s: float, request_id: str | None = None
    ) -> Tensors:
        started = self._clock()
        if "baton_control" in inputs:
            if model in self.models.splitters:
                slots = self.models.slots[model]
                self._await_process(slots[max(slots)], started, timeout_s)
            return self._control(model, inputs)
        with self.request(model, version, request_id) as chosen:
            served, splitter = chosen, self.models.splitter_of(model)
            if splitter is not None and served != splitter.stable and self.versions[served].answer_error is not None:
                splitter.note(served, request_id, 0.0, self.versions[served].answer_error)
                served = splitter.stable
            slot = self.models.slots[self.models.engine_of(model)][served]
            self._await_process(slot, started, timeout_s)
            behaviour = self.versions[served]
            due = started + min(behaviour.answer_s, timeout_s)
            self._wait(lambda: self._clock() >= due)
            if not self.reachable:
                raise self._silence()
            if behaviour.answer_s > timeout_s:
                raise TimedOut(f"Server {self._name}: a request to {model} took longer than {timeout_s:g} s.")
            if behaviour.answer_error is not None:
                raise TritonError(behaviour.answer_error)
            if splitter is not None:
                splitter.note(served, request_id, self._clock() - started)
                if (candidate := splitter.mirrors(request_id, served)) is not None:
                    shadow, meanwhile = self.versions[candidate], self._clock() - started
                    scores = [answer(v, self.versions[v], inputs)["scores"] for v in (served, candidate)]
                    splitter.pair(request_id, (meanwhile, scores[0]), (shadow.answer_s, scores[1]), shadow.answer_error)
            slot.answered += 1
            return answer(served, behaviour, inputs)

    def step(self, model: str) -> str | None:
        with self._answering():
            files = self.models.files.get(model)
            return files.step[0] if files is not None and files.step is not None else None

    def instances(self, model: str, version: int) -> int:
        with self._answering():
            self.models.route(model, version)
            return 1

    def signature(self, model: str, version: int) -> Signature:
        with self._answering():
            self.models.route(model, version)
            return SIGNATURE

    def inflight(self, model: str) -> Mapping[int, int] | None:
        if not self._metrics:
            return None
        with self._answering():
            slots = self.models.slots.get(model, {})
            return {v: s.requests for v, s in slots.items() if s.state is not ModelState.UNAVAILABLE}

    def counts(self) -> Mapping[str, Mapping[int, Counts]]:
        with self._answering():
            return {
                model: {v: Counts(s.answered, s.failed) for v, s in slots.items() if s.state is ModelState.READY}
                for model, slots in self.models.slots.items()
            }

    def engine_infos(self) -> EngineInfos | None:
        if not self._metrics:
            return None
        with self._answering():
            infos = {
                model: {
                    v: frozenset({info})
                    for v, slot in slots.items()
                    if slot.state is ModelState.READY and (info := self.models.behaviour(model, v).info) is not None
                }
                for model, slots in self.models.slots.items()
                if self.models.is_engine(model)
            }
        return {model: versions for model, versions in infos.items() if versions}

    def device_memory(self) -> Sequence[DeviceMemory]:
        with self._answering():
            return self.gpus if self._metrics else ()

    def heartbeats(self) -> Heartbeats | None:
        if not self._metrics:
            return None
        with self._answering():
            return {
                model: {v: beats for v in slots if (beats := self.models.behaviour(model, v).heartbeats) is not None}
                for model, slots in self.models.slots.items()
                if self.models.is_engine(model)
            }

    def close(self) -> None:
        """There is no connection to release."""

    # What tests order

    def begin(self, verb: str, model: str) -> Call:
        """Start a ``load`` or ``unload`` call without waiting for its end, which :meth:`advance` brings about.

        Raises:
            Unreachable: the call did not get through.
        """
        with self._answering():
            self.calls.append((verb, model))
            call = Call(model, lambda: self._load(model) if verb == "load" else self._unload(model))
            self._pending.append(call)
            self.advance()
            return call

    def die(self, model: str, version: int) -> None:
        """End the process of an engine's version, or of a splitter.

        Its requests fail until it is loaded again, and Triton still calls it READY.
        """
        with self._changed:
            slot = self.models.slots[model][version]
            slot.dead, slot.frozen_at = True, None
            self.models.splitters.pop(model, None)

    def freeze(self, model: str, version: int) -> None:
        """Freeze the process of an engine's version, or of a splitter (SIGSTOP), until :meth:`wake` or :meth:`die`."""
        with self._changed:
            slot = self.models.slots[model][version]
            slot.frozen_at = None if slot.dead else self._clock()

    def wake(self, model: str, version: int, *, busy: bool = False) -> None:
        """Let a frozen process go on. The server aborts if it gave a request up meanwhile and others are there.

        ``busy``: clients send it requests all the time.
        """
        with self._changed:
            self.advance()
            slot = self.models.slots[model][version]
            if slot.frozen_at is None:
                return
            slot.given_up |= busy and self._clock() - slot.frozen_at >= GIVE_UP_S
            slot.frozen_at = None
            if slot.given_up and (busy or slot.requests):
                self._abort()

    def _abort(self) -> None:
        self.aborted += 1
        self.restart()

    def _await_process(self, slot: Slot, started: float, timeout_s: float) -> None:
        """Wait until a request reaches the version's process, and that is not frozen.

        Raises:
            TritonError: the request was given up, since the process is frozen or has ended.
            Unreachable: a process that had been frozen took the server down.
        """
        slot.require_process()
        if slot.given_up and slot.frozen_at is None:
            self._abort()
            raise self._silence()
        due = started + min(GIVE_UP_S, timeout_s)
        self._wait(lambda: slot.frozen_at is None or slot.dead or self._clock() >= due)
        slot.require_process()
        if slot.frozen_at is not None:
            slot.failed += 1
            slot.given_up = slot.stuck = True
            raise TritonError("Stub process is not healthy.")

    def advance(self) -> None:
        """Bring the server to the clock's time."""
        with self._changed:
            now = self._clock()
            busy: set[str] = set()
            for call in list(self._pending):
                # One call at a time touches a model and what it is made of; the others wait for their turn.
                touched = self.models.touched(call.model)
                if not touched & busy:
                    call.advance(now)
                if call.done:
                    self._pending.remove(call)
                    touched = frozenset()
                busy |= touched
            self.models.advance(now)
            self._changed.notify_all()

    def restart(self) -> None:
        """End the server and start it again: what ``boot`` names is loaded as the files say, the rest is gone.

        It does not answer before that is loaded. An engine with one broken version in its policy does not come back at
        all (as with ``--exit-on-error=false``).
        """
        with self._changed:
            self.models.clear()
            self._pending, self._booting = [], []
            for model in self._boot:
                files = self.models.repository.read(model)
                engine = files.step[0] if files is not None and files.step is not None else None
                for name in filter(None, (engine, model)):
                    call = Call(name, partial(self._load, name))
                    self._pending.append(call)
                    self._booting.append(call)
            self.advance()

    @contextmanager
    def request(self, model: str, version: int | None = None, request_id: str | None = None) -> Iterator[int]:
        """A request in progress for as long as the block lasts; gives the engine version that serves it.

        Raises:
            TritonError: the model, or that version of it, is not there.
        """
        with self._answering():
            slot, served = self.models.route(model, version, request_id)
            slot.requests += 1
        try:
            yield served
        finally:
            with self._changed:
                slot.requests -= 1
                slot.idle_since = self._clock()
                self.advance()

    # What the server does

    @contextmanager
    def _answering(self) -> Iterator[None]:
        with self._changed:
            self.advance()
            if not self._is_up():
                raise self._silence()
            yield

    def _is_up(self) -> bool:
        return self.reachable and all(c.done for c in self._booting)

    def _silence(self) -> Unreachable:
        return Unreachable(f"Triton, server {self._name}, does not answer: it is away by order of the test.")

    def _finish(self, call: Call, what: str, timeout_s: float) -> None:
        deadline = self._clock() + timeout_s
        self._wait(lambda: call.done or not self.reachable or self._clock() >= deadline)
        with self._changed:
            if self.lost_answers:
                self.lost_answers -= 1
                raise self._silence()
        if not self.reachable:
            raise self._silence()
        if not call.done:
            raise TimedOut(f"Triton, server {self._name}: {what} took longer than {timeout_s:g} s.")
        if call.error is not None:
            raise call.error

    def _control(self, model: str, inputs: Tensors) -> Tensors:
        with self._answering():
            splitter = self.models.splitters.get(model)
            if splitter is None:
                self.models.route(model, None)[0].require_process()
                raise TritonError(f"unexpected inference input 'baton_control' for model '{model}'")
            slots = self.models.slots.get(splitter.engine, {})
            return splitter.control(inputs, {v: slot.requests for v, slot in slots.items()})

    def _load(self, model: str) -> Iterator[float]:
        yield from self.models.load(model)

    def _unload(self, model: str) -> Iterator[float]:
        yield from self.models.unload(model)

    def _wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            self.advance()
            while not condition():
                self._changed.wait(LOOK_AGAIN_S)
                self.advance()
