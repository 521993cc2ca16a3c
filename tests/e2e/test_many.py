"""Twenty rollouts and five rollbacks in a row under traffic: nobody loses a request or meets an unproven version."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from tests.support.stage import Stage, Traffic, expected_score, stage

from baton.app import App
from baton.codec import encode
from baton.domain import GATES_OF, Kind

pytestmark = [pytest.mark.triton, pytest.mark.slow]
ROLLOUTS = 20
ROLLBACK_AFTER = (4, 8, 12, 16, 20)
"""Versions that a person goes back to, when they are unloaded already."""


def test_twenty_rollouts_and_five_rollbacks(tmp_path: Path) -> None:
    seeds: dict[int, int] = {}
    rollbacks = 0
    with stage(tmp_path) as st, st.control(keep_previous="0s") as app:
        seeds[1] = _drop_retrained(st, 1)
        st.wait_live(1)
        with Traffic(st, clients=8, pause_s=0.02) as traffic:
            for version in range(2, ROLLOUTS + 2):
                live = st.status()["stable"]
                seeds[version] = _drop_retrained(st, version)
                st.wait_live(version)
                traffic.wait_answers(version, 5)
                if version - 1 in ROLLBACK_AFTER:
                    app.rollback(None, None, who="tester")
                    st.wait_live(live)
                    traffic.wait_answers(live, 5)
                    rollbacks += 1
        outcomes = app.counts()
        proven = {v: _proven_at(app, v) for v in seeds}
        loads = st.loads()
    assert rollbacks == len(ROLLBACK_AFTER) == 5
    assert outcomes[("ranker", "live")] == ROLLOUTS + rollbacks + 1, outcomes
    assert traffic.errors == []
    assert len(traffic.answers) >= 5 * (ROLLOUTS + rollbacks)
    assert set(traffic.versions) == set(range(1, ROLLOUTS + 2)), "each version served"
    scores = {v: expected_score(seed=seed) for v, seed in seeds.items()}
    apart = sorted(scores.values())
    assert min(b - a for a, b in itertools.pairwise(apart)) > 1e-5, "scores tell the versions apart"
    for answer in traffic.answers:
        assert answer.came >= proven[answer.version], "answered before its gates had passed"
        assert answer.scores[0] == pytest.approx(scores[answer.version], abs=2e-6), "says that it is another version"
        assert answer.response_version == str(answer.version)
    # Each version is loaded once; those to which a person went back after they were unloaded, once more.
    assert loads == {v: 2 if v in ROLLBACK_AFTER else 1 for v in seeds}


def _drop_retrained(st: Stage, version: int) -> int:
    """Each version has weights of its own, so that its scores tell it from all the others."""
    seed = 100 + version
    made = st.make(version, seed=seed)
    (made / "version.toml").write_text('release = "retrained"\n')
    st.place(made, version)
    return seed


def _proven_at(app: App, version: int) -> float:
    """When the last of the version's gates had passed, before it served for the first time."""
    first = min((encode(r) for r in app.history(limit=1000) if r.candidate == version), key=lambda r: r["id"])
    verdicts = [e for e in app.journal.events.newest(rollout=first["id"], limit=1000) if e["kind"] == "verdict"]
    passed = {e["data"]["name"]: e["at"] for e in verdicts if e["data"]["verdict"] == "pass"}
    assert passed.keys() == set(GATES_OF[Kind.ROLLOUT])
    return max(passed.values())
