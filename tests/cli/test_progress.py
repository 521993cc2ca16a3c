from __future__ import annotations

from baton.cli.progress import Story


def event(kind: str, message: str) -> dict[str, str]:
    return {"at": "2026-01-01T00:00:00Z", "kind": kind, "who": "ann", "message": message}


def test_whoever_turns_a_rollout_back_is_told_what_follows() -> None:
    passed = {"name": "load", "verdict": "pass", "observed": 1.0, "limit": 900.0, "message": "READY.", "skipped": False}
    rollout = {
        "gates": [passed],
        "events": [event("begin", "rollout of version 2"), event("halt", "aborted by ann")],
    }
    told = [text for line in Story(from_halt=True).news(rollout, 80) for text, _ in line]
    assert any("aborted by ann" in text for text in told)
    assert not any("rollout of version 2" in text or "READY" in text for text in told)
    everything = [text for line in Story().news(rollout, 80) for text, _ in line]
    assert any("rollout of version 2" in text for text in everything)
    assert any("READY" in text for text in everything)
