"""The verbs that change something: promote, rollback, abort, retry, verify, pause, resume."""

from __future__ import annotations

from baton import verbs
from baton.cli.follow import BACK, PROMOTED, STARTED, VERIFIED, ask, follow
from baton.cli.output import print_json, say
from baton.cli.settings import Settings, Waiting, command


def _which(version: int | None, default: str) -> str:
    return default if version is None else f"version {version}"


def _of(service: str | None) -> str:
    return "" if service is None else f" of {service}"


@command(verbs.Promote)
def promote(settings: Settings, verb: verbs.Promote, waiting: Waiting) -> None:
    ask(f"Promote {_which(verb.version, 'the next version')}{_of(verb.service)}?", yes=waiting.yes)
    client = settings.client()
    follow(settings, client, client.ask(verb), waiting, PROMOTED)


@command(verbs.Rollback)
def rollback(settings: Settings, verb: verbs.Rollback, waiting: Waiting) -> None:
    ask(f"Roll back{_of(verb.service)} to {_which(verb.to, 'the previous version')}?", yes=waiting.yes)
    client = settings.client()
    ticket = client.ask(verb)
    # Either the running rollout gives way, or the earlier version comes back by a rollout of its own.
    follow(settings, client, ticket, waiting, PROMOTED if ticket.until == "live" else BACK)


@command(verbs.Abort)
def abort(settings: Settings, verb: verbs.Abort, waiting: Waiting) -> None:
    ask(f"Abort the running rollout{_of(verb.service)}?", yes=waiting.yes)
    client = settings.client()
    follow(settings, client, client.ask(verb), waiting, BACK)


@command(verbs.Retry)
def retry(settings: Settings, verb: verbs.Retry, waiting: Waiting) -> None:
    ask(f"Try {_which(verb.version, 'the failed version')}{_of(verb.service)} again?", yes=waiting.yes)
    client = settings.client()
    follow(settings, client, client.ask(verb), waiting, STARTED)


@command(verbs.Verify)
def verify(settings: Settings, verb: verbs.Verify, waiting: Waiting) -> None:
    ask(f"Load version {verb.version}{_of(verb.service)} and run every gate on it?", yes=waiting.yes)
    client = settings.client()
    follow(settings, client, client.ask(verb), waiting, VERIFIED)


@command(verbs.Pause)
def pause(settings: Settings, verb: verbs.Pause, waiting: Waiting) -> None:
    ask("Freeze all automatic steps?", yes=waiting.yes)
    _switch(settings, verb)


@command(verbs.Resume)
def resume(settings: Settings, verb: verbs.Resume, waiting: Waiting) -> None:
    ask("Let automatic steps go on?", yes=waiting.yes)
    _switch(settings, verb)


def _switch(settings: Settings, verb: verbs.Pause | verbs.Resume) -> None:
    answer = settings.client().ask(verb)
    if settings.json:
        print_json(answer)
    else:
        say(answer.message, err=False)
