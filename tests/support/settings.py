"""Settings and judges for tests: with the defaults of the configuration, but for what a test changes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from baton import judge
from baton.config import ServiceConfig
from baton.controller import settings
from baton.judge.limits import LiveLimits
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


GATES = CONFIG.gates
judge_latency = partial(judge.judge_latency, limit=GATES.latency_limit, min_samples=GATES.latency_min_samples)
judge_warmup = partial(judge.judge_warmup, limit=GATES.warmup_limit)
judge_output = partial(judge.judge_output, tolerance=GATES.output_tolerance, ndcg_margin=GATES.ndcg_margin)
judge_invariance = partial(judge.judge_invariance, limit=GATES.invariance_limit)
judge_memory = partial(judge.judge_memory, limit=GATES.memory_limit, window_s=GATES.memory_window)
