"""From nothing to a version that is live, and back: the pages are followed from three starting points.

    python -m tests.e2e.guides            # with the pages' own settings: minutes as a reader has them
    python -m tests.e2e.guides --quick    # with short limits of time and of evidence, as the tests follow them

It prints for each starting point how many commands the pages ask for, the minutes that they took, the version that was
live, and the one that serves after the rollback. It ends with 1 where a command fails, or prints other things than its
page says.

What differs from a reader's machine:

- Folders such as ``/srv/baton`` and ports are others (``Reader.instead``), so that nothing of this machine is touched.
- The packages of other projects come from the present environment: nothing is downloaded, ``make setup`` finds what it
  made. The wheel of Baton is built, and installed into a new environment.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.network import free_ports
from harness.places import CHECKPOINTS, ENGINE, MODELS, ROOT
from harness.triton import running_triton
from harness.waiting import Failed
from tests.support.guides import STAYS, Reader, Step, section
from tests.support.source import clone
from tests.support.stage import toml

PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002, "console": 9464}
QUICK: Mapping[str, Mapping[str, Any]] = {
    "rollout": {"drain_timeout": "20s", "keep_previous": "10m"},
    "gates": {
        "latency_min_samples": 40, "latency_max_samples": 80, "latency_limit": 50, "warmup_limit": 50,
    },
    "traffic": {
        "steps": [{"weight": 30, "hold": "2s"}, {"weight": 50, "over": "6s"}],
        "shadow_for": "2s", "interval": "1s", "no_traffic_after": "2s",
    },
    "live": {"min_requests": 5, "min_pairs": 5, "latency_limit": 50},
}  # fmt: skip
"""Short limits: the way is the same."""
MANY = 24
"""Requests of a golden set, from which on a quick run takes a part of them."""
STOP = "Ctrl-C"
Part = Sequence[Step] | str


@dataclass
class Place:
    """What a starting point has before the first command."""

    folder: Path
    """Where the reader begins."""
    env: dict[str, str]
    instead: dict[str, str]
    ports: dict[str, int]


@dataclass
class Found:
    """What came of one starting point."""

    name: str
    commands: int = 0
    minutes: float = 0.0
    live: int | None = None
    """The version that was pushed and got all traffic."""
    serves: int | None = None
    """What serves after the rollback of it."""


@dataclass(frozen=True)
class Guide:
    name: str
    parts: Callable[[], Sequence[Part]]
    begin: Callable[[Place], Any]
    """A context manager: makes what is there before the first command."""
    configuration: str
    """The file in which limits are shortened."""
    ctl: str = "ctl"

    def steps(self) -> list[Step]:
        """All that a reader does, also what is not run."""
        return [step for part in self.parts() if not isinstance(part, str) for step in part]


@contextmanager
def by_hand(place: Place) -> Iterator[None]:
    """A Triton that serves the engine, without an alias and without Baton's splitter."""
    with a_clone(place):
        root = place.folder.parent
        models, backends = root / "srv" / "models", root / "given"
        (models / ENGINE).mkdir(parents=True)
        shutil.copy(MODELS / ENGINE / "config.pbtxt", models / ENGINE)
        shutil.copytree(CHECKPOINTS / "base", models / ENGINE / "1")
        shutil.copytree(CHECKPOINTS / "base", root / "srv" / "checkpoints" / "next")
        shutil.copytree(ROOT / "python_backend" / ENGINE, backends / ENGINE)
        with running_triton(root, models, load=[ENGINE], backends=(backends,)) as server:
            place.instead["127.0.0.1:8001"] = server.grpc_url
            place.instead["/opt/tritonserver/backends"] = str(server.backend_directory)
            yield


@contextmanager
def a_clone(place: Place) -> Iterator[None]:
    """The sources alone: in them the wheel is built."""
    clone(place.folder)
    yield


