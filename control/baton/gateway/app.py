"""The gateway as an ASGI application: who asks, what is asked, which server answers, and what is told of it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from baton import secret
from baton.config_gateway import GatewayConfig
from baton.errors import BatonError
from baton.gateway import openapi
from baton.gateway.body import Body, Room
from baton.gateway.keys import Caller, Keys
from baton.gateway.metrics import Metrics, Record
from baton.gateway.pool import Pool, Target
from baton.gateway.problems import FORBIDDEN, GONE_AWAY, INVALID, NOT_FOUND, TOO_LARGE, Problem, busy, problem_of
from baton.gateway.shapes import RERANK, SCORE, Common, Object, Query, Shape, by_fields, parse_rerank

VERSION_HEADER = "x-model-version"
REQUEST_HEADER = "x-request-id"
PROBE_S = 5.0
"""How long a readiness probe waits."""
PROBE_EVERY_S = 1.0
"""Who asks /readyz without pause must not become load of the engine."""
_PROBE = parse_rerank({"query": "ready?", "documents": ["ready"]}, {})
_T = TypeVar("_T")
_log = logging.getLogger("baton.gateway")


@dataclass(frozen=True, slots=True)
class Service:
    """What clients call a model: an alias, and the engine behind it where versions may be asked for."""

    name: str
    engine: str | None = None


class Gateway:
    """All that requests share. Nothing of it outlives the process, and nothing is shared with other gateways."""

    def __init__(self, config: GatewayConfig, services: Mapping[str, Service], pool: Pool, metrics: Metrics) -> None:
        """Raises ``ConfigError`` where the keys can't be read."""
        self.config, self.services, self.pool, self.metrics = config, services, pool, metrics
        self.keys = Keys(config.keys_file)
        self.room = Room(config.max_bytes_in_flight)
        self.draining = False
        """Told to stop: what is there is finished, and /readyz sends clients elsewhere."""
        file = config.sticky_key_file
        key = "" if file is None else secret.read(file, "sticky_key_file of [gateway]")
        self._sticky_key = hashlib.blake2b(key.encode()).digest()
        self._in_flight: Counter[str] = Counter()
        self._looked: tuple[float, dict[str, bool]] = (-PROBE_EVERY_S, {})
        self._looking = asyncio.Lock()
        self._document = openapi.document(keys=bool(self.keys))

    def app(self) -> ASGIApp:
        posts: dict[str, Callable[[Object], Shape]] = {"/rerank": by_fields, "/score": lambda _: SCORE}
        posts |= dict.fromkeys(("/v1/rerank", "/v2/rerank"), lambda _: RERANK)
        gets = {"/v1/models": self._models, "/healthz": self._healthz, "/readyz": self._readyz}
        gets |= {"/openapi.json": self._openapi, "/docs": self._page, "/": self._page}
        routes = [Route(path, self._ranking(shape_of), methods=["POST"]) for path, shape_of in posts.items()]
        routes += [Route(path, answer) for path, answer in gets.items()]
        cross: dict[str, Any] = {
            "allow_origins": self.config.origins,
            "allow_methods": ["GET", "POST"],
            "allow_headers": ["*"],
        }
        cors = Middleware(CORSMiddleware, **cross, expose_headers=[VERSION_HEADER, REQUEST_HEADER])
        handlers: Any = {BatonError: _failed, HTTPException: _refused, Exception: _defect}
        inner = Starlette(routes=routes, middleware=[cors] if self.config.origins else [], exception_handlers=handlers)
        inner.router.redirect_slashes = False
        return _Outermost(inner, self.metrics, frozenset(route.path for route in routes))

    # What is asked

    def _ranking(self, shape_of: Callable[[Object], Shape]) -> Callable[[Request], Awaitable[Response]]:
        async def rank(request: Request) -> Response:
            record: Record = request.state.record
            caller = self.keys.caller(request.headers.get("authorization", ""))
            record.key = caller.name
            config = self.config
            with Body(request, self.room, config.max_bytes, config.read_timeout) as body:
                given = await body.read()
                record.bytes = body.size
                shape = shape_of(given)
                query = shape.parse(given, body.files)
                del given
                record.documents = len(query.documents)
                if len(query.documents) > config.max_documents:
                    raise Problem(
                        TOO_LARGE,
                        f"{len(query.documents)} documents were sent; at most {config.max_documents} are taken.",
                        mend="A ranking is one request: send fewer.",
                    )
                with self._place(caller):
                    return await _unless_gone(request, self._answered(request, shape, query, caller, record))

        return rank

    async def _answered(self, request: Request, shape: Shape, query: Query, caller: Caller, record: Record) -> Response:
        service, target = self._target(query.asked, request.headers.get(VERSION_HEADER), caller)
        record.service = service.name
        sticky = self._sticky(request, service, query.asked, caller)
        began = time.perf_counter()
        try:
            answer, record.server = await self.pool.ask(target, query, sticky or record.id, self.config.timeout)
        except BatonError as error:
            raise problem_of(error, asked_version=bool(target.version)) from error
        finally:
            record.server_ms = round(1000 * (time.perf_counter() - began), 3)
        record.version, record.tokens = answer.version, answer.tokens
        headers = {} if answer.version is None else {VERSION_HEADER: str(answer.version)}
        return _json(shape.write(record.id, service.name, query, answer), 200, headers)

    def _target(self, common: Common, header: str | None, caller: Caller) -> tuple[Service, Target]:
        """Which service, and which of its versions where the caller asks for one."""
        name, _, version = (common.model or "").partition("@")
        known = self.services.get(name)
        if known is None and len(self.services) == 1:
            # Clients send the name of the model that they were made for, with an @ in it or without.
            known, version = next(iter(self.services.values())), version if version.isdecimal() else ""
        if known is None:
            said = f"There is no model {name[:80]!r}" if name else "The request names no model"
            raise Problem(NOT_FOUND, f"{said}.", mend=f"There are: {', '.join(self.services)}.")
        if header and version and header != version:
            raise Problem(INVALID, f"model asks for version {version[:20]}, X-Model-Version for {header[:20]}.")
        if not (version := version or header or ""):
            return known, Target(known.name)
        if not (version.isascii() and version.isdecimal() and len(version) <= 18):  # noqa: PLR2004 - fits Triton's INT64
            raise Problem(INVALID, f"{version[:20]!r} is no version.", mend="A version is a whole number.")
        if not caller.versions:
            raise Problem(
                FORBIDDEN, "This caller may not ask for a version.", mend="Its API key needs `versions = true`."
            )
        if known.engine is None:
            raise Problem(INVALID, f"The versions of {known.name} can't be asked for: its engine is not configured.")
        return known, Target(known.engine, str(int(version)))

    def _sticky(self, request: Request, service: Service, common: Common, caller: Caller) -> str:
        """Triton's request id where requests belong together: by it the splitter keeps them at one version.

        Hashed, so that nobody can send an id of Baton's own, or read in Triton's log who asked.
        """
        header = self.config.sticky_header
        value = (request.headers.get(header) if header else None) or common.user
        if not value:
            return ""
        digest = hashlib.blake2b(key=self._sticky_key, digest_size=16)
        for part in (service.name, caller.name, value):
            raw = part.encode(errors="surrogatepass")
            digest.update(len(raw).to_bytes(8) + raw)
        return f"user-{digest.hexdigest()}"

    @contextlib.contextmanager
    def _place(self, caller: Caller) -> Iterator[None]:
        most = caller.requests or self.config.key_requests
        if self.keys and self._in_flight[caller.name] >= most:
            raise busy(f"This API key has {most} requests under way, as many as it may")
        if self._in_flight.total() >= self.config.max_requests:
            raise busy(f"{self.config.max_requests} requests are under way, as many as the gateway takes")
        self._in_flight[caller.name] += 1
        self.metrics.in_flight.inc()
        try:
            yield
        finally:
            self._in_flight[caller.name] -= 1
            self.metrics.in_flight.dec()

    # What is told

    async def _models(self, request: Request) -> Response:
        self.keys.caller(request.headers.get("authorization", ""))
        data = [{"id": name, "object": "model", "owned_by": "baton"} for name in self.services]
        return _json(openapi.Models("list", data))

    async def _healthz(self, _request: Request) -> Response:
        return _json({"status": "ok"})

    async def _readyz(self, _request: Request) -> Response:
        if self.draining:
            return _json({"status": "stopping"}, status=503)
        async with self._looking:
            since, found = self._looked
            if time.monotonic() - since >= PROBE_EVERY_S:
                names = list(self.services)
                answers = await asyncio.gather(*(self._answers(name) for name in names))
                found = dict(zip(names, answers, strict=True))
                self._looked = (time.monotonic(), found)
        ready = all(found.values())
        return _json({"status": "ok" if ready else "no answer", "services": found}, status=200 if ready else 503)

    async def _answers(self, model: str) -> bool:
        within, engine = self.config.ready_within, self.services[model].engine
        return await self.pool.ready(model, _PROBE, engine=engine, within_s=within, timeout_s=PROBE_S)

    async def _openapi(self, _request: Request) -> Response:
        return _json(self._document)

    async def _page(self, request: Request) -> Response:
        url = f"{request.url.scheme}://{request.url.netloc}"
        policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
        return HTMLResponse(openapi.page(self._document, url), headers={"content-security-policy": policy})


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")


