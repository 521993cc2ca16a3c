"""An older journal beside files and servers that went on: what serves stands, and no record leads anybody elsewhere."""

from __future__ import annotations

import stat
import time
from pathlib import Path
from typing import Any

import pytest
from tests.unit.controller.plane import ENGINE, NAME, Place, Plane

from baton import backup
from baton.config import Config, LiveConfig, ServiceConfig, TrafficConfig
from baton.domain import Gate, GateResult, ModelState, Outcome, Phase, ReleaseStatus, Step, Verdict
from baton.errors import Refused, RepositoryError
from baton.facts import Restored
from baton.journal import JOURNAL, Journal
from baton.reasons import Reason
from baton.samples import GoldenScores
from baton.schema import JournalError
from baton.testing import Behaviour
from baton.triton.repository import ServiceFiles

TRAFFIC = TrafficConfig(steps=(Step(20.0, hold=20.0), Step(50.0, hold=20.0)), shadow_share=0.0, lease=15.0)


def stepwise(place: Place, **options: Any) -> Plane:
    return Plane(place, traffic=TRAFFIC, live=LiveConfig(min_requests=3), **options)


def state(place: Place) -> Path:
    return place.root / "state"


def config(place: Place) -> Config:
    return Config(place.repository, state(place), services=(ServiceConfig(NAME, ENGINE),))


def taken(place: Place, name: str = "backup.db") -> Path:
    file = place.root / name
    backup.backup(state(place), file, force=False)
    return file


def copied_back(place: Place, file: Path) -> None:
    """As a person does who does not know of ``ctl restore``, or a disk that is reset to an earlier day."""
    for old in state(place).glob(f"{JOURNAL}*"):
        old.unlink()
    file.rename(state(place) / JOURNAL)


def put_back(place: Place, file: Path) -> Restored:
    return backup.restore(config(place), file, who="ann")


def loaded(place: Place) -> set[int]:
    index = place.servers["a"].index().get(ENGINE, {})
    return {v for v, m in index.items() if m.state is not ModelState.UNAVAILABLE}


def calls(place: Place) -> int:
    return len(place.servers["a"].calls)


def rounds(plane: Plane, count: int) -> list[int | None]:
    """So many seconds; where the alias's files lead after each."""
    led = []
    for _ in range(count):
        plane.turn()
        led.append(plane.place.files.alias())
        plane.place.now += 1.0
    return led


def live_at(place: Place, version: int, **options: Any) -> None:
    """A control plane brings the version live, and ends."""
    plane = Plane(place, **options)
    if not place.files.folder(version).exists():
        place.drop(version)
    plane.live(version)
    plane.close()


def test_the_copy_is_whole_private_and_taken_while_it_is_written_to(place, monkeypatch):
    plane = Plane(place)
    place.drop(1)
    plane.live(1)
    file = taken(place)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(p.name for p in place.root.glob("*backup*")) == ["backup.db"], "one file, and nothing half-made"
    place.drop(2)
    plane.live(2)
    copy = Journal(file)
    assert [r.candidate for r in copy.rollouts.newest()] == [1]
    copy.close()
    with pytest.raises(Refused, match="is there already"):
        backup.backup(state(place), file, force=False)
    told = backup.backup(state(place), file, force=True)
    assert (told.rollouts, told.file) == (2, str(file))
    made = backup.backup(state(place), place.root, force=False)
    assert Path(made.file).parent == place.root
    assert Path(made.file).name.startswith("baton-")
    monkeypatch.setattr(time, "gmtime", lambda: (2026, 1, 2, 3, 4, 5, 4, 2, 0))
    names = [Path(backup.backup(state(place), place.root, force=False).file).name for _ in range(3)]
    assert names == [f"baton-20260102T030405Z{more}.db" for more in ("", "-2", "-3")], "of the same second"
    plane.close()


def test_there_is_nothing_to_copy(place):
    with pytest.raises(Refused, match="There is no journal in state directory"):
        backup.backup(state(place), place.root / "backup.db", force=False)


