"""Retention on a real control plane with real files: what goes, what is told of it, and what a crash leaves."""

from __future__ import annotations

import errno
import shutil
from typing import Any

import pytest
from tests.unit.controller.plane import NAME, Place, Plane

from baton.beside import folder_beside
from baton.domain import Outcome, Phase, Pruning
from baton.errors import Refused, RepositoryError
from baton.reasons import Reason
from baton.removal import Removal
from baton.schema import JournalError


def on_disk(place: Place) -> set[int]:
    return {int(p.name) for p in place.files.engine_dir.iterdir() if p.name.isdigit()}


def through(place: Place, plane: Plane, *versions: int) -> None:
    for version in versions:
        place.drop(version)
        plane.live(version)


def removed(plane: Plane) -> list[dict[str, Any]]:
    return [e for e in plane.journal.events.newest(service=NAME, limit=1000) if e["kind"] == "prune"]


def settled(plane: Plane) -> bool:
    return plane.journal.notes.pruning().get(NAME) is None and not plane.service.deleting()


@pytest.fixture
def keeping(place):
    """Versions 1 to 5 were live one after the other, with ``keep_versions = 1``."""
    plane = Plane(place, keep_versions=1)
    through(place, plane, 1, 2, 3, 4, 5)
    plane.run(lambda: settled(plane), "what is old is gone")
    yield plane
    plane.close()


def test_old_versions_go_after_each_rollout_and_everything_says_so(place, keeping):
    assert on_disk(place) == {3, 4, 5}
    assert list((folder_beside(place.repository) / place.files.engine_dir.name).iterdir()) == []
    events = removed(keeping)
    assert [e["data"]["version"] for e in events] == [1, 2]
    assert {e["why"].reason for e in events} == {Reason.PRUNED}
    assert all(e["data"]["bytes"] > 0 and e["who"] == "baton" for e in events)
    gone = {r.candidate: r.removed_at for r in keeping.app.history()}
    assert [v for v, at in gone.items() if at is not None] == [2, 1]
    (service,) = keeping.app.status().services
    assert [one.version for one in service.removed] == [2], "since the last rollout began"
    assert service.phase is Phase.STEADY
    assert [v.version for v in keeping.app.versions()] == [3, 4, 5]


def test_a_rollback_to_one_that_is_gone_says_when_it_went_and_what_to_do(keeping):
    for ask in (
        lambda: keeping.app.rollback(None, 1, who="ann"),
        lambda: keeping.app.verify(None, 1, who="ann"),
        lambda: keeping.app.promote(None, 1, who="ann"),
        lambda: keeping.app.retry(None, 1, who="ann"),
    ):
        with pytest.raises(Refused) as told:
            ask()
        assert told.value.reason is Reason.WAS_PRUNED
        assert "1970-01-12T" in str(told.value)
        assert "ctl push" in str(told.value)
    keeping.app.rollback(None, None, who="ann")
    keeping.live(4)


def test_a_rollback_can_go_where_the_previous_version_was(place, keeping):
    keeping.app.rollback(None, None, who="ann")
    keeping.live(4)
    keeping.run(lambda: settled(keeping), "what is old is gone")
    assert on_disk(place) == {3, 4, 5}, "3 is the way back now, 5 the newest of the others"
    assert keeping.ended(4) is Outcome.LIVE


def test_off_unless_it_is_set(place):
    plane = Plane(place)
    try:
        through(place, plane, 1, 2, 3, 4)
        for _ in range(5):
            plane.turn()
        assert on_disk(place) == {1, 2, 3, 4}
        with pytest.raises(Refused) as told:
            plane.app.prune(None, who="ann")
        assert told.value.reason is Reason.NO_KEEP
    finally:
        plane.close()


@pytest.fixture
def full(place):
    """Versions 1 to 5 are on disk, and 5 serves."""
    plane = Plane(place)
    through(place, plane, 1, 2, 3, 4, 5)
    yield plane
    plane.close()


