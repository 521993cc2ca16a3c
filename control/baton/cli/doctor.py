"""``ctl doctor``: what would keep Baton from working here, and how to mend it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from baton.cli.output import BAD, DIM, GOOD, WARN, Line, fit, print_json, say, show, width
from baton.cli.settings import Settings, common, pass_settings
from baton.errors import BatonError, ConfigError, Unreachable

if TYPE_CHECKING:
    from baton.config import Config
    from baton.doctor import Check

_SIGNS = {True: ("✔", GOOD), False: ("✖", BAD), None: ("⚠", WARN)}
_NAME = 24


@click.command()
@click.option(
    "--backends",
    type=click.Path(path_type=Path, file_okay=False),
    multiple=True,
    metavar="DIR",
    help="A directory of python-based backends; may be given several times.",
)
@common()
@pass_settings
def doctor(settings: Settings, backends: tuple[Path, ...]) -> None:
    """Check the machine and the configuration, and say how to mend what is wrong.

    Exits with 0 when nothing failed, else with 1. A warning is no failure.
    """
    from baton.cli.local import own_backends
    from baton.doctor import access, checks

    configuration, config = _configuration(settings)
    results = [configuration]
    running, control_plane = _control_plane(settings, config)
    results.append(control_plane)
    results += access(config.servers, config.state)
    results += checks(
        repository=config.repository,
        state=config.state,
        backends=[*own_backends(), *backends],
        ports=None if running else _ports(config),
    )
    if settings.json:
        print_json([{"name": c.name, "ok": c.ok, "message": c.message, "mend": c.mend} for c in results])
    else:
        show(_lines(results, width(sys.stdout)))
    failed = [c.name for c in results if c.ok is False]
    if failed:
        say(f"{len(failed)} of {len(results)} checks failed: {', '.join(failed)}.")
        raise click.exceptions.Exit(1)


def _configuration(settings: Settings) -> tuple[Check, Config]:
    """The file's own check; a file that is wrong does not hide the rest, which is then checked with the defaults."""
    from dataclasses import replace

    from baton.config import load
    from baton.doctor import Check

    file = settings.config_file()
    try:
        config = settings.load()
    except ConfigError as error:
        config = load(None)
        if settings.state is not None:
            config = replace(config, state=settings.state)
        return Check("configuration", ok=False, message=error.message, mend=error.mend or "Correct the file."), config
    names = ", ".join(s.name for s in config.services)
    return Check("configuration", ok=True, message=f"{file or 'the defaults'}; services: {names}"), config


def _control_plane(settings: Settings, config: Config) -> tuple[bool, Check]:
    from baton.api import SOCKET, ApiClient
    from baton.doctor import Check

    name = "control plane"
    try:
        client = settings.client() if settings.server else ApiClient((settings.state or config.state) / SOCKET)
        health = client.health()
    except Unreachable as error:
        return False, Check(name, ok=None, message=error.message, mend=error.mend)
    except BatonError as error:
        return True, Check(name, ok=False, message=error.message, mend=error.mend)
    if health["live"] and health["ready"]:
        return True, Check(name, ok=True, message="runs, and Triton answers")
    mend = "Look into its log." if not health["live"] else "Start Triton, or check the addresses of [[servers]]."
    return True, Check(name, ok=False, message=str(health["message"]), mend=mend)


def _ports(config: Config) -> dict[str, int]:
    """The ports that ``ctl up`` would open."""
    from baton.cli.local import DEFAULT_PORTS

    console = config.control.metrics
    return {**DEFAULT_PORTS, **({"console": int(console.rpartition(":")[2])} if console is not None else {})}


def _lines(results: list[Check], columns: int) -> list[Line]:
    lines: list[Line] = []
    for check in results:
        sign, style = _SIGNS[check.ok]
        first, *rest = fit(check.message, columns - _NAME) or [""]
        lines.append([(sign, style), (f" {check.name:<{_NAME - 2}}", ""), (first, "" if check.ok else style)])
        lines += [[(" " * _NAME, ""), (part, "" if check.ok else style)] for part in rest]
        if check.mend is not None and check.ok is not True:
            lines += [[(" " * _NAME, ""), (part, DIM)] for part in fit(f"→ {check.mend}", columns - _NAME)]
    return lines
