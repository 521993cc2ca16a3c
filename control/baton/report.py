"""What the facade tells, as data that can be printed as JSON: fields are added, never renamed or dropped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from baton.config import Config, ServerConfig
from baton.domain import (
    MEETING,
    WORST_FIRST,
    EngineInfo,
    Folder,
    Gate,
    GateResult,
    Kind,
    Phase,
    Rollout,
    Standing,
    Verdict,
    VersionState,
)
from baton.engine.engines import ByServer, lowered
from baton.engine.loop import Loop
from baton.engine.memory import VersionMemory
from baton.engine.service import Service
from baton.plan import ServerView, View, route
from baton.plan.health import leaks
from baton.plan.steps import length
from baton.plan.traffic import before_traffic, place, shadowed, stepwise

ONGOING = frozenset(Phase) - {Phase.EMPTY, Phase.STEADY, Phase.DEGRADED, Phase.RETIRING, Phase.ROLLING_BACK}

AHEAD_S = 60.0
"""Clocks of machines that are synchronized differ by far less."""


def iso(at: float | None) -> str | None:
    """UTC, to the second, as in ``2026-01-01T00:00:00Z``."""
    return None if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def server(config: ServerConfig, loop: Loop, services: Sequence[Service]) -> dict[str, Any]:
    """One Triton server. ``in_sync``: it does what the files say, for every service."""
    index = loop.indexes.get(config.name)
    silent = index if isinstance(index, str) else None
    views = [s.view for s in services if s.view is not None]
    shown = [(v, one) for v in views for one in v.servers if one.name == config.name]
    # A server is not away because a service's files can't be read, or because it keeps something from Baton.
    unknown = [f"What it should serve as {s.name} is not known: {s.decision.message}" for s in services if s.blind]
    kept = [one.reason for _, one in shown if not one.live and one.reason]
    return {
        "name": config.name,
        "grpc": config.grpc,
        "live": index is not None and silent is None and all(one.live for _, one in shown),
        "in_sync": bool(shown) and not unknown and all(_in_sync(view, one) for view, one in shown),
        "message": silent or next(iter(kept + unknown), ""),
    }


def _in_sync(view: View, one: ServerView) -> bool:
    # Until a first version serves, the policy names what is wanted, and nothing is loaded.
    engine = one.ready() == view.policy or (view.alias is None and view.rollout is None)
    return one.live and view.leads(one) and engine


def service(
    one: Service,
    last: Rollout | None,
    looked_at: float,
    memory: Mapping[int, VersionMemory],
    engines: Mapping[int, ByServer],
) -> dict[str, Any]:
    """One service, as ``ctl status`` shows it; at rest with the gates of the ``last`` rollout."""
    view, decision = one.view, one.decision
    infos = [] if view is None else _infos(view, engines)
    rollout = view.rollout if view is not None else None
    ongoing = rollout is not None and rollout.phase in ONGOING
    stable = view.alias if view is not None else None
    if rollout is not None and ongoing and rollout.kind is not Kind.CHECK:
        stable = rollout.previous
    return {
        "name": one.name,
        "engine": one.config.engine,
        "phase": decision.phase if rollout is None else rollout.phase,
        "message": decision.message,
        "stable": stable,
        "candidate": rollout.candidate if rollout is not None and ongoing else None,
        "weight": weight(one, rollout),
        "step": step(one, rollout),
        "steps": _way(one, rollout),
        "traffic": _traffic(one, rollout),
        "gates": ([] if last is None else [gate(g) for g in gates_of(last, one)]) + _memory_gate(memory),
        "versions": [
            {
                **{k: row[k] for k in ("version", "label", "state", "release", "reason")},
                "memory": _memory(memory, row),
                **_runs([info for version, _, info in infos if version == row["version"]]),
                "health": [
                    {"server": name, **told, "since": iso(told["since"])}
                    for name, told in one.health.told(row["version"]).items()
                ],
            }
            for row in versions(one)
            if row["version"] is not None
        ],
        "problems": [] if view is None else _problems(view, one, infos),
        "rollout": None if rollout is None else _brief(rollout),
        "updated_at": iso(looked_at or None),
    }


def _problems(view: View, one: Service, infos: Sequence[tuple[int, str, EngineInfo]]) -> list[str]:
    """What a person is to see to, each in a sentence."""
    strays = [f.problem for f in view.strays if f.problem is not None]
    steering = one.steering.strayed(view.now) if view.split else []
    slow = [lowered(*info) for info in infos if info[2].lowered]
    return strays + _ahead(view) + steering + [str(why) for why in (*leaks(view, one.policy), *slow)]


def _ahead(view: View) -> list[str]:
    """Versions whose files another clock dated, in words."""
    return [
        f"Files of version {version} are dated {(folder.newest - view.now) / 60:.0f} min ahead of this machine's "
        f"clock. Baton allows for it, but Triton passes over a config.pbtxt that somebody else edits until that time "
        f"has come: set the clock of the machine that writes versions (`timedatectl` shows whether it is synchronized)."
        for version, folder in sorted(view.folders.items())
        if folder.newest - view.now > AHEAD_S
    ]


def _infos(view: View, engines: Mapping[int, ByServer]) -> list[tuple[int, str, EngineInfo]]:
    """What runs now, as (version, server, what an instance runs in)."""
    return [
        (version, server.name, info)
        for server in view.live()
        for version in sorted(server.ready())
        for info in sorted(engines.get(version, {}).get(server.name, ()), key=str)
    ]


def _runs(infos: Sequence[EngineInfo]) -> dict[str, str | None]:
    """What a version runs in, the different ones of several instances and servers together; None where not known."""
    fallbacks = [i.fallback for i in infos if i.lowered] or [i.fallback for i in infos]
    return {
        "device": _each(i.device for i in infos),
        "dtype": _each(i.dtype for i in infos),
        "fallback": _each(fallbacks),
    }


def _each(values: Iterable[str | None]) -> str | None:
    return ", ".join(sorted({v for v in values if v})) or None


def _memory(memory: Mapping[int, VersionMemory], row: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a version takes now; None where that can't be seen from here."""
    known = memory.get(row["version"])
    if known is None:
        return None
    return {
        "bytes": known.usage.resident_bytes,
        "gpu_bytes": known.usage.gpu_bytes,
        "growth": known.result.observed,
        "verdict": known.result.verdict,
    }


