"""Makes the facts of ``baton.facts``, which the facade tells, of what the loop, the journal and the files say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from baton.config import Config, ServerConfig
from baton.controller.engine_info import ByServer, lowered
from baton.controller.loop import Loop
from baton.controller.memory import VersionMemory
from baton.controller.service import Service
from baton.domain import (
    MEETING,
    WORST_FIRST,
    EngineInfo,
    Gate,
    GateResult,
    Kind,
    Outcome,
    Phase,
    Removed,
    Rollout,
    Verdict,
)
from baton.evidence import LiveEvidence
from baton.facts import (
    Event,
    MemoryStatus,
    RemovedVersion,
    RolloutFacts,
    RolloutHead,
    RolloutStory,
    Runs,
    RunsServer,
    ServerStatus,
    ServiceStatus,
    StepStatus,
    TrafficStatus,
    VersionStatus,
    WaitsFor,
    iso,
    widened,
)
from baton.on_disk import not_removed, version_of
from baton.plan import ServerView, View, route
from baton.plan.health import stuck_unloading
from baton.plan.steps import length
from baton.plan.traffic import before_traffic, position_of, shadowed, stepwise
from baton.reasons import Reason, Why

ONGOING = frozenset(Phase) - {Phase.EMPTY, Phase.STEADY, Phase.DEGRADED, Phase.RETIRING, Phase.ROLLING_BACK}
MOVED = frozenset({Phase.BAKING, Phase.RETIRING})
"""Phases in which all traffic is on the candidate."""
CLOCKS_DIFFER_S = 60.0
"""Clocks of machines that are synchronized differ by far less."""


def server(config: ServerConfig, loop: Loop, services: Sequence[Service]) -> ServerStatus:
    """One Triton server, as the services see it."""
    index = loop.indexes.get(config.name)
    error = index if isinstance(index, str) else None
    shown = [(s.view, one) for s in services if s.view is not None for one in s.view.servers if one.name == config.name]
    # A server is not away because a service's files can't be read, or because it keeps something from Baton.
    unknown = [f"What it should serve as {s.name} is not known: {s.decision.message}" for s in services if s.blind]
    kept = [one.reason for _, one in shown if not one.live and one.reason]
    return ServerStatus(
        name=config.name,
        grpc=config.grpc,
        live=index is not None and error is None and all(one.live for _, one in shown),
        in_sync=bool(shown) and not unknown and all(_in_sync(view, one) for view, one in shown),
        message=error or next(iter(kept + unknown), ""),
    )


def _in_sync(view: View, one: ServerView) -> bool:
    # Until a first version serves, the policy names what is wanted, and nothing is loaded.
    engine = one.ready() == view.version_policy or (view.alias is None and view.rollout is None)
    return one.live and view.alias_matches(one) and engine


def service(
    one: Service,
    last: Rollout | None,
    looked_at: float,
    memory: Mapping[int, VersionMemory],
    engines: Mapping[int, ByServer],
) -> ServiceStatus:
    """One service, as ``ctl status`` shows it; without a rollout with the gates of the ``last`` one."""
    view, decision = one.view, one.decision
    infos = [] if view is None else _infos(view, engines)
    rollout = None if view is None else view.rollout
    ongoing = rollout is not None and rollout.phase in ONGOING
    stable = None if view is None else view.alias
    if rollout is not None and ongoing and rollout.kind is not Kind.CHECK:
        stable = rollout.previous
    worst = min((m.result for m in memory.values()), key=lambda r: WORST_FIRST.index(r.verdict), default=None)
    gates = [*(() if last is None else gates_of(last, one)), *(() if worst is None else (worst,))]
    return ServiceStatus(
        name=one.name,
        engine=one.config.engine,
        phase=decision.phase if rollout is None else rollout.phase,
        message=decision.message,
        stable=stable,
        candidate=rollout.candidate if rollout is not None and ongoing else None,
        weight=weight(one, rollout),
        step=step(one, rollout),
        steps=_all_steps(one, rollout),
        traffic=_traffic(one, rollout),
        gates=tuple(gates),
        versions=() if view is None else tuple(_versions(one, view, memory, infos)),
        problems=() if view is None else _problems(view, one, infos),
        rollout=None if rollout is None else _head(rollout),
        updated_at=iso(looked_at) if looked_at else None,
        waits_for=tuple(_waits_for(gates)) if ongoing else (),
        code=decision.why.reason,
        removed=()
        if last is None
        else tuple(
            RemovedVersion(v, iso(r.at), r.bytes) for v, r in sorted(one.removed().items()) if r.at >= last.started_at
        ),
    )


def _waits_for(gates: Iterable[GateResult]) -> Iterator[WaitsFor]:
    """What the gates that hold have too little of."""
    for result in gates:
        if result.verdict is not Verdict.HOLD or result.gate is Gate.MEMORY:  # nothing waits for that one
            continue
        if result.evidence.missing is not None:
            yield WaitsFor(result.gate, result.evidence.missing, 0, 1, None)
        for check in result.evidence.checks if isinstance(result.evidence, LiveEvidence) else ():
            if check.have is not None and check.need is not None:
                yield WaitsFor(result.gate, check.name, check.have, check.need, None)


def _versions(
    one: Service, view: View, memory: Mapping[int, VersionMemory], infos: Sequence[tuple[int, str, EngineInfo]]
) -> Iterator[VersionStatus]:
    for number, folder in sorted(view.folders.items()):
        meta, state, reason = version_of(one, view, number, folder)
        runs = [info for version, _, info in infos if version == number]
        fallbacks = [i.fallback for i in runs if i.lowered] or [i.fallback for i in runs]
        yield VersionStatus(
            version=number,
            label=meta.label,
            state=state,
            release=meta.release,
            reason=reason,
            memory=_memory(memory.get(number)),
            device=_each(i.device for i in runs),
            dtype=_each(i.dtype for i in runs),
            fallback=_each(fallbacks),
            health=one.health.status(number),
        )


def _memory(known: VersionMemory | None) -> MemoryStatus | None:
    """What a version takes now; None where that can't be seen from here."""
    if known is None:
        return None
    usage, result = known.usage, known.result
    return MemoryStatus(usage.resident_bytes, usage.gpu_bytes, result.observed, result.verdict)


