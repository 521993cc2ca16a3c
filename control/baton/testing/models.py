"""The models that a fake Triton has loaded: what a load call changes, and which version a request reaches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from baton.domain import ModelState
from baton.errors import TritonError
from baton.testing.behaviour import Behaviour
from baton.testing.files import ModelFiles, RepositoryView
from baton.testing.splitter import FakeSplitter
from baton.triton.words import cause

GIVE_UP_S = 1.0
"""Triton gives a request up after its process was frozen for so long."""
UNLOADED = "unloaded"


@dataclass(slots=True)
class Slot:
    """One version of one model on the server, with its process."""

    state: ModelState
    reason: str = ""
    content: str = ""
    requests: int = 0
    idle_since: float = 0.0
    answered: int = 0
    failed: int = 0
    dead: bool = False
    """Its process is gone; Triton 24.10 still calls it READY."""
    stuck: bool = False
    """A request came to it after that: Triton 24.10 keeps it UNLOADING until it is loaded again."""
    frozen_at: float | None = None
    """Since when its process is frozen."""
    given_up: bool = False
    """A request to it was given up meanwhile: once the process goes on, the next request takes the server down."""

    @property
    def answers(self) -> bool:
        """Whether its process is there and runs, and was never frozen for too long."""
        return not self.dead and self.frozen_at is None and not self.given_up

    def require_process(self) -> None:
        """Raises ``TritonError`` where the process has ended, as for a request."""
        if self.dead:
            self.failed += 1
            self.stuck = True
            raise TritonError("Stub process is not healthy.")


class LoadedModels:
    """By model and version what is loaded. ``behaviour_of`` says how one that is about to load behaves.

    A load or unload is an iterator that yields the time at which it goes on, as :class:`~baton.testing.Call` wants it.
    Not safe from several threads: the server holds its lock.
    """

    def __init__(
        self,
        repository: RepositoryView,
        clock: Callable[[], float],
        versions: Mapping[int, Behaviour],
        splitter: Callable[[], Behaviour],
    ) -> None:
        self.repository = repository
        self.loads: Counter[tuple[str, int]] = Counter()
        self._clock = clock
        self._versions = versions
        self._splitter = splitter
        self.clear()

    def clear(self) -> None:
        """Forget all that is loaded, as a restart does."""
        self.slots: dict[str, dict[int, Slot]] = {}
        self.files: dict[str, ModelFiles] = {}
        self.splitters: dict[str, FakeSplitter] = {}

    def behaviour(self, model: str, version: int) -> Behaviour:
        files = self.files.get(model)
        return self._versions[version] if files is None or files.splits is None else self._splitter()

    def is_engine(self, model: str) -> bool:
        return model not in self.files or self.files[model].step is None

    def touched(self, model: str) -> frozenset[str]:
        """The model and, for an alias, its engine: a load of an alias waits for a load of its engine."""
        files = self.repository.read(model) or self.files.get(model)
        return frozenset({model} if files is None or files.step is None else {model, files.step[0]})

    def splitter_of(self, alias: str) -> FakeSplitter | None:
        """The splitter that requests to an alias pass through."""
        files = self.files.get(alias)
        return self.splitters.get(files.step[0]) if files is not None and files.step is not None else None

    def engine_of(self, model: str) -> str:
        """The engine behind an alias; an engine's own name."""
        splitter = self.splitter_of(model)
        files = self.files.get(model)
        if splitter is not None:
            return splitter.engine
        return files.step[0] if files is not None and files.step is not None else model

    def route(self, model: str, version: int | None, request_id: str | None = None) -> tuple[Slot, int]:
        """The engine's slot that a request reaches, and its version. Raises ``TritonError``: it is not there."""
        slots = self.slots.get(model)
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
        if (splitter := self.splitters.get(model)) is not None:
            to = splitter.choose(request_id)
            return self.route(splitter.engine, to if self.is_ready(splitter.engine, to) else splitter.stable)
        step = self.files[model].step
        return (slots[chosen], chosen) if step is None else self.route(*step, request_id)

    def advance(self, now: float) -> None:
        """Give up requests to frozen processes, and end what has left."""
        for model, slots in self.slots.items():
            for version, slot in slots.items():
                if slot.frozen_at is not None and slot.requests and now - slot.frozen_at >= GIVE_UP_S:
                    slot.given_up = slot.stuck = True
                if slot.state is ModelState.UNLOADING and not slot.requests and not slot.stuck:
                    stays = self.behaviour(model, version).leave_s if self.is_engine(model) else 0.0
                    if now >= slot.idle_since + stays:
                        slot.state, slot.reason, slot.content = ModelState.UNAVAILABLE, UNLOADED, ""

    def load(self, model: str) -> Iterator[float]:
        """Do what the model's files say. Raises ``TritonError``."""
        files = self.repository.read(model)
        if files is None:
            raise TritonError(f"failed to load '{model}', failed to poll from model repository")
        wanted = files.policy & set(files.folders)
        if not wanted:
            raise _failed(model, f"at least one version must be available under the version policy of model '{model}'")
        before = self.files.get(model)
        if before is not None and before.policy != files.policy and files.newest <= before.newest != 0:
            return  # nothing has changed, as Triton tells it (seen on 24.10)
        self.files[model] = files
        if files.step is not None:
            self._load_alias(model, files.step, wanted)
            return
        yield from self._load_engine(model, files, wanted, before)
        self._follow(model)

    def _load_engine(
        self, model: str, files: ModelFiles, wanted: frozenset[int], before: ModelFiles | None
    ) -> Iterator[float]:
        slots = self.slots.setdefault(model, {})
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
            slots[version] = Slot(ModelState.LOADING)
        if new | again:
            yield self._clock() + max(self.behaviour(model, v).load_s for v in new | again)
        broken = {v: words for v in sorted(new | again) if (words := self.behaviour(model, v).load_error) is not None}
        for version in sorted(new):
            # One that fails takes back those that came with it; what served before serves on, also what was to go.
            slots[version] = (
                Slot(ModelState.UNAVAILABLE, broken[version])
                if version in broken
                else Slot(ModelState.READY, content=files.folders[version])
            )
        if broken:
            self._leave(slots, new - set(broken))
            words = "".join(f"version {v} is at UNAVAILABLE state: {words}; " for v, words in broken.items())
            raise _failed(model, words)
        for version in again:
            slots[version] = Slot(ModelState.READY, content=files.folders[version], requests=slots[version].requests)
        self._leave(slots, set(slots) - wanted)
        if files.splits is not None and new | again:
            self.splitters[model] = FakeSplitter(files.splits, self._clock)

    def _load_alias(self, model: str, step: tuple[str, int], wanted: frozenset[int]) -> None:
        engine, version = step
        slots = self.slots.setdefault(model, {})
        if not self.is_ready(engine, version):
            self._leave(slots, set(slots))
            raise _failed(
                model, f"ensemble '{model}' depends on '{engine}' whose required version {version} is not loaded. "
            )
        for number in wanted:
            if number not in slots or slots[number].state is not ModelState.READY:
                self.loads[model, number] += 1
                slots[number] = Slot(ModelState.READY)
        self._leave(slots, set(slots) - wanted)

    def unload(self, model: str) -> Iterator[float]:
        """Take the model out, all versions."""
        self._leave(self.slots.get(model, {}), set(self.slots.get(model, {})))
        files = self.files.get(model)
        if files is not None:
            self.files[model] = replace(files, newest=0)
        if files is not None and (files.step is not None or files.splits is not None):
            self.files.pop(model)
            self.splitters.pop(model, None)
        self._follow(model)
        yield from ()

    def _follow(self, engine: str) -> None:
        """Aliases leave with the engine version that they lead to, and come back with it."""
        for model, files in self.files.items():
            if files.step is None or files.step[0] != engine:
                continue
            slots = self.slots.setdefault(model, {})
            if not self.is_ready(*files.step):
                self._leave(slots, set(slots))
            else:
                for number in files.policy & set(files.folders):
                    if number not in slots or slots[number].state is not ModelState.READY:
                        slots[number] = Slot(ModelState.READY)

    def _leave(self, slots: dict[int, Slot], versions: set[int]) -> None:
        for version in versions:
            slot = slots[version]
            if slot.state in (ModelState.READY, ModelState.LOADING):
                slot.state, slot.idle_since = ModelState.UNLOADING, self._clock()

    def is_ready(self, model: str, version: int) -> bool:
        slot = self.slots.get(model, {}).get(version)
        return slot is not None and slot.state is ModelState.READY


def _failed(model: str, words: str) -> TritonError:
    whole = f"load failed for model '{model}': {words}"
    return TritonError(cause(whole), words=whole)
