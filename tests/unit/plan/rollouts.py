"""A rollout of version 2 in place of version 1: what tests of single decisions begin with."""

from __future__ import annotations

from baton.domain import Kind, ModelState, ModelVersion, Phase, Release, Rollout
from baton.reasons import Reason, because

READY = ModelVersion(ModelState.READY)
ROLLOUT = Rollout(
    id=1,
    service="ranker",
    kind=Kind.ROLLOUT,
    candidate=2,
    previous=1,
    phase=Phase.SHIFTING,
    who="watcher",
    why=because(Reason.NEW_VERSION),
    release=Release.EQUIVALENT,
    label="2",
    fingerprint="f2",
    started_at=0.0,
    phase_since=50.0,
)
