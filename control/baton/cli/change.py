"""The verbs that change something: promote, rollback, abort, retry, verify, prune, pause, resume."""

from __future__ import annotations

import sys
from dataclasses import replace

from baton import verbs
from baton.cli.follow import BACK, PROMOTED, STARTED, VERIFIED, Goal, ask, await_removal, follow
from baton.cli.lists import pruned_lines
from baton.cli.output import print_json, say, show, size, width
from baton.cli.settings import Settings, Waiting, command
from baton.facts import Paused, Ticket
from baton.reasons import named


def _which(version: int | None, default: str) -> str:
    return default if version is None else f"version {version}"


def _of(service: str | None) -> str:
    return "" if service is None else f" of {service}"


def _do(settings: Settings, verb: verbs.Change[Ticket], waiting: Waiting, question: str, goal: Goal) -> None:
    """Ask the person, then the control plane, and wait for what that began."""
    ask(question, yes=waiting.yes)
    client = settings.client()
    ticket = client.ask(verb)
    if goal is BACK and ticket.until == "live":
        goal = PROMOTED  # no rollout was under way: the earlier version comes back by one of its own
    follow(settings, client, ticket, waiting, goal)


@command(verbs.Promote)
def promote(settings: Settings, verb: verbs.Promote, waiting: Waiting) -> None:
    question = f"Promote {_which(verb.version, 'the next version')}{_of(verb.service)}?"
    _do(settings, verb, waiting, question, PROMOTED)


@command(verbs.Rollback)
def rollback(settings: Settings, verb: verbs.Rollback, waiting: Waiting) -> None:
    question = f"Roll back{_of(verb.service)} to {_which(verb.to, 'the previous version')}?"
    _do(settings, verb, waiting, question, BACK)


@command(verbs.Abort)
def abort(settings: Settings, verb: verbs.Abort, waiting: Waiting) -> None:
    _do(settings, verb, waiting, f"Abort the running rollout{_of(verb.service)}?", BACK)


@command(verbs.Retry)
def retry(settings: Settings, verb: verbs.Retry, waiting: Waiting) -> None:
    question = f"Try {_which(verb.version, 'the failed version')}{_of(verb.service)} again?"
    _do(settings, verb, waiting, question, STARTED)


@command(verbs.Verify)
def verify(settings: Settings, verb: verbs.Verify, waiting: Waiting) -> None:
    question = f"Load version {verb.version}{_of(verb.service)} and run every gate on it?"
    _do(settings, verb, waiting, question, VERIFIED)


@command(verbs.Prune, service=True)
def prune(settings: Settings, verb: verbs.Prune, waiting: Waiting) -> None:
    client = settings.client()
    found = client.ask(replace(verb, dry_run=True))
    goes = [v.version for v in found.versions if v.goes]
    if goes and not verb.dry_run:
        freed = f" That frees {size(found.bytes)}, and nothing brings them back."
        ask(f"Remove {named(goes)} of {found.service} from disk?{freed}", yes=waiting.yes)
        found = client.ask(verb)
        if waiting.wait:
            found = await_removal(client, verb, found, waiting.timeout)
    if settings.json:
        print_json(found)
    else:
        show(pruned_lines(found, width(sys.stdout)))


@command(verbs.Pause)
def pause(settings: Settings, verb: verbs.Pause, waiting: Waiting) -> None:
    _switch(settings, verb, waiting, "Freeze all automatic steps?")


@command(verbs.Resume)
def resume(settings: Settings, verb: verbs.Resume, waiting: Waiting) -> None:
    _switch(settings, verb, waiting, "Let automatic steps go on?")


def _switch(settings: Settings, verb: verbs.Change[Paused], waiting: Waiting, question: str) -> None:
    ask(question, yes=waiting.yes)
    answer = settings.client().ask(verb)
    if settings.json:
        print_json(answer)
    else:
        say(answer.message, err=False)