def _memory_gate(memory: Mapping[int, VersionMemory]) -> list[dict[str, Any]]:
    """The version that gives most reason to worry; none where nothing is known."""
    worst = min(memory.values(), key=lambda m: WORST_FIRST.index(m.result.verdict), default=None)
    return [] if worst is None else [gate(worst.result)]


def weight(one: Service, rollout: Rollout | None) -> float:
    """The candidate's share of traffic that is asked for, in percent."""
    view = one.view
    if view is None or rollout is None or rollout.phase not in ONGOING or rollout.kind is Kind.CHECK:
        return 0
    if view.alias == rollout.candidate:
        return 100
    asked = route(view, one.policy)
    return 0 if asked is None else round(asked.weight, 2)


def step(one: Service, rollout: Rollout | None) -> dict[str, Any]:
    """Which of the traffic steps is under way, counted from 1; 0 before the first. All traffic is the last of them."""
    steps = one.policy.steps if _by_steps(one, rollout) else ()
    shown: dict[str, Any] = {"index": 0, "count": len(steps) + 1, "name": "", "left_s": None}
    if rollout is None or rollout.phase not in ONGOING or rollout.kind is Kind.CHECK:
        return shown
    if rollout.phase is Phase.BAKING:
        return shown | {"index": len(steps) + 1, "name": "100 %"}
    if rollout.phase is Phase.SHADOWING and stepwise(rollout, one.policy):
        left = place(rollout, one.policy).left
        return shown | {"name": f"shadow {one.policy.shadow_share:g} %", "left_s": round(left, 1)}
    if rollout.phase is Phase.SHIFTING or not before_traffic(rollout):
        where = place(rollout, one.policy)
        if where.index >= len(steps):
            return shown | {"index": len(steps) + 1, "name": "100 %"}
        return shown | {"index": where.index + 1, "name": str(steps[where.index]), "left_s": round(where.left, 1)}
    return shown


def _by_steps(one: Service, rollout: Rollout | None) -> bool:
    """Whether the present rollout, or the next one, brings traffic by steps."""
    return stepwise(rollout, one.policy) if rollout is not None and rollout.phase in ONGOING else True


def _way(one: Service, rollout: Rollout | None) -> list[str]:
    """The whole way of a rollout's traffic, in words."""
    policy = one.policy
    if not _by_steps(one, rollout):
        return ["100 %"]
    shadow = [f"shadow {policy.shadow_share:g} % for {policy.shadow_for:g} s"] if shadowed(policy) else []
    return [*shadow, *(str(s) for s in policy.steps), "100 %"]


def _traffic(one: Service, rollout: Rollout | None) -> dict[str, Any] | None:
    """What the splitters do while live traffic meets the candidate; None while there are none."""
    view = one.view
    if (
        view is None
        or rollout is None
        or rollout.progressed_at is None
        or rollout.phase not in MEETING
        or not view.split
    ):
        return None
    gate, policy = one.split.verdict, one.policy
    lease = None if rollout.renewed_at is None else max(0.0, rollout.renewed_at + policy.lease - view.now)
    way = length(policy.steps) + (policy.shadow_for if rollout.phase is Phase.SHADOWING else 0.0)
    return {
        "weight": weight(one, rollout),
        "shadow": policy.shadow_share,
        "contents": one.config.traffic.contents,
        **one.steering.told(view.now),
        "splitters": one.steering.doing(view.now),
        "lease_s": policy.lease,
        "lease_left_s": None if lease is None else round(lease, 1),
        "waiting_for": gate.message if gate is not None and gate.verdict is Verdict.HOLD else "",
        "eta_s": None if place(rollout, policy).pause else round(max(0.0, way - rollout.progress), 1),
    }