def test_a_damaged_journal_leaves_the_older_backup(place):
    live_at(place, 1)
    file = taken(place)
    before = file.read_bytes()
    (state(place) / JOURNAL).write_bytes(b"garbage" * 1000)
    with pytest.raises(JournalError, match="not a database"):
        backup.backup(state(place), file, force=True)
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000])
def test_a_damaged_backup_is_refused_and_changes_nothing(place, content):
    live_at(place, 1)
    file = place.root / "backup.db"
    file.write_bytes(content)
    before = (state(place) / JOURNAL).read_bytes()
    with pytest.raises(JournalError, match="restored"):
        put_back(place, file)
    assert (state(place) / JOURNAL).read_bytes() == before
    assert [p.name for p in state(place).iterdir()] == [JOURNAL]


def test_a_damaged_journal_is_kept_and_mended_by_a_backup(place):
    live_at(place, 1)
    file = taken(place)
    (state(place) / JOURNAL).write_bytes(b"garbage" * 1000)
    with pytest.raises(JournalError):
        Journal(state(place) / JOURNAL)
    kept = put_back(place, file).kept
    assert Path(kept).read_bytes() == b"garbage" * 1000
    plane = Plane(place)
    rounds(plane, 2)
    assert plane.service.decision.phase is Phase.STEADY
    plane.close()


def test_what_the_old_journal_had_not_taken_in_yet_is_kept_with_it(place):
    """A control plane that was killed leaves a -wal file; the old journal can still be read with it."""
    file = place.root / "backup.db"
    live_at(place, 1)
    taken(place)
    killed = Plane(place)
    place.drop(2)
    killed.live(2)
    names = [JOURNAL, f"{JOURNAL}-wal", f"{JOURNAL}-shm"]
    left = {name: (state(place) / name).read_bytes() for name in names}
    killed.close()
    for name, content in left.items():
        (state(place) / name).write_bytes(content)
    kept = Path(put_back(place, file).kept)
    again = Path(put_back(place, file).kept)
    assert again != kept
    old = Journal(kept)
    assert [r.candidate for r in old.rollouts.newest()] == [2, 1]
    old.close()
    new = Journal(state(place) / JOURNAL)
    assert [r.candidate for r in new.rollouts.newest()] == [1]
    new.close()


def test_live_moved_on_since(place):
    live_at(place, 1)
    live_at(place, 2)
    file = taken(place)
    live_at(place, 3)
    live_at(place, 4)
    told = put_back(place, file)
    assert told.turned_back == ()
    before = calls(place)
    plane = Plane(place)
    assert set(rounds(plane, 10)) == {4}
    assert calls(place) == before, "nothing is loaded and nothing is dropped"
    assert plane.service.decision.phase is Phase.STEADY
    assert plane.service.decision.why.reason is Reason.PAUSED_AT_REST
    assert plane.journal.versions.records(NAME)[4].status is ReleaseStatus.ADOPTED
    (row,) = [v for v in plane.app.status().services[0].versions if v.version == 4]
    assert row.state == "serving"
    found = plane.journal.versions.records(NAME)[4].reason
    assert row.reason == str(found)
    assert (found.reason, found.figures["standing"]) == (Reason.FOUND_SERVING, None)
    kinds = [e["kind"] for e in plane.journal.events.newest()]
    assert kinds[-2:] == ["restore", "adopt"]
    # It goes on from there.
    plane.app.resume(who="ann")
    place.drop(5)
    plane.live(5)
    assert loaded(place) == {5}
    plane.app.rollback(None, None, who="ann")
    plane.live(4)
    plane.close()


