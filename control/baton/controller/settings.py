"""What the plan and the judge of live traffic take from a service's configuration, which alone has the defaults."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

from baton.config import ServiceConfig
from baton.judge.limits import LiveLimits, widened
from baton.plan import RolloutSettings

T = TypeVar("T")


def rollout_settings(config: ServiceConfig) -> RolloutSettings:
    """The settings of the plan."""
    return _of(
        RolloutSettings,
        (config.rollout, config.traffic, config.gates),
        automatic=config.rollout.promotion == "automatic",
        supersede=config.rollout.on_newer == "supersede",
        resume=config.traffic.on_lapse == "resume",
    )


def live_limits(config: ServiceConfig, noise: float | None = None) -> LiveLimits:
    """The limits of the gate ``live``. ``noise``: how far a version's own scores move in half precision."""
    tolerance = widened(config.gates.output_tolerance, noise, config.live.noise)
    return _of(LiveLimits, (config.live,), tolerance=tolerance)


def _of(kind: type[T], tables: tuple[Any, ...], **derived: Any) -> T:
    """``kind`` with the values of the keys that have its fields' names, and with what is ``derived``."""
    values = {one.name: getattr(table, one.name) for table in tables for one in fields(table)} | derived
    return kind(**{one.name: values[one.name] for one in fields(kind)})  # type: ignore[arg-type]
