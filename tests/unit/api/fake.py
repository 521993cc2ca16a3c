"""A facade whose answers are written down, for tests of what asks and carries; it remembers what it was asked."""

from __future__ import annotations

import copy
from typing import Any

from baton.codec import decode, encode
from baton.errors import BatonError, Refused
from baton.facts import (
    ControlHealth,
    Paused,
    RolloutFacts,
    RolloutStory,
    Runs,
    Status,
    Ticket,
    VersionOnDisk,
)


def gate(name: str, verdict: str, observed: float | None, limit: float | None, message: str) -> dict[str, Any]:
    return {
        "name": name, "verdict": verdict, "observed": observed, "limit": limit, "message": message,
        "skipped": False, "evidence": {},
    }  # fmt: skip


LONG = (
    "3 of 64 golden scores moved: document 'The quick brown fox jumps over the lazy dog' of query 'fox' scored "
    "0.3120 where version 1 scores 0.9000, which is far above the tolerance."
)
GATES = [
    gate("integrity", "pass", None, None, "3 files, 12 MB, every hash matches"),
    gate("output", "fail", 0.588, 0.001, LONG),
    gate("invariance", "hold", 0.0, 0.005, "2 of 8 pairs answered"),
    gate("latency", "running", 1.02, 1.15, "40 of 200 samples"),
    gate("warmup", "pending", None, None, ""),
]


def version(number: int | None, label: str, state: str, reason: str = "") -> dict[str, Any]:
    return {
        "service": "reranker", "version": number, "label": label, "release": "equivalent", "state": state,
        "size": 12_345_678, "trained_at": "2026-01-01", "metrics": {"ndcg@10": 0.71}, "notes": "a note",
        "reason": reason,
    }  # fmt: skip


VERSIONS = [
    version(1, "v2.0.0", "serving"),
    version(2, "v2.1.0-with-a-label-that-somebody-made-very-long-indeed", "candidate"),
    version(3, "3", "rejected", "model.safetensors: " + "x" * 120),
    version(None, "tmp-copy", "rejected", "'tmp-copy' is no version number."),
]