@contextmanager
def a_clone_that_is_set_up(place: Place) -> Iterator[None]:
    """A clone in which `make setup` finds the present environment in place."""
    clone(place.folder)
    (place.folder / ".venv").symlink_to(ROOT / ".venv")
    for name in ("pyproject.toml", "constraints.txt"):
        os.utime(place.folder / name, (0, 0))  # older than .venv/.ready
    place.env["PYTHONPATH"] = str(place.folder / "control")  # the environment's Baton is the one of its own checkout
    yield


GUIDES = (
    Guide(
        "a Triton started by hand",
        lambda: [
            section("how-to/install.md", "1-build-the-package", "2-make-an-environment", "the-control-plane-alone"),
            section("how-to/adopt.md"),
            STOP,
            section("how-to/removal.md"),
        ],
        by_hand,
        "srv/baton/baton.toml",
    ),
    Guide(
        "an empty folder",
        lambda: [*_installed(), STOP],
        a_clone,
        "srv/baton/baton.toml",
    ),
    Guide(
        "a clone",
        lambda: [section("tutorial/first-rollout.md"), STOP],
        a_clone_that_is_set_up,
        "clone/demo/baton.toml",
        ctl=".venv/bin/ctl",
    ),
)


def _installed() -> list[Part]:
    """install.md from its top to its end, without the control plane alone: a reader takes one of its three lines."""
    return [[step for step in section("how-to/install.md") if step.heading != "the-control-plane-alone"]]


@contextmanager
def installed(place: Place) -> Iterator[None]:
    """The present environment as ``/opt/baton``, activated."""
    place.folder.mkdir()
    opt = place.folder.parent / "opt"
    opt.mkdir()
    (opt / "baton").symlink_to(Path(sys.prefix))
    place.env["PATH"] = f"{opt / 'baton' / 'bin'}:{place.env['PATH']}"
    yield


EVERY_DAY = Guide(
    "every day",
    lambda: [
        section("how-to/install.md", "3-begin-in-an-empty-folder"),
        section("how-to/troubleshooting.md"),
        section("how-to/check-machine.md", "ctl-up-all-on-one-machine"),
        section("how-to/golden-set.md", *_golden()),
        STOP,
        section("how-to/golden-set.md", "6-start-the-control-plane-again-1-minute"),
        section("how-to/thresholds.md"),
        section("how-to/upgrade.md"),
        section("how-to/backup-restore.md", "back-up"),
        STOP,
        section("how-to/backup-restore.md", "restore"),
        STOP,
    ],
    installed,
    "srv/baton/baton.toml",
)
"""Pages for who runs Baton already: no starting point, and followed like one."""


def _golden() -> tuple[str, ...]:
    headings = dict.fromkeys(step.heading for step in section("how-to/golden-set.md"))
    return tuple(name for name in headings if not name.startswith("6-"))


@contextmanager
def placed(root: Path) -> Iterator[Place]:
    """Folders of its own, and the packages of the present environment without Baton."""
    folder, packages, tools = root / "clone", root / "packages", root / "bin"
    packages.mkdir()
    for site in {Path(entry) for entry in sys.path if Path(entry).name == "site-packages"}:
        for entry in site.iterdir():
            if not re.match(r"triton_baton|__editable__|.*\.pth$|__pycache__|pip\b", entry.name):
                (packages / entry.name).symlink_to(entry)
    tools.mkdir()
    (tools / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tools / "python3").chmod(0o755)
    (root / "home").mkdir()
    (root / "tmp").mkdir()
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    env = {
        "PATH": f"{tools}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(root / "home"),
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        # Nothing is downloaded.
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        **{f"BATON_{name.upper()}_PORT": str(port) for name, port in ports.items()},
    }
    instead = {f"127.0.0.1:{port}": f"127.0.0.1:{ports[name]}" for name, port in PORTS.items()}
    instead |= {path: f"{root}{path}" for path in ("/srv/", "/opt/baton", "/tmp/broken", "/backups")}
    yield Place(folder, env, instead, ports)


