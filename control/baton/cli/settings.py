"""The options that every verb knows, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from baton.verbs import Change, Parameter, Verb, name_of, parameters

if TYPE_CHECKING:
    from baton.api import ApiClient
    from baton.config import Config

CONFIG_FILE = Path("baton.toml")
"""Used when no other is named and it is there."""

_F = TypeVar("_F", bound=Callable[..., Any])
V = TypeVar("V", bound=Verb[Any])


@dataclass
class Settings:
    """What the options and the environment say. Precedence: flag, environment, file, default."""

    config: Path | None = None
    state: Path | None = None
    output: str = "table"
    service: str | None = None
    server: str | None = None
    token_file: Path | None = None
    ca: Path | None = None

    @property
    def json(self) -> bool:
        return self.output == "json"

    def config_file(self) -> Path | None:
        """The configuration file in use; None when the defaults hold."""
        return self.config or (CONFIG_FILE if CONFIG_FILE.is_file() else None)

    def load(self) -> Config:
        """The checked configuration. Raises ``ConfigError``."""
        from baton.config import load

        config = load(self.config_file())
        return config if self.state is None else replace(config, state=self.state)

    def state_directory(self) -> Path:
        """Where the running control plane's socket lies.

        The file is not read when it is not needed: a mistake in it must not keep anyone from `ctl rollback`.
        """
        return self.state if self.state is not None else self.load().state

    def only_here(self, verb: str) -> None:
        """Refuse a verb that works on this machine's files when another machine was named.

        Raises:
            UsageError: it was.
        """
        from baton.errors import UsageError

        if self.server is not None:
            raise UsageError(
                f"`ctl {verb}` works on the state directory of this machine, and {self.server} is another one.",
                mend=f"Run it there; or leave out --server (BATON_SERVER) to {verb} here.",
            )

    def client(self) -> ApiClient:
        """The running control plane's client. Nothing is asked yet."""
        from baton.api import SOCKET, ApiClient, Network

        if self.server is not None:
            return ApiClient(Network.at(self.server, self.token_file, self.ca))
        return ApiClient(self.state_directory() / SOCKET)


def _store(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is not None and parameter.name is not None:
        setattr(ctx.ensure_object(Settings), parameter.name, value)


_FILE, _FOLDER = click.Path(path_type=Path, dir_okay=False), click.Path(path_type=Path, file_okay=False)
_COMMON: tuple[tuple[str, Any, str | None, str], ...] = (
    ("--config", _FILE, "FILE", "Configuration file.  [default: ./baton.toml if it is there]"),
    ("--state", _FOLDER, "DIR", "State directory, where the running control plane's socket lies.  [default: .baton]"),
    ("--output", click.Choice(["table", "json"]), None, "How to print.  [default: table]"),
    ("--service", str, "NAME", "The service, where there are several."),
    (
        "--server", str, "URL",
        "A control plane on another machine, https://host:port, instead of the one of the state directory.",
    ),
    ("--token-file", _FILE, "FILE", "With --server: the file that holds its token."),
    ("--ca", _FILE, "FILE", "With --server: the authority that signed its certificate.  [default: the system's]"),
)  # fmt: skip


def common(*, environment: bool = False) -> Callable[[_F], _F]:
    """The options for every verb. Said before the verb or after it; what stands after it wins.

    ``environment``: read ``BATON_*`` too. Only the group does, since a verb's options would override its flags.
    """

    def decorate(function: _F) -> _F:
        for flag, kind, metavar, text in reversed(_COMMON):
            env = f"BATON_{flag[2:].replace('-', '_').upper()}" if environment else None
            # Kept in Settings, not passed on.
            option = click.option(
                flag, type=kind, metavar=metavar, help=text, envvar=env, expose_value=False, callback=_store
            )
            function = option(function)
        return function

    return decorate


pass_settings = click.make_pass_decorator(Settings, ensure=True)


@dataclass(frozen=True)
class Waiting:
    """How a verb that changes something behaves: ask first, wait, and how long."""

    yes: bool
    wait: bool
    timeout: float | None


YES = click.option("--yes", "-y", is_flag=True, help="Don't ask. Without a terminal nothing is asked anyway.")


def changes(function: Callable[..., None]) -> Callable[..., None]:
    """The options of a verb that changes something; it gets them as ``waiting``."""

    @YES
    @click.option(
        "--wait/--no-wait", default=True, help="Return when it is done, or when it has begun.  [default: wait]"
    )
    @click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="Stop waiting after this long, with exit code 6. What was begun goes on.",
    )
    @wraps(function)
    def gather(*args: Any, yes: bool, wait: bool, timeout: float | None, **others: Any) -> None:
        function(*args, waiting=Waiting(yes, wait, timeout), **others)

    return gather


VERSION = click.IntRange(min=1)


def command(
    kind: type[V], *extra: Callable[[_F], _F], service: bool = False
) -> Callable[[Callable[..., None]], click.Command]:
    """The command of a verb, whose options fill it: it is called with the settings, the verb, and what else is asked.

    The version is an argument, and so is the service where the verb only reads, or with ``service``; every other field
    is an option. ``extra`` are options that the control plane does not get to know.
    """
    changing = issubclass(kind, Change)
    argument = service or not changing

    def decorate(function: Callable[..., None]) -> click.Command:
        def run(settings: Settings, *, named: str | None = None, **given: Any) -> None:
            known = parameters(kind)
            fields = {name: given.pop(name) for name in tuple(given) if name in known}
            if "service" in known:
                fields["service"] = named or settings.service
            function(settings, kind(**fields), **given)

        made: Any = pass_settings(run)
        made = common()(made)
        made = changes(made) if changing else made
        for option in extra:
            made = option(made)
        for name, one in reversed(parameters(kind).items()):
            if name == "service" and argument:
                made = click.argument("named", required=False, metavar="[SERVICE]")(made)
            elif name not in {"service", "who"}:
                made = _parameter(name, one)(made)
        return click.command(name_of(kind), help=kind.__doc__)(made)

    return decorate


def _parameter(name: str, one: Parameter) -> Callable[[_F], _F]:
    if name == "version":
        return click.argument(name, type=VERSION, required=one.needed, metavar="N" if one.needed else "[N]")
    flags = [f"--{name.replace('_', '-')}", *([one.short] if one.short else [])]
    if one.type is bool:
        return click.option(*flags, is_flag=True, help=one.help)
    if one.type is int:
        told: Any = {"metavar": "N"} if one.default is None else {"default": one.default, "show_default": True}
        return click.option(*flags, type=click.IntRange(min=one.least), help=one.help, **told)
    choice = click.Choice([str(value) for value in one.type])
    return click.option(*flags, type=choice, callback=lambda *given: given[-1] and one.type(given[-1]), help=one.help)
