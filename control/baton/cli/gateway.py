"""``ctl gateway``: the rerank API over HTTP in front of one or several Tritons, in the foreground."""

from __future__ import annotations

import logging
import sys
import threading
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from baton.cli.output import say
from baton.cli.serve import raise_descriptors, start_logging, tell, undisturbed, until_stopped
from baton.cli.settings import Settings, common, pass_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from baton.config import Config
    from baton.config_gateway import GatewayConfig
    from baton.gateway.app import Service
    from baton.gateway.server import GatewayServer

_FILE = click.Path(path_type=Path, dir_okay=False)


class _Address(click.ParamType[str]):
    name = "address"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from baton.allowed import Invalid, address

        try:
            return address(value)
        except Invalid as error:
            self.fail(f"{value!r}: give {error}.", param, ctx)


@click.command()
@click.option(
    "--listen",
    type=_Address(),
    envvar="BATON_GATEWAY_LISTEN",
    metavar="HOST:PORT",
    help="Where it listens; port 0 takes a free one.  [default: from the configuration, else 127.0.0.1:8003]",
)
@click.option(
    "--metrics",
    type=_Address(),
    envvar="BATON_GATEWAY_METRICS",
    metavar="HOST:PORT",
    help="Where its /metrics listens.  [default: from the configuration, else 127.0.0.1:9466]",
)
@click.option(
    "--triton",
    type=_Address(),
    multiple=True,
    metavar="HOST:PORT",
    help="gRPC of a Triton, instead of the configured servers; may be given several times.",
)
@click.option(
    "--keys", "keys_file", type=_FILE, envvar="BATON_GATEWAY_KEYS", metavar="FILE", help="The file with the API keys."
)
@click.option(
    "--insecure",
    is_flag=True,
    help="Listen for other machines without TLS or keys: where a proxy in front does both.",
)
@common()
@pass_settings
def gateway(
    settings: Settings, listen: str | None, metrics: str | None, triton: tuple[str, ...], keys_file: Path | None, *,
    insecure: bool,
) -> None:  # fmt: skip
    """Serve the rerank API over HTTP, in front of one or several Tritons.

    Stays in the foreground; SIGINT and SIGTERM stop it when the requests that it has are answered, with exit code 0. It
    needs no control plane. The access log is JSON lines on stderr.
    """
    with until_stopped():
        with undisturbed():  # its imports are heavy, and not to be broken off
            from baton.config_gateway import GatewayConfig

            config = settings.load()
            asked = config.gateway or GatewayConfig()
            asked = replace(
                asked,
                listen=listen or asked.listen,
                metrics=metrics or asked.metrics,
                keys_file=keys_file or asked.keys_file,
            )
            addresses = triton or [one.grpc for one in config.servers]
            made = prepare(config, asked, insecure=insecure)(addresses)
        start_logging()
        start_access_log()
        raise_descriptors()
        with ExitStack() as stack:
            running = stack.enter_context(made)
            tell(settings, {**running.places, "triton": ", ".join(addresses)})
            threading.Event().wait()
    say("Stopped.")


def prepare(
    config: Config, asked: GatewayConfig, *, insecure: bool = False
) -> Callable[[Sequence[str]], GatewayServer]:
    """What makes the gateway of all configured services, in front of the servers with these addresses.

    Raises ``ConfigError`` where it may not listen, or is not installed.
    """
    from baton.config_gateway import check_exposed
    from baton.errors import ConfigError

    try:
        from baton.gateway.app import Service
        from baton.gateway.pool import TritonConnection
        from baton.gateway.server import GatewayServer
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"The gateway needs {error.name}, which is not installed.", mend="pip install 'triton-baton[gateway]'"
        ) from None
    check_exposed(asked, insecure=insecure)
    services: dict[str, Service] = {one.name: Service(one.name, one.engine) for one in config.services}
    encrypted = {one.grpc: one.encryption for one in config.servers}
    connect = lambda address: TritonConnection(address, encrypted.get(address))  # noqa: E731 - as the server calls it
    return partial(GatewayServer, asked, services, connect=connect)


def with_gateway(config: Config, port: int) -> Config:
    """The configuration with the gateway on this port of its host; its metrics take a free one unless configured."""
    from baton.config_gateway import GatewayConfig

    gateway = config.gateway or replace(GatewayConfig(), metrics="127.0.0.1:0")
    return replace(config, gateway=replace(gateway, listen=f"{gateway.listen.rpartition(':')[0]}:{port}"))


def start_access_log(level: int = logging.INFO) -> None:
    """A JSON object a line, with nothing around it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    access = logging.getLogger("baton.gateway.access")
    access.handlers, access.propagate = [handler], False
    access.setLevel(level)
