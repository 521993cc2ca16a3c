"""What ``ctl status`` draws, as lines for a given width. Pure: nothing is printed or asked here."""

from __future__ import annotations

from collections.abc import Sequence

from baton.cli.output import (
    BAD,
    BOLD,
    BUSY,
    DIM,
    GOOD,
    VERDICT_SIGNS,
    WARN,
    Line,
    cut,
    duration,
    fit,
    gate_lines,
    moment,
    percent,
    size,
)
from baton.domain import GateResult, Kind, Phase, Verdict, VersionState
from baton.facts import (
    RolloutHead,
    ServerStatus,
    ServiceStatus,
    SplitterStatus,
    Status,
    TrafficStatus,
    VersionStatus,
)
from baton.reasons import named

_GOING = ("◌", "Progressing", BUSY)
PHASES: dict[Phase, tuple[str, str, str]] = {
    Phase.STEADY: ("✔", "Healthy", GOOD),
    Phase.WAITING: ("॥", "Paused", WARN),
    Phase.ROLLING_BACK: ("⚠", "Rolling back", WARN),
    Phase.DEGRADED: ("✖", "Degraded", BAD),
    Phase.EMPTY: ("◌", "Empty", DIM),
}
"""Sign, word and style by phase; every other phase is progressing."""
FREEZABLE = frozenset({Phase.VERIFYING, Phase.LOADING, Phase.VALIDATING, Phase.SHADOWING, Phase.SHIFTING, Phase.BAKING})
AHEAD = FREEZABLE - {Phase.BAKING} | {Phase.WAITING}
"""Phases with traffic steps still to come."""
_STATES = {
    VersionState.SERVING: ("✔", GOOD),
    VersionState.CANDIDATE: ("◌", BUSY),
    VersionState.INCOMING: ("◌", BUSY),
    VersionState.REJECTED: ("✖", BAD),
}
_IDLE = frozenset({VersionState.ON_DISK, VersionState.REJECTED})
_KEY = 14
"""Columns of the names in front of the values."""
_NAME = 12
"""Columns that a version's number and label get at least before its memory moves to a line of its own."""


def status_lines(status: Status, columns: int, rows: int | None = None) -> list[Line]:
    """The whole page: services, servers, and whether automatic steps are frozen.

    A page of more than ``rows`` lines is drawn shorter: passed gates share a line, versions that are not loaded are
    counted, and what still does not fit is cut off at the end, which the last line says.
    """
    lines = _page(status, columns, brief=False)
    if rows is None or len(lines) <= rows:
        return lines
    lines = _page(status, columns, brief=True)
    if len(lines) <= rows:
        return lines
    kept = max(rows - 1, 0)
    return [*lines[:kept], [(f"… {len(lines) - kept} more lines: make the window taller", DIM)]]


def _page(status: Status, columns: int, *, brief: bool) -> list[Line]:
    lines: list[Line] = []
    for service in status.services:
        lines += [*service_lines(service, columns, paused=status.paused, brief=brief), []]
    if not status.services:
        lines += [[("No service is configured.", "")], []]
    for index, server in enumerate(status.servers):
        lines += _server(server, "Servers:" if index == 0 else "", columns)
    if status.paused:
        value = [("on", WARN), ("  nothing goes on by itself: `ctl resume`", DIM)]
        lines += _fitted("Paused", value, columns)
    return lines


def service_lines(service: ServiceStatus, columns: int, *, paused: bool, brief: bool = False) -> list[Line]:
    """One service. ``brief``: gates that passed share a line, versions that are not loaded are counted."""
    labels = {v.version: v.label for v in service.versions}
    rollout = service.rollout
    lines: list[Line] = [
        _pair("Name", [(cut(service.name, columns - _KEY), BOLD)]),
        *_status(service, columns, paused=paused),
        *_wrapped("Message", service.message, columns),
        _pair("Engine", [(cut(service.engine, columns - _KEY), "")]),
        _pair("Stable", [(cut(_named(service.stable, labels), columns - _KEY), "")]),
    ]
    if service.candidate is not None:
        lines.append(_pair("Candidate", [(cut(_named(service.candidate, labels), columns - _KEY), "")]))
    if rollout is not None:
        if rollout.kind is not Kind.CHECK:
            lines += _traffic_steps(service, columns, stepwise=rollout.kind is Kind.ROLLOUT)
        lines += _wrapped("Rollout", _rollout(rollout), columns)
    if service.removed:
        freed = sum(one.bytes for one in service.removed)
        gone = named(one.version for one in service.removed)
        lines += _wrapped("Retention", f"Removed {gone} from disk, which freed {size(freed)}.", columns)
    for problem in service.problems:
        lines += _wrapped("Problem", problem, columns, WARN)
    if service.gates:
        lines.append([("Gates:" if rollout is not None else "Gates of the last rollout:", "")])
        lines += _gates(service.gates, columns, awaited=service.candidate is not None, brief=brief)
    if service.versions:
        lines.append([("Versions:", "")])
        lines += _versions(service, columns, brief=brief)
    return lines