def test_a_dry_run_shows_what_would_go_and_why_the_rest_stays(place, full):
    found = full.app.prune(None, keep=1, dry_run=True, who="ann")
    assert {v.version: v.code for v in found.versions if not v.goes} == {
        3: Reason.STAYS_NEWEST,
        4: Reason.STAYS_WAY_BACK,
        5: Reason.SERVES,
    }
    assert found.bytes == sum(v.bytes for v in found.versions if v.goes) > 0
    assert found.free is not None
    assert not found.under_way
    for _ in range(3):
        full.turn()
    assert on_disk(place) == {1, 2, 3, 4, 5}
    assert removed(full) == []


def test_a_person_prunes_also_while_baton_is_paused(place, full):
    full.app.pause(who="ann")
    found = full.app.prune(None, keep=0, who="ann")
    assert found.under_way
    full.run(lambda: settled(full), "it is done")
    assert on_disk(place) == {4, 5}
    assert {e["who"] for e in removed(full)} == {"ann"}
    assert full.app.prune(None, keep=0, who="ann").versions == full.app.prune(None, keep=0, dry_run=True).versions


def test_a_rollout_comes_first(place, full):
    full.app.prune(None, keep=0, who="ann")
    place.drop(6)
    full.service.scan()
    full.app.promote(None, 6, full=False, who="ann")
    full.live(6)
    assert on_disk(place) == {1, 2, 3, 4, 5, 6}
    assert removed(full) == []


def test_not_during_a_rollout(place, full):
    place.drop(6)
    full.run(lambda: full.phase() is not None, "it begins")
    with pytest.raises(Refused) as told:
        full.app.prune(None, keep=0, who="ann")
    assert told.value.reason is Reason.BUSY
    shown = full.app.prune(None, keep=0, dry_run=True, who="ann")
    assert {v.code for v in shown.versions if v.version in (5, 6)} <= {Reason.SERVES, Reason.STAYS_FOR_ROLLOUT}


def test_what_can_not_be_removed_is_told_once_and_does_not_keep_the_rest(place, full, monkeypatch):
    real, tries = Removal.take_out, []

    def take_out(self: Removal, version: int) -> None:
        tries.append(version)
        if version == 1:
            raise RepositoryError("Version 1 can't be removed: Read-only file system.", mend="Let it be written.")
        real(self, version)

    monkeypatch.setattr(Removal, "take_out", take_out)
    full.app.prune(None, keep=1, who="ann")
    for _ in range(40):
        full.turn()
        place.now += 1.0
    assert tries == [1, 2], "no try each second"
    assert on_disk(place) == {1, 3, 4, 5}
    assert [e["why"].reason for e in removed(full)] == [Reason.PRUNED, Reason.NOT_PRUNED, Reason.PRUNED]
    (service,) = full.app.status().services
    assert any("Read-only file system" in problem for problem in service.problems)
    assert set(full.service.removed()) == {2}
    assert full.app.prune(None, keep=1, dry_run=True).problems


def test_files_that_can_not_be_deleted_are_left_alone_for_an_hour(place, full, monkeypatch):
    tries = []

    def delete(_self: Removal) -> None:
        tries.append(place.now)
        raise RepositoryError("What is left of a removed version can't be deleted: Input/output error.")

    monkeypatch.setattr(Removal, "delete", delete)
    full.app.prune(None, keep=0, who="ann")
    for _ in range(30):
        full.turn()
        place.now += 10.0
    assert len(tries) == 1
    assert any("Input/output error" in problem for problem in full.app.status().services[0].problems)
    place.now += 3600.0
    full.turn()
    assert len(tries) == 2


class Killed(BaseException):
    """The control plane is gone here."""


@pytest.mark.parametrize("after", [False, True])
def test_killed_around_the_rename_it_goes_on_from_what_it_sees(place, full, monkeypatch, after):
    real = Removal.take_out

    def take_out(self: Removal, version: int) -> None:
        if after:
            real(self, version)
        raise Killed

    full.app.prune(None, keep=1, who="ann")
    monkeypatch.setattr(Removal, "take_out", take_out)
    monkeypatch.setattr(type(full.service._recorder), "done_pruning", lambda *_: None)
    with pytest.raises(Killed):
        full.turn()
    assert (1 in on_disk(place)) is not after
    monkeypatch.undo()
    full.abandon()
    again = Plane(place)
    try:
        again.run(lambda: settled(again), "it goes on")
        assert on_disk(place) == {3, 4, 5}
        assert set(again.service.removed()) == {1, 2}
        assert again.service.files.alias() == 5
    finally:
        again.close()


