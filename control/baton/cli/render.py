"""What ``ctl status`` draws, as lines for a given width. Pure: nothing is printed or asked here."""

from __future__ import annotations

from typing import Any

from baton.cli.output import BAD, BOLD, BUSY, DIM, GOOD, WARN, Line, cut, fit, gate_lines, moment

_GOING = ("◌", "Progressing", BUSY)
PHASES: dict[str, tuple[str, str, str]] = {
    "steady": ("✔", "Healthy", GOOD),
    "waiting": ("॥", "Waiting", WARN),
    "rolling_back": ("⚠", "Rolling back", WARN),
    "degraded": ("✖", "Degraded", BAD),
    "empty": ("◌", "Empty", DIM),
}
"""Sign, word and style by phase; every other phase is progressing."""
FREEZABLE = frozenset({"verifying", "loading", "validating", "shadowing", "shifting", "baking"})
_STATES = {
    "serving": ("✔", GOOD),
    "candidate": ("◌", BUSY),
    "incoming": ("◌", BUSY),
    "rejected": ("✖", BAD),
}
_KEY = 12
"""Columns of the names in front of the values."""


def status_lines(status: dict[str, Any], columns: int) -> list[Line]:
    """The whole page: services, servers, and whether automatic steps are frozen."""
    lines: list[Line] = []
    for service in status["services"]:
        lines += [*service_lines(service, columns, paused=status["paused"]), []]
    if not status["services"]:
        lines += [[("No service is configured.", "")], []]
    for index, server in enumerate(status["servers"]):
        lines += _server(server, "Servers:" if index == 0 else "", columns)
    if status["paused"]:
        lines.append([(f"{'Paused:':<{_KEY}}", ""), ("on", WARN), ("  nothing goes on by itself: `ctl resume`", DIM)])
    return lines


def service_lines(service: dict[str, Any], columns: int, *, paused: bool) -> list[Line]:
    """One service."""
    phase = service["phase"]
    sign, word, style = PHASES.get(phase, _GOING)
    if paused and phase in FREEZABLE:
        sign, word, style = "॥", "Paused", WARN
    labels = {v["version"]: v.get("label") for v in service["versions"]}
    rollout = service.get("rollout")
    lines: list[Line] = [
        _pair("Name", [(cut(service["name"], columns - _KEY), BOLD)]),
        _pair("Status", [(f"{sign} {word}", style), (f" ({phase})", DIM)]),
        *_wrapped("Message", service["message"], columns),
        _pair("Engine", [(cut(service["engine"], columns - _KEY), "")]),
        _pair("Stable", [(cut(_named(service["stable"], labels), columns - _KEY), "")]),
    ]
    if service["candidate"] is not None:
        lines.append(_pair("Candidate", [(cut(_named(service["candidate"], labels), columns - _KEY), "")]))
    if rollout is not None:
        step = service["step"]
        lines += [
            _pair("Step", [(f"{step['index']}/{step['count']}", "")]),
            _pair("Weight", [(f"{service['weight']} %", "")]),
            *_wrapped("Rollout", _rollout(rollout), columns),
        ]
    for problem in service.get("problems", []):
        lines += _wrapped("Problem", problem, columns, WARN)
    if service["gates"]:
        lines.append([("Gates:" if rollout is not None else "Gates of the last rollout:", "")])
        for gate in service["gates"]:
            lines += gate_lines(gate, columns)
    if service["versions"]:
        lines.append([("Versions:", "")])
        ordered = sorted(service["versions"], key=lambda v: v["version"], reverse=True)
        for index, version in enumerate(ordered):
            lines += _version(version, columns, last=index == len(ordered) - 1)
    return lines


def _rollout(rollout: dict[str, Any]) -> str:
    parts = [f"{rollout['id']}: {rollout['kind']}"]
    if rollout.get("release") and rollout["kind"] != "rollback":
        parts.append(str(rollout["release"]))
    parts.append(f"by {rollout['who']}, {moment(rollout['started_at'])}")
    text = ", ".join(parts)
    return f"{text}; {rollout['why']}" if rollout.get("why") else text


def _version(version: dict[str, Any], columns: int, *, last: bool) -> list[Line]:
    sign, style = _STATES.get(version["state"], ("·", DIM))
    branch, below = ("└─ ", "   ") if last else ("├─ ", "│  ")
    name = str(version["version"])
    label = "" if version.get("label") in {None, name} else f" {version['label']}"
    head = f"  {branch}"
    text = cut(f"{name}{label}", columns - len(head) - 14)
    lines: list[Line] = [[(head, DIM), (f"{sign} ", style), (f"{text}  ", ""), (version["state"], style)]]
    if version.get("reason"):
        lead = f"  {below}  "
        lines += [[(lead, DIM), (part, DIM)] for part in fit(version["reason"], columns - len(lead))]
    return lines


def _server(server: dict[str, Any], key: str, columns: int) -> list[Line]:
    if not server["live"]:
        sign, text, style = "✖", "no answer", BAD
    elif server["in_sync"]:
        sign, text, style = "✔", "live, in sync", GOOD
    else:
        sign, text, style = "⚠", "live, not in sync", WARN
    name = cut(f"{server['name']} ({server['grpc']})", columns - _KEY - len(text) - 4)
    lines: list[Line] = [[(f"{key:<{_KEY}}", ""), (f"{sign} ", style), (f"{name}  ", ""), (text, style)]]
    if server.get("message"):
        lead = " " * (_KEY + 2)
        lines += [[(lead, ""), (part, DIM)] for part in fit(server["message"], columns - len(lead))]
    return lines


def _named(version: int | None, labels: dict[int, str | None]) -> str:
    if version is None:
        return "none"
    label = labels.get(version)
    return str(version) if label in {None, str(version)} else f"{version} ({label})"


def _pair(key: str, value: Line) -> Line:
    return [(f"{key + ':':<{_KEY}}", ""), *value]


def _wrapped(key: str, text: str, columns: int, style: str = "") -> list[Line]:
    first, *rest = fit(text, columns - _KEY) or [""]
    return [_pair(key, [(first, style)]), *([(" " * _KEY, ""), (part, style)] for part in rest)]
