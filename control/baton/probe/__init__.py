"""Probes: the requests that a loaded version gets, by its exact version number, before it gets any traffic.

A probe is a module of this package that has a ``PROBE``; the configuration names it. A service of another kind gets
its own module, and nothing else has to change. ``docs/reference/testing.md`` says how to test one
without a server. Not covered: what the answers mean (``baton.judge``).
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from baton.errors import ConfigError
from baton.probe.base import Cancelled as Cancelled, Infer as Infer, MakeProbe, Probe as Probe
from baton.probe.builtin import NoRequest as NoRequest, ask_builtin as ask_builtin
from baton.probe.golden import GoldenCase as GoldenCase, GoldenSet as GoldenSet, load_golden as load_golden
from baton.probe.timing import measure_latency as measure_latency, measure_warmup as measure_warmup
from baton.samples import (
    CaseScores as CaseScores,
    LatencySamples as LatencySamples,
    ScorePair as ScorePair,
    WarmupSamples as WarmupSamples,
)


def names() -> list[str]:
    """List the probes that there are."""
    modules = [module.name for module in pkgutil.iter_modules(__path__)]
    return [name for name in sorted(modules) if hasattr(import_module(f"{__name__}.{name}"), "PROBE")]


def builtin(name: str) -> Probe | None:
    """Return the named probe with the requests that it brings itself; None where it brings none.

    Raises :class:`~baton.errors.ConfigError` when unknown.
    """
    make = get(name)
    golden: GoldenSet | None = getattr(import_module(f"{__name__}.{name}"), "BUILTIN", None)
    return None if golden is None else make(golden)


def get(name: str) -> MakeProbe:
    """Return what makes the named probe of a golden set. Raises :class:`~baton.errors.ConfigError` when unknown."""
    known = names()
    if name not in known:
        raise ConfigError(f"There is no probe {name!r}.", mend=f"Known are: {', '.join(known)}.")
    make: MakeProbe = import_module(f"{__name__}.{name}").PROBE
    return make
