"""A Triton server in memory, with faults to order, for tests of Baton and of what is built on it.

It does with a model repository what Triton 24.10 does in explicit mode, as far as Baton can tell the difference; the
same tests hold it and the real server to that (``tests/triton/test_contract.py``). Nothing happens by itself: time
comes from the given clock, and each call first brings the server to that time.

    fake = FakeTriton("a", DiskRepository(path), clock=lambda: now)
    fake.versions[3] = Behaviour(load_error="out of memory")
    fake.load("qwen3_vl_reranker", 10.0)  # raises TritonError with Triton's words around "out of memory"
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from baton.domain import EngineInfo, ModelState, ModelVersion, Signature, TensorSpec
from baton.errors import InvalidRequest, TimedOut, TritonError, Unreachable
from baton.triton.fake_files import DiskRepository, ModelFiles, RepositoryView
from baton.triton.fake_splitter import FakeSplitter
from baton.triton.port import Beats, Counts, Index, Infos, Tensors
from baton.triton.words import cause

__all__ = ["Behaviour", "Call", "DiskRepository", "FakeTriton", "ModelFiles", "RepositoryView"]

LOOK_AGAIN_S = 0.005
"""Real seconds between two looks at the clock while a call waits for it."""
GIVE_UP_S = 1.0
"""A request whose process stands still is given up after so long."""
UNLOADED = "unloaded"
SIGNATURE = Signature(
    (
        TensorSpec("query", "BYTES", (1,)),
        TensorSpec("documents", "BYTES", (-1,)),
        TensorSpec("instruction", "BYTES", (1,), optional=True),
        TensorSpec("options", "BYTES", (1,), optional=True),
        TensorSpec("media", "BYTES", (-1,), optional=True),
    ),
    (TensorSpec("scores", "FP32", (-1,)), TensorSpec("model_version", "INT64", (1,))),
    batched=True,
)
"""Of every engine here: that of a reranker, whose scores the fake gives."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How one engine version behaves on one server. Durations in seconds; ``math.inf`` stands for ever."""

    load_s: float = 0.0
    load_error: str | None = None
    """The load fails with these words after ``load_s``."""
    answer_s: float = 0.0
    answer_error: str | None = None
    """Every request is answered by an error with these words."""
    score: float | None = None
    """The same score for every document; NaN is one, too. None: scores that depend on the texts alone."""
    beats: float | None = None
    """Its signs of life so far; None: it shows none."""
    info: EngineInfo | None = None
    """What the engine tells of itself; None: nothing."""
    leave_s: float = 0.0
    """How long a dropped version stays UNLOADING after its last request."""


class Call:
    """A load or unload call under way on the server. ``error`` is set when it ended badly."""

    def __init__(self, model: str, work: Callable[[], Iterator[float]]) -> None:
        self.model = model
        self.error: TritonError | None = None
        self.done = False
        self._work = work
        self._steps: Iterator[float] | None = None
        self._until = 0.0

    def advance(self, now: float) -> None:
        """Go on as far as the time allows. Each step of the work tells the time at which the next one is due."""
        if self._steps is None:
            self._steps = self._work()
        while not self.done and now >= self._until:
            try:
                self._until = next(self._steps)
            except StopIteration:
                self.done = True
            except TritonError as error:
                self.error, self.done = error, True


@dataclass(slots=True)
class _Slot:
    """One version of one model on the server."""

    state: ModelState
    reason: str = ""
    content: str = ""
    requests: int = 0
    idle_since: float = 0.0
    answered: int = 0
    failed: int = 0
    dead: bool = False
    """Its process is gone; Triton 24.10 goes on calling it READY."""
    stuck: bool = False
    """A request came to it after that: Triton 24.10 keeps it UNLOADING until it is loaded anew."""

    frozen_at: float | None = None
    """Since when its process stands still."""
    given_up: bool = False
    """A request to it was given up meanwhile: once the process goes on, the next request takes the server down."""

    @property
    def answers(self) -> bool:
        """Whether its process is there and goes on, and never stood still for too long."""
        return not self.dead and self.frozen_at is None and not self.given_up

    def want_live(self) -> None:
        if self.dead:
            self.failed += 1
            self.stuck = True
            raise TritonError("Stub process is not healthy.")


