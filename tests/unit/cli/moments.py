"""Statuses of a service at the moments of a rollout, as the control plane tells them."""

from __future__ import annotations

from typing import Any

from tests.unit.api.fake import gate

STEPS = ["shadow 25 % for 30 s", "5 % for 30 s", "to 50 % over 90 s", "pause", "100 %"]
PASSED = [
    gate("integrity", "pass", 0.0, 0.0, "14 files, 4.3 GB, every hash matches."),
    gate("compatibility", "pass", None, None, "Architecture, tokenizer and processor fit."),
    gate("capacity", "pass", 5.6e9, 2.1e10, "An estimated 5.6 GB of memory plus a margin of 10% fits."),
    gate("load", "pass", 41.2, 900.0, "READY on every server after 41.2 s."),
    gate("warmup", "pass", 1.1, 1.5, "The first answer took 1.1 times as long as the steady p95."),
    gate("output", "pass", 0.0, 0.01, "NDCG@10 0.842 where version 1 has 0.811, on 64 golden requests."),
    gate("invariance", "pass", 0.0001, 0.005, "64 pairs score the same alone and in a mixed batch."),
    gate("latency", "pass", 1.02, 1.15, "p95 31.2 ms where version 1 takes 30.6 ms, 200 requests each."),
]
MEMORY = gate("memory", "pass", 0.012, 0.05, "412 MiB, +1.2 % in 10 min.")


def check(name: str, verdict: str, observed: float | None, limit: float | None, message: str) -> dict[str, Any]:
    return {"name": name, "verdict": verdict, "observed": observed, "limit": limit, "message": message}


