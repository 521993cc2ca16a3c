"""The machine of the control plane: Python, ports, the state directory, the repository and the servers it reaches.

Clocks are not compared: leases and waits are counted on one machine's clock each, and times of files are corrected for
those of other machines where they matter.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from baton.doctor import files, models, servers
from baton.doctor.finding import Finding, Setup, bad, good
from baton.errors import BatonError
from baton.local.ports import open_port

MINIMUM_PYTHON = (3, 11)
DISTRIBUTION = "triton-baton"
_OTHER_PORT = {
    "console": "Stop it, or name another port: `metrics` in [control], or `ctl up --console-port`.",
    "api": "Stop it, or name another port: `listen` in [control.api].",
}
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:\[[^]]*\])?\s*(?:>=\s*(?P<least>[\d.]+))?")


def findings(setup: Setup, key_file: Path) -> Iterator[Finding]:
    """All that is found. ``key_file``: where the key of `ctl up`'s Triton lies."""
    yield python()
    yield packages()
    yield from ports(setup.ports or {})
    yield from files.repository_and_state(setup.config)
    yield from models.engines(setup)
    yield from servers.reached(setup, key_file)


def python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info[:2] >= MINIMUM_PYTHON:
        return good("Python", f"{version} at {sys.executable}")
    wanted = ".".join(str(part) for part in MINIMUM_PYTHON)
    return bad("Python", f"{version} is too old", f"Use Python {wanted} or newer.")


def packages(distribution: str = DISTRIBUTION) -> Finding:
    """Whether what Baton itself requires is installed beside it, in versions that are new enough."""
    name = "packages"
    try:
        required = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return good(name, "Baton runs from a folder, and imported what it needs")
    wrong = []
    for line in required:
        found = _REQUIREMENT.match(line)
        if found is None or "extra ==" in line:
            continue
        try:
            version = importlib.metadata.version(found["name"])
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{found['name']} is not there")
            continue
        if found["least"] and _numbers(version) < _numbers(found["least"]):
            wrong.append(f"{found['name']} {version} is older than {found['least']}")
    if wrong:
        message = f"{'; '.join(wrong)}: the control plane may fail at any time"
        return bad(name, message, f"{sys.executable} -m pip install --upgrade {distribution}")
    return good(name, "what Baton needs is there, and new enough")


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def ports(wanted: Mapping[str, int], host: str = "127.0.0.1") -> Iterator[Finding]:
    for name, number in wanted.items():
        if not number:
            continue
        try:
            open_port(host, name, number).close()
        except BatonError as error:
            yield bad(f"port {name}", error.message, _OTHER_PORT.get(name, f"Stop it, or pass another --{name}-port."))
        else:
            yield good(f"port {name}", f"{number} is free")
