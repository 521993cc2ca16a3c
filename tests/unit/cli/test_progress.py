"""What a wait tells, of what the controller told: each thing once, and as it comes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.evidence import rests_on
from tests.unit.facts.moments import MOMENTS, moment

from baton.cli.output import plain
from baton.cli.progress import Story
from baton.domain import Gate, GateResult, Verdict
from baton.evidence import LiveEvidence
from baton.facts import RolloutStory


def story(name: str) -> RolloutStory:
    return moment(name).stories[0]


def lines(telling: Story, of: RolloutStory) -> list[str]:
    return [plain(line)[10:] for line in telling.news(of, 80)]


def live(of: RolloutStory) -> GateResult:
    return next(gate for gate in of.gates if gate.gate is Gate.LIVE)


def test_whoever_turns_a_rollout_back_is_told_what_follows() -> None:
    back = story("ended rolled back")
    told = lines(Story(from_halt=True), back)
    assert told[0] == "rolled back by ann@host via ctl"
    assert not any("rollout of version 2" in text or "READY" in text for text in told)
    everything = lines(Story(), back)
    assert everything[0].startswith("rollout of version 2")
    assert any("READY" in text for text in everything)
    assert everything[-len(told) :] == told


@pytest.mark.parametrize("name", MOMENTS)
def test_what_was_told_is_not_told_again(name: str) -> None:
    for one in moment(name).stories:
        telling = Story()
        assert lines(telling, one) != []
        assert lines(telling, one) == []


def test_traffic_steps_are_told_as_they_come() -> None:
    telling = Story()
    names = ("validating", "shadowing", "shifting", "a pause step")
    steps = [(story(name), story(name).step, left) for name in names for left in (5.0, 1.0)]
    told = [lines(telling, replace(one, step=step and replace(step, left_s=left))) for one, step, left in steps]
    found = [[text for text in news if text.startswith(("step", "shadow "))] for news in told]
    assert found == [[], [], ["shadow 50 %"], [], ["step 1/3: 20 % for 10 s"], [], ["step 2/4: pause"], []]


def test_a_live_gate_is_told_when_its_verdict_changes_and_not_with_each_request() -> None:
    held, passed, failed = (story(f"live {name}") for name in ("holds", "passes", "fails by latency"))
    counting = tuple(replace(g, observed=13.0, message="13 of 30.") if g.gate is Gate.LIVE else g for g in held.gates)
    telling = Story()
    lines(telling, replace(held, gates=tuple(g for g in held.gates if g.gate is not Gate.LIVE)))
    news = [lines(telling, one) for one in (held, replace(held, gates=counting), passed, passed, failed)]
    assert [any("live" in text for text in told) for told in news] == [True, False, True, False, True]
    samples = rests_on(live(passed), LiveEvidence).samples
    head = f"✔ live          pass     {samples.stable} stable, {samples.candidate} candidate, {samples.pairs} pairs"
    assert head in news[2]
    assert any(text.startswith("  ✔ latency") for text in news[2])
    why = next(c for c in rests_on(live(failed), LiveEvidence).checks if c.verdict is Verdict.FAIL).message
    assert " ".join(why.split()) in " ".join(" ".join(news[4]).split())


@pytest.mark.parametrize("name", ["output fails", "ended rejected", "ended rejected by Triton", "integrity fails"])
def test_a_reason_is_told_once_though_a_gate_and_three_events_give_it(name: str) -> None:
    one = story(name)
    failed = next(gate for gate in one.gates if gate.verdict is Verdict.FAIL)
    told = lines(Story(), one)
    assert " ".join(" ".join(told).split()).count(failed.message) == 1
    assert told[-1] == "rejected"
    assert not any(text.startswith("validating to rolling_back: ") for text in told)


def test_a_reason_is_known_by_its_code_and_not_by_its_words() -> None:
    back = story("ended rolled back")
    reworded = replace(back, events=tuple(replace(e, message=f"so: {e.message}: yes") for e in back.events))
    told, same = lines(Story(from_halt=True), reworded), lines(Story(from_halt=True), back)
    assert told[0] == f"so: {same[0]}: yes"
    assert (
        [text for text in told[1:] if text == "rolled_back"] == [text for text in same if text == "rolled_back"] != []
    )


def test_an_event_of_an_earlier_baton_is_told_as_it_is() -> None:
    one = story("ended rejected")
    bare = replace(one, events=tuple(replace(event, cause=None, short="") for event in one.events))
    assert lines(Story(), bare)[-1].endswith(one.message.split()[-1])
