"""``ctl status``: what is live, what is rolling out, which gate is where."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import click

from baton.cli.output import Line, is_terminal, plain, print_json, say, show, width
from baton.cli.render import status_lines
from baton.cli.settings import Settings, common, pass_settings
from baton.errors import Unreachable

REFRESH_S = 1.0


@click.command()
@click.argument("named", required=False, metavar="[SERVICE]")
@click.option("--watch", "-w", is_flag=True, help="Go on: redraw each second, or when piped print each change.")
@common()
@pass_settings
def status(settings: Settings, named: str | None, *, watch: bool) -> None:
    """What is live, what is rolling out, which gate is where.

    With --watch and --output json, each change is printed as one JSON object on one line.
    """
    name = named or settings.service
    client = settings.client()
    first = client.status(name)  # a control plane that is not there at the start is an error, not a wait
    if not watch:
        if settings.json:
            print_json(first)
        else:
            show(status_lines(first, width(sys.stdout)))
        return
    pages = _pages(settings, name, first)
    if is_terminal(sys.stdout) and not settings.json:
        _draw(pages)
    else:
        _print_changes(pages, as_json=settings.json)


def _pages(settings: Settings, name: str | None, first: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str | None]]:
    """The status each second, with what is wrong when it is not fresh: a watch outlives a restart."""
    page, trouble = first, None
    client = settings.client()
    while True:
        yield page, trouble
        time.sleep(REFRESH_S)
        try:
            page, trouble = client.status(name), None
        except Unreachable as error:
            trouble = error.message


def _draw(pages: Iterator[tuple[dict[str, Any], str | None]]) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False)
    # The alternate screen is redrawn as a whole, in one write: it neither flickers nor scrolls.
    with Live(console=console, screen=True, auto_refresh=False) as live:
        for page, trouble in pages:
            lines: list[Line] = status_lines(page, console.width)
            if trouble is not None:
                lines += [[], [(f"Not fresh: {trouble}", "bold yellow")]]
            live.update(Text("\n").join(Text.assemble(*line) for line in lines), refresh=True)


def _print_changes(pages: Iterator[tuple[dict[str, Any], str | None]], *, as_json: bool) -> None:
    before: list[str] | None = None
    told: str | None = None
    for page, trouble in pages:
        if trouble is not None and trouble != told:
            say(trouble)
        told = trouble
        lines = [plain(line) for line in status_lines(page, width(sys.stdout))]
        if lines == before:
            continue
        if as_json:
            print_json(page, compact=True)
        else:
            click.echo("\n".join(lines if before is None else ["", *lines]))
        sys.stdout.flush()  # a pipe is read while this goes on
        before = lines
