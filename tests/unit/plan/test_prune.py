"""Which version folders go, which stay and why, and when; as the pure plan decides it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.settings import rollout_settings
from tests.unit.plan.rollouts import READY, ROLLOUT

from baton.domain import Folder, Model, ModelState, ModelVersion, Pruning, ReleaseStatus, VersionRecord
from baton.plan import EndPruning, Prune, ServerView, Sync, View, plan
from baton.plan.prune import after, needed, noted, surplus, way_back
from baton.reasons import Reason, because

SETTINGS = rollout_settings(settle=2.0)
KEEP_1 = rollout_settings(settle=2.0, keep_versions=1)


def record(version: int, status: ReleaseStatus = ReleaseStatus.RELEASED) -> VersionRecord:
    return VersionRecord(version, status, because(Reason.SERVES, version=version), f"f{version}", loaded=True, at=0.0)


def view(alias: int | None = 6, *versions: int) -> View:
    """Versions 1 to 6 are on disk, 6 serves."""
    versions = versions or tuple(range(1, 7))
    leads = {} if alias is None else {alias: READY}
    return View(
        "ranker",
        now=60.0,
        version_policy=frozenset({alias} if alias else ()),
        alias=alias,
        servers=(
            ServerView("a", live=True, engine=leads, alias=leads),
            ServerView("b", live=True, engine=leads, alias=leads),
        ),
        folders={v: Folder(str(v), v, f"f{v}", own_size=v) for v in versions},
        records={v: record(v) for v in versions},
        loaded={v: f"f{v}" for v in versions},
    )


def doomed(seen: View, *versions: int, who: str | None = None, back: int | None = 5) -> View:
    return replace(seen, pruning=Pruning(versions, 1, who), way_back=back)


@pytest.mark.parametrize(("keep", "goes"), [(0, (1, 2, 3, 4)), (1, (1, 2, 3)), (3, (1,)), (4, ()), (9, ())])
def test_the_oldest_go_and_so_many_stay_beside_what_serves_and_the_way_back(keep, goes):
    assert surplus(view(), keep, SETTINGS, 5) == goes


def test_what_is_needed_does_not_count_as_kept():
    seen = view()
    assert surplus(seen, 1, SETTINGS, 2) == (1, 3, 4), "2 is the way back, 5 the newest of the others"


def holding(version: int, state: ModelState) -> ServerView:
    return ServerView("b", live=True, engine={version: ModelVersion(state), 6: READY}, alias={6: READY})


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (view(2), Reason.SERVES),
        (replace(view(), rollout=replace(ROLLOUT, candidate=2, previous=6)), Reason.STAYS_FOR_ROLLOUT),
        (replace(view(), rollout=replace(ROLLOUT, candidate=7, previous=2)), Reason.STAYS_FOR_ROLLOUT),
        (replace(view(), servers=(view().servers[0], holding(2, ModelState.READY))), Reason.STAYS_LOADED),
        (replace(view(), servers=(view().servers[0], holding(2, ModelState.LOADING))), Reason.STAYS_LOADED),
        (replace(view(), servers=(view().servers[0], holding(2, ModelState.UNLOADING))), Reason.STAYS_LOADED),
        (replace(view(), version_policy=frozenset({2, 6})), Reason.STAYS_LOADED),
        (replace(view(), servers=(view().servers[0], ServerView("b", live=False))), Reason.STAYS_UNSEEN),
        (replace(view(), folders={2: Folder("2", 2, "f2", missing=("shard",))}), Reason.STAYS_ARRIVING),
        (replace(view(), folders={2: Folder("2", 2, "f2", quiet_since=59.0)}), Reason.STAYS_ARRIVING),
        (replace(view(1), records={}), Reason.STAYS_WAITING),
        (replace(view(1), records={2: record(2, ReleaseStatus.REJECTED)}), None),
        (
            replace(view(1), records={2: replace(record(2, ReleaseStatus.REJECTED), loaded=False, fingerprint="old")}),
            Reason.STAYS_WAITING,
        ),
        (replace(view(1), records={2: record(2, ReleaseStatus.WITHDRAWN)}), None),
        (view(None), Reason.STAYS_WAITING),
        (
            replace(view(), folders={2: Folder("2", 2, "f2"), 4: Folder("4", 4, "f4", uses=frozenset({2}))}),
            Reason.STAYS_USED,
        ),
        (view(), None),
        (replace(view(), records={}), None),
    ],
)
def test_why_it_stays(seen, reason):
    found = needed(seen, 2, SETTINGS, 5)
    assert (found and found.reason) == reason


def test_the_way_back_stays():
    found = needed(view(), 5, SETTINGS, 5)
    assert found is not None
    assert found.reason is Reason.STAYS_WAY_BACK


def test_one_goes_after_the_other_and_then_it_ends():
    seen = doomed(view(), 1, 2)
    assert plan(seen, SETTINGS).effect == Prune(1)
    seen = replace(seen, folders={v: f for v, f in seen.folders.items() if v != 1})
    assert plan(seen, SETTINGS).effect == Prune(2)
    seen = replace(seen, folders={v: f for v, f in seen.folders.items() if v != 2})
    assert plan(seen, SETTINGS).effect == EndPruning()


@pytest.mark.parametrize("version", [5, 6, 9])
def test_one_that_is_needed_by_now_or_gone_is_passed_over(version):
    assert plan(doomed(view(), version), SETTINGS).effect == EndPruning()
    assert plan(doomed(view(), version, 3), SETTINGS).effect == Prune(3)


def test_a_folder_in_the_place_of_one_that_was_to_go_is_passed_over():
    seen = view()
    asked = replace(noted(seen, (1, 2), 1), folders={1: "another", 2: "f2"})
    assert plan(replace(seen, pruning=asked, way_back=5), SETTINGS).effect == Prune(2)


def test_nothing_goes_that_was_not_written_down():
    assert plan(replace(view(), way_back=5), KEEP_1).effect is None


def test_a_pause_stops_what_goes_by_itself_and_not_a_person():
    seen = replace(doomed(view(), 1), paused=True)
    assert plan(seen, SETTINGS).effect is None
    assert plan(replace(seen, pruning=Pruning((1,), 1, "ann")), SETTINGS).effect == Prune(1)


@pytest.mark.parametrize("call", [Sync("a", Model.ENGINE), Sync("b", Model.ALIAS)])
def test_not_while_triton_reads_the_directory(call):
    seen = doomed(view(), 1, who="ann")
    assert not isinstance(plan(replace(seen, running=frozenset({call})), SETTINGS).effect, Prune)


def test_not_while_a_server_is_away_or_what_serves_is_changed():
    seen = doomed(view(), 1, who="ann")
    away = replace(seen, servers=(seen.servers[0], ServerView("b", live=False)))
    changed = replace(seen, loaded={6: "another"})
    for one in (away, changed):
        assert plan(one, SETTINGS).effect is None


def test_a_version_that_waits_does_not_keep_the_disk_full():
    seen = doomed(replace(view(6, *range(1, 8)), records={v: record(v) for v in range(1, 7)}), 1)
    assert plan(seen, SETTINGS).effect == Prune(1)


def test_after_a_rollout_the_previous_version_is_the_way_back():
    seen = replace(view(), rollout=replace(ROLLOUT, candidate=6, previous=5))
    assert after(seen, 6, SETTINGS, (6, 5, 4, 3), ()) is None, "off unless set"
    assert after(seen, 6, KEEP_1, (6, 5, 4, 3), ()) == Pruning((1, 2, 3), 1, None, {1: "f1", 2: "f2", 3: "f3"})
    assert after(view(6, 4, 5, 6), 6, KEEP_1, (6, 5), ()) is None


def test_after_a_way_back_the_version_that_was_taken_back_is_none_to_go_to():
    rollout = replace(ROLLOUT, candidate=5, previous=6)
    seen = replace(view(5), rollout=rollout)
    assert after(seen, 5, KEEP_1, (5, 6, 6, 4), {6}) == noted(seen, (1, 2, 3), 1)


@pytest.mark.parametrize(
    ("served", "records", "there", "back"),
    [
        ((3, 2, 1), {}, (1, 2, 3), 2),
        ((3, 2, 1), {}, (1, 3), 1),
        ((3, 2, 1), {2: record(2, ReleaseStatus.WITHDRAWN)}, (1, 2, 3), 1),
        ((3,), {}, (1, 2, 3), None),
        ((), {}, (1,), None),
    ],
)
def test_where_a_rollback_goes(served, records, there, back):
    assert way_back(3, served, records, {v: Folder(str(v), v, "f") for v in there}) == back


def test_what_is_there():
    assert view().there() == set(range(1, 7))
    assert replace(view(), servers=(view().servers[0], holding(9, ModelState.READY))).there() == {*range(1, 7), 9}
    assert replace(view(), servers=(ServerView("a", live=False),)).there() is None
    assert replace(view(), folders={}).there() is None