def _problems(view: View, one: Service, infos: Sequence[tuple[int, str, EngineInfo]]) -> tuple[str, ...]:
    """What a person should see to, each in a sentence."""
    unexpected = [f.problem for f in view.unexpected if f.problem is not None]
    ahead = [
        f"Files of version {version} are dated {(folder.newest - view.now) / 60:.0f} min ahead of this machine's "
        f"clock. Baton allows for it, but Triton passes over a config.pbtxt that somebody else edits until that time "
        f"has come: set the clock of the machine that writes versions (`timedatectl` shows whether it is synchronized)."
        for version, folder in sorted(view.folders.items())
        if folder.newest - view.now > CLOCKS_DIFFER_S
    ]
    steering = one.splitter_client.deviations(view.now) if view.split else []
    slow = [lowered(*info) for info in infos if info[2].lowered]
    whys = [*stuck_unloading(view, one.settings), *slow]
    return tuple(unexpected + ahead + steering + [str(why) for why in whys] + not_removed(view))


def _infos(view: View, engines: Mapping[int, ByServer]) -> list[tuple[int, str, EngineInfo]]:
    """What runs now, as (version, server, what an instance runs in)."""
    return [
        (version, server.name, info)
        for server in view.live()
        for version in sorted(server.ready())
        for info in sorted(engines.get(version, {}).get(server.name, ()), key=str)
    ]


def _each(values: Iterable[str | None]) -> str | None:
    """The different values of several instances and servers together; None where none is known."""
    return ", ".join(sorted({v for v in values if v})) or None


def weight(one: Service, rollout: Rollout | None) -> float:
    """The candidate's share of traffic that is asked for, in percent."""
    view = one.view
    if view is None or rollout is None or rollout.phase not in ONGOING or rollout.kind is Kind.CHECK:
        return 0
    if view.alias == rollout.candidate:
        return 100
    asked = route(view, one.settings)
    return 0 if asked is None else round(asked.weight, 2)


def step(one: Service, rollout: Rollout | None) -> StepStatus:
    """Which of the traffic steps is under way."""
    settings = one.settings
    steps = settings.steps if _by_steps(one, rollout) else ()
    last = len(steps) + 1
    if rollout is None or rollout.phase not in ONGOING or rollout.kind is Kind.CHECK:
        return StepStatus(0, last)
    where = position_of(rollout, settings)
    if rollout.phase is Phase.SHADOWING and stepwise(rollout, settings):
        return StepStatus(0, last, f"shadow {settings.shadow_share:g} %", round(where.left, 1))
    if rollout.phase is not Phase.BAKING and before_traffic(rollout):
        return StepStatus(0, last)
    if rollout.phase is Phase.BAKING or where.index >= len(steps):
        return StepStatus(last, last, "100 %")
    return StepStatus(where.index + 1, last, str(steps[where.index]), round(where.left, 1))


def _by_steps(one: Service, rollout: Rollout | None) -> bool:
    """Whether the present rollout, or the next one, brings traffic by steps."""
    return stepwise(rollout, one.settings) if rollout is not None and rollout.phase in ONGOING else True


def _all_steps(one: Service, rollout: Rollout | None) -> tuple[str, ...]:
    """All traffic steps of a rollout, in words."""
    settings = one.settings
    if not _by_steps(one, rollout):
        return ("100 %",)
    shadow = (f"shadow {settings.shadow_share:g} % for {settings.shadow_for:g} s",) if shadowed(settings) else ()
    return (*shadow, *map(str, settings.steps), "100 %")


