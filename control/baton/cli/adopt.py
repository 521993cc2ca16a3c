"""``ctl adopt`` and ``ctl eject``: a model of a running Triton comes under Baton, and out of it again."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from baton.cli.follow import ask
from baton.cli.init import shared_template
from baton.cli.output import print_json, say
from baton.cli.settings import CONFIG_FILE, YES, Settings, common, pass_settings
from baton.errors import Refused

if TYPE_CHECKING:
    from baton.adopt import Answers, Inspection
    from baton.config import Config, ServerConfig
    from baton.triton.grpc import GrpcTriton

KEY = click.option(
    "--admin-key-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="The file with Triton's admin key, where it was started with one.",
)
TLS = click.option("--tls", is_flag=True, help="Triton's gRPC was started with TLS.")
CA = click.option(
    "--ca-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="With --tls: the certificate of the authority that signed Triton's.  [default: the machine's authorities]",
)
SERVER_NAME = click.option(
    "--server-name", metavar="NAME", help="With --tls: the name in Triton's certificate.  [default: that of HOST]"
)
MODEL = click.option("--model", metavar="NAME", help="The model.  [default: the only one that can be meant]")


@click.command()
@click.argument("address", metavar="HOST:PORT")
@MODEL
@click.option("--engine", metavar="NAME", help="The engine's new name.  [default: NAME_engine]")
@click.option(
    "--repository",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="The model repository that this Triton serves from.  [default: from the configuration, else model_repository]",
)
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@KEY
@TLS
@CA
@SERVER_NAME
@YES
@common()
@pass_settings
def adopt(
    settings: Settings, address: str, model: str | None, engine: str | None, repository: Path | None,
    admin_key_file: Path | None, ca_file: Path | None, server_name: str | None, *, tls: bool, dry_run: bool, yes: bool,
) -> None:  # fmt: skip
    """Put a model of the running Triton at HOST:PORT (gRPC) under Baton.

    Clients keep asking it by its name. Nothing is changed before you agreed; `ctl eject` undoes it.
    """
    from baton import adopt as core
    from baton.api import SOCKET, claim

    settings.only_here("adopt")
    config = settings.load()
    home = repository or config.repository
    given = _given(address, admin_key_file, ca_file, server_name, tls=tls)
    with _server(given) as server:
        found = core.inspect(server, home, config.state, model, engine)
        file, written = _configuration(settings, config, found, given)
        diffs = [] if found.obstacles else _diffs(core.changes(found))
        if written is not None:
            diffs += _diff("/dev/null", file, "", written)
        if not settings.json:
            _page(found, address, diffs)
        answers = None
        if found.obstacles:
            if settings.json:
                print_json(_facts(found, diffs, None))
            raise Refused(f"{found.model} can't be adopted yet; nothing was changed.", mend="See above.")
        if not dry_run:
            ask(f"Put {found.model} under Baton?", yes=yes)
            with claim(config.state / SOCKET):
                answers = core.adopt(server, found, config.state, say)
                if written is not None:
                    file.write_text(written)
    if settings.json:
        print_json(_facts(found, diffs, answers))
    if answers is not None:
        _report(found.model, answers)
        say("Start Baton with `ctl serve`: it takes over what serves, and rolls out each new version from then on.")


@click.command()
@MODEL
@KEY
@YES
@common()
@pass_settings
def eject(settings: Settings, model: str | None, admin_key_file: Path | None, *, yes: bool) -> None:
    """Undo `ctl adopt`: the model serves by itself again, with the version that serves now.

    The control plane must be stopped first. Clients keep asking the model by its name.
    """
    from baton import adopt as core
    from baton.api import SOCKET, claim

    settings.only_here("eject")
    config = settings.load()
    ask("Take the model out of Baton?", yes=yes)
    server = config.servers[0]
    server = replace(server, admin_key_file=admin_key_file or server.admin_key_file)
    with claim(config.state / SOCKET), _server(server) as triton:
        record, answers, unchanged = core.eject(triton, config.state, model, say)
    if settings.json:
        print_json({"model": record.model, "unchanged": unchanged, **_counted(answers)})
    _report(record.model, answers)
    if not unchanged:
        say(f"Another version serves than when it was adopted, so {record.model}/config.pbtxt names that version now.")


@contextmanager
def _server(one: ServerConfig) -> Iterator[GrpcTriton]:
    from baton import secret
    from baton.triton.grpc import GrpcTriton

    key = None if one.admin_key_file is None else secret.read(one.admin_key_file, "--admin-key-file")
    server = GrpcTriton(one.grpc, one.grpc, admin_key=key, tls=one.encryption)
    try:
        yield server
    finally:
        server.close()


def _given(address: str, key: Path | None, ca_file: Path | None, server_name: str | None, *, tls: bool) -> ServerConfig:
    """The server as the options tell of it, checked as the configuration's are."""
    from baton.config import parse

    options = {"admin_key_file": key, "ca_file": ca_file, "server_name": server_name}
    server = {"name": "local", "grpc": address, "tls": tls} | {n: v for n, v in options.items() if v is not None}
    return parse({"servers": [server]}, "ctl adopt", Path()).servers[0]


