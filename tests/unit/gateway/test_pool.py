"""Several servers: the one with the least to do is asked, a failure goes to another one, within time and budget."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from tests.support.gateway import FRUIT, InMemory

from baton.client import InvalidInput, NotServing
from baton.errors import BatonError, TimedOut, TritonError, Unreachable
from baton.gateway.pool import Pool, Target
from baton.gateway.shapes import parse_rerank
from baton.testing.gateway import FakeConnection

QUERY = parse_rerank(FRUIT, {})


def pool(
    *servers: FakeConnection, share: float = 0.1, now: list[float] | None = None
) -> tuple[Pool, list[tuple[str, str]]]:
    told: list[tuple[str, str]] = []
    clock = [0.0] if now is None else now
    return Pool(servers, retry_share=share, told=lambda *one: told.append(one), clock=lambda: clock[0]), told


def ask(one: Pool, count: int = 1, timeout_s: float = 10.0) -> list[str]:
    """Who answered each."""

    async def run() -> list[str]:
        return [(await one.ask(Target("reranker"), QUERY, "id", timeout_s))[1] for _ in range(count)]

    return asyncio.run(run())


@pytest.mark.parametrize(
    "error", [Unreachable("gone"), NotServing("not loaded"), NotServing("busy: full"), TritonError("x")]
)
def test_a_failure_goes_to_the_other_server(error: BatonError) -> None:
    first, second = FakeConnection("a", error=error), FakeConnection("b")
    one, told = pool(first, second)
    assert ask(one) == ["b"]
    assert ("a", "retry") in told
    assert (len(first.asked), len(second.asked)) == (1, 1)


@pytest.mark.parametrize("error", [InvalidInput("document 0: x"), TimedOut("late")])
def test_some_failures_stay(error: BatonError) -> None:
    first, second = FakeConnection("a", error=error), FakeConnection("b")
    one, _ = pool(first, second)
    with pytest.raises(type(error)):
        ask(one)
    assert second.asked == []


def test_a_server_that_failed_rests_longer_each_time() -> None:
    now = [0.0]
    first, second = FakeConnection("a", reachable=False), FakeConnection("b")
    one, told = pool(first, second, now=now)
    failures = []
    for step in range(60):
        now[0] = step * 0.5
        before = len(told)
        assert ask(one) == ["b"]
        if len(told) > before:
            failures.append(now[0])
    gaps = [later - earlier for earlier, later in pairwise(failures)]
    assert gaps == sorted(gaps)
    assert gaps[-1] >= 8
    first.reachable = True
    now[0] += 20
    assert set(ask(one, 4)) == {"a", "b"} or ask(one) == ["a"]


def test_a_version_that_is_not_loaded_says_nothing_about_a_server() -> None:
    """Who may ask for versions must not send the others' requests away from servers that are well."""
    first, second = FakeConnection("a"), FakeConnection("b")
    one, _ = pool(first, second)
    with pytest.raises(NotServing):
        asyncio.run(one.ask(Target("qwen3_vl_reranker", "9"), QUERY, "id", 10.0))
    assert [server.rests_until for server in one.servers] == [0.0, 0.0]


def test_all_rest_and_are_asked_all_the_same() -> None:
    first, second = FakeConnection("a", reachable=False), FakeConnection("b", reachable=False)
    one, _ = pool(first, second)
    with pytest.raises(Unreachable):
        ask(one)
    second.reachable = True
    assert ask(one) == ["b"]


def test_retries_have_a_budget() -> None:
    error = TritonError("each fails")
    first, second = FakeConnection("a", error=error), FakeConnection("b", error=error)
    one, told = pool(first, second)
    for _ in range(200):
        with pytest.raises(TritonError):
            ask(one)
    retries = sum(what == "retry" for _, what in told)
    assert len(first.asked) + len(second.asked) == 200 + retries
    assert 20 <= retries <= 200 * 0.1 + 10


def test_no_retry_when_the_time_is_over() -> None:
    now = [0.0]

    class Late(FakeConnection):
        async def infer(self, *given: Any) -> Any:
            now[0] += 10
            return await super().infer(*given)

    second = FakeConnection("b")
    one, _ = pool(Late("a", error=Unreachable("gone")), second, now=now)
    with pytest.raises(Unreachable):
        ask(one, timeout_s=5.0)
    assert second.asked == []


