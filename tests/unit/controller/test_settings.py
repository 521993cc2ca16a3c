"""A default stands in the configuration, and nowhere below it."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from typing import get_type_hints

import pytest

from baton.config import ServiceConfig
from baton.controller.settings import live_limits, rollout_settings
from baton.judge.limits import LiveLimits
from baton.plan import RolloutSettings

CONFIG = ServiceConfig("ranker", "engine")


@pytest.mark.parametrize("kind", [RolloutSettings, LiveLimits])
def test_no_setting_below_the_configuration_has_a_default(kind):
    assert [f.name for f in fields(kind) if f.default is not MISSING or f.default_factory is not MISSING] == []


@pytest.mark.parametrize(
    ("kind", "tables"), [(RolloutSettings, ("rollout", "traffic", "gates")), (LiveLimits, ("live",))]
)
def test_a_setting_has_the_type_of_the_key_by_its_name(kind, tables):
    keys = {}
    for table in tables:
        keys |= get_type_hints(type(getattr(CONFIG, table)))
    derived = {"automatic", "supersede", "resume", "tolerance"}
    assert {n: t for n, t in get_type_hints(kind).items() if n not in derived} == {
        f.name: keys[f.name] for f in fields(kind) if f.name not in derived
    }


def test_settings_follow_the_configuration():
    changed = replace(
        CONFIG,
        rollout=replace(CONFIG.rollout, promotion="manual", on_newer="supersede", keep_previous=7.0),
        traffic=replace(CONFIG.traffic, on_lapse="rollback", lease=9.0),
        gates=replace(CONFIG.gates, hold_attempts=2, output_tolerance=0.5, latency_limit=1.25),
        live=replace(CONFIG.live, min_requests=3),
    )
    before, after = rollout_settings(CONFIG), rollout_settings(changed)
    told = {"automatic", "supersede", "resume", "keep_previous", "lease", "hold_attempts"}
    assert (before.automatic, before.supersede, before.resume) == (True, False, True)
    assert {n: getattr(after, n) for n in told} == {
        "automatic": False, "supersede": True, "resume": False, "keep_previous": 7.0, "lease": 9.0, "hold_attempts": 2,
    }  # fmt: skip
    limits = live_limits(changed)
    assert (limits.min_requests, limits.tolerance) == (3, 0.5)
    assert limits.latency_limit == CONFIG.live.latency_limit, "and not that of the gate latency"