def _configuration(
    settings: Settings, config: Config, found: Inspection, given: ServerConfig
) -> tuple[Path, str | None]:
    """The configuration file, and what to write there; None where it is there and fits."""
    file = settings.config_file()
    lines = [f'grpc = "{given.grpc}"']
    lines += [f'admin_key_file = "{given.admin_key_file.resolve()}"'] if given.admin_key_file else []
    lines += ["tls = true"] if given.tls else []
    lines += [f'ca_file = "{given.ca_file.resolve()}"'] if given.ca_file else []
    lines += [f'server_name = "{given.server_name}"'] if given.server_name else []
    if file is not None:
        wanted = (found.model, found.engine)
        servers = [(s.grpc, s.tls) for s in config.servers]
        if wanted in [(s.name, s.engine) for s in config.services] and (given.grpc, given.tls) in servers:
            return file, None
        what = f"{given.grpc}, {'encrypted' if given.tls else 'in plain text'}"
        raise Refused(
            f"{file} names no service {found.model} with the engine {found.engine}, or no server {what}.",
            mend=f'Add [[servers]] {", ".join(lines)} and [[services]] name = "{found.model}", '
            f'engine = "{found.engine}", probe = "reranker".',
        )
    text = shared_template()
    replaced = {
        'repository = "model_repository"': f'repository = "{found.repository.resolve()}"',
        'grpc = "127.0.0.1:8001"': "\n".join(lines),
        'http = "127.0.0.1:8000"\n': "",
        'metrics = "127.0.0.1:8002"\n': '# metrics = "HOST:8002" # where Triton serves its metrics\n',
        "the Triton servers; `ctl up` starts this one": "the Triton servers",
        'name = "reranker"': f'name = "{found.model}"',
        'engine = "qwen3_vl_reranker"': f'engine = "{found.engine}"',
        "model_repository/qwen3_vl_reranker": f"{found.repository.name}/{found.engine}",
    }
    for before, after in replaced.items():
        assert before in text  # noqa: S101 - the template is part of the package
        text = text.replace(before, after)
    return CONFIG_FILE, text


def _diffs(changes: dict[Path, tuple[str, str]]) -> list[str]:
    *_, model = changes  # the alias, whose file holds the model's configuration before
    return [line for path, (before, after) in changes.items() for line in _diff(str(model), path, before, after)]


def _diff(source: str, path: Path, before: str, after: str) -> list[str]:
    return list(difflib.unified_diff(before.splitlines(), after.splitlines(), source, str(path), lineterm="", n=2))


def _page(found: Inspection, address: str, diffs: list[str]) -> None:
    version = "none is loaded" if found.version is None else f"version {found.version} serves"
    click.echo(f"Triton:      {found.release} at {address}")
    click.echo(f"Model:       {found.model}, {version}")
    click.echo(f"Repository:  {found.repository}")
    if found.version is not None and not found.obstacles:
        click.echo(f"Becomes:     the alias {found.model} -> the engine {found.engine}, version {found.version}")
    for title, lines in (("Fix this first:", found.obstacles), ("Good to know:", found.notes)):
        if lines:
            click.echo(f"\n{title}")
            for line in lines:
                click.echo(f"  - {line}")
    if diffs and not found.obstacles:
        moved = f"{found.repository / found.model}/N -> {found.repository / found.engine}/N"
        click.echo(f"\nVersion folders move, by hard links:  {moved}\n")
        click.echo("\n".join(diffs))


def _counted(answers: Answers) -> dict[str, object]:
    return {"asked": answers.asked, "failed": answers.failed, "slowest_s": round(answers.slowest_s, 3)}


def _facts(found: Inspection, diffs: list[str], answers: Answers | None) -> dict[str, object]:
    return {
        "release": found.release, "model": found.model, "engine": found.engine, "version": found.version,
        "repository": str(found.repository), "obstacles": list(found.obstacles), "notes": list(found.notes),
        "diff": diffs, "applied": answers is not None, **({} if answers is None else _counted(answers)),
    }  # fmt: skip


def _report(model: str, answers: Answers) -> None:
    say(
        f"{answers.asked} requests were sent to {model} meanwhile: {answers.failed} failed, "
        f"the slowest took {answers.slowest_s * 1000:.0f} ms. {answers.error}".rstrip()
    )
