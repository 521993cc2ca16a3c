"""``ctl doctor``: what would keep Baton from working here, by role of the machine, and how to mend it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from baton.cli.output import BAD, BOLD, DIM, GOOD, WARN, Line, fit, print_json, say, show, width
from baton.cli.settings import YES, Settings, common, pass_settings
from baton.errors import BatonError, ConfigError, Unreachable
from baton.facts import ControlHealth, Diagnosis, Role, Runs

if TYPE_CHECKING:
    from baton.config import Config
    from baton.doctor import Finding
    from baton.doctor.asking import Address

_SIGNS = {"ok": ("✔", GOOD), "fail": ("✖", BAD), "warn": ("⚠", WARN), "skipped": ("·", DIM)}
_TITLES = {Role.CONTROL: "Control plane", Role.TRITON: "Triton's machine", Role.CLIENT: "Client"}
_NAME, _INDENT, _WIDE = 24, 4, 72
"""Columns of a name and its sign; of what stands below a name where there are fewer than so many."""
Found = list[tuple[Role, "Finding"]]


@click.command()
@click.argument("asked", metavar="[HOST:PORT]...", nargs=-1)
@click.option(
    "--role",
    "roles",
    type=click.Choice([str(role) for role in Role]),
    multiple=True,
    help="What this machine is to Baton; may be given several times.  [default: found from the configuration]",
)
@click.option(
    "--backends",
    type=click.Path(path_type=Path, file_okay=False),
    multiple=True,
    metavar="DIR",
    help="A directory of python-based backends; may be given several times.",
)
@click.option("--fix", is_flag=True, help="Mend what can be mended without harm, after saying what that is.")
@YES
@common()
@pass_settings
def doctor(
    settings: Settings, asked: tuple[str, ...], roles: tuple[str, ...], backends: tuple[Path, ...], *, fix: bool,
    yes: bool,
) -> None:  # fmt: skip
    """Check this machine and the configuration, and say how to mend what is wrong.

    By role: the machine of the control plane, the one that Triton runs on, and a client's. At HOST:PORT (gRPC; or
    http://HOST:PORT) the alias is asked as a client asks it; that alone is done where no role is named.

    Beside a running control plane, the configuration is the one that it runs with. Exits with 0 when nothing failed,
    else with 1. A warning is no failure.
    """
    look = _Look(settings, tuple(Role(role) for role in roles), backends, asked)
    found, state = look.all()
    fixed: set[tuple[Role, str]] = set()
    if fix and (fixed := _mend(found, state, yes=yes)):
        found, _ = look.all()
    told = [one.diagnosis(role, fixed=(role, one.name) in fixed) for role, one in found]
    if settings.json:
        print_json(told)
    else:
        show(_page(told, width(sys.stdout)))
    _conclude(told, fix=fix)


def _conclude(told: Sequence[Diagnosis], *, fix: bool) -> None:
    failed = [one.name for one in told if one.ok is False]
    if failed:
        say(f"{len(failed)} of {len(told)} checks failed: {', '.join(failed)}.")
    mendable = [one.name for one in told if one.fixable and one.verdict != "ok"]
    if mendable and not fix:
        say(f"`ctl doctor --fix` mends: {', '.join(mendable)}.")
    elif fix and (left := [one.name for one in told if one.mend is not None and not one.fixable]):
        say(f"Left to you: {', '.join(left)}.")
    if failed:
        raise click.exceptions.Exit(1)


@dataclass(frozen=True)
class _Look:
    """One look at all that is to be looked at; it can be repeated."""

    settings: Settings
    roles: tuple[Role, ...]
    backends: tuple[Path, ...]
    asked: tuple[str, ...]

    def all(self) -> tuple[Found, Path | None]:
        """What is found, and the state directory, by whose lock it is mended; None where the file is wrong."""
        from baton.doctor import skipped
        from baton.doctor.asking import Address

        addresses = [Address.of(text) for text in self.asked]
        roles = self.roles or ((Role.CLIENT,) if addresses else ())
        if addresses and Role.CLIENT not in roles:
            raise click.UsageError("HOST:PORT is where a client asks: add --role client, or leave it out.")
        configuration, config = _configuration(self.settings)
        health, control_plane = _control_plane(self.settings, config)
        if health is not None and health.runs is not None:
            configuration, running = _running(configuration, config, health.runs)
            config = running if self.settings.server is None else config  # addresses and paths of another machine
        found: Found = [(Role.CONTROL, configuration), (Role.CONTROL, control_plane)]
        if roles and Role.CONTROL not in roles:
            found = [(roles[0], configuration)] if configuration.ok is False else []
        elif self.settings.server is not None:
            message = f"{self.settings.server} is another one: run `ctl doctor` there, without --server (BATON_SERVER)"
            return [*found, (Role.CONTROL, skipped("machine", message))], config.state
        found += self._here(config, roles, addresses, runs=health is not None)
        return found, None if configuration.ok is False else config.state

    def _here(self, config: Config, roles: tuple[Role, ...], asked: list[Address], *, runs: bool) -> Found:
        from baton.cli.local import KEY, own_backends
        from baton.doctor import Setup, control, host, skipped

        reason = _no_triton(config, runs=runs)
        ports = None if runs else _ports(config, local=not reason)
        named = (*own_backends(), *self.backends)
        setup = Setup(config, runs=runs, starts=not reason, ports=ports, backends=named)
        found: Found = []
        if not roles or Role.CONTROL in roles:
            found += _seen(Role.CONTROL, control.findings(setup, config.state / KEY))
        if Role.TRITON in roles or (not roles and (not reason or host.servers_of(config))):
            found += _seen(Role.TRITON, host.findings(setup))
        elif not roles:
            message = f"Baton starts none on this machine: {reason}. Where it runs: `ctl doctor --role triton`"
            found.append((Role.TRITON, skipped("Triton", message)))
        answers = any(one.name.startswith("server ") and one.ok for _, one in found)
        if Role.CLIENT in roles:
            found += _seen(Role.CLIENT, self._client(config, asked))
        elif not roles and answers:
            found += _seen(Role.CLIENT, self._live(config))
        elif not roles:
            message = "no server answers that could be asked. Elsewhere: `ctl doctor HOST:PORT`"
            found.append((Role.CLIENT, skipped("alias", message)))
        return found

    def _live(self, config: Config) -> Iterator[Finding]:
        """As a client, the services that have an alias: before the first version is live there is none to ask."""
        from baton.doctor import skipped
        from baton.triton.config_file import CONFIG

        live = [one for one in config.services if (config.repository / one.name / CONFIG).is_file()]
        if live:
            yield from self._client(replace(config, services=tuple(live)), [])
        for service in config.services:
            if service not in live:
                yield skipped(f"{service.name} alias", "no version is live yet; `ctl push DIR` brings one")

    def _client(self, config: Config, asked: list[Address]) -> Iterator[Finding]:
        from baton.config import DEFAULT_SERVICE
        from baton.doctor import asking

        named = [one for one in config.services if self.settings.service in {None, one.name}]
        if not named:  # on a client's machine there may be no configuration that knows it
            named = [replace(DEFAULT_SERVICE, name=self.settings.service or DEFAULT_SERVICE.name)]
        known = list(asking.addresses(config))
        encrypted = {one.place: one.tls for one in known if one.protocol == "grpc"}
        asked = [replace(one, tls=encrypted.get(one.place)) if one.protocol == "grpc" else one for one in asked]
        return asking.findings(asked or known, named)


def _seen(role: Role, findings: Iterable[Finding]) -> Iterator[tuple[Role, Finding]]:
    """All that this user may look at."""
    from baton.doctor import bad

    try:
        for one in findings:
            yield role, one
    except PermissionError as error:
        message = f"this user may not look at {error.filename}: the checks after this one were left out"
        yield role, bad("rights of this user", message, "Run `ctl doctor` as the user that runs Baton.")


def _mend(found: Found, state: Path | None, *, yes: bool) -> set[tuple[Role, str]]:
    """Do what `--fix` may, after it was shown; returns the findings that were mended."""
    from baton.api import SOCKET, claim
    from baton.cli.follow import ask

    if state is None:
        say("Nothing was mended: the configuration is wrong, and what was looked at may not be what you mean.")
        return set()
    fixes = [(role, one.name, one.fix) for role, one in found if one.fix is not None]
    if not fixes:
        say("There is nothing that --fix can mend without harm.")
        return set()
    say("--fix will do this, and nothing else:")
    for _, _, fix in fixes:
        say(f"  {fix.what}.")
    ask("Do it?", yes=yes)
    done = set()
    for role, name, fix in fixes:
        try:
            if fix.beside_baton:
                fix.act()
            else:  # under the lock of the control plane, so that none acts on the same files
                with claim(state / SOCKET):
                    fix.act()
        except (BatonError, OSError) as error:
            say(f"✖ {fix.what}: {error}")
        else:
            say(f"✔ {fix.what}: done.")
            done.add((role, name))
    return done


def _configuration(settings: Settings) -> tuple[Finding, Config]:
    """The file's own check; a file that is wrong does not hide the rest, which is then checked with the defaults."""
    from baton.config import load
    from baton.doctor import bad, good

    name, file = "configuration", settings.config_file()
    try:
        config = settings.load()
    except ConfigError as error:
        config = load(None)
        if settings.state is not None:
            config = replace(config, state=settings.state)
        message = f"{error.message} Baton does not start with it; what follows is checked with the defaults"
        return bad(name, message, error.mend or "Correct the file."), config
    return good(name, f"{file or 'the defaults'}; services: {', '.join(s.name for s in config.services)}"), config