class FakeTriton:
    """One server. Every method may be called from any thread.

    ``boot`` names the models that a restart loads, as ``--load-model`` does; nothing is loaded at first.
    ``metrics`` tells whether :meth:`inflight` and :meth:`infos` know anything.
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
        self.loads: Counter[tuple[str, int]] = Counter()
        """How often each version of each model began to load."""
        self.reachable = True
        """False: no call gets through; what is under way on the server goes on."""
        self.lost_answers = 0
        """So many of the next load and unload calls are performed, but their answers are lost."""
        self.calls: list[tuple[str, str]] = []
        """Every load and unload call that reached the server, oldest first: (verb, model)."""
        self.aborted = 0
        """How often the server ended itself; it was started again at once."""
        self._name = name
        self._repository = repository
        self._clock = clock
        self._boot = boot
        self._metrics = metrics
        self._changed = threading.Condition(threading.RLock())
        self._clear()

    def _clear(self) -> None:
        self._models: dict[str, dict[int, _Slot]] = {}
        self._files: dict[str, ModelFiles] = {}
        self._splitters: dict[str, FakeSplitter] = {}
        self._pending: list[Call] = []
        self._booting: list[Call] = []

    # The port

    @property
    def name(self) -> str:
        return self._name

    def answers(self) -> bool:
        """Whether it answers now; a test asks this, and no control plane."""
        with self._changed:
            self.advance()
            return self._is_up()

    def index(self) -> Index:
        with self._answering():
            return {
                model: {v: ModelVersion(s.state, s.reason) for v, s in sorted(slots.items())}
                for model, slots in self._models.items()
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
            if model in self._splitters:
                self._want_moving(self._models[model][max(self._models[model])], started, timeout_s)
            return self._steer(model, inputs)
        with self.request(model, version, request_id) as chosen:
            served, splitter = chosen, self._splitter_of(model)
            if splitter is not None and served != splitter.stable and self.versions[served].answer_error is not None:
                splitter.note(served, request_id, 0.0, self.versions[served].answer_error)
                served = splitter.stable
            slot = self._models[self._engine_of(model)][served]
            self._want_moving(slot, started, timeout_s)
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
                    scores = [_answer(v, self.versions[v], inputs)["scores"] for v in (served, candidate)]
                    splitter.pair(request_id, (meanwhile, scores[0]), (shadow.answer_s, scores[1]), shadow.answer_error)
            slot.answered += 1
            return _answer(served, behaviour, inputs)

    def step(self, model: str) -> str | None:
        with self._answering():
            files = self._files.get(model)
            return files.step[0] if files is not None and files.step is not None else None

    def instances(self, model: str, version: int) -> int:
        with self._answering():
            self._route(model, version)
            return 1

    def signature(self, model: str, version: int) -> Signature:
        with self._answering():
            self._route(model, version)
            return SIGNATURE

    def inflight(self, model: str) -> Mapping[int, int] | None:
        if not self._metrics:
            return None
        with self._answering():
            slots = self._models.get(model, {})
            return {v: s.requests for v, s in slots.items() if s.state is not ModelState.UNAVAILABLE}

    def counts(self) -> Mapping[str, Mapping[int, Counts]]:
        with self._answering():
            return {
                model: {v: Counts(s.answered, s.failed) for v, s in slots.items() if s.state is ModelState.READY}
                for model, slots in self._models.items()
            }

    def infos(self) -> Infos | None:
        if not self._metrics:
            return None
        with self._answering():
            told = {
                model: {
                    v: frozenset({info})
                    for v, slot in slots.items()
                    if slot.state is ModelState.READY and (info := self._behaviour(model, v).info) is not None
                }
                for model, slots in self._models.items()
                if self._is_engine(model)
            }
        return {model: versions for model, versions in told.items() if versions}

    def beats(self) -> Beats | None:
        if not self._metrics:
            return None
        with self._answering():
            return {
                model: {v: beats for v in slots if (beats := self._behaviour(model, v).beats) is not None}
                for model, slots in self._models.items()
                if self._is_engine(model)
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
        """The process of an engine's version, or of a splitter, ends.

        Until it is loaded anew its requests fail, and it is READY all the same.
        """
        with self._changed:
            slot = self._models[model][version]
            slot.dead, slot.frozen_at = True, None
            self._splitters.pop(model, None)

    def freeze(self, model: str, version: int) -> None:
        """The process of an engine's version, or of a splitter, stands still until :meth:`wake` or :meth:`die`."""
        with self._changed:
            slot = self._models[model][version]
            slot.frozen_at = None if slot.dead else self._clock()

    def wake(self, model: str, version: int, *, busy: bool = False) -> None:
        """It goes on. The server aborts if it gave a request up meanwhile and others are there.

        ``busy``: clients ask it all the time.
        """
        with self._changed:
            self.advance()
            slot = self._models[model][version]
            if slot.frozen_at is None:
                return
            slot.given_up |= busy and self._clock() - slot.frozen_at >= GIVE_UP_S
            slot.frozen_at = None
            if slot.given_up and (busy or slot.requests):
                self._abort()

    def _abort(self) -> None:
        self.aborted += 1
        self.restart()

    def _want_moving(self, slot: _Slot, started: float, timeout_s: float) -> None:
        """The request gets to the version's process, and that does not stand still.

        Raises:
            TritonError: it was given up, since the process stands still or has ended.
            Unreachable: a process took the server down that had stood still.
        """
        slot.want_live()
        if slot.given_up and slot.frozen_at is None:
            self._abort()
            raise self._silence()
        due = started + min(GIVE_UP_S, timeout_s)
        self._wait(lambda: slot.frozen_at is None or slot.dead or self._clock() >= due)
        slot.want_live()
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
                touched = self._touched(call.model)
                if not touched & busy:
                    call.advance(now)
                if call.done:
                    self._pending.remove(call)
                    touched = frozenset()
                busy |= touched
            for model, slots in self._models.items():
                for version, slot in slots.items():
                    if slot.frozen_at is not None and slot.requests and now - slot.frozen_at >= GIVE_UP_S:
                        slot.given_up = slot.stuck = True
                    if slot.state is ModelState.UNLOADING and not slot.requests and not slot.stuck:
                        stays = self._behaviour(model, version).leave_s if self._is_engine(model) else 0.0
                        if now >= slot.idle_since + stays:
                            slot.state, slot.reason, slot.content = ModelState.UNAVAILABLE, UNLOADED, ""
            self._changed.notify_all()

    def restart(self) -> None:
        """The server ends and starts again: what ``boot`` names comes back as the files say, the rest is gone.

        It does not answer before that is loaded. Of an engine with one broken version in its policy nothing at all
        comes back (as with ``--exit-on-error=false``).
        """
        with self._changed:
            self._clear()
            for model in self._boot:
                files = self._repository.read(model)
                engine = files.step[0] if files is not None and files.step is not None else None
                for name in filter(None, (engine, model)):
                    call = Call(name, partial(self._load, name))
                    self._pending.append(call)
                    self._booting.append(call)
            self.advance()

    @contextmanager
    def request(self, model: str, version: int | None = None, request_id: str | None = None) -> Iterator[int]:
        """A request that is under way for as long as the block lasts; gives the engine version that serves it.

        Raises:
            TritonError: the model, or that version of it, is not there.
        """
        with self._answering():
            slot, served = self._route(model, version, request_id)
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

    def _splitter_of(self, model: str) -> FakeSplitter | None:
        """The splitter that requests to an alias pass through."""
        files = self._files.get(model)
        return self._splitters.get(files.step[0]) if files is not None and files.step is not None else None

    def _engine_of(self, model: str) -> str:
        splitter = self._splitter_of(model)
        files = self._files.get(model)
        if splitter is not None:
            return splitter.engine
        return files.step[0] if files is not None and files.step is not None else model

    def _steer(self, model: str, inputs: Tensors) -> Tensors:
        with self._answering():
            splitter = self._splitters.get(model)
            if splitter is None:
                self._route(model, None)[0].want_live()
                raise TritonError(f"unexpected inference input 'baton_control' for model '{model}'")
            slots = self._models.get(splitter.engine, {})
            return splitter.control(inputs, {v: slot.requests for v, slot in slots.items()})

    def _behaviour(self, model: str, version: int) -> Behaviour:
        files = self._files.get(model)
        return self.versions[version] if files is None or files.splits is None else self.splitter

    def _wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            self.advance()
            while not condition():
                self._changed.wait(LOOK_AGAIN_S)
                self.advance()

    def _is_engine(self, model: str) -> bool:
        return model not in self._files or self._files[model].step is None

    def _touched(self, model: str) -> frozenset[str]:
        """The model and, for an alias, its engine: a load of an alias waits for a load of its engine."""
        files = self._repository.read(model) or self._files.get(model)
        return frozenset({model} if files is None or files.step is None else {model, files.step[0]})

    def _load(self, model: str) -> Iterator[float]:
        files = self._repository.read(model)
        if files is None:
            raise TritonError(f"failed to load '{model}', failed to poll from model repository")
        wanted = files.policy & set(files.folders)
        if not wanted:
            raise _failed(model, f"at least one version must be available under the version policy of model '{model}'")
        before = self._files.get(model)
        if before is not None and before.policy != files.policy and files.newest <= before.newest != 0:
            return  # nothing has changed, as Triton tells it (seen on 24.10)
        self._files[model] = files
        if files.step is not None:
            self._load_alias(model, files, wanted)
            return
        yield from self._load_engine(model, files, wanted, before)
        self._follow(model)

    def _load_engine(
        self, model: str, files: ModelFiles, wanted: frozenset[int], before: ModelFiles | None
    ) -> Iterator[float]:
        slots = self._models.setdefault(model, {})
        known = before.unexpected if before is not None else files.unexpected
        reload_all = any(known.get(n) != c for n, c in files.unexpected.items()) or (
            before is not None and before.rest != files.rest
        )
        ready = {v for v, s in slots.items() if s.state is ModelState.READY}
        new = {v for v in wanted if v not in ready}
        again = {v for v in wanted & ready if reload_all or slots[v].content != files.folders[v]}
        for version in sorted(new | again):
            self.loads[model, version] += 1
        for version in sorted(new):
            slots[version] = _Slot(ModelState.LOADING)
        if new | again:
            yield self._clock() + max(self._behaviour(model, v).load_s for v in new | again)
        broken = {v: words for v in sorted(new | again) if (words := self._behaviour(model, v).load_error) is not None}
        for version in sorted(new):
            # One that fails takes back those that came with it; what served before serves on, also what was to go.
            slots[version] = (
                _Slot(ModelState.UNAVAILABLE, broken[version])
                if version in broken
                else _Slot(ModelState.READY, content=files.folders[version])
            )
        if broken:
            self._leave(slots, new - set(broken))
            told = "".join(f"version {v} is at UNAVAILABLE state: {words}; " for v, words in broken.items())
            raise _failed(model, told)
        for version in again:
            slots[version] = _Slot(ModelState.READY, content=files.folders[version], requests=slots[version].requests)
        self._leave(slots, set(slots) - wanted)
        if files.splits is not None and new | again:
            self._splitters[model] = FakeSplitter(files.splits, self._clock)

    def _load_alias(self, model: str, files: ModelFiles, wanted: frozenset[int]) -> None:
        assert files.step is not None  # noqa: S101 - the caller asked
        engine, version = files.step
        slots = self._models.setdefault(model, {})
        if not self._is_ready(engine, version):
            self._leave(slots, set(slots))
            raise _failed(
                model, f"ensemble '{model}' depends on '{engine}' whose required version {version} is not loaded. "
            )
        for number in wanted:
            if number not in slots or slots[number].state is not ModelState.READY:
                self.loads[model, number] += 1
                slots[number] = _Slot(ModelState.READY)
        self._leave(slots, set(slots) - wanted)

    def _unload(self, model: str) -> Iterator[float]:
        self._leave(self._models.get(model, {}), set(self._models.get(model, {})))
        files = self._files.get(model)
        if files is not None:
            self._files[model] = replace(files, newest=0)
        if files is not None and (files.step is not None or files.splits is not None):
            self._files.pop(model)
            self._splitters.pop(model, None)
        self._follow(model)
        yield from ()

    def _follow(self, engine: str) -> None:
        """Aliases go with the engine version that they lead to, and come back with it."""
        for model, files in self._files.items():
            if files.step is None or files.step[0] != engine:
                continue
            slots = self._models.setdefault(model, {})
            if not self._is_ready(*files.step):
                self._leave(slots, set(slots))
            else:
                for number in files.policy & set(files.folders):
                    if number not in slots or slots[number].state is not ModelState.READY:
                        slots[number] = _Slot(ModelState.READY)

    def _leave(self, slots: dict[int, _Slot], versions: set[int]) -> None:
        for version in versions:
            slot = slots[version]
            if slot.state in (ModelState.READY, ModelState.LOADING):
                slot.state, slot.idle_since = ModelState.UNLOADING, self._clock()

    def _is_ready(self, model: str, version: int) -> bool:
        slot = self._models.get(model, {}).get(version)
        return slot is not None and slot.state is ModelState.READY

    def _route(self, model: str, version: int | None, request_id: str | None = None) -> tuple[_Slot, int]:
        """The engine's slot that a request reaches, and its version."""
        slots = self._models.get(model)
        if not slots:
            raise TritonError(f"Request for unknown model: '{model}' is not found")
        ready = [v for v, s in slots.items() if s.state is ModelState.READY]
        if version is None and not ready:
            raise TritonError(f"Request for unknown model: '{model}' has no available versions")
        chosen = max(ready) if version is None else version
        if chosen not in slots:
            raise TritonError(f"Request for unknown model: '{model}' version {chosen} is not found")
        if chosen not in ready:
            raise TritonError(f"Request for unknown model: '{model}' version {chosen} is not at ready state.")
        if (splitter := self._splitters.get(model)) is not None:
            to = splitter.choose(request_id)
            return self._route(splitter.engine, to if self._is_ready(splitter.engine, to) else splitter.stable)
        step = self._files[model].step
        return (slots[chosen], chosen) if step is None else self._route(*step, request_id)


def _failed(model: str, words: str) -> TritonError:
    told = f"load failed for model '{model}': {words}"
    return TritonError(cause(told), words=told)


def _answer(version: int, behaviour: Behaviour, inputs: Tensors) -> Mapping[str, np.ndarray[Any, Any]]:
    """Scores that depend on the texts alone, so that any two versions agree unless one is told not to."""
    query = bytes(inputs["query"].reshape(-1)[0])
    documents = [bytes(d) for d in inputs["documents"].reshape(-1)]
    for place, document in enumerate(documents):
        try:
            json.loads(document)
        except ValueError as error:
            raise InvalidRequest(f"document {place} is not JSON: {error}") from None
    scores = [
        behaviour.score if behaviour.score is not None else hashlib.sha256(query + b"\0" + d).digest()[0] / 255
        for d in documents
    ]
    return {
        "scores": np.array([scores], dtype=np.float32),
        "model_version": np.array([[version]], dtype=np.int64),
    }
