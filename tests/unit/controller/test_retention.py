"""The loop has old events removed while a service is at rest."""

from __future__ import annotations

import shutil

import pytest
from tests.unit.controller.plane import NAME, Plane

from baton.domain import Outcome
from baton.errors import Refused
from baton.journal.retention import FOLD, Retention
from baton.reasons import Reason

DAY = 86_400.0


def test_the_loop_removes_them_at_rest_and_the_story_says_so(place):
    plane = Plane(place)
    try:
        for version in (1, 2, 3, 4):
            place.drop(version)
            plane.live(version)
        numbers = [r.id for r in reversed(plane.journal.rollouts.newest(service=NAME))]
        place.now += 91 * DAY
        plane.loop._tidy = Retention(plane.journal.database, 90 * DAY, 1).apply
        place.drop(5)
        plane.turn()
        assert plane.phase() is not None
        assert all(e.kind != FOLD for n in numbers for e in plane.app.rollout(n).events), "not while one is under way"
        plane.live(5)
        plane.run(lambda: plane.app.rollout(numbers[0]).events[0].kind == FOLD, "the first is folded")
        (event,) = plane.app.rollout(numbers[0]).events
        assert event.code is Reason.EVENTS_REMOVED
        assert len(plane.app.rollout(numbers[3]).events) > 1, "a rollback goes to it"
        assert [r.outcome for r in plane.app.history()] == [Outcome.LIVE] * 5
        assert plane.app.history()[-1].gates
    finally:
        plane.close()


def test_a_later_folder_of_a_number_that_is_gone_is_another_one(place):
    """Its hashes are not those of the folder that is gone, and below what serves it starts nothing by itself."""
    plane = Plane(place)
    try:
        for version in (1, 2):
            place.drop(version)
            plane.live(version)
        manifest = plane.journal.notes.manifest(1)
        manifest.put(NAME, {"weights": "of the first folder"})
        shutil.rmtree(place.files.folder(1))
        shutil.rmtree(place.root / "made-1", ignore_errors=True)
        plane.loop._tidy = Retention(plane.journal.database, 90 * DAY, 1).apply
        plane.run(lambda: manifest.get(NAME) is None, "its hashes are forgotten")
        assert set(plane.journal.versions.records(NAME)) == {2}
        place.drop(1, "others")
        before = len(plane.app.history())
        for _ in range(5):
            plane.turn()
            place.now += 1.0
        assert len(plane.app.history()) == before
        with pytest.raises(Refused) as told:
            plane.app.rollback(None, 1, who="ann")
        assert told.value.reason is Reason.NOT_AS_SERVED
        plane.app.rollback(None, 1, changed=True, who="ann")
        plane.live(1)
        assert manifest.get(NAME) in (None, {}), "nothing of the first folder is held against it"
    finally:
        plane.close()