def _control_plane(settings: Settings, config: Config) -> tuple[ControlHealth | None, Finding]:
    """What the control plane says of itself; None when none runs."""
    from baton.api import SOCKET, ApiClient
    from baton.doctor import bad, good, limited

    name = "control plane"
    try:
        client = settings.client() if settings.server else ApiClient((settings.state or config.state) / SOCKET)
        health = client.health()
    except Unreachable as error:
        return None, limited(name, error.message, error.mend or "`ctl up` or `ctl serve` starts it.")
    except BatonError as error:
        return ControlHealth(live=False, ready=False, message=error.message), bad(name, error.message, error.mend)
    if health.live and health.ready:
        return health, good(name, "runs, and Triton answers")
    mend = "Look into its log." if not health.live else "Start Triton, or check the addresses of [[servers]]."
    return health, bad(name, health.message, mend)


def _running(read: Finding, config: Config, runs: Runs) -> tuple[Finding, Config]:
    """The configuration that the control plane runs with, in the place of the one that was ``read`` here.

    What is wrong with the file that was read stays a failure: the next start would meet it.
    """
    from baton.config import ServerConfig, load
    from baton.doctor import good

    servers = tuple(
        ServerConfig(
            one.name, one.grpc, one.http, one.metrics, None if one.admin_key_file is None else Path(one.admin_key_file),
            one.tls, None if one.ca_file is None else Path(one.ca_file), one.server_name,
        )
        for one in runs.servers
    )  # fmt: skip
    file = None if runs.configuration is None else Path(runs.configuration)
    with suppress(ConfigError):  # as it is by now; it may have been edited since the start
        config = load(file)
    config = replace(config, repository=Path(runs.repository), state=Path(runs.state), servers=servers)
    if read.ok is False:
        return read, config
    source = runs.configuration or "the defaults"
    message = f"{source}, as the control plane runs with it; services: {', '.join(runs.services)}"
    return good(read.name, message), config


