"""The verbs that steer rollouts: promote, rollback, abort, retry, verify, pause, resume."""

from __future__ import annotations

import click

from baton.cli.follow import BACK, PROMOTED, STARTED, VERIFIED, ask, follow
from baton.cli.output import print_json, safe
from baton.cli.settings import Settings, Waiting, changes, common, pass_settings
from baton.facts import Paused

_VERSION = click.IntRange(min=1)


def _of(settings: Settings) -> str:
    return f" of {settings.service}" if settings.service is not None else ""


@click.command()
@click.argument("version", type=_VERSION, required=False, metavar="[N]")
@click.option("--full", is_flag=True, help="Skip the traffic steps that remain, but never a gate.")
@changes
@common()
@pass_settings
def promote(settings: Settings, version: int | None, *, full: bool, waiting: Waiting) -> None:
    """Start version N's rollout, or let one that waits go on.

    Without N it is the version that waits, else the newest on disk. Done when all traffic is on it.
    """
    ask(f"Promote {'the next version' if version is None else f'version {version}'}{_of(settings)}?", yes=waiting.yes)
    client = settings.client()
    follow(settings, client, client.promote(settings.service, version, full=full), waiting, PROMOTED)


@click.command()
@click.option("--to", type=_VERSION, metavar="N", help="Back to this version.  [default: the previous one]")
@changes
@common()
@pass_settings
def rollback(settings: Settings, to: int | None, *, waiting: Waiting) -> None:
    """Back to the previous (or named) version at once."""
    ask(f"Roll back{_of(settings)} to {'the previous version' if to is None else f'version {to}'}?", yes=waiting.yes)
    client = settings.client()
    ticket = client.rollback(settings.service, to)
    # Either the running rollout gives way, or the earlier version comes back by a rollout of its own.
    follow(settings, client, ticket, waiting, PROMOTED if ticket.until == "live" else BACK)


@click.command()
@changes
@common()
@pass_settings
def abort(settings: Settings, *, waiting: Waiting) -> None:
    """Stop the running rollout and return to the stable version."""
    ask(f"Abort the running rollout{_of(settings)}?", yes=waiting.yes)
    client = settings.client()
    follow(settings, client, client.abort(settings.service), waiting, BACK)


@click.command()
@click.argument("version", type=_VERSION, required=False, metavar="[N]")
@click.option(
    "--release",
    type=click.Choice(["equivalent", "retrained"]),
    help="Declare what it is, where that was missing.",
)
@changes
@common()
@pass_settings
def retry(settings: Settings, version: int | None, release: str | None, *, waiting: Waiting) -> None:
    """Try a failed version again.

    Without N it is the one that failed last. For the version that serves: prove that its changed folder still holds
    what serves.
    """
    ask(
        f"Try {'the failed version' if version is None else f'version {version}'}{_of(settings)} again?",
        yes=waiting.yes,
    )
    client = settings.client()
    ticket = client.retry(settings.service, version, release=release)
    follow(settings, client, ticket, waiting, STARTED)


@click.command()
@click.argument("version", type=_VERSION, metavar="N")
@changes
@common()
@pass_settings
def verify(settings: Settings, version: int, *, waiting: Waiting) -> None:
    """Run every gate on version N, with no traffic and no promotion."""
    ask(f"Load version {version}{_of(settings)} and run every gate on it?", yes=waiting.yes)
    client = settings.client()
    follow(settings, client, client.verify(settings.service, version), waiting, VERIFIED)


@click.command()
@changes
@common()
@pass_settings
def pause(settings: Settings, *, waiting: Waiting) -> None:
    """Freeze automatic steps, of all services. What a person starts still works."""
    ask("Freeze all automatic steps?", yes=waiting.yes)
    _switch(settings, settings.client().pause())


@click.command()
@changes
@common()
@pass_settings
def resume(settings: Settings, *, waiting: Waiting) -> None:
    """Let automatic steps go on."""
    ask("Let automatic steps go on?", yes=waiting.yes)
    _switch(settings, settings.client().resume())


def _switch(settings: Settings, answer: Paused) -> None:
    if settings.json:
        print_json(answer)
    else:
        click.echo(safe(answer.message))
