"""Asks one of several servers for scores: the one with the least to do, and another one where the first failed.

Scoring has no effects, so a request may be sent twice. It is sent once more at most, within its own time, and no more
than a tenth of all requests are: servers that are down together are not asked twice as much.

A server that failed rests for a moment, and longer each time. It is asked all the same when no other is left.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from baton.client import CHANNEL, InvalidInput, NotServing, Tensors, call_options, decode, encode, wire
from baton.client_errors import error_of
from baton.errors import BatonError, TimedOut
from baton.gateway.shapes import Answer, Query
from baton.tls import Connection as Encrypted
from baton.tls import Tls
from baton.triton.words import refused

Outputs: TypeAlias = Mapping[str, NDArray[Any]]
OUTPUTS = ("scores", "model_version", "logits", "tokens")
_FIRST_REST_S, _LONGEST_REST_S = 0.5, 15.0
_KEEP_RETRIES = 10.0
"""So many retries may follow each other at once: what runs on one server when it ends."""
_KNOWN_S = 60.0
"""How long it is believed what outputs a model has: a new configuration of the engine changes them."""
READY_ID = "baton-gateway-"
"""Baton's own requests are never counted as live traffic."""
_log = logging.getLogger("baton.gateway")


class Connection(Protocol):
    """One Triton, as far as the gateway needs it. Errors are those of ``baton.client``."""

    name: str

    async def infer(self, model: str, version: str, inputs: Tensors, request_id: str, timeout_s: float) -> Outputs:
        """All outputs that the model has. Cancelled, it lets the server know."""
        ...

    async def outputs(self, model: str, timeout_s: float) -> frozenset[str]:
        """The names of the model's outputs."""
        ...

    async def close(self) -> None: ...


class TritonConnection:
    """A Triton by gRPC, over one connection that is kept warm. Used in one event loop."""

    def __init__(self, address: str, tls: Tls | None = None) -> None:
        import tritonclient.grpc.aio as triton

        def connected(credentials: Any, named: list[tuple[str, str]]) -> triton.InferenceServerClient:
            return triton.InferenceServerClient(address, creds=credentials, channel_args=[*CHANNEL, *named])

        self.name, self._encrypted, self._input = address, Encrypted(tls, connected), triton.InferInput

    async def infer(self, model: str, version: str, inputs: Tensors, request_id: str, timeout_s: float) -> Outputs:
        tensors, options = wire(self._input, inputs), call_options(version, request_id, timeout_s)
        answer = await self._asked(timeout_s, self._client().infer(model, tensors, client_timeout=timeout_s, **options))
        return {name: value for name in OUTPUTS if (value := answer.as_numpy(name)) is not None}

    async def outputs(self, model: str, timeout_s: float) -> frozenset[str]:
        told = await self._asked(timeout_s, self._client().get_model_metadata(model, client_timeout=timeout_s))
        return frozenset(one.name for one in told.outputs)

    async def _asked(self, timeout_s: float, call: Awaitable[Any]) -> Any:
        from tritonclient.utils import InferenceServerException

        try:
            return await call
        except InferenceServerException as error:
            code = str(error.status() or "").removeprefix("StatusCode.")
            raise error_of(code, str(error.message()), self.name, timeout_s) from None

    def _client(self) -> Any:
        return self._encrypted.client()

    async def close(self) -> None:
        left: list[Any] = []
        self._encrypted.close(left.append)
        for client in left:
            await client.close()


@dataclass
class Server:
    """A connection and how it does."""

    connection: Connection
    in_flight: int = 0
    rests_until: float = 0.0
    rest_s: float = _FIRST_REST_S
    turn: int = 0
    """When it was last asked, as a count of all requests."""
    answered_at: dict[str, float] = field(default_factory=dict)
    """By model, when it last answered through it."""
    leads_to: dict[str, str] = field(default_factory=dict)
    """By alias, which version of the engine answered last; without those whose last request failed."""
    known: dict[str, tuple[float, frozenset[str]]] = field(default_factory=dict)
    """By model, what outputs it has, and since when that is known."""

    def answered(self, model: str, now: float) -> None:
        self.answered_at[model] = now
        self.rests_until, self.rest_s = 0.0, _FIRST_REST_S

    def failed(self, now: float) -> None:
        if now >= self.rests_until:  # those that ran at the same time are one failure
            self.rests_until = now + self.rest_s
            self.rest_s = min(2 * self.rest_s, _LONGEST_REST_S)


@dataclass(frozen=True, slots=True)
class Target:
    """Which model is asked: a service's alias, or a version of its engine."""

    model: str
    version: str = ""


