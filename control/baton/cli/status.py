"""``ctl status``: what is live, what is rolling out, which gate is where."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import click

from baton import verbs
from baton.cli.output import Line, gate_news, is_terminal, plain, print_json, safe_line, say, show, width
from baton.cli.render import lapsing, status_lines
from baton.cli.settings import Settings, command
from baton.errors import Unreachable
from baton.facts import ServiceStatus, Status, VersionStatus
from baton.reasons import Reason
from baton.verbs import Facade

REFRESH_S = 1.0
_TENTH = 10
"""Percent: a weight that rises steadily is news each time it passes another ten."""


_WATCH = click.option("--watch", "-w", is_flag=True, help="Go on: redraw each second, or when piped print each change.")


@command(verbs.Status, _WATCH)
def status(settings: Settings, verb: verbs.Status, *, watch: bool) -> None:
    client = settings.client()
    first = client.ask(verb)  # a control plane that is not there at the start is an error, not a wait
    if not watch:
        if settings.json:
            print_json(first)
        else:
            show(status_lines(first, width(sys.stdout)))
        return
    pages = _pages(client, verb, first)
    if is_terminal(sys.stdout) and not settings.json:
        _draw(pages)
    else:
        _print_changes(pages, as_json=settings.json)


def _pages(client: Facade, verb: verbs.Status, first: Status) -> Iterator[tuple[Status, str | None]]:
    """The status each second, with what is wrong when it is not fresh: a watch outlives a restart."""
    page, trouble = first, None
    while True:
        yield page, trouble
        time.sleep(REFRESH_S)
        try:
            page, trouble = client.ask(verb), None
        except Unreachable as error:
            trouble = error.message


def _draw(pages: Iterator[tuple[Status, str | None]]) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False)
    # The alternate screen is redrawn as a whole, in one write: it neither flickers nor scrolls.
    with Live(console=console, screen=True, auto_refresh=False) as live:
        for page, trouble in pages:
            stale: list[Line] = [] if trouble is None else [[(f"Not fresh: {trouble}", "bold yellow")], []]
            lines = [*stale, *status_lines(page, console.width, console.height - len(stale))]
            live.update(Text("\n").join(Text.assemble(*safe_line(line)) for line in lines), refresh=True)


def _print_changes(pages: Iterator[tuple[Status, str | None]], *, as_json: bool) -> None:
    before: Any = None
    reasons: frozenset[tuple[str, Reason]] = frozenset()
    last_trouble: str | None = None
    for page, trouble in pages:
        if trouble is not None and trouble != last_trouble:
            say(trouble)
        last_trouble = trouble
        now, given = news(page), frozenset((s.name, s.code) for s in page.services)
        # A control plane that does two things in turn gives their reasons in turn: each is printed once.
        if now == before and given <= reasons:
            continue
        reasons = given | (reasons if now == before else frozenset())
        if as_json:
            print_json(page, compact=True)
        else:
            lines = [plain(line) for line in status_lines(page, width(sys.stdout))]
            click.echo("\n".join(lines if before is None else ["", *lines]))
        sys.stdout.flush()  # a pipe is read while this goes on
        before = now


def news(status: Status) -> Any:
    """What makes a page worth printing, the services' reasons aside: pages with equal news tell the same story.

    Counts, times that run down, figures that move while a verdict stands, and bytes of memory are no news.
    """
    servers = [(s.name, s.live, s.in_sync) for s in status.servers]
    return status.paused, servers, [_service(s) for s in status.services]


def _service(service: ServiceStatus) -> Any:
    step, traffic = service.step, service.traffic
    return (
        *(service.name, service.engine, service.phase, service.stable, service.candidate, service.problems),
        None if service.rollout is None else service.rollout.id,
        (step.index, step.count, step.name),
        service.weight // _TENTH,
        None if traffic is None else (bool(traffic.shadow), traffic.breaker, lapsing(traffic)),
        [(lack.gate, lack.what) for lack in service.waits_for],
        [gate_news(gate) for gate in service.gates],
        [_version(version) for version in service.versions],
    )


def _version(version: VersionStatus) -> Any:
    memory = None if version.memory is None else version.memory.verdict
    health = [(one.server, one.healthy) for one in version.health]
    runs = version.device, version.dtype, version.fallback
    return version.version, version.label, version.state, bool(version.reason), memory, health, runs
