"""``ctl serve``: the control plane alone, in the foreground."""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import click

from baton.cli.output import SafeFormatter, print_json, say
from baton.cli.settings import Settings, common, pass_settings

if TYPE_CHECKING:
    from baton.api import NetworkServer
    from baton.config import Config
    from baton.state_lock import StateLock
    from baton.verbs import Facade

HELD_EVERY_S = 1.0
MOST_DESCRIPTORS = 2**20
"""More than that is a table that some programs walk through from end to end."""
_log = logging.getLogger("baton.serve")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command()
@common()
@pass_settings
def serve(settings: Settings) -> None:
    """Run the control plane alone, against the Triton servers named in the configuration.

    Stays in the foreground and logs to stderr; SIGINT and SIGTERM stop it cleanly, with exit code 0. Triton and live
    traffic go on without it. A second one exits with 3, or stands by ([control] second).
    """
    with until_stopped():
        with undisturbed():
            from baton import app, metrics  # noqa: F401 - all that is heavy, at once
            from baton.api import SOCKET, claim
            from baton.local.exec_wrapper import no_core
        no_core()
        config = settings.load()
        start_logging()
        raise_descriptors()
        with ExitStack() as stack:
            if config.control.second == "stand_by":
                from baton.cli.standby import standing_by

                held = stack.enter_context(standing_by(config))
            else:
                held = stack.enter_context(claim(config.state / SOCKET))
            listening = stack.enter_context(control_plane(config, held, settings.config_file()))
            tell(settings, {**listening, "triton": ", ".join(s.grpc for s in config.servers)})
            while True:
                # Nothing is done under a lock that is lost in any case; a process that ends gets started again.
                threading.Event().wait(HELD_EVERY_S)
                held.check()
    say("Stopped.")


@contextmanager
def control_plane(config: Config, held: StateLock, source: Path | None) -> Iterator[dict[str, str]]:
    """The loop, the local API and the metrics; yields where they listen. ``source``: the configuration's file.

    The loop stops last: what is asked while things close still gets an answer.
    """
    from baton.api import SOCKET, ApiServer
    from baton.app import open_app
    from baton.metrics import MetricsServer

    listening = {"repository": str(config.repository), "state": str(config.state)}
    with ExitStack() as stack:
        app = stack.enter_context(open_app(config, held.check))
        app.source = source
        stack.enter_context(ApiServer(app, config.state / SOCKET, claimed=True))
        listening["api"] = str(config.state / SOCKET)
        if (network := _network(app, config)) is not None:
            listening["network"] = f"https://{stack.enter_context(network).address}"
        if config.control.metrics is not None:
            metrics = stack.enter_context(MetricsServer(app, config.control.metrics))
            listening["console"] = f"http://{metrics.address}"
        yield listening


def _network(app: Facade, config: Config) -> NetworkServer | None:
    """The API over TCP, where the configuration wants it: it names all of it, or nothing."""
    from baton import secret
    from baton.api import NetworkServer

    api = config.control.api
    if api.listen is None or api.certificate is None or api.key is None or api.token_file is None:
        return None
    token = secret.read(api.token_file, "token_file of [control.api]")
    return NetworkServer(app, api.listen, certificate=api.certificate, key=api.key, token=token)


@contextmanager
def until_stopped() -> Iterator[None]:
    """The first signal leaves the block, and with it everything that was started in it; more signals change nothing.

    An exception is what wakes the main thread wherever it waits, in the start of Triton as well.
    """
    before = {number: signal.signal(number, _stop) for number in _SIGNALS}
    try:
        yield
    except _Stopped:
        # The process is about to end; one more Ctrl-C must not turn its exit code into a crash.
        before = dict.fromkeys(_SIGNALS, signal.SIG_IGN)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Holds signals back for a moment: an import that is broken off fails in ways of its own (numpy's does)."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Stopped(BaseException):
    """Somebody asked for the end. No ``Exception``: nothing on the way may take it for a failure."""


def _stop(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - the shape of a signal handler
    for each in _SIGNALS:
        # A second one would break off the clean stop half-way, and leave Triton's processes behind.
        signal.signal(each, _patience)
    raise _Stopped


def _patience(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the shape of a signal handler
    # Not through sys.stderr: the handler may have interrupted a write to it.
    os.write(2, b"Stopping already: requests in flight are being answered.\n")


def tell(settings: Settings, listening: dict[str, str]) -> None:
    """Where everything listens, on stdout: scripts that start Baton read it."""
    if settings.json:
        print_json(listening, compact=True)
    else:
        for name, place in listening.items():
            paths = "  (/metrics, /healthz, /readyz)" if name == "console" else ""
            click.echo(f"{name + ':':<12}{place}{paths}")
    sys.stdout.flush()


def raise_descriptors() -> None:
    """All the descriptors that this process may have; Triton, which is started by it, inherits them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if 0 <= hard <= MOST_DESCRIPTORS else MOST_DESCRIPTORS  # below 0: without limit
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (OSError, ValueError) as error:
        _log.warning("The limit of open files stays as it is: %s. Raise it with `ulimit -n`.", error)


def start_logging() -> None:
    """One line an event, on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(SafeFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
