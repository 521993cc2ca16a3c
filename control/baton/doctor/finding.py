"""What one check found, and how ``ctl doctor --fix`` mends it where that is safe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from baton.config import Config
from baton.errors import BatonError
from baton.facts import Diagnosis, Role

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Fix:
    """What ``--fix`` may do: nothing that has Triton load a version, or that a running Baton would do otherwise."""

    what: str
    """A sentence that asks for it, such as ``Make the directory /srv/state``."""
    act: Callable[[], None]
    """Raises ``BatonError`` or ``OSError`` where it can't be done."""
    beside_baton: bool = False
    """Whether it is safe while a control plane runs."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. ``mend`` says what to do; what is well or was skipped has none."""

    name: str
    verdict: Literal["ok", "warn", "fail", "skipped"]
    message: str
    mend: str | None = None
    fix: Fix | None = None

    @property
    def ok(self) -> bool | None:
        """True, False, or None for what works with a limit, or was not looked at."""
        return {"ok": True, "fail": False}.get(self.verdict)

    def diagnosis(self, role: Role, *, fixed: bool = False) -> Diagnosis:
        """What is told of it."""
        told = {"verdict": self.verdict, "ok": self.ok, "message": self.message, "mend": self.mend}
        return Diagnosis(role=role, name=self.name, fixable=self.fix is not None, fixed=fixed, **told)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Setup:
    """What is to be looked at."""

    config: Config
    runs: bool = False
    """Whether a control plane runs for the state directory."""
    starts: bool = True
    """Whether Baton starts the Triton of this machine, or may: `ctl up`."""
    ports: Mapping[str, int] | None = None
    """The ports that Baton would open, by name; None while it runs."""
    backends: tuple[Path, ...] = ()
    """Directories of python-based backends for the Triton that Baton starts."""


def good(name: str, message: str, *, fix: Fix | None = None) -> Finding:
    return Finding(name, "ok", message, fix=fix)


def limited(name: str, message: str, mend: str, *, fix: Fix | None = None) -> Finding:
    return Finding(name, "warn", message, mend, fix)


def bad(name: str, message: str, mend: str | None, *, fix: Fix | None = None) -> Finding:
    return Finding(name, "fail", message, mend, fix)


def skipped(name: str, message: str) -> Finding:
    """``message`` says why."""
    return Finding(name, "skipped", message)


def failed(name: str, error: BatonError, otherwise: str) -> Finding:
    """``otherwise``: what to do where the error does not say it."""
    return bad(name, error.message, error.mend or otherwise)


def enough(name: str, free: int, minimum: int, mend: str) -> Finding:
    """Whether so many bytes are free."""
    message = f"{free / GIB:.1f} GiB free"
    if free >= minimum:
        return good(name, message)
    return bad(name, f"{message}, less than {minimum / GIB:.2g} GiB", mend)


def existing(path: Path) -> Path:
    """``path``, or the nearest directory above it that is there."""
    place = path.absolute()
    while not place.is_dir():
        place = place.parent
    return place