def followed(guide: Guide, root: Path, *, quick: bool) -> Found:
    """Follow a guide in ``root``, an empty folder. Raises ``Failed``."""
    found = Found(guide.name)
    with ExitStack() as stack:
        place = stack.enter_context(placed(root))
        stack.enter_context(guide.begin(place))
        reader = Reader(place.folder, place.env, place.instead)
        configuration = root / guide.configuration

        def before(step: Step) -> None:
            if STAYS.match(step.command) and "status" not in step.command:
                _settle(configuration, place.ports, quick=quick)

        def after(step: Step) -> None:
            if match := re.match(r"python3 -m venv (\S+)", reader.mine(step.command)):
                (site,) = Path(match[1]).glob("lib/python*/site-packages")
                # Before its own: setuptools is there twice.
                (site / "others.pth").write_text(f"import sys; sys.path.insert(-1, {str(root / 'packages')!r})\n")
            if re.search(r"\bctl push\b", step.command) and not any("Error:" in line for line in step.prints):
                found.live = _asked(reader, guide, "status")["services"][0]["candidate"]
            if re.search(r"\bctl rollback\b", step.command):
                row, status = _asked(reader, guide, "history")[0], _asked(reader, guide, "status")["services"][0]
                if (row["candidate"], row["outcome"]) != (found.live, "rolled_back") or row["time_to_live_s"] is None:
                    raise Failed(f"Version {found.live} was not live and rolled back: {row}")
                found.serves = status["stable"]

        reader.before, reader.after = before, after
        stack.enter_context(reader)
        for part in guide.parts():
            if isinstance(part, str):
                reader.stop()
            else:
                reader.follow(part)
        found.commands, found.minutes = reader.commands, reader.seconds / 60
    return found


def _settle(file: Path, ports: Mapping[str, int], *, quick: bool) -> None:
    """Another port for the console, which no variable sets for `ctl serve`; short limits where they are wanted."""
    settings = tomllib.loads(file.read_text())
    settings.setdefault("control", {})["metrics"] = f"127.0.0.1:{ports['console']}"
    if quick:
        for service in settings["services"]:
            for table, values in QUICK.items():
                service.setdefault(table, {}).update(values)
            if golden := service.get("golden"):
                service["golden"] = str(_shorter(file.parent / golden))
    file.write_text(toml(settings))


def _shorter(golden: Path) -> Path:
    """Every fourth request of a golden set, where it has many."""
    lines = golden.read_text().splitlines(keepends=True)
    if len(lines) < MANY:
        return golden
    short = golden.with_suffix(".short")
    short.write_text("".join(lines[::4]))
    return short


def _asked(reader: Reader, guide: Guide, verb: str) -> Any:
    code, printed = reader.type(f"{guide.ctl} --output json {verb}")
    if code != 0:
        raise Failed(f"{guide.ctl} {verb} ended with {code}: {printed}")
    return json.loads(printed)


def table(found: Sequence[Found]) -> str:
    """What came of each, for a person."""
    rows = [("starting point", "commands", "minutes", "live", "after rollback")]
    rows += [(one.name, str(one.commands), f"{one.minutes:.1f}", str(one.live), str(one.serves)) for one in found]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.guides", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="short limits of time and of evidence")
    parser.add_argument("--only", metavar="NAME", choices=[guide.name for guide in GUIDES])
    options = parser.parse_args()
    found, failed = [], []
    for guide in GUIDES:
        if options.only in (None, guide.name):
            with tempfile.TemporaryDirectory(prefix="baton-guides-") as root:
                try:
                    found.append(followed(guide, Path(root), quick=options.quick))
                except Failed as error:
                    failed.append(f"From {guide.name}: {error}")
    sys.stdout.write(table(found) + "\n")
    sys.exit("\n\n".join(failed) or 0)


if __name__ == "__main__":
    main()
