from __future__ import annotations

from typing import Any

from tests.unit.api.fake import rollout
from tests.unit.cli.moments import ERRORS, FEW, SCORES, WRONG, live

from baton.cli.output import plain
from baton.cli.progress import Story
from baton.codec import decode
from baton.facts import RolloutStory


def event(kind: str, message: str, gate: str | None = None) -> dict[str, str | None]:
    return {"at": "2026-01-01T00:00:00Z", "kind": kind, "who": "ann", "message": message, "gate": gate}


def story(told: dict[str, Any]) -> RolloutStory:
    return decode(RolloutStory, rollout(**told))


def test_whoever_turns_a_rollout_back_is_told_what_follows() -> None:
    passed = {"name": "load", "verdict": "pass", "observed": 1.0, "limit": 900.0, "message": "READY.", "skipped": False}
    given = {
        "gates": [passed],
        "events": [event("begin", "rollout of version 2"), event("halt", "aborted by ann")],
    }
    told = [text for line in Story(from_halt=True).news(story(given), 80) for text, _ in line]
    assert any("aborted by ann" in text for text in told)
    assert not any("rollout of version 2" in text or "READY" in text for text in told)
    everything = [text for line in Story().news(story(given), 80) for text, _ in line]
    assert any("rollout of version 2" in text for text in everything)
    assert any("READY" in text for text in everything)


def _lines(telling: Story, given: dict[str, Any]) -> list[str]:
    return [plain(line)[10:] for line in telling.news(story(given), 80)]


def test_traffic_steps_are_told_as_they_come() -> None:
    telling = Story()
    names = ("shadow 25 % for 30 s", "5 % for 30 s", "to 50 % over 90 s", "pause", "100 %")
    told = []
    for index, name in enumerate(names):
        for left in (2.0, 1.0):
            step = {"index": index, "count": 4, "name": name, "left_s": left}
            told.append(_lines(telling, {"gates": [], "events": [], "weight": 5.0, "step": step}))
    first = [["shadow 25 % for 30 s"], *[[f"step {n}/4: {names[n]}"] for n in range(1, 5)]]
    assert told == [lines for news in first for lines in (news, [])]
    assert _lines(Story(), {"gates": [], "events": [], "step": {"index": 0, "count": 4, "name": ""}}) == []


def test_a_live_gate_is_told_when_its_verdict_changes_and_not_with_each_request() -> None:
    telling = Story()
    few = {**FEW, "message": "13 of 30 pairs are needed before scores can be judged.", "observed": 13.0}
    news = [
        _lines(telling, {"gates": [gate], "events": []})
        for gate in (
            live("hold", ERRORS, FEW),
            live("hold", ERRORS, few),
            live("pass", ERRORS, SCORES),
            live("pass", ERRORS, {**SCORES, "observed": 0.029}),
            live("fail", ERRORS, WRONG),
        )
    ]
    assert [bool(lines) for lines in news] == [True, False, True, False, True]
    assert news[2] == [
        "✔ live          pass     812 stable, 39 candidate, 203 pairs",
        "  ✔ errors        pass     0 (limit 0.01)",
        "    0 of 39 answers of the candidate failed; 1 of 812 of the stable",
        "    version.",
        "  ✔ scores        pass     0.031 (limit 0.25)",
        "    Mean drift 0.031, top-1 agreement 0.97, tau 0.91 in 203 pairs.",
    ]
    assert "Requests with documents.image: mean drift 0.412" in " ".join(" ".join(news[4]).split())


def test_a_reason_is_told_once_though_a_gate_and_three_events_give_it() -> None:
    why = "353 of 485 golden scores differ from stable's: more than ±0.001."
    refused = {"name": "output", "verdict": "fail", "observed": 1.0, "limit": 0.001, "message": why, "skipped": False}
    load = event("call", "load call: engine on local")
    given = {
        "gates": [refused],
        "events": [
            load,
            event("verdict", f"output: fail. {why}", "output"),
            event("halt", why),
            event("phase", f"validating to rolling_back: {why}"),
            load,
            event("end", f"rejected: {why}"),
        ],
    }
    told = _lines(Story(), given)
    assert " ".join(told).count("353 of 485") == 1
    assert told[0] == told[-2] == "load call: engine on local"
    assert told[-3:] == ["validating to rolling_back", "load call: engine on local", "rejected"]
    assert _lines(Story(), {"gates": [], "events": [event("halt", why)]}) == [why]
