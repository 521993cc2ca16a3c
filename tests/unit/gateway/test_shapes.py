"""What the known clients send, as it was recorded, and what each of them reads in the answer."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from tests.support.gateway import PATHS, InMemory, body_of, scores_of

from baton.testing.gateway import FakeConnection

QUERY, DOCUMENTS = "red apple", ["a green pear", "a round red apple", "a red car"]
ITEMS = [{"text": text} for text in DOCUMENTS]


class Client(NamedTuple):
    """A request as the client sends it, and what it needs back."""

    path: str
    body: dict[str, Any]
    reads: tuple[str, ...] = ("results",)
    results: int = 3
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


BEARER = {"authorization": "Bearer k"}
CLIENTS = {
    "cohere v2": Client(
        "/v2/rerank", {"model": "reranker", "query": QUERY, "documents": DOCUMENTS, "top_n": 2}, results=2
    ),
    "cohere v1": Client(
        "/v1/rerank",
        {
            "query": QUERY,
            "documents": [{"text": text, "id": str(n)} for n, text in enumerate(DOCUMENTS)],
            "return_documents": True,
            "rank_fields": ["text"],
            "max_chunks_per_doc": 10,
        },
        ("results", "id", "meta"),
    ),
    "langchain-cohere": Client(
        "/v2/rerank",
        {"model": "rerank-v3.5", "query": QUERY, "documents": DOCUMENTS, "top_n": 3, "max_tokens_per_doc": None},
    ),
    "langchain JinaRerank": Client(
        "/v1/rerank", {"query": QUERY, "documents": DOCUMENTS, "model": "jina-reranker-v1-base-en", "top_n": 3}
    ),
    "llama-index jinaai": Client(
        "/v1/rerank",
        {"model": "reranker", "query": QUERY, "documents": DOCUMENTS, "top_n": 2},
        results=2,
        headers={"accept-encoding": "identity", **BEARER},
    ),
    "llama-index tei": Client("/rerank", {"query": QUERY, "texts": DOCUMENTS}, (), headers={"authorization": "k"}),
    "llama-index xinference": Client("/v1/rerank", {"model": "reranker", "query": QUERY, "documents": DOCUMENTS}),
    "llama-index siliconflow": Client(
        "/v1/rerank",
        {
            "model": "reranker",
            "query": QUERY,
            "documents": DOCUMENTS,
            "top_n": 3,
            "return_documents": False,
            "max_chunks_per_doc": 1024,
            "overlap_tokens": 80,
        },
    ),
    "haystack cohere": Client(
        "/v2/rerank",
        {"model": "reranker", "query": QUERY, "documents": DOCUMENTS, "top_n": 10, "max_tokens_per_doc": 4096},
    ),
    "haystack jina": Client(
        "/v1/rerank",
        {"query": QUERY, "documents": DOCUMENTS, "model": "reranker", "top_n": None},
        ("results", "model", "usage"),
    ),
    "haystack tei": Client("/rerank", {"query": QUERY, "texts": DOCUMENTS, "raw_scores": False}, (), headers=BEARER),
    "litellm cohere": Client(
        "/v2/rerank",
        {"model": "reranker", "query": QUERY, "documents": DOCUMENTS, "top_n": 3, "return_documents": True},
    ),
    "litellm hosted_vllm": Client("/rerank", {"model": "reranker", "query": QUERY, "documents": DOCUMENTS, "top_n": 3}),
    "litellm huggingface": Client(
        "/rerank",
        {"query": QUERY, "texts": DOCUMENTS, "top_n": 3, "return_text": True, "truncation_direction": "Right"},
        (),
    ),
    "infinity-client": Client(
        "/rerank",
        {
            "query": QUERY,
            "documents": DOCUMENTS,
            "return_documents": False,
            "raw_scores": False,
            "model": "default/not-specified",
        },
        ("results", "model", "usage", "id", "object", "created"),
    ),
    "Open WebUI": Client(
        "/v1/rerank", {"model": "reranker", "query": QUERY, "documents": DOCUMENTS, "top_n": 3}, headers=BEARER
    ),
    "Dify": Client(
        "/v1/rerank",
        {"model": "reranker", "query": QUERY, "documents": DOCUMENTS, "top_n": 3},
        headers={"authorization": ""},
    ),
    "Dify with vision": Client(
        "/v1/rerank",
        {
            "model": "reranker",
            "query": QUERY,
            "documents": [{"content": [{"type": "text", "text": text}]} for text in DOCUMENTS],
            "top_n": None,
            "return_documents": True,
        },
    ),
    "RAGFlow Xinference": Client(
        "/v1/rerank/",
        {"model": "reranker", "query": QUERY, "documents": DOCUMENTS, "return_documents": "true", "return_len": "true"},
        ("results", "usage"),
    ),
    "vLLM": Client("/rerank", {"query": QUERY, "documents": DOCUMENTS, "top_n": 0, "use_activation": None}),
    "rerankers": Client(
        "/v1/rerank",
        {"model": "reranker", "query": QUERY, "documents": DOCUMENTS, "top_n": 99, "return_documents": True},
    ),
}


def expected(fake: FakeConnection, documents: list[Any] = ITEMS, query: Any = None) -> list[float]:
    return fake.scores(1, query or {"text": QUERY}, documents)


@pytest.mark.parametrize("name", CLIENTS)
def test_a_known_client(name: str) -> None:
    client = CLIENTS[name]
    fake = FakeConnection()
    with InMemory(fake) as gateway:
        answer = gateway.post(client.path, json=client.body, headers=client.headers)
    assert answer.status_code == 200, answer.text
    told: Any = answer.json()
    assert (type(told) is dict) == bool(client.reads)
    assert all(field in told for field in client.reads)
    rows = told["results"] if client.reads else told
    best = sorted(range(3), key=lambda number: -expected(fake)[number])[: client.results]
    assert [row["index"] for row in rows] == best
    for row in rows:
        value = row["relevance_score"] if client.reads else row["score"]
        assert value == pytest.approx(expected(fake)[row["index"]], abs=1e-6)
    if client.body.get("return_documents") in {True, "true"}:
        assert [row["document"] for row in rows] == [ITEMS[number] for number in best]
    elif client.reads:
        assert all("document" not in row for row in rows)
    assert all(("text" in row) == bool(client.body.get("return_text")) for row in rows if not client.reads)
    assert [one["text"] for one in map(dict, ITEMS)] == DOCUMENTS
    assert fake.asked[0].inputs["documents"].shape == (1, 3)


@pytest.mark.parametrize("path", [*PATHS, "/rerank texts"])
def test_scores_and_order(path: str) -> None:
    fake = FakeConnection()
    with InMemory(fake) as gateway:
        answer = gateway.post(path.partition(" ")[0], json=body_of(path, QUERY, DOCUMENTS))
    found = scores_of(path, answer.json(), 3)
    assert np.abs(np.subtract(found, expected(fake))).max() <= 1e-6
    assert answer.headers["x-model-version"] == "1"


@pytest.mark.parametrize(
    ("field", "value", "count"),
    [("top_n", 0, 3), ("top_n", None, 3), ("top_n", 7, 3), ("top_n", 1, 1), ("top_k", 2, 2)],
)
def test_how_many(field: str, value: Any, count: int) -> None:
    with InMemory() as gateway:
        told = gateway.post("/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS, field: value}).json()
    assert len(told["results"]) == count


def test_the_three_spellings_of_a_score() -> None:
    spellings = [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")]
    with InMemory() as gateway:
        told = [gateway.post("/score", json={one: QUERY, two: DOCUMENTS}).json()["data"] for one, two in spellings]
        told += [gateway.post("/score", json={"text_1": [QUERY] * 3, "text_2": DOCUMENTS}).json()["data"]]
        alone = gateway.post("/score", json={"text_1": QUERY, "text_2": DOCUMENTS[0]}).json()["data"]
        several = gateway.post("/score", json={"text_1": ["a", "b"], "text_2": DOCUMENTS[:2]})
        nothing = gateway.post("/score", json={"text_1": QUERY})
    assert all(one == told[0] for one in told)
    assert alone == told[0][:1]
    assert (several.status_code, nothing.status_code) == (422, 422)
    assert "text_1" in several.json()["detail"]
    assert "text_2" in nothing.json()["detail"]


@pytest.mark.parametrize("more", [{"raw_scores": True}, {"use_activation": False}])
def test_logits_where_they_are_wanted(more: dict[str, Any]) -> None:
    fake = FakeConnection()
    with InMemory(fake) as gateway:
        told = gateway.post("/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS, **more}).json()
    scores = expected(fake)
    for row in told["results"]:
        assert 1 / (1 + np.exp(-row["relevance_score"])) == pytest.approx(scores[row["index"]], abs=1e-6)
    assert [row["index"] for row in told["results"]] == sorted(range(3), key=lambda number: -scores[number])


def test_usage_is_what_the_engine_counted() -> None:
    fake = FakeConnection()
    with InMemory(fake) as gateway:
        told = gateway.post("/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS}).json()
    asked = fake.asked[0].inputs
    count = sum(len(asked["query"][0, 0]) + len(one) for one in asked["documents"][0])
    assert told["usage"] == {"prompt_tokens": count, "total_tokens": count}
    assert told["meta"]["tokens"] == {"input_tokens": count}
    assert told["meta"]["model_version"] == 1


def test_an_engine_without_the_further_outputs() -> None:
    fake = FakeConnection(rich=False, tells_version=False)
    body = {"query": QUERY, "documents": DOCUMENTS, "max_tokens_per_doc": 10}
    with InMemory(fake) as gateway:
        answer = gateway.post("/v1/rerank", json=body)
        raw = gateway.post("/v1/rerank", json=body | {"raw_scores": True})
    told = answer.json()
    assert "x-model-version" not in answer.headers
    assert "model_version" not in told["meta"]
    assert told["usage"]["total_tokens"] == 0
    assert told["meta"]["warnings"]
    assert "options" not in fake.asked[0].inputs
    assert (raw.status_code, "logits" in raw.json()["detail"]) == (422, True)


def test_options_reach_the_engine() -> None:
    fake = FakeConnection()
    more = {"instruction": "find fruit", "fps": 2, "max_frames": 8, "max_tokens_per_doc": 100, "truncate": False}
    with InMemory(fake) as gateway:
        assert gateway.post("/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS, **more}).status_code == 200
        assert gateway.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS, "truncate": True}).status_code == 200
    first, second = (one.inputs for one in fake.asked)
    assert first["instruction"][0, 0] == b"find fruit"
    assert (
        first["options"][0, 0] == b'{"fps": 2.0, "max_frames": 8, "truncation": "refuse", "max_document_tokens": 100}'
    )
    assert "options" not in second


def test_the_models() -> None:
    with InMemory() as gateway:
        told = gateway.get("/v1/models/").json()
    assert (told["object"], [one["id"] for one in told["data"]]) == ("list", ["reranker"])