async def _unless_gone(request: Request, work: Awaitable[_T]) -> _T:
    """The work's result; where the client goes away first, the work ends, and ``ClientDisconnect`` is raised."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, BatonError):
                await task


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


# What is told when it goes wrong


def _failed(request: Request, error: BatonError) -> Response:
    problem = problem_of(error, asked_version=False)
    record: Record = request.state.record
    # What a client did wrong may quote its contents; what a server did is for the log alone.
    record.error = str(error.__cause__ or error) if problem.status >= 500 else problem.kind  # noqa: PLR2004
    return _json(problem.body(record.id), problem.status, problem.headers())


def _refused(request: Request, error: HTTPException) -> Response:
    """What the framework itself refuses, in the same shape as all else."""
    said = {404: f"There is no {request.url.path[:200]} here.", 405: f"{request.method} is not what this path takes."}
    problem = Problem(error.status_code, said.get(error.status_code, str(error.detail)), mend="See /docs.")
    answer = _failed(request, problem)
    answer.headers.update(error.headers or {})
    return answer


def _defect(request: Request, _error: Exception) -> Response:
    return _failed(request, Problem(500, "The gateway failed at this request.", mend="Its log says more."))


class _Outermost:
    """Around everything: the request's id, paths with a slash at their end, metrics, the access log."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]) -> None:
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].rstrip("/") or "/"
        began = time.perf_counter()
        record = Record(f"rerank-{uuid.uuid4().hex}", method=scope["method"][:16])
        record.route = path if path in self._paths else "other"
        scope = {
            **scope,
            "path": path,
            "raw_path": path.encode(),
            "state": {**scope.get("state", {}), "record": record},
        }

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message["headers"], (REQUEST_HEADER.encode(), record.id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except ClientDisconnect:
            record.status, record.error = GONE_AWAY, "the client went away"
        except Exception:  # noqa: BLE001 - logged; the client has its answer; one request must not end the server
            _log.exception("Request %s met a defect", record.id)
        finally:
            self._metrics.done(record, time.perf_counter() - began)