def live(verdict: str, *checks: dict[str, Any], worst: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    deciding = next(c for c in checks if c["verdict"] == verdict)
    evidence = {
        "checks": list(checks), "samples": {"stable": 812, "candidate": 39, "pairs": 203}, "worst": worst or [],
    }  # fmt: skip
    return {**deciding, "name": "live", "skipped": False, "evidence": evidence}


ERRORS = check("errors", "pass", 0.0, 0.01, "0 of 39 answers of the candidate failed; 1 of 812 of the stable version.")
LATENCY = check("latency", "pass", 1.04, 1.5, "p50 12.1 ms against 11.6 ms, p95 33.0 against 30.9, of 39 and 812.")
SCORES = check("scores", "pass", 0.031, 0.25, "Mean drift 0.031, top-1 agreement 0.97, tau 0.91 in 203 pairs.")
FEW = check("scores", "hold", 12.0, 30.0, "12 of 30 pairs are needed before scores can be judged.")
WRONG = check(
    "scores", "fail", 0.412, 0.25,
    "Requests with documents.image: mean drift 0.412 over the limit of 0.25 in 41 of 203 pairs; the others drift by "
    "0.030.",
)  # fmt: skip


def version(
    number: int, label: str, state: str, memory: dict[str, Any] | None = None, reason: str = "", **runs: Any
) -> Any:
    return {
        "version": number, "label": label, "state": state, "release": "equivalent", "reason": reason, "memory": memory,
        "device": None, "dtype": None, "fallback": None, "health": [], **runs,
    }  # fmt: skip


GPU = {"device": "cuda:0", "dtype": "bf16", "fallback": "none"}
LOWERED = {"device": "cpu", "dtype": "fp32", "fallback": "cpu"}
LESS = (
    "On server local version 2 runs in fp32 on cpu, though bf16 on cuda:0 was asked for (fallback cpu). Make room on "
    "that machine and restart its Triton in a quiet hour; or ask for less in the engine's config.pbtxt."
)


def usage(count: int, growth: float | None, verdict: str = "pass") -> dict[str, Any]:
    return {"bytes": count, "growth": growth, "verdict": verdict}


def traffic(**changes: Any) -> dict[str, Any]:
    return {
        "weight": 5.0, "observed": 4.6, "requests": {"stable": 812, "candidate": 39}, "shadow": 25.0, "shadowed": 203,
        "synthetic": 0,
        "lease_s": 15.0, "lease_left_s": 13.2, "waiting_for": "", "eta_s": 134.0, "breaker": "closed",
        "contents": False,
        "splitters": [
            {"server": "local", "candidate": 2, "weight": changes.get("weight", 5.0),
             "shadow": changes.get("shadow", 25.0), "contents": False, "lease_left_s": 13.0, "answered_s": 0.4},
        ],
    } | changes  # fmt: skip


def page(*, paused: bool = False, **changes: Any) -> dict[str, Any]:
    """A rollout with 5 % of the traffic, or what ``changes`` make of it."""
    service = {
        "name": "reranker", "engine": "qwen3_vl_reranker", "phase": "shifting",
        "message": "Version 2 has 5 % of traffic and does well; 14 s more of it.",
        "stable": 1, "candidate": 2, "weight": 5.0, "traffic": traffic(),
        "step": {"index": 1, "count": 4, "name": "5 % for 30 s", "left_s": 14.2}, "steps": STEPS,
        "gates": [*PASSED, live("pass", ERRORS, LATENCY, SCORES), MEMORY],
        "versions": [
            version(1, "v2.0.0", "serving", usage(412_000_000, 0.012)),
            version(2, "v2.1.0", "candidate", usage(398_000_000, None, "hold")),
            version(3, "broken", "rejected", None, "integrity: model-00002-of-00004.safetensors is cut short."),
        ],
        "problems": [],
        "rollout": {
            "id": 7, "kind": "rollout", "candidate": 2, "previous": 1, "label": "v2.1.0", "release": "retrained",
            "phase": "shifting", "who": "carol@host via ctl", "why": "promoted", "started_at": "2026-01-01T00:00:00Z",
        },
        "updated_at": "2026-01-01T00:02:00Z",
    }  # fmt: skip
    service |= changes
    return {
        "version": "0.1.0",
        "repository": "/nowhere",
        "paused": paused,
        "servers": [{"name": "local", "grpc": "127.0.0.1:8001", "live": True, "in_sync": True, "message": ""}],
        "services": [service],
    }


def _step(index: int, left: float | None = None) -> dict[str, Any]:
    return {"index": index, "count": 4, "name": STEPS[index], "left_s": left}


PAGES: dict[str, dict[str, Any]] = {
    "shadowing": page(
        phase="shadowing", message="Version 2 answers 25 % of the requests as well, unseen; 12 s more of it.",
        weight=0, step=_step(0, 12.0),
        traffic=traffic(weight=0.0, observed=None, requests={"stable": 240, "candidate": 0}, shadowed=61, eta_s=164.0),
        gates=[*PASSED, live("hold", ERRORS, LATENCY, FEW)],
    ),
    "five-percent": page(),
    "held": page(
        message="Version 2 has 5 % of traffic, and the evidence does not suffice yet to give it more.",
        traffic=traffic(
            requests={"stable": 210, "candidate": 12}, shadowed=12, waiting_for="evidence: 12 of 30 requests",
            eta_s=None,
        ),
        gates=[*PASSED, live("hold", ERRORS, LATENCY, FEW), MEMORY],
        step=_step(1, 0.0),
    ),
    "pause-step": page(
        phase="waiting", message="Version 2 has 50 % of traffic; step 3 waits for a person.", weight=50.0,
        step=_step(3),
        traffic=traffic(weight=50.0, observed=49.8, requests={"stable": 2412, "candidate": 1310}, eta_s=None),
    ),
    "ramp-troubled": page(
        paused=True, weight=27.5, step=_step(2, 45.0), message="Paused: version 2 keeps 27.5 % of traffic.",
        traffic=traffic(weight=27.5, observed=3.1, breaker="open", lease_left_s=2.4, eta_s=None, shadow=0),
    ),
    "live-fails": page(
        phase="rolling_back", message="live: " + WRONG["message"], candidate=None, weight=0, traffic=None,
        step=_step(2),
        gates=[
            *PASSED,
            live("fail", ERRORS, LATENCY, WRONG, worst=[
                {"id": "7f3a", "kind": "documents.image,query.text", "drift": 0.61, "tau": -0.2,
                 "stable_top1": 0, "candidate_top1": 3},
                {"id": "", "kind": "documents.image,query.text", "drift": 0.55, "tau": 0.1,
                 "stable_top1": 1, "candidate_top1": 2},
            ]),
            MEMORY,
        ],
    ),
    "rolled-back": page(
        phase="steady", message="Version 1 serves on every server. Version 2 was rolled back: live: scores drift.",
        candidate=None, weight=0, traffic=None, step={"index": 0, "count": 4, "name": "", "left_s": None}, rollout=None,
        gates=[*PASSED, live("fail", ERRORS, LATENCY, WRONG)],
        versions=[
            version(1, "v2.0.0", "serving", usage(412_000_000, 0.004)),
            version(2, "v2.1.0", "rejected", None, "live: " + WRONG["message"]),
        ],
    ),
    "devices": page(
        versions=[
            version(1, "v2.0.0", "serving", usage(5_312_000_000, 0.002), **GPU),
            version(2, "v2.1.0", "candidate", usage(398_000_000, None), **LOWERED),
            version(3, "broken", "rejected", None, "integrity: model-00002-of-00004.safetensors is cut short."),
        ],
        problems=[
            LESS,
        ],
    ),
    "elsewhere": page(
        phase="steady", message="Version 1 serves on every server.", candidate=None, weight=0, traffic=None,
        step={"index": 0, "count": 4, "name": "", "left_s": None}, rollout=None, gates=PASSED,
        versions=[
            version(1, "v2.0.0", "serving", device="cuda:0, cuda:1, cuda:2, cuda:3", dtype="bf16", fallback="none"),
            version(2, "v2.1.0", "on_disk"),
        ],
    ),
    "memory-alarm": page(
        phase="steady", message="Version 1 serves on every server.", candidate=None, weight=0, traffic=None,
        step={"index": 0, "count": 4, "name": "", "left_s": None}, rollout=None,
        gates=[*PASSED, gate("memory", "fail", 0.072, 0.05, "528 MiB, +7.2 % in 10 min, over the limit of 5 %.")],
        versions=[version(1, "v2.0.0", "serving", usage(553_000_000, 0.072, "fail")), version(2, "v2.1.0", "on_disk")],
    ),
}  # fmt: skip
