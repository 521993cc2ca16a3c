"""``ctl push``: a checkpoint becomes the next version."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from baton.cli.follow import STARTED, ask, follow
from baton.cli.output import is_terminal, print_json, say, size
from baton.cli.settings import Settings, Waiting, changes, common, pass_settings
from baton.errors import BatonError, NoRoom, TimedOut, Unreachable, UsageError
from baton.facts import Ticket
from baton.reasons import named
from baton.verbs import Prune

if TYPE_CHECKING:
    from baton.api import ApiClient

_SLICE_S = 10.0
"""Seconds of one wait for the begin of the rollout; between two the person is shown what it waits for."""
_HISTORY = 1000
LITTLE = 2
"""A person is told when fewer versions of the pushed one's size fit on the disk."""


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--label", metavar="L", help="A name for people.  [default: the version's number]")
@click.option(
    "--release",
    type=click.Choice(["equivalent", "retrained"]),
    help="The same answers as the stable version, or new weights.  [default: equivalent]",
)
@click.option(
    "--repository",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="BATON_REPOSITORY",
    metavar="DIR",
    help="The model repository.  [default: the running control plane's, else the configuration's]",
)
@changes
@common()
@pass_settings
def push(
    settings: Settings, directory: Path, label: str | None, release: str | None, repository: Path | None,
    *, waiting: Waiting,
) -> None:  # fmt: skip
    """Copy the checkpoint in DIR in as the next version.

    It is staged beside the repository, hashed, synced and renamed into place; an interrupted push is taken up again
    by the same command. Then the rollout is followed, if a control plane runs.
    """
    from baton.domain import Release
    from baton.push import push as copy

    config = settings.load()
    service = config.service(settings.service)
    client = settings.client()
    if settings.server is not None and repository is None:
        # The same path can be another directory here, into which everything would go and nothing come of it.
        raise UsageError(
            "The control plane is on another machine, so where to copy to is not known. Nothing was copied.",
            mend="Name with --repository where its model repository is mounted here, or push on that machine.",
        )
    home = repository or _served_repository(client) or config.repository
    ask(f"Push {directory} to {home / service.engine} as the next version of {service.name}?", yes=waiting.yes)
    began = time.monotonic()
    floor, running = _floor(client, service.name, None if settings.server else settings.state_directory())
    with _room(client, service.name), _bar() as progress:
        pushed = copy(
            directory,
            home,
            service.engine,
            floor=floor,
            label=label,
            release=None if release is None else Release(release),
            progress=progress,
        )
    again = ", going on with an earlier push" if pushed.resumed else ""
    say(
        f"{service.name}: version {pushed.version} was copied to {pushed.folder} ({size(pushed.bytes)}"
        f" in {pushed.seconds:.1f} s{again})."
    )
    if pushed.free is not None and pushed.free < LITTLE * pushed.bytes:
        say(
            f"{size(pushed.free)} are free now, so fewer than {LITTLE} more versions of this size fit. `ctl prune "
            "--dry-run --keep 0` shows which could be removed; keep_versions removes old ones after each rollout."
        )
    if pushed.ignored:
        say(f"Not copied, because no version serves them: {pushed.ignored}.")
    if running and waiting.wait:
        left = None if waiting.timeout is None else max(0.001, waiting.timeout - (time.monotonic() - began))
        _follow(settings, client, service.name, pushed.version, Waiting(waiting.yes, waiting.wait, left))
        return
    if settings.json:
        print_json(
            {
                "service": service.name,
                "version": pushed.version,
                "folder": str(pushed.folder),
                "bytes": pushed.bytes,
                "seconds": round(pushed.seconds, 3),
                "resumed": pushed.resumed,
                "ignored": pushed.ignored,
            }
        )
    else:
        click.echo(f"{service.name}: version {pushed.version} is on disk.")
    if running:
        say("`ctl status --watch` follows its rollout.")
    else:
        say("No control plane runs here. `ctl up` or `ctl serve` starts one, which begins the rollout.")


def _served_repository(client: ApiClient) -> Path | None:
    """The running control plane's, which `ctl up --repository` may have named; None when none runs, or not here."""
    try:
        repository = client.status().repository
    except Unreachable:
        return None
    return Path(repository) if repository and Path(repository).is_dir() else None


def _floor(client: ApiClient, service: str, state: Path | None) -> tuple[int, bool]:
    """The highest number that was ever used, which is never used again; and whether a control plane runs.

    Where none runs the journal in ``state`` tells; raises ``Unreachable`` when that is on another machine (None).
    """
    try:
        used = [v.version for v in client.versions(service)]
        used += [h.candidate for h in client.history(service, _HISTORY)]
    except Unreachable:
        if state is None:
            raise
        from baton.journal import JOURNAL, Journal

        journal = state / JOURNAL
        if not journal.is_file():
            return 0, False

        book = Journal(journal)
        try:
            return book.versions.highest(service), False
        finally:
            book.close()
    return max((n for n in used if n is not None), default=0), True


def _follow(settings: Settings, client: ApiClient, service: str, version: int, waiting: Waiting) -> None:
    deadline = None if waiting.timeout is None else time.monotonic() + waiting.timeout
    last: Ticket | None = None
    while True:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimedOut(
                f"{service}: the rollout of version {version} has not begun in time. "
                f"{last.message if last else ''}".rstrip(),
                mend="It begins when it can; `ctl status --watch` follows it.",
            )
        ticket = client.expect(service, version, _SLICE_S if left is None else min(_SLICE_S, left))
        if ticket.rollout is not None:
            rest = None if deadline is None else max(0.001, deadline - time.monotonic())
            follow(settings, client, ticket, Waiting(waiting.yes, waiting.wait, rest), STARTED)
            return
        if client.status(service).paused:
            # It would be waited for a person who may be the very one that waits here.
            if settings.json:
                print_json(ticket)
            else:
                say(
                    f"{service}: version {version} is on disk, and Baton is paused: `ctl resume` lets it begin.",
                    err=False,
                )
            return
        if last is None or ticket.code != last.code:
            say(f"Waiting for the rollout of version {version} to begin. {ticket.message}")
        last = ticket


@contextmanager
def _room(client: ApiClient, service: str) -> Iterator[None]:
    """A refusal for want of room says what could be removed."""
    try:
        yield
    except NoRoom as error:
        try:
            found = client.ask(Prune(service, keep=0, dry_run=True))
        except BatonError:  # none runs, or it can't tell
            more = "While a control plane runs, `ctl prune --dry-run --keep 0` shows which versions could be removed."
        else:
            goes = [v.version for v in found.versions if v.goes]
            more = f"`ctl prune --keep 0` can remove {named(goes)}, which frees {size(found.bytes)}."
            if not goes:
                more = "No version can be removed: `ctl prune --dry-run --keep 0` says why."
        raise NoRoom(error.message, mend=f"{error.mend} {more}") from None


@contextmanager
def _bar() -> Iterator[Callable[[int, int, str], None] | None]:
    """A progress bar on a terminal; nothing in a pipe."""
    if not is_terminal(sys.stderr):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("copying", total=None)

        def advance(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what[-30:])

        yield advance