def _traffic(one: Service, rollout: Rollout | None) -> TrafficStatus | None:
    """What the splitters do while live traffic meets the candidate; None while there are none."""
    view, settings, gate = one.view, one.settings, one.split.verdict
    if view is None or rollout is None or rollout.progressed_at is None:
        return None
    if rollout.phase not in MEETING or not view.split:
        return None
    lease = None if rollout.renewed_at is None else max(0.0, rollout.renewed_at + settings.lease - view.now)
    whole = length(settings.steps) + (settings.shadow_for if rollout.phase is Phase.SHADOWING else 0.0)
    return widened(
        TrafficStatus,
        one.splitter_client.counted(view.now),
        weight=weight(one, rollout),
        shadow=settings.shadow_share,
        contents=one.config.traffic.contents,
        splitters=one.splitter_client.status(view.now),
        lease_s=settings.lease,
        lease_left_s=None if lease is None else round(lease, 1),
        waiting_for=gate.message if gate is not None and gate.verdict is Verdict.HOLD else "",
        eta_s=None if position_of(rollout, settings).pause else round(max(0.0, whole - rollout.progress), 1),
    )


def gates_of(one: Rollout, service_of: Service | None) -> list[GateResult]:
    """The rollout's gates in their order; while it is under way also those that are still to be asked."""
    if service_of is not None and one.ended_at is None:
        return service_of.gates_of(one)
    return [one.gates[g] for g in Gate if g in one.gates]


def runs(config: Config, source: Path | None) -> Runs:
    """The configuration that a control plane runs with, which ``ctl doctor`` compares with the file."""

    def path(of: Path | None) -> str | None:
        return None if of is None else str(of.absolute())

    return Runs(
        configuration=path(source),
        repository=str(config.repository.absolute()),
        state=str(config.state.absolute()),
        services=tuple(one.name for one in config.services),
        servers=tuple(
            RunsServer(
                s.name,
                s.grpc,
                path(s.admin_key_file),
                s.http or None,
                s.metrics or None,
                s.tls,
                path(s.ca_file),
                s.server_name,
            )
            for s in config.servers
        ),
    )


Removals = Mapping[str, Mapping[int, Removed]]
"""By service and version: what was removed from disk."""


def removals(services: Mapping[str, Service]) -> Removals:
    """Of every service."""
    return {name: one.removed() for name, one in services.items()}


def rollout(one: Rollout, services: Mapping[str, Service], removed: Removals) -> RolloutFacts:
    """One line of ``ctl history``."""
    gone = removed.get(one.service, {}).get(one.candidate)
    service = services.get(one.service) if one.ended_at is None else None
    why = one.ended_why if one.ended_why is not None or one.stop is None else one.stop.why
    return widened(
        RolloutFacts,
        _head(one),
        service=one.service,
        outcome=one.outcome,
        weight=0 if service is None else weight(service, one),
        step=None if service is None else step(service, one),
        message="" if why is None else str(why),
        ended_at=None if one.ended_at is None else iso(one.ended_at),
        duration_s=None if one.ended_at is None else round(one.ended_at - one.started_at, 3),
        time_to_live_s=None if one.moved_at is None else round(one.moved_at - one.started_at, 3),
        gates=tuple(gates_of(one, service)),
        code=Reason.OTHER if why is None else why.root.reason,
        removed_at=None if gone is None or gone.at < one.started_at else iso(gone.at),
    )


def story(one: Rollout, services: Mapping[str, Service], events: Iterable[Mapping[str, Any]]) -> RolloutStory:
    """One rollout with its events, and what it does or waits for now."""
    service = services.get(one.service) if one.ended_at is None else None
    on_it = (one.phase in MOVED and one.stop is None) or one.outcome is Outcome.LIVE
    return widened(
        RolloutStory,
        rollout(one, services, removals(services)),
        events=tuple(_event(event) for event in events),
        moved=one.kind is not Kind.CHECK and on_it,
        ended=one.ended_at is not None,
        doing="" if service is None else service.decision.message,
    )


def _event(row: Mapping[str, Any]) -> Event:
    why: Why = row["why"]
    gate = Gate(row["data"]["name"]) if row["kind"] == "verdict" else None
    cause, short = (None, "") if why.cause is None else (why.cause.reason, str(why.without_cause()))
    return Event(iso(row["at"]), row["kind"], row["who"], row["message"], why.reason, gate, cause, short)


def _head(one: Rollout) -> RolloutHead:
    same = ("id", "kind", "candidate", "previous", "label", "release", "phase", "who")
    return RolloutHead(**{n: getattr(one, n) for n in same}, why=str(one.why), started_at=iso(one.started_at))