def _no_triton(config: Config, *, runs: bool) -> str:
    """Why Baton starts no Triton on this machine; empty where `ctl up` does, or may."""
    from baton.cli.local import KEY
    from baton.doctor.servers import answers
    from baton.tls import is_loopback

    names = ", ".join(f"{one.name} ({one.grpc})" for one in config.servers)
    if _elsewhere(config):
        return f"{names} on other machines"
    # The Triton of `ctl up` has the key that is made at each start of it.
    if runs and all(one.admin_key_file != config.state / KEY for one in config.servers):
        return f"`ctl serve` uses {names}"
    if not runs and (others := [one.grpc for one in config.servers if is_loopback(one.grpc) and answers(one)]):
        return f"one answers at {', '.join(others)} already, for `ctl serve`"
    return ""


def _elsewhere(config: Config) -> bool:
    """Whether all servers are on other machines."""
    from baton.tls import is_loopback

    return not any(is_loopback(one.grpc) for one in config.servers)


def _ports(config: Config, *, local: bool) -> dict[str, int]:
    """The ports that Baton would open: those of ``ctl up``, or the control plane's alone."""
    from baton.cli.local import DEFAULT_PORTS, wanted_ports

    ports = wanted_ports(config, dict.fromkeys(DEFAULT_PORTS), http=None, metrics=None) if local else {}
    own = {"console": config.control.metrics, "api": config.control.api.listen}
    return ports | {name: int(address.rpartition(":")[2]) for name, address in own.items() if address is not None}


def _page(told: Sequence[Diagnosis], columns: int) -> list[Line]:
    lines: list[Line] = []
    for role in Role:
        of_role = [one for one in told if one.role is role]
        if of_role:
            lines += [*([[]] if lines else []), [(_TITLES[role], BOLD)]]
        for one in of_role:
            lines += _lines(one, columns)
    return lines


def _lines(one: Diagnosis, columns: int) -> list[Line]:
    """Name and message beside each other; below each other where there is no room for that."""
    sign, style = _SIGNS[one.verdict]
    loud = "" if one.verdict == "ok" else style
    beside = columns >= _WIDE and len(one.name) <= _NAME - 3
    indent = _NAME if columns >= _WIDE else _INDENT
    text = fit(f"{'Mended. ' if one.fixed else ''}{one.message}", columns - indent) or [""]
    head: Line = [(sign, style), (f" {one.name:<{_NAME - 2}}" if beside else f" {one.name}", "")]
    lines: list[Line] = [[*head, (text.pop(0), loud)] if beside else head]
    lines += [[(" " * indent, ""), (part, loud)] for part in text]
    if one.mend is not None:
        lines += [[(" " * indent, ""), (part, DIM)] for part in fit(f"→ {one.mend}", columns - indent)]
    return lines