def versions(one: Service) -> list[dict[str, Any]]:
    """The versions of a service on disk, lowest first; then what lies beside them by mistake (``version`` null)."""
    view = one.view
    if view is None:
        return []
    rows = []
    for number, folder in sorted(view.folders.items()):
        meta, wrong = one.meta(number, folder.fingerprint)
        state, reason = _state(view, one, number, folder)
        rows.append(
            {
                "service": one.name,
                "version": number,
                "label": meta.label,
                "release": meta.release,
                "state": state,
                "size": folder.size,
                "trained_at": meta.trained_at,
                "metrics": dict(meta.metrics),
                "notes": meta.notes,
                "reason": reason or wrong or "",
            }
        )
    return rows + [_stray(one, f) for f in view.strays]


def _stray(one: Service, folder: Folder) -> dict[str, Any]:
    """What lies beside the versions by mistake, in the shape of a version."""
    return {
        "service": one.name,
        "version": None,
        "label": folder.name,
        "release": None,
        "state": VersionState.REJECTED,
        "size": folder.size,
        "trained_at": None,
        "metrics": {},
        "notes": None,
        "reason": folder.problem or "",
    }


def _state(view: View, one: Service, number: int, folder: Folder) -> tuple[VersionState, str]:
    rollout = view.rollout
    ready = any(number in s.ready() for s in view.live())
    if number == view.alias and any(number in s.serving() for s in view.live()):
        ill = [f"does not answer on server {s}: {sick.reason}" for (s, v), sick in view.sick.items() if v == number]
        record = view.records.get(number)
        found = [str(record.reason)] if record is not None and record.standing is Standing.ADOPTED else []
        return VersionState.SERVING, " ".join(ill or found)
    if rollout is not None and rollout.candidate == number and rollout.phase is not Phase.ROLLING_BACK:
        return VersionState.CANDIDATE, ""
    if rollout is not None and rollout.previous == number and ready:
        return VersionState.STANDBY, "kept for an instant way back"
    if ready:
        return VersionState.LOADED, ""
    if (refusal := view.refused(number)) is not None:
        return VersionState.REJECTED, str(refusal.reason)
    if folder.missing:
        return VersionState.INCOMING, f"lacks {folder.missing[0]}"
    record = view.records.get(number)
    if view.now - folder.quiet_since < one.policy.settle:
        return VersionState.INCOMING, "changed a moment ago"
    if record is not None and record.standing is Standing.WITHDRAWN:
        return VersionState.ON_DISK, str(record.reason)
    if record is None and view.alias is not None and number < view.alias:
        return VersionState.ON_DISK, f"lower than version {view.alias}, which serves: not taken up by itself"
    return VersionState.ON_DISK, ""


def gates_of(one: Rollout, service_of: Service | None) -> list[GateResult]:
    """The rollout's gates in their order; while it is under way also those that are still to be asked."""
    if service_of is not None and one.ended_at is None:
        return service_of.gates_of(one)
    return [one.gates[g] for g in Gate if g in one.gates]


def gate(result: GateResult) -> dict[str, Any]:
    """One gate's verdict with its figures."""
    return {
        "name": result.gate,
        "verdict": result.verdict,
        "observed": result.observed,
        "limit": result.limit,
        "message": result.message,
        "skipped": result.skipped,
        "evidence": dict(result.evidence),
    }


def runs(config: Config, source: Path | None) -> dict[str, Any]:
    """What ``ctl doctor`` judges beside a running control plane; ``configuration`` is null where the defaults hold."""
    return {
        "configuration": None if source is None else str(source.absolute()),
        "repository": str(config.repository.absolute()),
        "state": str(config.state.absolute()),
        "services": [one.name for one in config.services],
        "servers": [
            {
                "name": one.name,
                "grpc": one.grpc,
                "admin_key_file": None if one.admin_key_file is None else str(one.admin_key_file.absolute()),
            }
            for one in config.servers
        ],
    }


def rollout(one: Rollout, services: Mapping[str, Service]) -> dict[str, Any]:
    """One line of ``ctl history``."""
    return {
        **_brief(one),
        "service": one.service,
        "outcome": one.outcome,
        "weight": weight(services[one.service], one) if one.ended_at is None and one.service in services else 0,
        "step": step(services[one.service], one) if one.ended_at is None and one.service in services else None,
        "message": one.message or (str(one.stop.why) if one.stop is not None else ""),
        "ended_at": iso(one.ended_at),
        "duration_s": None if one.ended_at is None else round(one.ended_at - one.started_at, 3),
        "time_to_live_s": None if one.moved_at is None else round(one.moved_at - one.started_at, 3),
        "gates": [gate(g) for g in gates_of(one, services.get(one.service))],
    }


def _brief(one: Rollout) -> dict[str, Any]:
    return {
        "id": one.id,
        "kind": one.kind,
        "candidate": one.candidate,
        "previous": one.previous,
        "label": one.label,
        "release": one.release,
        "phase": one.phase,
        "who": one.who,
        "why": str(one.why),
        "started_at": iso(one.started_at),
    }
