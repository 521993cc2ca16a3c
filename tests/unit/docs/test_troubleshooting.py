"""docs/how-to/troubleshooting.md has each reason that needs a person, with words that `ctl` really prints."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

from baton.reasons import Reason
from baton.reasons.words import SENTENCES

PAGE = (Path(__file__).parents[3] / "docs" / "how-to" / "troubleshooting.md").read_text()
ROWS = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)
ITSELF = {
    # Why a rollout begins or ends, and what a person asked for
    Reason.OTHER, Reason.ADOPTED, Reason.NEW_VERSION, Reason.CUT_OFF, Reason.PROMOTED, Reason.TRIED_AGAIN,
    Reason.VERIFICATION, Reason.ASKED_BACK, Reason.ABORTED, Reason.BEGINS, Reason.PERSON_PROMOTED, Reason.PAUSED,
    Reason.RESUMED, Reason.GOES_ON, Reason.SUPERSEDED, Reason.VERIFIED, Reason.BACK_ON, Reason.ROLLED_BACK,
    Reason.SERVES_ON, Reason.ENDED_WITH_REST, Reason.DONE, Reason.SHADOW_SKIPPED, Reason.SHADOW_OFF,
    Reason.SHADOW_GOOD, Reason.WAY_SKIPPED, Reason.PAUSE_PASSED, Reason.PAUSE_GONE,
    # All is well
    Reason.STARTING, Reason.SERVES, Reason.GATE_PASSED, Reason.GATES_PASSED, Reason.CHECK_PASSED, Reason.FILES_PROVED,
    Reason.FILES_PROVED_ROOM_UNKNOWN, Reason.READY_EVERYWHERE, Reason.KEEPING, Reason.KEEPING_NOTHING, Reason.KEPT,
    # What Baton does or waits for, and goes on from by itself
    Reason.POLICY_WRONG, Reason.LOADING, Reason.UNLOADING, Reason.MOVING_ALIAS, Reason.REMOVING_ALIAS,
    Reason.LOADING_SPLITTER, Reason.REMOVING_SPLITTER, Reason.WAITS_FOR_RELOAD, Reason.NOT_READY, Reason.LAST_REQUESTS,
    Reason.LAST_CALLS, Reason.REQUESTS_WAIT, Reason.CALL_UNDER_WAY, Reason.WRITING_POLICY, Reason.NAMING,
    Reason.KEEPING_UNTIL_MOVED, Reason.POINTING, Reason.UNSPLITTING, Reason.SPLITTING, Reason.WRITING_SPLITTER,
    Reason.REMOVING_SPLITTER_FILES, Reason.GATE_LOOKS, Reason.GATE_COULD_NOT_LOOK, Reason.GATE_AGAIN,
    Reason.LEAVING_MEMORY, Reason.SPLITTER_REPORTS, Reason.MEETING_BEGINS, Reason.MIRRORED, Reason.SHARE,
    Reason.JUDGED_BY_GOLDEN, Reason.RENEWING, Reason.ASKED_ONCE_MORE, Reason.RELOADING_STANDBY, Reason.GIVING_UP,
    Reason.NOTHING_TO_KEEP, Reason.NOT_KEPT_GONE_BACK, Reason.NOT_KEPT, Reason.STANDBY_LOST, Reason.STANDBY_SUPERSEDED,
    Reason.BRINGING_BACK, Reason.KEEPING_GOAL, Reason.POINTING_BACK, Reason.RELOADING, Reason.RELOADING_ALONE,
    Reason.RELOAD_WAITS, Reason.BACK_FROM_SILENT, Reason.TAKES_OVER, Reason.RECORDING, Reason.FOUND_SERVING,
    Reason.INHERITED, Reason.PRUNING, Reason.PRUNED_ALL,
    # Why a version stays on disk
    Reason.STAYS_FOR_ROLLOUT, Reason.STAYS_LOADED, Reason.STAYS_UNSEEN, Reason.STAYS_WAY_BACK, Reason.STAYS_ARRIVING,
    Reason.STAYS_WAITING, Reason.STAYS_USED, Reason.STAYS_NEWEST,
    # What was done, in the history
    Reason.BEGUN, Reason.MOVED_ON, Reason.ENDED, Reason.VERDICT, Reason.HELD_ASKED_AGAIN, Reason.STARTED_AGAIN,
    Reason.CLOCK_SET_BACK, Reason.COUNTS_AS_NEW, Reason.PROVED_UNCHANGED, Reason.LOAD_CALL, Reason.GATE_ASKED,
    Reason.ENGINE_RELOADED, Reason.POLICY_WRITTEN, Reason.ALIAS_WRITTEN, Reason.SPLITTER_WRITTEN, Reason.ANSWERS_AGAIN,
    Reason.LOADED_AGAIN, Reason.PRUNED, Reason.PUT_BACK, Reason.LEASE_LAPSED, Reason.EVENTS_REMOVED,
}  # fmt: skip
"""Nobody needs to do anything. A new reason belongs here or, if a person has to act, on the page."""
NO_WORDS = {"the gate's own sentence", "the error's own sentence"}


def words(reason: Reason) -> str:
    """The sentence of a reason, with a mark for each figure; texts that depend on one are in it."""
    said = ""
    for text, _, spec, _ in string.Formatter().parse(SENTENCES[reason]):
        more = spec.removeprefix("?") if spec and spec.startswith("?") else ""
        said += text + ("\0" + more + "\0" if spec is not None else "")
    return said


def test_each_reason_that_needs_a_person_has_one_row() -> None:
    listed = [code for code, _, _ in ROWS]
    assert sorted(listed) == sorted(set(listed))
    assert set(listed) == {reason.value for reason in Reason if reason not in ITSELF}


@pytest.mark.parametrize(("code", "said"), [(code, said) for code, said, _ in ROWS])
def test_its_words_are_what_is_printed(code: str, said: str) -> None:
    assert said in NO_WORDS or said in words(Reason(code))


def test_other_words_are_found() -> None:
    assert "is gone for good" not in words(Reason.FOLDER_GONE)
    assert "which serves, is gone" in words(Reason.FOLDER_GONE)
