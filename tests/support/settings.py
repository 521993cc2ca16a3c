"""Settings for tests: the defaults of the configuration, but for what a test changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from baton.config import ServiceConfig
from baton.controller import settings
from baton.judge.shapes import LiveLimits
from baton.plan import RolloutSettings

CONFIG = ServiceConfig("ranker", "engine")


def rollout_settings(**changed: Any) -> RolloutSettings:
    """Without traffic steps and shadow, unless a test asks for them."""
    return replace(
        settings.rollout_settings(CONFIG), **{"steps": (), "shadow_share": 0.0, "shadow_for": 0.0, **changed}
    )


def live_limits(**changed: Any) -> LiveLimits:
    """The limits of the gate ``live``."""
    return replace(settings.live_limits(CONFIG), **changed)