def test_a_retry_has_what_is_left_of_the_time() -> None:
    now = [0.0]

    class Late(FakeConnection):
        async def infer(self, *given: Any) -> Any:
            now[0] += 4
            return await super().infer(*given)

    second = FakeConnection("b")
    one, _ = pool(Late("a", error=Unreachable("gone")), second, now=now)
    assert ask(one, timeout_s=5.0) == ["b"]
    assert second.asked[0].timeout_s == pytest.approx(1.0)


def test_a_hanging_connection_is_given_up() -> None:
    class Hangs(FakeConnection):
        async def infer(self, *_: Any) -> Any:
            await asyncio.Event().wait()

    with InMemory(Hangs("a"), timeout=0.05) as gateway:
        gateway.gateway.pool._clock = lambda: 0.0
        answer = gateway.post("/v1/rerank", json=FRUIT)
    assert answer.status_code == 504


def test_a_look_whether_it_answers_is_no_live_traffic() -> None:
    """Behind the alias a splitter takes every request for a client's, and golden requests would never take their place:
    so the version is asked that the alias last led to, and the alias only where nothing is known of it."""
    now, fake = [0.0], FakeConnection("a", versions=(1, 2))
    one, _ = pool(fake, now=now)

    def asked() -> list[tuple[str, str]]:
        now[0] += 20.0
        before = len(fake.asked)
        ready = one.ready("reranker", QUERY, engine="qwen3_vl_reranker", within_s=10.0, timeout_s=5.0)
        assert asyncio.run(ready) == (fake.error is None)
        return [(each.model, each.version) for each in fake.asked[before:]]

    alias, engine = ("reranker", ""), "qwen3_vl_reranker"
    assert asked() == [alias]
    assert asked() == asked() == [(engine, "1")]
    fake.stable = 2
    ask(one)
    assert asked() == [(engine, "2")]
    fake.stable, fake.versions = 1, (1,)
    assert asked() == [(engine, "2"), alias], "it was replaced while nobody asked"
    assert asked() == [(engine, "1")]
    fake.error = TritonError("the splitter is gone")
    with pytest.raises(TritonError):
        ask(one)
    assert asked() == [alias], "what the alias led to is no proof any more"


def test_work_is_spread() -> None:
    first, second = FakeConnection("a"), FakeConnection("b")
    one, _ = pool(first, second)

    async def run() -> None:
        first.gate = second.gate = asyncio.Event()
        asking = [asyncio.ensure_future(one.ask(Target("reranker"), QUERY, "id", 10.0)) for _ in range(10)]
        while len(first.asked) + len(second.asked) < len(asking):  # noqa: ASYNC110
            await asyncio.sleep(0)
        first.gate.set()
        await asyncio.gather(*asking)

    asyncio.run(run())
    assert (len(first.asked), len(second.asked)) == (5, 5)


# Readiness


def test_ready_by_one_server_and_not_by_none() -> None:
    first, second = FakeConnection("a", reachable=False), FakeConnection("b")
    with InMemory(first, second) as gateway:
        assert gateway.get("/readyz").status_code == 200
    with InMemory(FakeConnection("a", reachable=False)) as gateway:
        assert gateway.get("/readyz").status_code == 503
    with InMemory(FakeConnection("a", error=NotServing("busy: full"))) as gateway:
        assert gateway.get("/readyz").status_code == 200, "it answers"


def test_a_recent_answer_is_proof_enough_and_asking_is_no_load() -> None:
    fake = FakeConnection()
    with InMemory(fake) as gateway:
        assert gateway.post("/v1/rerank", json=FRUIT).status_code == 200
        for _ in range(20):
            assert gateway.get("/readyz").status_code == 200
    assert len(fake.asked) == 1
    fake = FakeConnection("a", reachable=True, error=TritonError("x"))
    with InMemory(fake) as gateway:
        for _ in range(20):
            assert gateway.get("/readyz").status_code == 503
    assert len(fake.asked) <= 2


def test_who_is_told_to_stop_is_not_ready() -> None:
    with InMemory() as gateway:
        gateway.gateway.draining = True
        assert gateway.get("/readyz").status_code == 503
        assert gateway.get("/healthz").status_code == 200
        assert gateway.post("/v1/rerank", json=FRUIT).status_code == 200
