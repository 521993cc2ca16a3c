"""The gateway as a server: uvicorn in a thread of its own, and the metrics on a port of their own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import uvicorn
from prometheus_client import make_asgi_app
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from baton.config_gateway import GatewayConfig
from baton.errors import BatonError, ConfigError, Unreachable
from baton.gateway.app import Gateway, Service
from baton.gateway.metrics import Metrics
from baton.gateway.pool import Connection, Pool, TritonConnection
from baton.httpd import family
from baton.tls import host_and_port

MAX_HEAD = 65_536
"""Bytes of all headers together."""
IDLE_S = 30
"""A connection that is kept open may be idle for so long: longer than most balancers keep theirs."""
_log = logging.getLogger("baton.gateway")


class GatewayServer:
    """Listens while it is entered; ``places`` says where. At its end it finishes the requests that it has."""

    def __init__(
        self,
        config: GatewayConfig,
        services: Mapping[str, Service],
        servers: Sequence[str],
        connect: Callable[[str], Connection] = TritonConnection,
    ) -> None:
        """``servers`` are gRPC addresses; ``connect`` makes a connection of each."""
        self.places: dict[str, str] = {}
        self._config, self._services, self._servers, self._connect = config, services, servers, connect
        self._thread = threading.Thread(target=self._run, name="gateway", daemon=True)
        self._listens = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        """Raises ``BatonError`` where it can't listen."""
        self._thread.start()
        self._listens.wait()
        if isinstance(self._failure, BatonError):
            raise self._failure
        if self._failure is not None:
            what = f"The gateway did not start: {self._failure}."
            raise Unreachable(what, mend="Its log says more.") from self._failure
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - told by __enter__, or in the log
            self._failure = error
            if self._listens.is_set():
                _log.exception("The gateway ended by itself")
        finally:
            self._listens.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        config, metrics = self._config, Metrics()
        pool = Pool(
            [self._connect(address) for address in self._servers],
            retry_share=config.retry_share,
            told=metrics.server_failed,
        )
        made: list[tuple[_Server, socket.socket]] = []
        try:
            gateway = Gateway(config, self._services, pool, metrics)
            tls = {} if config.certificate is None else {"ssl_certfile": config.certificate, "ssl_keyfile": config.key}
            made.append(self._made(gateway.app(), config.listen, "gateway", tls))
            if config.metrics is not False:
                made.append(self._made(make_asgi_app(metrics.registry), config.metrics, "gateway_metrics", {}))
            async with asyncio.TaskGroup() as group:
                for server, listening in made:
                    group.create_task(server.serve(sockets=[listening]))
                for server, _ in made:
                    await server.listens.wait()
                self._listens.set()
                await self._stop.wait()
                gateway.draining = True
                await asyncio.sleep(config.stop_delay)  # balancers see /readyz and send clients elsewhere
                for server, _ in made:
                    server.should_exit = True
        finally:
            for _, listening in made:
                listening.close()
            await pool.close()

    def _made(self, app: ASGIApp, address: str, name: str, tls: dict[str, Any]) -> tuple[_Server, socket.socket]:
        listening = _listen(address)
        host, port = listening.getsockname()[:2]
        self.places[name] = f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
        settings = uvicorn.Config(
            app,
            http=_protocol(self._config.header_timeout),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # what clients send wrong is in the access log, and theirs to fix
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=MAX_HEAD,
            timeout_keep_alive=IDLE_S,
            timeout_graceful_shutdown=int(self._config.timeout) + 1,
            **tls,
        )
        try:
            settings.load()
        except (OSError, ValueError) as error:
            listening.close()
            raise ConfigError(f"The gateway's certificate or key can't be used: {error}.") from None
        return _Server(settings), listening


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listens.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the program's business, which ends all that it began."""
        yield


def _listen(address: str) -> socket.socket:
    host, port = host_and_port(address)
    try:
        listening = socket.create_server((host, port), family=family(host), backlog=2048)
    except (OSError, OverflowError) as error:
        raise Unreachable(f"Nobody can listen on {address}: {error}.", mend="Name another port.") from None
    # asyncio sets it for sockets that name their protocol alone; without it, a body waits 40 ms behind its head.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _protocol(head_s: float) -> type[H11Protocol]:
    """HTTP/1.1 by h11, which limits headers; uvicorn itself waits for ever for a head that comes byte by byte."""

    class Protocol(H11Protocol):
        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._expect()

        def handle_events(self) -> None:
            super().handle_events()
            if self.cycle is not None and not self.cycle.response_complete:
                self._forget()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete):
                self._expect(IDLE_S + head_s)

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget()
            super().connection_lost(exc)

        def _expect(self, seconds: float = head_s) -> None:
            self._forget()
            self._late = self.loop.call_later(seconds, self.transport.close)

        def _forget(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

    return Protocol