def test_what_a_killed_one_left_is_deleted_at_the_start(place, full):
    Removal(place.repository, place.files.engine_dir.name).take_out(1)
    full.abandon()
    again = Plane(place)
    try:
        again.run(lambda: not again.service.deleting() and again.service.view, "it is deleted")
        assert on_disk(place) == {2, 3, 4, 5}
    finally:
        again.close()


def test_without_room_for_the_journal_nothing_is_removed(place, full, monkeypatch):
    def refuse(*_given: Any, **_named: Any) -> None:
        raise JournalError("The journal fails: database or disk is full.")

    full.app.prune(None, keep=0, who="ann")
    monkeypatch.setattr(full.journal.events, "append", refuse)
    for _ in range(3):
        full.turn()
    assert on_disk(place) == {1, 2, 3, 4, 5}


def test_a_link_frees_nothing_and_what_it_leads_to_stays(place, full):
    far = place.root / "far"
    (place.files.folder(1)).rename(far)
    place.files.folder(1).symlink_to(far)
    shown = full.app.prune(None, keep=0, dry_run=True)
    full.turn()
    shown = full.app.prune(None, keep=0, who="ann")
    assert {v.version: v.bytes for v in shown.versions}[1] == 0
    full.run(lambda: settled(full), "it is done")
    assert on_disk(place) == {4, 5}
    assert (far / "weights").is_file()


def test_a_folder_that_another_version_s_links_lead_into_stays(place, full):
    place.files.folder(6).symlink_to("1")
    full.live(6)
    shown = full.app.prune(None, keep=0, who="ann")
    assert {v.version: v.code for v in shown.versions if not v.goes} == {
        1: Reason.STAYS_USED,
        5: Reason.STAYS_WAY_BACK,
        6: Reason.SERVES,
    }
    full.run(lambda: settled(full), "it is done")
    assert on_disk(place) == {1, 5, 6}
    assert (place.files.folder(6) / "weights").is_file(), "what serves is whole"


def test_another_folder_that_came_in_the_place_of_one_that_was_to_go_stays(place, full):
    full.app.prune(None, keep=0, who="ann")
    shutil.rmtree(place.files.folder(1))
    place.drop(1, "somebody's only copy")
    full.run(lambda: settled(full), "it is done")
    assert on_disk(place) == {1, 4, 5}
    assert (place.files.folder(1) / "weights").read_text() == "somebody's only copy"


def test_what_a_killed_end_wrote_down_does_not_outlive_another_end(place, full):
    place.drop(6)
    full.run(lambda: full.phase() is not None, "it begins")
    full.journal.notes.pruning().put(NAME, Pruning((1, 2, 3), 0))  # killed before the rollout's end was written
    full.app.abort(None, who="ann")
    full.run(lambda: full.phase() is None, "it ends")
    for _ in range(5):
        full.turn()
    assert on_disk(place) == {1, 2, 3, 4, 5, 6}


def test_it_says_what_it_waits_for(place, full):
    full.app.prune(None, keep=0, who="ann")
    place.servers["a"].reachable = False
    full.turn()
    waits = full.app.prune(None, keep=0, dry_run=True)
    assert waits.under_way
    assert waits.doing == full.service.decision.message
    assert "does not answer" in waits.doing
    place.servers["a"].reachable = True
    full.run(lambda: settled(full), "it is done")
    assert full.app.prune(None, keep=0, dry_run=True).doing == ""


def test_a_folder_beside_that_can_not_be_written_is_told_as_such(place, full, monkeypatch):
    removal = Removal(place.repository, place.files.engine_dir.name)
    removal.take_out(1)

    def read_only(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("baton.ownership.os.fchmod", read_only)
    with pytest.raises(RepositoryError, match="can't be deleted: Read-only file system"):
        removal.delete()
