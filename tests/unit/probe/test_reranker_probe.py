import json

import numpy as np
import pytest
from tests.support.settings import judge_invariance, judge_output

from baton import probe
from baton.domain import Release, Verdict
from baton.errors import ConfigError, TimedOut, TritonError
from baton.probe import Cancelled, GoldenCase, GoldenSet
from baton.probe.base import Probe


def text(words):
    return {"text": words}


def golden(count=10, documents=6):
    return GoldenSet(
        tuple(
            GoldenCase(
                id=f"c{i}",
                kind=("text", "image")[i % 2],
                query=text(f"query {i}"),
                documents=tuple(text(f"document {i} {j}") for j in range(documents)),
                relevance=tuple(range(documents)),
                size=100 + i,
            )
            for i in range(count)
        ),
        digest="0" * 64,
    )


class Engine:
    """A version that scores each pair by itself, unless told otherwise."""

    def __init__(self, *, answers_as=None, per_batch=0.0, drop=0, error=None):
        self.requests = []
        self.answers_as, self.per_batch, self.drop, self.error = answers_as, per_batch, drop, error

    def __call__(self, version, inputs, timeout_s):
        if self.error:
            raise self.error
        self.requests.append(inputs)
        query = inputs["query"][0, 0]
        documents = inputs["documents"][0]
        scores = [
            (hash((query, bytes(document))) % 1000) / 1001 * (1 - self.per_batch) ** (len(documents) - 1)
            for document in documents
        ][self.drop :]
        answered = version if self.answers_as is None else self.answers_as
        return {"scores": np.array([scores], dtype=np.float32), "model_version": np.array([[answered]])}


def never():
    return False


@pytest.fixture
def asks() -> Probe:
    return probe.get("reranker")(golden())


def test_the_registry():
    assert probe.names() == ["reranker"]
    for unknown in ("base", "os", "..base", ""):
        with pytest.raises(ConfigError, match="Known are: reranker"):
            probe.get(unknown)


def test_golden_is_scored_one_request_at_a_time_and_alike_for_both(asks):
    stable, candidate = Engine(), Engine()
    one = asks.score_golden(stable, 1, cancelled=never, timeout_s=30.0)
    two = asks.score_golden(candidate, 2, cancelled=never, timeout_s=30.0)
    assert one == two
    assert [case.case for case in one] == [f"c{i}" for i in range(10)]
    assert len(stable.requests) == 10
    for a, b in zip(stable.requests, candidate.requests, strict=True):
        assert {name: value.tolist() for name, value in a.items()} == {n: v.tolist() for n, v in b.items()}
    assert judge_output(Release.EQUIVALENT, one, two, asks.relevance).verdict is Verdict.PASS


def test_smoke_asks_the_smallest_case(asks):
    engine = Engine()
    assert asks.smoke(engine, 3, timeout_s=30.0).case == "c0"
    assert len(engine.requests) == 1


@pytest.mark.parametrize(
    ("engine", "says"),
    [(Engine(answers_as=7), "Version 3 was asked, and 7"), (Engine(drop=1), "5 scores for 6 documents")],
)
def test_a_wrong_answer_is_an_error(asks, engine, says):
    with pytest.raises(TritonError, match=says):
        asks.smoke(engine, 3, timeout_s=30.0)
    with pytest.raises(TritonError, match=says):
        asks.score_golden(engine, 3, cancelled=never, timeout_s=30.0)


def test_an_error_of_the_engine_passes_through(asks):
    with pytest.raises(TimedOut):
        asks.score_golden(Engine(error=TimedOut("hung")), 3, cancelled=never, timeout_s=30.0)


@pytest.mark.parametrize("call", ["score_golden", "check_invariance"])
def test_an_abort_takes_effect_within_one_request(asks, call):
    for allowed in (0, 1, 3):
        engine = Engine()
        with pytest.raises(Cancelled):
            getattr(asks, call)(engine, 1, cancelled=lambda: len(engine.requests) >= allowed, timeout_s=1.0)  # noqa: B023
        assert len(engine.requests) == allowed


def test_invariance_pairs_are_the_same_pairs(asks):
    engine = Engine()
    pairs = asks.check_invariance(engine, 1, cancelled=never, timeout_s=30.0)
    assert len(pairs) == 16
    assert {pair.case for pair in pairs} > {"c0"}
    assert {pair.document for pair in pairs} == {0, 1, 2, 3}
    assert all(pair.alone == pair.mixed for pair in pairs)
    mixed = [request for request in engine.requests if request["documents"].shape[1] > 1]
    assert len(mixed) == 4
    named = [{json.loads(item)["text"].split()[1] for item in request["documents"][0]} for request in mixed]
    assert all(len(cases) > 1 for cases in named)
    assert judge_invariance(pairs, precision="fp32").verdict is Verdict.PASS


def test_scores_that_depend_on_the_batch_are_caught(asks):
    pairs = asks.check_invariance(Engine(per_batch=0.05), 1, cancelled=never, timeout_s=30.0)
    assert judge_invariance(pairs, precision="fp32").verdict is Verdict.FAIL


def test_invariance_of_a_single_case_with_a_single_document():
    pairs = probe.get("reranker")(golden(1, 1)).check_invariance(Engine(), 1, cancelled=never, timeout_s=30.0)
    assert len(pairs) == 1


def test_latency_requests_are_few_and_spread_over_the_sizes():
    requests = probe.get("reranker")(golden(30)).latency_requests()
    assert len(requests) == 8
    queries = [json.loads(request["query"][0, 0])["text"] for request in requests]
    assert (queries[0], queries[-1]) == ("query 0", "query 29")
    assert len(probe.get("reranker")(golden(2)).latency_requests()) == 2


def test_latency_requests_may_be_cut_to_fewer_documents():
    short = probe.get("reranker")(golden(30)).latency_requests(2)
    assert {request["documents"].shape for request in short} == {(1, 2)}


def test_documents_are_scored_together_and_alone_and_of_a_large_set_some():
    asks, engine = probe.get("reranker")(golden(count=100, documents=10)), Engine()
    pairs = asks.score_alone(engine, 3, cancelled=never, timeout_s=30.0)
    assert len(pairs) == 100
    assert len({pair.case for pair in pairs}) == 10
    assert all(pair.alone == pair.mixed for pair in pairs)
    few = probe.get("reranker")(golden(count=2, documents=3))
    moved = few.score_alone(Engine(per_batch=0.01), 3, cancelled=never, timeout_s=30.0)
    assert all(pair.mixed == pytest.approx(pair.alone * 0.99**2) for pair in moved)