def test_what_the_journal_had_refused_serves_by_now(place):
    live_at(place, 1)
    no = GateResult(Gate.OUTPUT, Verdict.FAIL, "other scores")
    place.answers.order[Gate.OUTPUT] = lambda *_: no
    plane = Plane(place)
    place.drop(2)
    plane.run(lambda: plane.ended(2), "it is refused")
    file = taken(place)
    place.answers.order.clear()
    plane.app.retry(None, 2, release=None, who="ann")
    plane.live(2)
    plane.close()
    put_back(place, file)
    plane = Plane(place)
    assert set(rounds(plane, 5)) == {2}
    (row,) = [v for v in plane.app.versions() if v.version == 2]
    assert row.state == "serving"
    found = plane.journal.versions.records(NAME)[2].reason
    assert (found.reason, found.figures["standing"]) == (Reason.FOUND_SERVING, ReleaseStatus.REJECTED)
    assert str(found.figures["before"]) == "other scores"
    with pytest.raises(Refused, match="No version of ranker was refused"):
        plane.app.retry(None, None, release=None, who="ann")
    plane.close()


def mid_way(place: Place, phase: Phase) -> Path:
    """A backup of the moment at which version 2 is in that phase on its way after version 1, which then goes on."""
    live_at(place, 1)
    split = phase is Phase.SHIFTING
    plane = stepwise(place) if split else Plane(place, keep_previous=10.0)
    if phase in (Phase.LOADING, Phase.VALIDATING):
        place.answers.order[Gate.LATENCY] = lambda *_: GateResult(Gate.LATENCY, Verdict.HOLD, "few samples")
    place.drop(2)
    if phase is Phase.RETIRING:
        place.servers["a"].versions[1] = Behaviour(leave_s=5.0)
    plane.run(lambda: plane.phase() is phase and (not split or _weight(place) == 20.0), f"{phase}")
    file = taken(place)
    place.answers.order.clear()
    plane.close()
    return file


def _weight(place: Place) -> float:
    splitter = place.servers["a"].models.splitters.get(f"{NAME}_splitter")
    return 0.0 if splitter is None else splitter.weight()


MID = [Phase.VERIFYING, Phase.LOADING, Phase.VALIDATING, Phase.SHIFTING, Phase.BAKING, Phase.RETIRING]
WAYS = [copied_back, put_back]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("phase", MID)
def test_the_candidate_of_then_serves_by_now(place, phase, way):
    file = mid_way(place, phase)
    plane = Plane(place)  # all at once from here on: no clients are about
    plane.live(2)
    plane.close()
    way(place, file)
    plane = stepwise(place)
    assert set(rounds(plane, 40)) == {2}, "clients stay where they are"
    if way is put_back:
        plane.app.resume(who="ann")
        rounds(plane, 5)
    assert plane.ended(2) is Outcome.LIVE
    unproved = phase in (Phase.VERIFYING, Phase.LOADING, Phase.VALIDATING)
    assert plane.journal.versions.records(NAME)[2].status is (
        ReleaseStatus.ADOPTED if unproved else ReleaseStatus.RELEASED
    )
    assert plane.service.decision.phase is Phase.STEADY
    assert (loaded(place), place.files.policy()) == ({2}, {2})
    plane.close()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("phase", MID)
def test_another_version_serves_by_now(place, phase, way):
    file = mid_way(place, phase)
    plane = Plane(place)
    plane.live(2)
    place.drop(3)
    plane.live(3)
    plane.close()
    way(place, file)
    before = calls(place)
    plane = stepwise(place)
    assert set(rounds(plane, 40)) == {3}
    assert place.files.policy() == {3}
    assert loaded(place) == {3}
    assert calls(place) == before, "version 2 is not even loaded"
    assert plane.journal.rollouts.current(NAME) is None
    assert plane.journal.rollouts.newest()[0].ended_why.reason is Reason.OVERTAKEN or way is put_back
    revived = [e for e in plane.journal.events.newest() if e["why"].figures.get("what") == "the last good file"]
    assert not revived or way is copied_back, "a splitter that is gone since stays gone"
    plane.close()


