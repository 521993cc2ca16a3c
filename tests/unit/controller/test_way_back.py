"""A rollback asks no gate of files: it goes to a folder that holds what served, or that a person vouches for."""

from __future__ import annotations

import os
import shutil

import pytest
from tests.unit.controller.plane import NAME, Plane

from baton.domain import Gate, GateResult, Outcome, Verdict
from baton.errors import Refused, UsageError
from baton.reasons import Reason


class Hashes:
    """What the files of any version hash to, and which were hashed."""

    def __init__(self, **files: str) -> None:
        self.files, self.asked = files, []

    def __call__(self, _service: str, version: int) -> dict[str, str]:
        self.asked.append(version)
        return self.files


@pytest.fixture
def plane(place):
    """Version 1 served, version 2 does; of version 1 the hashes are known."""
    made = Plane(place)
    for version in (1, 2):
        place.drop(version)
        made.live(version)
    made.journal.notes.manifest(1).put(NAME, {"weights": "one"})
    yield made
    made.close()


def back(plane: Plane, to: int | None = None, *, changed: bool = False) -> None:
    plane.service.scan()
    plane.app.rollback(None, to, changed=changed, who="ann")


def refused(plane: Plane, to: int | None = None) -> str:
    with pytest.raises(Refused) as told:
        back(plane, to)
    assert told.value.reason is Reason.NOT_AS_SERVED
    assert plane.service.files.alias() == 2
    assert plane.phase() is None
    return str(told.value)


def test_one_that_nobody_touched_is_not_hashed(plane):
    plane.app.manifest = hashes = Hashes(weights="other")
    plane.journal.notes.manifest(2).put(NAME, {"weights": "two"})
    back(plane)
    plane.live(1)
    back(plane, 2)
    plane.live(2)
    assert hashes.asked == [], "nor one that was taken back"


def test_one_whose_times_alone_changed_is_proved_by_its_hashes(place, plane):
    plane.app.manifest = hashes = Hashes(weights="one")
    os.utime(place.files.folder(1) / "weights", (1, 1))
    back(plane)
    assert hashes.asked == [1]
    plane.live(1)


@pytest.mark.parametrize("to", [None, 1])
def test_changed_files_are_refused_and_named(place, plane, to):
    plane.app.manifest = Hashes(weights="other")
    (place.files.folder(1) / "weights").write_text("trained over")
    assert "weights" in refused(plane, to)
    assert plane.ended(1) is Outcome.LIVE


def test_an_added_file_is_refused(place, plane):
    plane.app.manifest = Hashes(weights="one", template="new")
    (place.files.folder(1) / "template").write_text("new")
    assert "template" in refused(plane)


def test_a_person_may_vouch_for_it_and_its_hashes_are_taken_anew(place, plane):
    plane.app.manifest = hashes = Hashes(weights="other")
    (place.files.folder(1) / "weights").write_text("trained over")
    with pytest.raises(UsageError, match="--to"):
        back(plane, changed=True)
    back(plane, 1, changed=True)
    plane.live(1)
    assert hashes.asked == []
    assert plane.journal.notes.manifest(1).get(NAME) is None


def test_without_hashes_a_changed_folder_is_refused(place, plane):
    plane.app.manifest = hashes = Hashes(weights="one")
    plane.journal.notes.manifest(1).put(NAME, None)
    (place.files.folder(1) / "weights").write_text("trained over")
    assert "another" in refused(plane)
    assert hashes.asked == []


def test_a_folder_that_came_again_after_what_was_known_is_forgotten_is_refused(place, plane):
    shutil.rmtree(place.files.folder(1))
    plane.journal.notes.manifest(1).put(NAME, None)
    plane.journal.versions.forget(NAME, 1, "baton", 0.0)
    place.drop(1, "another")
    refused(plane)
    refused(plane, 1)
    back(plane, 1, changed=True)
    plane.live(1)


def test_one_of_which_nothing_was_ever_known_can_be_named(place, plane):
    shutil.rmtree(place.files.folder(1))
    plane.journal.notes.manifest(1).put(NAME, None)
    plane.journal.versions.forget(NAME, 1, "baton", 0.0)
    with plane.journal.database.transaction() as db:
        db.execute("UPDATE rollout SET candidate = 2 WHERE candidate = 1")
        db.execute("UPDATE rollout SET previous = NULL")
    place.drop(1, "of a time before this journal")
    back(plane, 1)
    plane.live(1)


def test_one_that_was_refused_and_never_served_does_not_come_by_a_rollback(place, plane):
    place.answers.order[Gate.OUTPUT] = lambda rollout, _cancelled: GateResult(
        Gate.OUTPUT, Verdict.FAIL if rollout.candidate == 3 else Verdict.PASS, "other scores"
    )
    place.drop(3)
    plane.run(lambda: plane.ended(3), "it is refused")
    assert plane.ended(3) is Outcome.REJECTED
    place.drop(4)
    plane.live(4)
    with pytest.raises(Refused) as told:
        back(plane, 3)
    assert told.value.reason is Reason.NEVER_SERVED
    assert "ctl push" in str(told.value.mend)


def test_one_that_served_comes_back_although_a_later_check_refused_it(place, plane):
    place.answers.order[Gate.OUTPUT] = lambda rollout, _cancelled: GateResult(
        Gate.OUTPUT, Verdict.FAIL if rollout.candidate == 1 else Verdict.PASS, "other scores"
    )
    plane.app.verify(None, 1, who="ann")
    plane.run(lambda: plane.phase() is None, "it is refused")
    assert plane.ended(1) is Outcome.REJECTED
    back(plane)
    plane.live(1)
