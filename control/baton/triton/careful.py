"""A server that asks nothing more of a version that Triton gave up.

Triton (seen on 24.10) gives a request up when the version's process shows no sign of life for one to two seconds. When
that process goes on, the next request to it can bring the whole server down.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping

from baton.domain import ModelState, Signature
from baton.errors import GivenUp, InvalidRequest, KeyRefused, TritonError, Unreachable
from baton.triton.port import Beats, Counts, Index, Infos, Tensors, Triton

GIVEN_UP = re.compile(
    r"(Failed to process the request\(s\) for model instance '[^']*', message: )?"
    r"(Stub process ('[^']*' )?is not healthy|Failed to obtain the health mutex)"
)
"""How an error begins by which Triton says that it gave a request up. Only its beginning tells: a version's own errors
may quote a request, and nobody's text may have a process ended."""


class Careful:
    """Passes everything on to ``triton``, but no request to a version that was given up.

    ``given_up`` is called with the server's name, the model and the version, at once when Triton says so. It is asked
    again when it was loaded anew: a load or unload call went through here, it was seen in another state than READY, or
    the server was away.
    """

    def __init__(self, triton: Triton, given_up: Callable[[str, str, int], None]) -> None:
        self._triton = triton
        self._told = given_up
        self._lock = threading.Lock()
        self._given_up: dict[tuple[str, int], str] = {}

    @property
    def name(self) -> str:
        return self._triton.name

    def index(self) -> Index:
        try:
            index = self._triton.index()
        except Unreachable:
            self._forget(lambda _key: True)
            raise
        self._forget(lambda key: (v := index.get(key[0], {}).get(key[1])) is None or v.state is not ModelState.READY)
        return index

    def load(self, model: str, timeout_s: float) -> None:
        self._triton.load(model, timeout_s)

    def unload(self, model: str, timeout_s: float) -> None:
        self._triton.unload(model, timeout_s)
        self._forget(lambda key: key[0] == model)

    def infer(
        self, model: str, version: int | None, inputs: Tensors, timeout_s: float, request_id: str | None = None
    ) -> Tensors:
        """As ``Triton.infer``.

        Raises:
            GivenUp: Triton gave the version up, now or before; it is asked no more.
        """
        if version is None:
            return self._triton.infer(model, version, inputs, timeout_s, request_id)
        with self._lock:
            words = self._given_up.get((model, version))
        if words is not None:
            raise GivenUp(f"{words} It is not asked again before it was loaded anew.")
        try:
            return self._triton.infer(model, version, inputs, timeout_s, request_id)
        except (InvalidRequest, KeyRefused):
            raise
        except TritonError as error:
            if not GIVEN_UP.match(error.words):
                raise
            with self._lock:
                self._given_up[model, version] = error.message
            self._told(self.name, model, version)
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

    def infos(self) -> Infos | None:
        return self._triton.infos()

    def beats(self) -> Beats | None:
        return self._triton.beats()

    def close(self) -> None:
        self._triton.close()

    def _forget(self, gone: Callable[[tuple[str, int]], bool]) -> None:
        with self._lock:
            self._given_up = {key: words for key, words in self._given_up.items() if not gone(key)}
