"""A Triton port that sends no more requests to a version that Triton gave up.

Triton (seen on 24.10) gives a request up when the version's process shows no sign of life for one to two seconds. When
that process goes on, the next request to it can make the whole server abort. So the version is quarantined until it is
loaded again. Requests of clients do not come through here: Baton moves them away by the alias.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence

from baton.domain import ModelState, Signature
from baton.errors import GivenUp, InvalidRequest, KeyRefused, TritonError, Unreachable
from baton.triton.port import Counts, EngineInfos, Heartbeats, Index, Tensors, Triton
from baton.verify.device import DeviceMemory

GIVEN_UP = re.compile(
    r"(Failed to process the request\(s\) for model instance '[^']*', message: )?"
    r"(Stub process ('[^']*' )?is not healthy|Failed to obtain the health mutex)"
)
"""How an error begins by which Triton says that it gave a request up. Only the beginning counts: a version's own errors
may quote a request, and no client's text may get a process killed."""


class QuarantineTriton:
    """Passes every call on to ``triton``, except requests to a quarantined version.

    ``given_up`` is called at once when Triton gave a version up, with the server's name, the model and the version. The
    quarantine ends when the version was loaded again, which shows in three ways: an unload call went through here, the
    index named it in another state than READY, or the server was away.
    """

    def __init__(self, triton: Triton, given_up: Callable[[str, str, int], None]) -> None:
        self._triton = triton
        self._report = given_up
        self._lock = threading.Lock()
        self._quarantined: dict[tuple[str, int], str] = {}
        """By model and version: what Triton said."""

    @property
    def name(self) -> str:
        return self._triton.name

    def index(self) -> Index:
        try:
            index = self._triton.index()
        except Unreachable:
            self._release(lambda _key: True)
            raise
        self._release(lambda key: (v := index.get(key[0], {}).get(key[1])) is None or v.state is not ModelState.READY)
        return index

    def load(self, model: str, timeout_s: float) -> None:
        self._triton.load(model, timeout_s)

    def unload(self, model: str, timeout_s: float) -> None:
        self._triton.unload(model, timeout_s)
        self._release(lambda key: key[0] == model)

    def infer(
        self, model: str, version: int | None, inputs: Tensors, timeout_s: float, request_id: str | None = None
    ) -> Tensors:
        """As ``Triton.infer``.

        Raises:
            GivenUp: Triton gave the version up, now or before.
        """
        if version is None:
            return self._triton.infer(model, version, inputs, timeout_s, request_id)
        with self._lock:
            words = self._quarantined.get((model, version))
        if words is not None:
            raise GivenUp(f"{words} It gets no more requests before it is loaded again.")
        try:
            return self._triton.infer(model, version, inputs, timeout_s, request_id)
        except (InvalidRequest, KeyRefused):
            raise
        except TritonError as error:
            if not GIVEN_UP.match(error.words):
                raise
            with self._lock:
                self._quarantined[model, version] = error.message
            self._report(self.name, model, version)
            raise GivenUp(error.message) from None

    def step(self, model: str) -> str | None:
        return self._triton.step(model)

    def instances(self, model: str, version: int) -> int:
        return self._triton.instances(model, version)

    def signature(self, model: str, version: int) -> Signature:
        return self._triton.signature(model, version)

    def inflight(self, model: str) -> Mapping[int, int] | None:
        return self._triton.inflight(model)

    def counts(self) -> Mapping[str, Mapping[int, Counts]]:
        return self._triton.counts()

    def engine_infos(self) -> EngineInfos | None:
        return self._triton.engine_infos()

    def device_memory(self) -> Sequence[DeviceMemory]:
        return self._triton.device_memory()

    def heartbeats(self) -> Heartbeats | None:
        return self._triton.heartbeats()

    def close(self) -> None:
        self._triton.close()

    def _release(self, ended: Callable[[tuple[str, int]], bool]) -> None:
        with self._lock:
            self._quarantined = {key: words for key, words in self._quarantined.items() if not ended(key)}