@pytest.mark.parametrize("phase", [Phase.VALIDATING, Phase.SHIFTING, Phase.BAKING])
def test_the_candidate_of_then_was_taken_back(place, phase):
    """The journal does not know that a person had it taken back; only its own hand would bring it again."""
    file = mid_way(place, phase)
    plane = stepwise(place)
    rounds(plane, 1)
    (plane.app.rollback if phase is Phase.BAKING else plane.app.abort)(
        None, **({"to": None} if phase is Phase.BAKING else {}), who="ann"
    )
    plane.live(1)
    plane.close()
    told = put_back(place, file)
    assert told.turned_back == (2,)
    plane = stepwise(place)
    assert set(rounds(plane, 20)) == {1}
    assert plane.ended(2) in (Outcome.ABORTED, Outcome.ROLLED_BACK)
    assert plane.journal.rollouts.newest()[0].ended_why.reason is Reason.RESTORED
    plane.app.resume(who="ann")
    assert set(rounds(plane, 20)) == {1}, "and it does not come again by itself"
    assert loaded(place) == {1}
    plane.close()


def test_while_the_split_of_then_still_stands(place):
    """The splitter stands behind the alias, its lease over: it is led away orderly, and the stable one serves."""
    file = mid_way(place, Phase.SHIFTING)
    assert place.files.split()
    place.now += 100.0
    assert put_back(place, file).turned_back == (2,)
    plane = stepwise(place)
    assert set(rounds(plane, 20)) == {1}
    assert not place.files.split()
    assert loaded(place) == {1}
    assert plane.ended(2) is Outcome.ROLLED_BACK
    plane.close()


def test_the_split_of_another_version_stands(place):
    live_at(place, 1)
    file = taken(place)
    live_at(place, 2)
    plane = stepwise(place)
    place.drop(3)
    plane.run(lambda: _weight(place) == 20.0, "a split")
    plane.close()
    put_back(place, file)
    plane = stepwise(place)
    assert set(rounds(plane, 20)) == {2}
    assert not place.files.split()
    assert not place.files.splitter_dir.exists()
    assert 2 in loaded(place)
    assert plane.service.decision.phase is Phase.STEADY
    plane.app.resume(who="ann")
    plane.run(lambda: _weight(place) == 20.0, "version 3 comes through its gates again", turns=60)
    plane.close()


def test_where_the_name_leads_must_be_known(place):
    file = mid_way(place, Phase.VALIDATING)
    (ServiceFiles(place.repository, NAME, ENGINE).alias_dir / "config.pbtxt").write_text("{")
    before = (state(place) / JOURNAL).read_bytes()
    with pytest.raises(RepositoryError):
        put_back(place, file)
    assert (state(place) / JOURNAL).read_bytes() == before


def test_what_versions_of_then_answered_is_forgotten(place):
    """A number may have been given to another version since. The next candidate is compared with what that gives."""
    plane = Plane(place)
    plane.journal.notes.golden_scores().put(NAME, {1: GoldenScores("digest", None, ())})
    file = taken(place)
    plane.close()
    put_back(place, file)
    plane = Plane(place)
    assert not plane.journal.notes.golden_scores().get(NAME)
    plane.close()


def test_whose_state_is_taken_away_does_nothing_more(place):
    """Another control plane may act there by now. Also what needs no journal ends: the share of traffic."""
    live_at(place, 1)
    lost = stepwise(place)
    place.drop(2)
    lost.run(lambda: _weight(place) == 20.0, "a split")
    state(place).rename(place.root / "elsewhere")
    before = calls(place), place.files.policy(), place.files.alias_and_split()
    rounds(lost, 20)
    assert (calls(place), place.files.policy(), place.files.alias_and_split()) == before
    assert _weight(place) == 0.0, "the lease ended"
    assert lost.service.decision.phase is Phase.DEGRADED
    assert "was removed or replaced while it was in use" in lost.service.decision.message
    assert not lost.app.health().live
    with pytest.raises(JournalError):
        lost.app.abort(None, who="ann")
    # The next one, with nothing, adopts what it finds while the lost one is still there.
    found = stepwise(place)
    for _ in range(10):
        lost.turn()
        rounds(found, 1)
    assert found.journal.versions.records(NAME)[1].status is ReleaseStatus.ADOPTED
    assert place.files.alias() == 1
    lost.close()
    found.run(lambda: _weight(place) == 20.0, "version 2 comes through its gates again", turns=60)
    found.close()
