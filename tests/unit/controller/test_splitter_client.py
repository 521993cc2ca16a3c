"""What the control plane makes of several splitters' samples."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest

from baton.config import ServiceConfig
from baton.controller.live_evidence import LiveEvidenceCollector
from baton.controller.splitter_client import SplitterClient
from baton.domain import Route
from baton.samples import Answer
from baton.testing import FakeSplitter
from baton.triton.port import Tensors

GIVEN = {
    "engine": "ranker_engine", "stable": "1", "token_sha256": hashlib.sha256(b"").hexdigest(),
    "max_weight": "100", "max_shadow": "100", "max_lease_s": "60",
}  # fmt: skip


class Splitter:
    """A fake splitter that took the samples that a test says."""

    def __init__(self, boot: str) -> None:
        self.boot, self.samples = boot, []
        self.fake = FakeSplitter(GIVEN, lambda: 100.0)

    def infer(self, _model: str, _version: int, inputs: Tensors, _timeout_s: float) -> Tensors:
        answer = self.fake.control(inputs, {})
        report = json.loads(bytes(answer["baton_report"].reshape(-1)[0]))
        report |= {"boot": self.boot, "samples": self.samples, "next": 0}
        self.samples = []
        return {"baton_report": np.array([json.dumps(report).encode()], dtype=np.object_)}


class Files:
    def token(self) -> str:
        return ""

    def batches(self) -> bool:
        return False


def sample(request_id: str, age_s: float, role: str = "candidate", **more: Any) -> dict[str, Any]:
    told = {"what": "answer", "role": role, "took_ms": 10.0, "outcome": "ok", "error": "", "id": request_id}
    return told | {"age_s": age_s, "bytes": 5, "top": None, "mean": None} | more


@pytest.fixture
def two() -> tuple[SplitterClient, LiveEvidenceCollector, dict[str, Splitter]]:
    servers = {"a": Splitter("boot-a"), "b": Splitter("boot-b")}
    made: Any = servers
    files: Any = Files()
    config = ServiceConfig("ranker", "ranker_engine")
    evidence = LiveEvidenceCollector(config)
    evidence.begin(1, "split", 0.0)
    return SplitterClient(config, files, made, evidence), evidence, servers


def heard(client: SplitterClient, evidence: LiveEvidenceCollector, *servers: str) -> list[Answer]:
    for server in servers:
        client.exchange(server, Route(2, 20.0, 0.0), 5.0, "salt", 100.0)
    return evidence._recent(evidence._live, 100.0)[0]


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_an_id_that_was_used_at_another_server_was_used_before(two, order):
    client, evidence, servers = two
    servers["a"].samples = [sample("probe", 3.0), sample("own", 2.0), sample("", 2.0)]
    servers["b"].samples = [sample("probe", 1.0, took_ms=400.0), sample("", 1.0)]
    answers = heard(client, evidence, *order)
    assert {(a.id, a.boot): a.again for a in answers} == {
        ("probe", "boot-a"): False, ("own", "boot-a"): False, ("", "boot-a"): False,
        ("probe", "boot-b"): True, ("", "boot-b"): False,
    }  # fmt: skip


def test_a_splitter_that_started_again_knows_of_no_id_but_the_control_plane_does(two):
    client, evidence, servers = two
    servers["a"].samples = [sample("probe", 3.0)]
    heard(client, evidence, "a")
    servers["a"].boot = "boot-2"
    servers["a"].samples = [sample("probe", 1.0)]
    assert [a.again for a in heard(client, evidence, "a")] == [False, True]


def test_what_the_splitter_says_of_a_request_is_kept(two):
    client, evidence, servers = two
    both = [sample("x", 1.0, outcome="failed", stable_ms=7.0), sample("x", 1.0, "stable"), sample("x", 0.5, again=True)]
    servers["a"].samples = both
    answers = heard(client, evidence, "a")
    assert [(a.again, a.stable_ms, a.size) for a in answers] == [(False, 7.0, 5), (False, None, 5), (True, None, 5)]


def test_another_rollout_begins_anew(two):
    client, evidence, servers = two
    servers["a"].samples = [sample("probe", 3.0)]
    heard(client, evidence, "a")
    evidence.begin(2, "split", 100.0)
    servers["b"].samples = [sample("probe", 1.0)]
    assert [a.again for a in heard(client, evidence, "b")] == [False]
