"""Old versions leave the disk after each rollout, on a real Triton under traffic, and nobody notices."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.waiting import until
from tests.support.stage import Traffic, stage

from baton.beside import folder_beside
from baton.domain import Outcome
from baton.errors import Refused
from baton.reasons import Reason

pytestmark = [pytest.mark.triton, pytest.mark.slow]


def test_four_versions_with_one_kept(tmp_path: Path) -> None:
    with stage(tmp_path) as st, st.control(keep_previous="0s", keep_versions=1) as app:
        engine = st.engine_dir()

        def on_disk() -> set[int]:
            return {int(p.name) for p in engine.iterdir() if p.name.isdigit()}

        def rests() -> bool:
            return not app.prune(None, dry_run=True).under_way and app.status().services[0].rollout is None

        st.drop(1)
        st.wait_live(1)
        with Traffic(st) as traffic:
            for version in (2, 3, 4):
                st.drop_copy(version - 1, version)
                st.wait_live(version)
                traffic.wait_answers(version, 5)
            until(rests, "what is old is gone")
            assert on_disk() == {2, 3, 4}, "4 serves, a rollback goes to 3, and one more is kept"
            found = app.prune(None, keep=0, dry_run=True)
            assert {v.version: v.code for v in found.versions if not v.goes} == {
                3: Reason.STAYS_WAY_BACK,
                4: Reason.SERVES,
            }
            app.prune(None, keep=0, who="tester")
            until(rests, "version 2 is gone")
            assert on_disk() == {3, 4}
            with pytest.raises(Refused) as told:
                app.rollback(None, 2, who="tester")
            app.rollback(None, None, who="tester")
            st.wait_live(3)
            traffic.wait_answers(3, 5)
            st.drop_copy(3, 5)
            st.wait_live(5)
            traffic.wait_answers(5, 20)
        loads, history = st.loads(), app.history()
        removed = [e for e in app.journal.events.newest(service="ranker", limit=1000) if e["kind"] == "prune"]
    assert told.value.reason is Reason.WAS_PRUNED
    assert traffic.errors == []
    assert len(traffic.answers) > 25
    assert loads == {1: 1, 2: 1, 3: 2, 4: 1, 5: 1}, "removing a folder makes Triton load nothing again"
    assert [(e["data"]["version"], e["who"]) for e in removed[:2]] == [(1, "baton"), (2, "tester")]
    assert {r.candidate for r in history if r.removed_at is not None} >= {1, 2}
    assert {r.outcome for r in history} == {Outcome.LIVE}
    assert not list((folder_beside(st.repository.resolve()) / engine.name).iterdir())
