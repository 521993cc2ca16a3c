"""``ctl up``: a local Triton and the control plane together, in the foreground."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from baton.cli.gateway import prepare, start_access_log, with_gateway
from baton.cli.output import say
from baton.cli.serve import control_plane, raise_descriptors, start_logging, tell, undisturbed, until_stopped
from baton.cli.settings import Settings, common, pass_settings
from baton.errors import BatonError, Unreachable

if TYPE_CHECKING:
    from baton.config import Config
    from baton.local import LocalTriton

HOST, ANYWHERE = "127.0.0.1", "0.0.0.0"  # noqa: S104 - only when it is asked for
_PORT = click.IntRange(0, 65535)
_FIRST_REST_S, _LONGEST_REST_S = 1.0, 30.0
_SETTLED_S = 60.0
"""A server that ran this long does not count as failing again and again."""
_log = logging.getLogger("baton.up")


@click.command()
@click.option(
    "--repository",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="BATON_REPOSITORY",
    metavar="DIR",
    help="The model repository; made if it is not there.  [default: from the configuration, else model_repository]",
)
@click.option(
    "--host",
    type=click.Choice([HOST, ANYWHERE]),
    envvar="BATON_HOST",
    default=HOST,
    help="Where Triton's HTTP and gRPC listen; all else stays on this machine.  [default: 127.0.0.1]",
)
@click.option(
    "--http/--no-http",
    default=None,
    envvar="BATON_HTTP",
    help="Whether Triton speaks HTTP, too; Baton needs gRPC alone.  [default: from the configuration, else --http]",
)
@click.option(
    "--metrics/--no-metrics",
    default=None,
    envvar="BATON_METRICS",
    help="Whether Triton opens its port for metrics.  [default: from the configuration, else --metrics]",
)
@click.option("--http-port", type=_PORT, envvar="BATON_HTTP_PORT", help="Triton's HTTP port.  [default: 8000]")
@click.option("--grpc-port", type=_PORT, envvar="BATON_GRPC_PORT", help="Triton's gRPC port.  [default: 8001]")
@click.option("--metrics-port", type=_PORT, envvar="BATON_METRICS_PORT", help="Triton's metrics.  [default: 8002]")
@click.option(
    "--console-port",
    type=_PORT,
    envvar="BATON_CONSOLE_PORT",
    help="The control plane's /metrics, /healthz and /readyz.  [default: 9464]",
)
@click.option(
    "--gateway-port",
    type=_PORT,
    envvar="BATON_GATEWAY_PORT",
    help="The rerank API over HTTP.  [default: where [gateway] in the configuration says, else none]",
)
@click.option(
    "--backends",
    type=click.Path(path_type=Path, file_okay=False),
    multiple=True,
    metavar="DIR",
    help="A further directory of python-based backends; may be given several times.",
)
@common()
@pass_settings
def up(
    settings: Settings, repository: Path | None, host: str, http_port: int | None, grpc_port: int | None,
    metrics_port: int | None, console_port: int | None, gateway_port: int | None, backends: tuple[Path, ...], *,
    http: bool | None, metrics: bool | None,
) -> None:  # fmt: skip
    """Start a local Triton and the control plane together.

    Stays in the foreground; Ctrl-C stops both cleanly, with exit code 0. Port 0 takes a free one.
    """
    given = {"http": http_port, "grpc": grpc_port, "metrics": metrics_port}
    with until_stopped(), ExitStack() as stack:
        with undisturbed():
            from baton import app, local  # noqa: F401 - all that is heavy, at once
            from baton.cli.local import wanted_ports
            from baton.local.exec_wrapper import no_core
            from baton.metrics import MetricsServer  # noqa: F401
        no_core()
        config = settings.load()
        if repository is not None:
            config = replace(config, repository=repository)
        start_logging()
        raise_descriptors()
        ports = wanted_ports(config, given, http=http, metrics=metrics)
        if gateway_port is not None:
            config = with_gateway(config, gateway_port)
        _up(stack, settings, config, host, ports, console_port, backends)
    say("Stopped.")


def _up(
    stack: ExitStack, settings: Settings, config: Config, host: str, ports: dict[str, int],
    console_port: int | None, backends: tuple[Path, ...],
) -> NoReturn:  # fmt: skip
    """Runs until a signal leaves it."""
    from baton import secret
    from baton.api import SOCKET, claim
    from baton.cli.local import KEY, own_backends, prepare_repository, with_local_server
    from baton.local import LocalTriton

    if host == ANYWHERE and "http" in ports:
        _log.warning(
            "Triton's HTTP port is open to other machines, and one hostile request may end Triton for all clients. "
            "Start with --no-http, or see docs/how-to/http-port.md."
        )
    gateway = None if config.gateway is None else prepare(config, config.gateway)
    # Before anything is started: a second `ctl up` must not disturb the first one's Triton or journal.
    held = stack.enter_context(claim(config.state / SOCKET))
    load = prepare_repository(config)
    key_file = config.state / KEY
    key = secret.create(key_file)
    triton = LocalTriton.prepare(config.state, [*own_backends(), *backends])
    stack.callback(triton.stop)
    say("Starting Triton; it answers when the models that served are loaded.")
    log = config.state / "triton.log"
    server = _Supervised(triton, config.repository, log, host, key)
    server.start(load, ports)
    ports = {name: getattr(triton.ports, name) for name in ports}
    config = with_local_server(config, ports, console_port, key_file)
    listening = stack.enter_context(control_plane(config, held, settings.config_file()))
    if gateway is not None:
        start_access_log(logging.WARNING)  # a line for each request is for `ctl gateway`
        listening |= stack.enter_context(gateway([triton.grpc_url])).places
    places = {
        **({"http": triton.http_url} if "http" in ports else {}),
        "grpc": triton.grpc_url,
        **({"metrics": triton.metrics_url} if "metrics" in ports else {}),
        "log": str(log),
        "admin_key": str(key_file),
    }
    tell(settings, {**places, **listening})
    server.watch(lambda: prepare_repository(config), ports)


class _Supervised:
    """The local Triton, started again whenever it ends by itself. All of it happens in the main thread."""

    def __init__(self, triton: LocalTriton, repository: Path, log: Path, host: str, admin_key: str) -> None:
        self._triton, self._repository, self._log = triton, repository, log
        self._host, self._admin_key = host, admin_key

    def start(self, load: Sequence[str], ports: dict[str, int]) -> None:
        """With ``load``, or empty when Triton can't start with it: the control plane then loads what should serve.

        Raises what ``LocalTriton.start`` raises.
        """
        try:
            self._start(load, ports)
        except Unreachable as error:
            if not load:
                raise
            _log.warning("Triton did not start with %s; starting it empty. %s", ", ".join(load), error)
            self._start((), ports)

    def _start(self, load: Sequence[str], ports: dict[str, int]) -> None:
        self._triton.start(
            self._repository,
            load=load,
            http="http" in ports,
            http_port=ports.get("http"),
            grpc_port=ports["grpc"],
            metrics="metrics" in ports,
            metrics_port=ports.get("metrics"),
            host=self._host,
            log_file=self._log,
            die_with_parent=True,
            admin_key=self._admin_key,
        )

    def watch(self, load: Callable[[], Sequence[str]], ports: dict[str, int]) -> NoReturn:
        """Starts it again for ever, with rests that grow while it keeps failing."""
        rest = _FIRST_REST_S / 2
        while True:
            began = time.monotonic()
            code = self._triton.wait()
            _log.error(
                "Triton ended by itself with code %s. The end of %s:\n%s",
                code,
                self._log,
                self._triton.last_log_lines(),
            )
            rest = _FIRST_REST_S if time.monotonic() - began > _SETTLED_S else min(2 * rest, _LONGEST_REST_S)
            rest = self._again(load, ports, rest)

    def _again(self, load: Callable[[], Sequence[str]], ports: dict[str, int], rest: float) -> float:
        """Returns the rest after which it started at last."""
        while True:
            _log.info("Triton is started again in %g s", rest)
            threading.Event().wait(rest)
            try:
                self.start(load(), ports)
            except BatonError as error:
                _log.error("Triton could not be started: %s", error)
                rest = min(2 * rest, _LONGEST_REST_S)
            else:
                _log.info("Triton answers again; the control plane brings it to what should serve")
                return rest