def _status(service: ServiceStatus, columns: int, *, paused: bool) -> list[Line]:
    phase = service.phase
    sign, word, style = PHASES.get(phase, _GOING)
    if paused and phase in FREEZABLE:
        sign, word, style = "॥", "Paused", WARN
    elif phase is Phase.STEADY and any(_grows(v) for v in service.versions):
        sign, word, style = "⚠", "Memory grows", WARN
    return _fitted("Status", [(f"{sign} {word}", style), (f" ({phase})", DIM)], columns)


def _traffic_steps(service: ServiceStatus, columns: int, *, stepwise: bool) -> list[Line]:
    """How far traffic has come, and what it waits for. A way back has no steps ahead: it goes at once."""
    step, traffic = service.step, service.traffic
    name, left = step.name, step.left_s
    now = f"{step.index}/{step.count}"
    if name:
        now += f"  {name}"
    if left is not None and round(left) > 0:
        now += f", {duration(round(left))} left"
    lines = _wrapped("Step", now, columns)
    steps = service.steps
    if stepwise and service.phase in AHEAD:
        # A shadow comes before the steps that are counted.
        begun = step.index or service.phase is Phase.SHADOWING
        ahead = steps[max(len(steps) - step.count + step.index, 0) :] if begun else steps
        if ahead:
            lines += _wrapped("Next", ", ".join(ahead), columns, DIM)
    lines.append(_pair("SetWeight", [(percent(service.weight), "")]))
    if traffic is not None:
        lines += _traffic(traffic, columns)
    return lines


def _traffic(traffic: TrafficStatus, columns: int) -> list[Line]:
    asked = traffic.requests
    total = asked.stable + asked.candidate
    observed = "not known yet" if traffic.observed is None else percent(traffic.observed)
    lines = _fitted("ActualWeight", [(observed, ""), (f"  {asked.candidate} of {total} requests so far", DIM)], columns)
    if traffic.shadow:
        share: Line = [(percent(traffic.shadow), ""), (f"  {traffic.shadowed} requests so far", DIM)]
        lines += _fitted("Shadow", share, columns)
    for one in traffic.splitters:
        lines += _wrapped("Splitter", _splitter(one), columns)
    if traffic.waiting_for:
        lines += _wrapped("Held", traffic.waiting_for, columns, WARN)
    if traffic.eta_s is not None:
        lines += _wrapped("Live in", f"about {duration(round(traffic.eta_s))}, if nothing holds it", columns)
    if traffic.breaker != "closed":
        text = f"{traffic.breaker.replace('_', ' ')}: the stable version answers for the candidate"
        lines += _wrapped("Breaker", text, columns, BAD)
    if lapsing(traffic):
        left = duration(max(round(traffic.lease_left_s or 0.0), 0))
        text = f"{left} left of {duration(traffic.lease_s)}; then the stable version gets all traffic"
        lines += _wrapped("Lease", text, columns, WARN)
    return lines


def _splitter(one: SplitterStatus) -> str:
    """What a server's splitter does, by its own word."""
    if one.candidate is None:
        return f"{one.server}: follows no route, the stable version alone answers"
    kept = "contents" if one.contents else "no contents"
    left = duration(round(one.lease_left_s))
    shares = f"{percent(one.weight)} to version {one.candidate}, {percent(one.shadow)} mirrored"
    return f"{one.server}: {shares}, {kept}, lease {left}"


def lapsing(traffic: TrafficStatus) -> bool:
    """True when no splitter has answered for most of a lease: soon all traffic goes to the stable version."""
    return traffic.lease_left_s is not None and traffic.lease_left_s < traffic.lease_s / 3


def _rollout(rollout: RolloutHead) -> str:
    parts = [f"{rollout.id}: {rollout.kind}"]
    if rollout.kind is not Kind.ROLLBACK:
        parts.append(rollout.release)
    parts.append(f"by {rollout.who}, {moment(rollout.started_at)}")
    text = ", ".join(parts)
    return f"{text}; {rollout.why}" if rollout.why else text


def _gates(gates: Sequence[GateResult], columns: int, *, awaited: bool, brief: bool) -> list[Line]:
    shared = [g.gate for g in gates if brief and g.verdict is Verdict.PASS]
    lines: list[Line] = []
    if shared:
        sign, style = VERDICT_SIGNS[Verdict.PASS]
        first, *rest = fit(", ".join(shared), columns - 4)
        lines += [[("  ", ""), (f"{sign} ", style), (first, "")], *([("    ", ""), (part, "")] for part in rest)]
    for gate in gates:
        if gate.gate not in shared:
            lines += gate_lines(gate, columns, awaited=awaited)
    return lines


def _versions(service: ServiceStatus, columns: int, *, brief: bool) -> list[Line]:
    """A tree, newest first, with the share of traffic, the memory and the device of each version in columns."""
    every = sorted(service.versions, key=lambda v: v.version, reverse=True)
    versions = [v for v in every if not brief or v.state not in _IDLE]
    if len(versions) < len(every):
        rest = f"{len(every) - len(versions)} on disk only: `ctl versions`"
        return [*(_tree(service, versions, columns) if versions else []), [("  ", ""), (rest, DIM)]]
    return _tree(service, versions, columns)


