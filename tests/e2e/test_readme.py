"""README's three commands with nobody asking: `ctl up`, push, rollback, each to its end, on the demo's models.

The limits of time and of evidence are shorter than the demo's own; the way is the same.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.places import CHECKPOINTS, GOLDEN
from harness.rig import Rig

pytestmark = [pytest.mark.triton, pytest.mark.slow]
CONFIGURATION = f"""
[[servers]]
name = "local"
grpc = "127.0.0.1:8001"

[[services]]
name = "reranker"
engine = "qwen3_vl_reranker"
probe = "reranker"
golden = "{GOLDEN}"

[services.rollout]
drain_timeout = "20s"

[services.gates]
latency_min_samples = 40
latency_max_samples = 80
latency_limit = 50
warmup_limit = 50

[services.traffic]
steps = [{{ weight = 5, hold = "1s" }}]
shadow_for = "1s"
interval = "1s"
no_traffic_after = "2s"

[services.live]
min_requests = 5
min_pairs = 5
latency_limit = 50
"""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    (tmp_path / "baton.toml").write_text(CONFIGURATION)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with Rig(tmp_path / "home", tmp_path / "baton.toml") as made:
            yield made
    finally:
        signal.signal(signal.SIGTERM, before)


def test_push_and_rollback_without_a_client(rig: Rig) -> None:
    code, first = rig.ctl("push", str(CHECKPOINTS / "base"), "--repository", str(rig.repository))
    assert (code, first["outcome"] or first["phase"]) in {(0, "live"), (0, "retiring"), (0, "baking")}
    rig.rest()
    code, pushed = rig.ctl("push", str(CHECKPOINTS / "retrained"), "--release", "retrained")
    assert code == 0
    assert pushed["moved"]
    live = next(g for g in pushed["gates"] if g["name"] == "live")
    assert live["verdict"] == "pass"
    count = live["evidence"]["synthetic"]
    assert count >= 10
    assert f" {count} golden requests" in live["message"]
    shown = rig.service()
    assert (shown["stable"], shown["candidate"]) == (1, 2)
    assert shown["phase"] == "baking"
    code, back = rig.ctl("rollback")
    assert (code, back["outcome"]) == (0, "rolled_back")
    rig.rest()
    assert rig.service()["stable"] == 1
