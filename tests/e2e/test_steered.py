"""A client that chooses which version answers it can't turn a good version back, on a real Triton."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness.traffic
import pytest
import tritonclient.grpc
from harness.network import fetch
from harness.traffic import Ask, Client, Reply
from harness.waiting import until
from tests.support.stage import Stage, Traffic, stage
from tests.support.triton import OUR_BACKENDS, TOY_BACKENDS, tensors

from baton.codec import encode
from baton.reasons import Reason

pytestmark = [pytest.mark.triton, pytest.mark.slow]
ASKED: dict[str, Any] = {
    "traffic": {"steps": [{"weight": 20, "hold": "10s"}], "shadow_share": 0, "interval": "1s", "deadline": "5s"},
    # Three times as slow is more than a busy machine makes one of two like versions, and less than the attack does.
    "live": {"min_requests": 20, "window": "5s", "latency_limit": 3.0},
    "keep_previous": "1s",
}
HEAVY_KB = 30
COST = {"ms_per_kb": 10.0}


@pytest.fixture
def st(tmp_path: Path) -> Iterator[Stage]:
    with stage(tmp_path, backends=(TOY_BACKENDS, OUR_BACKENDS)) as made:
        with made.control():
            made.drop(1, toy=COST)
            made.wait_live(1)
        yield made


def inputs(document: str) -> list[Any]:
    return tensors(tritonclient.grpc, {"text": "red"}, [{"text": document}])


LIGHT, HEAVY = 0, 1


def attacking(url: str, name: str, version: int) -> Client:
    """Learns by light requests which id comes to a version, and sends heavy ones by that.

    Heavy ones take as long with either version.
    """

    @contextlib.contextmanager
    def connected() -> Iterator[Ask]:
        light, heavy = inputs("a"), inputs("a" * 1000 * HEAVY_KB)
        known = ""
        with tritonclient.grpc.InferenceServerClient(url) as client:

            def ask(number: int) -> Reply:
                nonlocal known
                request_id = known or f"{name}-{number}"
                result = client.infer("ranker", heavy if known else light, request_id=request_id)
                answered = int(result.as_numpy("model_version")[0, 0])
                reply = Reply(answered, question=HEAVY if known else LIGHT)
                if answered == version:
                    known = request_id
                return reply

            yield ask

    return Client(name, connected)


class Attack(harness.traffic.Traffic):
    """Two such clients, which send one request at a time each."""

    def __init__(self, st: Stage, version: int) -> None:
        self.version = version
        url = st.servers[0].grpc_url
        super().__init__([attacking(url, f"client-{number}", version) for number in range(2)], patience_s=60.0)

    @property
    def met(self) -> int:
        """Heavy requests that the version answered."""
        return sum(one.question == HEAVY and one.version == self.version for one in self.answers.copy())


@contextlib.contextmanager
def attacked(st: Stage, **toy: Any) -> Iterator[tuple[Traffic, Attack]]:
    """Version 2 has a fifth of the traffic, and a client makes it slow."""
    with st.control(**ASKED), Traffic(st, clients=4) as traffic:
        traffic.wait_answers(1)
        st.drop_copy(1, 2, **COST, **toy)
        st.wait_phase("shifting")
        with Attack(st, 2) as attack:
            until(lambda: attack.met >= 10, "heavy requests with version 2", instead=lambda: attack.errors)
            yield traffic, attack
    assert traffic.errors == []
    assert attack.errors == []


def held(st: Stage) -> None:
    """Until the rollout holds, and says which requests the verdict hangs on."""

    def hangs() -> bool:
        checks = [c for g in st.status()["gates"] if g["name"] == "live" for c in g["evidence"].get("checks", ())]
        return st.why().reason is Reason.HOLDING and any(c.get("hangs_on") for c in checks)

    until(hangs, "a hold that hangs on one source")


def test_heavy_requests_to_the_candidate_alone_hold_a_good_version_for_as_long_as_they_come(st: Stage) -> None:
    with attacked(st) as (traffic, attack):
        held(st)
        met = attack.met
        until(lambda: attack.met >= met + 20, "more of them")
        ended = [r.candidate for r in st.app.history() if r.ended_at]
        assert ended == [1], "version 2 was not turned back"
        attack.stop()
        st.wait_live(2)  # by itself
        traffic.wait_answers(2)


def test_a_version_that_fails_is_turned_back_all_the_same(st: Stage, tmp_path: Path) -> None:
    switch = tmp_path / "now"
    with attacked(st, error_rate=0.3, only_if=str(switch)) as (traffic, _attack):
        held(st)
        switch.touch()
        row = st.wait_end(2)
        assert row["outcome"] == "rolled_back"
        errors = next(g for g in row["gates"] if g["name"] == "live")["evidence"]["checks"][0]
        stop = st.app.journal.rollouts.newest(service="ranker", limit=1)[0].stop
        # Its failures hit health probes, too. Where two in a row do, that ends the rollout before live traffic does.
        by_probe = stop is not None and stop.why.reason is Reason.NO_ANSWER
        assert by_probe or (errors["name"], errors["verdict"]) == ("errors", "fail")
        traffic.wait_answers(1)


def test_ids_stay_where_they_are_when_the_control_plane_comes_back_and_nobody_else_knows_where(st: Stage) -> None:
    asked = ASKED | {"traffic": ASKED["traffic"] | {"steps": [{"weight": 50, "hold": "600s"}]}}
    ids = [f"user-{number}" for number in range(40)]

    def ways() -> list[int]:
        with tritonclient.grpc.InferenceServerClient(st.servers[0].grpc_url) as client:
            results = [client.infer("ranker", inputs("a"), request_id=one) for one in ids]
        return [int(result.as_numpy("model_version")[0, 0]) for result in results]

    with Traffic(st, clients=2) as traffic:
        with st.control(**asked) as app:
            traffic.wait_answers(1)
            st.drop_copy(1, 2, **COST)
            traffic.wait_answers(2)
            before = ways()
            rollout = app.journal.rollouts.current("ranker")
            assert rollout is not None
        assert set(before) == {1, 2}
        with st.control(**asked) as app:
            until(lambda: st.status()["traffic"], "the split goes on")
            traffic.wait_answers(2)
            until(lambda: ways() == before, "every id where it was")
            facts = encode((app.status(), app.history(), app.rollout(rollout.id)))
            shown = [facts, app.journal.events.newest(limit=1000)]
            app.abort(None, who="tester")
            st.wait_end(2)
    assert traffic.errors == []
    shown.append(fetch(st.servers[0].metrics_url))
    assert len(bytes.fromhex(rollout.salt)) >= 16
    assert rollout.salt not in json.dumps(shown, default=repr)
    for file in st.root.rglob("*"):
        if file.is_file() and "state" not in file.relative_to(st.root).parts:
            assert rollout.salt.encode() not in file.read_bytes(), file
