"""``ctl status``: what is live, what is rolling out, which gate is where."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import click

from baton import verbs
from baton.cli.output import Line, is_terminal, plain, print_json, safe_line, say, show, unnumbered, width
from baton.cli.render import lapsing, status_lines
from baton.cli.settings import Settings, command
from baton.domain import GateResult, Verdict
from baton.errors import Unreachable
from baton.evidence import LiveEvidence
from baton.facts import ServiceStatus, Status, TrafficStatus, VersionStatus
from baton.verbs import Facade

REFRESH_S = 1.0
_TENTH = 10
"""A weight that rises steadily is told each time it passes another ten percent."""


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
    sentences: frozenset[tuple[str, str]] = frozenset()
    trouble_told: str | None = None
    for page, trouble in pages:
        if trouble is not None and trouble != trouble_told:
            say(trouble)
        trouble_told = trouble
        now = landmarks(page)
        told = frozenset((s.name, unnumbered(s.message)) for s in page.services)
        # A control plane that does two things in turn says so in turn: each is told once.
        if now == before and told <= sentences:
            continue
        sentences = told | (sentences if now == before else frozenset())
        if as_json:
            print_json(page, compact=True)
        else:
            lines = [plain(line) for line in status_lines(page, width(sys.stdout))]
            click.echo("\n".join(lines if before is None else ["", *lines]))
        sys.stdout.flush()  # a pipe is read while this goes on
        before = now


def landmarks(status: Status) -> Any:
    """What makes a page worth printing, the services' messages aside: pages with equal landmarks tell the same story.

    Counts, times that run down, figures that move while a verdict stands, and bytes of memory are no landmarks.
    """
    servers = [(s.name, s.live, s.in_sync, unnumbered(s.message)) for s in status.servers]
    return status.paused, servers, [_service(s) for s in status.services]


def _service(service: ServiceStatus) -> Any:
    step, traffic = service.step, service.traffic
    return (
        *(service.name, service.engine, service.phase, service.stable, service.candidate, service.problems),
        None if service.rollout is None else service.rollout.id,
        (step.index, step.count, step.name),
        service.weight // _TENTH,
        None if traffic is None else _traffic(traffic),
        [_gate(gate) for gate in service.gates],
        [_version(version) for version in service.versions],
    )


def _traffic(traffic: TrafficStatus) -> Any:
    return bool(traffic.shadow), unnumbered(traffic.waiting_for), traffic.breaker, lapsing(traffic)


def _version(version: VersionStatus) -> Any:
    memory = None if version.memory is None else version.memory.verdict
    runs = version.device, version.dtype, version.fallback
    return version.version, version.label, version.state, unnumbered(version.reason), memory, runs


def _gate(gate: GateResult) -> Any:
    checks = gate.evidence.checks if isinstance(gate.evidence, LiveEvidence) else ()
    loud = gate.verdict in {Verdict.FAIL, Verdict.HOLD}
    told = unnumbered(gate.message) if loud else None
    return gate.gate, gate.verdict, told, [(check.name, check.verdict) for check in checks]
