"""Every page, at every width, piped and as JSON, of what the real controller told at every moment of its life."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from tests.unit.cli.conftest import Ctl, tidy
from tests.unit.docs.test_schema import validator
from tests.unit.facts.moments import MOMENTS, Moment, moment
from tests.unit.facts.recorder import Recorder

from baton.api import ApiServer
from baton.cli import follow
from baton.cli.lists import history_lines, versions_lines
from baton.cli.output import Line, plain
from baton.cli.progress import Story
from baton.cli.render import status_lines
from baton.cli.status import news
from baton.codec import decode, encode
from baton.domain import Gate, GateResult, Outcome, Phase, Verdict
from baton.evidence import LiveEvidence
from baton.facts import RolloutFacts, RolloutStory, Status, VersionOnDisk
from baton.metrics import ControlCollector
from baton.reasons import Reason

COLUMNS = (40, 80, 160)


def words(text: str) -> str:
    return "".join(text.split())


def told_whole(gate: GateResult, page: list[str], where: str, *, awaited: bool = True) -> None:
    """What a person has to read, since a gate failed, or holds and a rollout waits for it, is never cut."""
    if gate.verdict is Verdict.HOLD and (gate.gate is Gate.MEMORY or not awaited):
        return
    parts = gate.evidence.checks if isinstance(gate.evidence, LiveEvidence) and gate.evidence.checks else (gate,)
    for part in parts:
        if part.verdict is Verdict.FAIL or part.verdict is gate.verdict is Verdict.HOLD:
            assert words(part.message) in words("".join(page)), where


DECIDED = (Verdict.PASS, Verdict.FAIL, Verdict.HOLD)
NEVER = {(Gate.COMPATIBILITY, Verdict.HOLD), (Gate.CAPACITY, Verdict.HOLD), (Gate.LOAD, Verdict.HOLD)}
"""See tests/unit/cli/test_verdicts.py for why."""


@pytest.mark.parametrize("name", MOMENTS)
def test_a_client_reads_what_the_controller_told(name: str) -> None:
    found = moment(name)
    sent = found.as_programs_get_it()
    assert decode(Status, sent["status"][0], foreign=True) == found.status
    assert decode(tuple[VersionOnDisk, ...], sent["versions"][0], foreign=True) == found.versions
    assert decode(tuple[RolloutFacts, ...], sent["history"][0], foreign=True) == found.history
    assert tuple(decode(RolloutStory, one, foreign=True) for one in sent["rollout"]) == found.stories
    assert encode(decode(Status, sent["status"][0])) == sent["status"][0]


def test_nothing_that_there_is_to_tell_is_left_out() -> None:
    found = [moment(name) for name in MOMENTS]
    services = [one.status.services[0] for one in found]
    assert {one.phase for one in services} == set(Phase)
    assert {row.outcome for one in found for row in one.history} == {None, *Outcome}
    gates = [*(g for s in services for g in s.gates), *(g for one in found for row in one.history for g in row.gates)]
    told = {(g.gate, g.verdict) for g in gates}
    assert {(gate, verdict) for gate in Gate for verdict in DECIDED} - told == NEVER
    assert {verdict for _, verdict in told} == set(Verdict)
    assert {len(one.status.servers) for one in found} == {1, 2}
    assert {s.waits_for != () for s in services} == {True, False}


@pytest.mark.parametrize("name", MOMENTS)
def test_every_answer_of_the_api_keeps_to_the_schema(name: str) -> None:
    for call, answers in moment(name).as_programs_get_it().items():
        for answer in answers:
            validator(f"call-{call}").validate(answer)


@pytest.mark.parametrize("name", MOMENTS)
def test_every_page(name: str) -> None:
    for columns in COLUMNS:
        fits(moment(name), columns)


def fits(found: Moment, columns: int) -> None:
    pages: dict[str, list[Line]] = {
        "status": status_lines(found.status, columns),
        "status of a low window": status_lines(found.status, columns, 20),
        "versions": versions_lines(found.versions, columns),
        "history": history_lines(found.history, columns),
    }
    for story in found.stories:
        pages[f"a wait for {story.id}"] = Story().news(story, columns)
    for where, lines in pages.items():
        assert [line for line in map(plain, lines) if len(line) > columns] == [], (where, columns)
    shown = [plain(line) for line in pages["status"]]
    assert f"({found.status.services[0].phase})" in "".join(shown)
    for gate in found.status.services[0].gates:
        told_whole(gate, shown, "status", awaited=found.status.services[0].candidate is not None)
    for story in found.stories:
        for gate in story.gates:
            told_whole(gate, [plain(line) for line in pages[f"a wait for {story.id}"]], "a wait")
    assert news(found.status) == news(found.status)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        *(("ended rejected", Reason.GATE_FAILED), ("ended rolled back", Reason.ASKED_BACK)),
        *(("ended aborted", Reason.ABORTED), ("steady", Reason.SERVES), ("rolling back", Reason.ABORTED)),
        ("shifting", Reason.OTHER),
    ],
)
def test_the_history_says_as_a_value_why_a_rollout_ended(name: str, code: Reason) -> None:
    assert moment(name).history[0].code is code


@pytest.mark.parametrize("name", MOMENTS)
def test_every_end_is_told_to_who_waited(name: str) -> None:
    for story in moment(name).stories:
        assert f"version {story.candidate}" in follow._summary(story)
        for goal in (follow.PROMOTED, follow.STARTED, follow.VERIFIED, follow.BACK):
            failure = follow._failure(story, goal)
            assert failure is None or failure.mend


@pytest.mark.parametrize("name", MOMENTS)
def test_every_verb_piped_and_as_json(name: str, ctl: Ctl, state: Path) -> None:
    found = moment(name)
    sent = found.as_programs_get_it()
    with ApiServer(Recorder(name), state / "baton.sock"):
        for verb in ("status", "versions", "history"):
            done = ctl(verb)
            assert (done.exit_code, done.stderr) == (0, ""), done.output
            tidy(done.stdout)
            assert json.loads(ctl(verb, "--output", "json").stdout) == sent[verb][0]


@pytest.mark.parametrize("name", MOMENTS)
def test_every_scrape(name: str) -> None:
    found = moment(name)
    registry = CollectorRegistry()
    registry.register(ControlCollector(Recorder(name)))
    page = generate_latest(registry).decode()
    service = found.status.services[0]
    assert f'baton_service_phase{{phase="{service.phase}",service="{service.name}"}} 1.0' in page
    for gate in service.gates:
        line = f'baton_gate_verdict{{gate="{gate.gate}",service="{service.name}",verdict="{gate.verdict}"}} 1.0'
        assert line in page
    assert encode(found.status)["paused"] is ("baton_paused 1.0" in page)