def status(**changes: Any) -> dict[str, Any]:
    service = {
        "name": "reranker", "engine": "qwen3_vl_reranker", "phase": "steady",
        "message": "Version 1 serves on every server, and there is nothing to do until a new version comes along.",
        "stable": 1, "candidate": None, "weight": 0, "step": {"index": 0, "count": 3}, "steps": ["100 %"],
        "gates": [], "traffic": None, "problems": [],
        "versions": [
            {**{k: v[k] for k in ("version", "label", "state", "release", "reason")}, "health": []}
            for v in VERSIONS[:3]
        ],
        "rollout": None, "updated_at": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    paused = changes.pop("paused", False)
    service |= changes
    return {
        "version": "0.1.0",
        "repository": "/nowhere",
        "paused": paused,
        "servers": [
            {"name": "local", "grpc": "127.0.0.1:8001", "live": True, "in_sync": True, "message": ""},
            {"name": "other", "grpc": "10.0.0.2:8001", "live": False, "in_sync": False, "message": "refused " * 20},
        ],
        "services": [service],
    }


def rolling() -> dict[str, Any]:
    """A status in the middle of a rollout."""
    return status(
        phase="validating", candidate=2, gates=copy.deepcopy(GATES),
        rollout={
            "id": 7, "kind": "rollout", "candidate": 2, "previous": 1, "who": "carol@host via ctl",
            "why": "promoted", "phase": "validating", "started_at": "2026-01-01T00:00:00Z", "label": "v2.1.0",
            "release": "retrained",
        },
    )  # fmt: skip


def rollout(**changes: Any) -> dict[str, Any]:
    return {
        "id": 7, "service": "reranker", "kind": "rollout", "candidate": 2, "previous": 1, "label": "v2.1.0",
        "release": "equivalent", "outcome": None, "phase": "verifying", "who": "carol@host via ctl",
        "why": "promoted", "weight": 0,
        "message": "", "started_at": "2026-01-01T00:00:00Z", "ended_at": None, "duration_s": None,
        "time_to_live_s": None, "gates": [],
        "events": [_event("begin", "rollout of version 2: promoted")], "moved": False, "ended": False,
        "doing": "" if changes.get("ended") else "Gate integrity checks version 2.",
    } | changes  # fmt: skip


def _event(kind: str, message: str) -> dict[str, Any]:
    gate = message.partition(":")[0] if kind == "verdict" else None
    return {"at": "2026-01-01T00:00:00Z", "kind": kind, "who": "baton", "message": message, "gate": gate}


STORY = [
    rollout(),
    rollout(
        phase="validating",
        gates=[GATES[0], gate("latency", "running", None, None, "")],
        events=[
            _event("begin", "rollout of version 2: promoted"),
            _event("ask", "gate integrity about version 2"),
            _event("verdict", "integrity: pass. 3 files"),
            _event("phase", "verifying to validating: the files are whole"),
        ],
    ),
]


def live(**changes: Any) -> dict[str, Any]:
    """The rollout as traffic has moved; it bakes, and has not ended."""
    return STORY[1] | {"phase": "baking", "moved": True, "time_to_live_s": 42.0} | changes


def ended(outcome: str, message: str, **changes: Any) -> dict[str, Any]:
    return STORY[1] | {
        "phase": "rolling_back", "ended": True, "outcome": outcome, "message": message,
        "ended_at": "2026-01-01T00:01:00Z", "duration_s": 60.0,
    } | changes  # fmt: skip


NOT_LISTED = {"events", "moved", "ended", "doing"}
HISTORY = [
    {k: v for k, v in ended("rejected", LONG, gates=GATES).items() if k not in NOT_LISTED},
    {k: v for k, v in rollout(id=6, kind="check").items() if k not in NOT_LISTED},
]


def told(kind: Any, data: Any) -> Any:
    """What is written down as JSON tells it, with what it leaves out."""
    return encode(decode(kind, data))


class FakeApp:
    """``story``: what ``rollout()`` answers, one after the other, the last one again and again."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.page = status()
        self.story: list[dict[str, Any]] = [*STORY, live()]
        self.until: Any = "live"
        self.error: BaseException | None = None
        self.expected: list[int | None] = [7]
        self.live = self.ready = True
        self.turned = 1_700_000_000.0
        self.runs: Runs | None = None
        """What the configuration is that it runs with; None for one that does not tell, as an older one."""

    def _note(self, *call: Any) -> None:
        self.calls.append(call)
        if self.error is not None:
            raise self.error

    def _ticket(self, number: int | None = 7) -> Ticket:
        return Ticket("reranker", number, self.until, "It begins.")

    def status(self, service: str | None) -> Status:
        self._note("status", service)
        return decode(Status, self.page)

    def versions(self, service: str | None) -> tuple[VersionOnDisk, ...]:
        self._note("versions", service)
        return decode(tuple[VersionOnDisk, ...], VERSIONS)

    def history(self, service: str | None, limit: int = 50) -> tuple[RolloutFacts, ...]:
        self._note("history", service, limit)
        return decode(tuple[RolloutFacts, ...], HISTORY)

    def rollout(self, number: int) -> RolloutStory:
        self._note("rollout", number)
        if number != self.story[0]["id"]:
            raise Refused(f"There is no rollout {number}.", mend="`ctl history` lists them.")
        return decode(RolloutStory, self.story.pop(0) if len(self.story) > 1 else self.story[0])

    def promote(self, service: str | None, version: int | None, *, full: bool, who: str) -> Ticket:
        self._note("promote", service, version, full, who)
        return self._ticket()

    def rollback(self, service: str | None, to: int | None, *, who: str) -> Ticket:
        self._note("rollback", service, to, who)
        return self._ticket()

    def abort(self, service: str | None, *, who: str) -> Ticket:
        self._note("abort", service, who)
        return self._ticket()

    def retry(self, service: str | None, version: int | None, *, release: str | None, who: str) -> Ticket:
        self._note("retry", service, version, release, who)
        return self._ticket(None if version == 1 else 7)

    def verify(self, service: str | None, version: int, *, who: str) -> Ticket:
        self._note("verify", service, version, who)
        return self._ticket()

    def pause(self, *, who: str) -> Paused:
        self._note("pause", who)
        self.page["paused"] = True
        return Paused(paused=True, message="Paused.")

    def resume(self, *, who: str) -> Paused:
        self._note("resume", who)
        self.page["paused"] = False
        return Paused(paused=False, message="Resumed.")

    def expect(self, service: str | None, version: int, timeout_s: float) -> Ticket:
        self._note("expect", service, version, timeout_s)
        return self._ticket(self.expected.pop(0) if len(self.expected) > 1 else self.expected[0])

    def health(self) -> ControlHealth:
        self._note("health")
        message = "ok" if self.live else "The loop stands still."
        return ControlHealth(live=self.live, ready=self.ready, message=message, runs=self.runs)

    def acting(self) -> bool:
        return True

    def loop_at(self) -> float:
        return self.turned

    def counts(self) -> dict[tuple[str, str], int]:
        return {("reranker", "live"): 3, ("reranker", "rejected"): 2}


class OddError(BatonError):
    """A class that the client does not know."""

    exit_code = 6