def _tree(service: ServiceStatus, versions: Sequence[VersionStatus], columns: int) -> list[Line]:
    names = [_named(v.version, {v.version: v.label}, "{} {}") for v in versions]
    states = [v.state for v in versions]
    shares = [_share(service, v.version) for v in versions]
    memories = _beside(versions)
    beside = 7 + sum(2 + w for w in (max(map(len, cells)) for cells in (states, shares)) if w)
    memory = max(map(len, memories))
    inline = not memory or columns - beside - memory - 2 >= min(max(map(len, names)), _NAME)
    if memory and inline:
        beside += memory + 2
    widths = [min(max(map(len, names)), max(columns - beside, 4)), max(map(len, states)), max(map(len, shares)), memory]
    lines: list[Line] = []
    for index, version in enumerate(versions):
        sign, style = _STATES.get(version.state, ("·", DIM))
        branch, below = ("└─ ", "   ") if index == len(versions) - 1 else ("├─ ", "│  ")
        alarm = WARN if _grows(version) or _lowered(version) else ""
        line: Line = [(f"  {branch}", DIM), (f"{sign} ", style), (cut(names[index], widths[0]).ljust(widths[0]), "")]
        line.append((f"  {states[index]:<{widths[1]}}", style))
        if widths[2]:
            line.append((f"  {shares[index]:>{widths[2]}}", ""))
        if memories[index] and inline:
            line.append((f"  {memories[index]:<{memory}}", alarm))
        lines.append(line)
        lead = f"  {below}  "
        if memories[index] and not inline:
            lines += [[(lead, DIM), (part, alarm or DIM)] for part in fit(memories[index].strip(), columns - len(lead))]
        if version.reason:
            lines += [[(lead, DIM), (part, DIM)] for part in fit(version.reason, columns - len(lead))]
    return lines


def _share(service: ServiceStatus, version: int) -> str:
    """A version's share of traffic, while there are two that could have some."""
    if service.candidate is None:
        return ""
    if version == service.candidate:
        return percent(service.weight)
    return percent(100 - service.weight) if version == service.stable else ""


def _beside(versions: Sequence[VersionStatus]) -> list[str]:
    """Of each version what it takes and what it runs in, the latter in a column of its own."""
    memories = [_memory(v) for v in versions]
    wide = max(map(len, memories))
    cells = []
    for version, memory in zip(versions, memories, strict=True):
        runs = " ".join(filter(None, (version.dtype, version.device)))
        if _lowered(version):
            runs = f"{runs} ⚠".strip()
        cells.append(f"{memory:<{wide}}  {runs}" if wide and runs else memory or runs)
    return cells


def _lowered(version: VersionStatus) -> bool:
    """Whether it runs in less than was asked for; then a problem tells what to do."""
    return version.fallback not in (None, "none")


def _memory(version: VersionStatus) -> str:
    memory = version.memory
    if memory is None:
        return ""
    growth = "" if memory.growth is None else f" {100 * memory.growth:+.1f} %"
    return f"{size(memory.bytes)}{growth}{' ⚠' if _grows(version) else ''}"


def _grows(version: VersionStatus) -> bool:
    memory = version.memory
    return memory is not None and memory.verdict is Verdict.FAIL


def _server(server: ServerStatus, key: str, columns: int) -> list[Line]:
    if not server.live:
        sign, text, style = "✖", "no answer", BAD
    elif server.in_sync:
        sign, text, style = "✔", "live, in sync", GOOD
    else:
        sign, text, style = "⚠", "live, not in sync", WARN
    room = columns - _KEY - len(text) - 4
    whole = f"{server.name} ({server.grpc})"
    name = whole if len(whole) <= room else cut(server.name, room)
    lines: list[Line] = [[(f"{key:<{_KEY}}", ""), (f"{sign} ", style), (f"{name}  ", ""), (text, style)]]
    if server.message:
        lead = " " * (_KEY + 2)
        lines += [[(lead, ""), (part, DIM)] for part in fit(server.message, columns - len(lead))]
    return lines


def _named(version: int | None, labels: dict[int, str], form: str = "{} ({})") -> str:
    if version is None:
        return "none"
    label = labels.get(version)
    return str(version) if label in {None, str(version)} else form.format(version, label)


def _pair(key: str, value: Line) -> Line:
    return [(f"{key + ':':<{_KEY}}", ""), *value]


def _wrapped(key: str, text: str, columns: int, style: str = "") -> list[Line]:
    first, *rest = fit(text, columns - _KEY) or [""]
    return [_pair(key, [(first, style)]), *([(" " * _KEY, ""), (part, style)] for part in rest)]


def _fitted(key: str, value: Line, columns: int) -> list[Line]:
    """Value and remark on one line if they fit, else the remark below."""
    line = _pair(key, value)
    if sum(len(text) for text, _ in line) <= columns:
        return [line]
    head, (remark, style) = value[:-1], value[-1]
    return [_pair(key, head), *([(" " * _KEY, ""), (part, style)] for part in fit(remark.strip(), columns - _KEY))]