class Pool:
    """All servers. ``told`` hears of every failure and every retry: the server's name and what it was."""

    def __init__(
        self,
        connections: Sequence[Connection],
        *,
        retry_share: float,
        told: Callable[[str, str], None] = lambda _server, _what: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.servers = [Server(connection) for connection in connections]
        self._retry_share, self._retries = retry_share, _KEEP_RETRIES
        self._told = told
        self._clock = clock
        self._turn = 0

    async def ask(self, target: Target, query: Query, request_id: str, timeout_s: float) -> tuple[Answer, str]:
        """The answer, and the name of the server that gave it.

        Raises:
            BatonError: as ``baton.client`` does; of the last server that was asked.
        """
        deadline = self._clock() + timeout_s
        self._retries = min(self._retries + self._retry_share, _KEEP_RETRIES)
        tried: list[Server] = []
        while True:
            server = self._choose(tried)
            tried.append(server)
            try:
                answer = await self._one(server, target, query, request_id, deadline)
            except BatonError as error:
                # What a caller asked for by number and is not loaded says nothing about the server.
                fault = not (target.version and isinstance(error, NotServing))
                if not self._again(server, tried, error, deadline, fault=fault):
                    raise
            else:
                return answer, server.connection.name

    def _choose(self, tried: Sequence[Server]) -> Server:
        now = self._clock()
        left = [server for server in self.servers if server not in tried] or self.servers

        def order(server: Server) -> tuple[float, int, int]:
            return (server.rests_until if server.rests_until > now else 0.0, server.in_flight, server.turn)

        chosen = min(left, key=order)
        self._turn += 1
        chosen.turn = self._turn
        return chosen

    def _again(
        self, server: Server, tried: Sequence[Server], error: BatonError, deadline: float, *, fault: bool
    ) -> bool:
        """Note the failure; whether the request is sent once more, to another server."""
        if isinstance(error, InvalidInput):
            return False
        said, name, now = refused(error.message), server.connection.name, self._clock()
        self._told(name, said or type(error).__name__)
        if said is None and fault:
            server.failed(now)
            server.leads_to.clear()
            _log.warning("Server %s: %s", name, error)
        if isinstance(error, TimedOut) or now >= deadline or len(tried) > 1 or len(self.servers) == 1:
            return False
        if self._retries < 1:
            return False
        self._retries -= 1
        self._told(name, "retry")
        return True

    async def _one(self, server: Server, target: Target, query: Query, request_id: str, deadline: float) -> Answer:
        server.in_flight += 1
        try:
            options, warnings = await self._options(server, target, query, deadline)
            inputs = encode(query.query, query.documents, instruction=query.asked.instruction, options=options)
            left = deadline - self._clock()
            if left <= 0:
                raise TimedOut("The time was over before the request was sent.", mend="Try again later.")
            try:
                async with asyncio.timeout(left + 1):  # gRPC ends it itself; this is for a connection that hangs
                    outputs = await server.connection.infer(target.model, target.version, inputs, request_id, left)
            except TimeoutError:
                what = f"Server {server.connection.name} gave no answer within {left:.3g} s."
                raise TimedOut(what, mend="Send fewer documents, or try again later.") from None
        finally:
            server.in_flight -= 1
        answer = read(outputs, warnings)
        server.answered(target.model, self._clock())
        if not target.version and answer.version is not None:
            server.leads_to[target.model] = str(answer.version)
        return answer

    async def _options(
        self, server: Server, target: Target, query: Query, deadline: float
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The engine's options, and what of the request it does not know.

        An engine whose configuration has no output ``tokens`` is older than the option ``max_document_tokens``.
        """
        asked = query.asked
        options = {
            "fps": asked.fps,
            "max_frames": asked.max_frames,
            "truncation": "refuse" if asked.truncate is False else None,
        }
        warnings = []
        if asked.max_tokens_per_doc:
            if "tokens" in await self._outputs(server, target, deadline):
                options["max_document_tokens"] = asked.max_tokens_per_doc
            else:
                warnings.append("max_tokens_per_doc was ignored: this engine does not know it")
        if asked.truncate_prompt_tokens is not None:
            warnings.append("truncate_prompt_tokens was ignored: max_tokens_per_doc limits a document")
        return {name: value for name, value in options.items() if value is not None}, tuple(warnings)

    async def _outputs(self, server: Server, target: Target, deadline: float) -> frozenset[str]:
        now = self._clock()
        since, names = server.known.get(target.model, (-_KNOWN_S, frozenset()))
        if now - since >= _KNOWN_S:
            names = await server.connection.outputs(target.model, max(deadline - now, 0.001))
            server.known[target.model] = (now, names)
        return names

    async def ready(self, model: str, probe: Query, *, engine: str | None, within_s: float, timeout_s: float) -> bool:
        """Whether a server answered through the model in the last time, or does so now. READY is no proof."""
        now = self._clock()
        if any(now - server.answered_at.get(model, -within_s) < within_s for server in self.servers):
            return True
        tasks = [asyncio.ensure_future(self._probe(server, model, engine, probe, timeout_s)) for server in self.servers]
        try:
            for done in asyncio.as_completed(tasks):
                if await done:
                    return True
        finally:
            for task in tasks:
                task.cancel()
        return False

    async def _probe(self, server: Server, model: str, engine: str | None, probe: Query, timeout_s: float) -> bool:
        """Ask the version that the alias last led to; the alias itself where that is not known, or does not answer.

        A splitter behind the alias takes each request for a client's. A rollout without clients would then wait for
        more of them, in place of sending golden requests.
        """
        deadline, version = self._clock() + timeout_s, server.leads_to.get(model)
        targets = [Target(model)] if engine is None or version is None else [Target(engine, version), Target(model)]
        for target in targets:
            try:
                await self._one(server, target, probe, f"{READY_ID}{uuid.uuid4().hex}", deadline)
            except BatonError as error:
                if refused(error.message) is None:
                    continue
                # It answers, if only to say that it has much to do.
            server.answered_at[model] = self._clock()
            return True
        return False

    async def close(self) -> None:
        await asyncio.gather(*(server.connection.close() for server in self.servers))


def read(outputs: Outputs, warnings: tuple[str, ...] = ()) -> Answer:
    """What the tensors say. The version, logits and tokens are left out where the model has no such output."""
    if "model_version" in outputs:
        scores, version = decode(outputs)
    else:
        scores, _ = decode({**outputs, "model_version": np.zeros((1, 1), np.int64)})
        version = None
    logits, tokens = outputs.get("logits"), outputs.get("tokens")
    return Answer(
        scores,
        version,
        None if logits is None else [float(value) for value in logits.reshape(-1)],
        None if tokens is None else int(tokens.sum()),
        warnings,
    )
