"""Every error has every client's shape, says what to do, and tells nothing of the inside."""

from __future__ import annotations

import pytest
from tests.support.gateway import FRUIT, InMemory

from baton.client import InvalidInput, NotServing
from baton.errors import BatonError, TimedOut, TritonError, Unreachable
from baton.testing.gateway import FakeConnection

INSIDE = "10.1.2.3:8001"
UPSTREAM: list[tuple[BatonError, int, str]] = [
    (InvalidInput("document 3: image 0: is no image that can be read"), 422, "Validation"),
    (NotServing("in ensemble 'reranker', busy: 1024 requests are under way here"), 429, "Overloaded"),
    (TimedOut(f"Triton at {INSIDE} said: deadline: the time is over."), 504, "Timeout"),
    (TimedOut(f"Triton at {INSIDE} gave no answer within 30 s."), 504, "Timeout"),
    (NotServing(f"unknown model at {INSIDE}"), 503, "Unavailable"),
    (Unreachable(f"Triton at {INSIDE} does not answer: Socket closed."), 503, "Unavailable"),
    (TritonError(f"Triton at {INSIDE} said: Traceback /opt/tritonserver"), 502, "Backend"),
]


def check(answer: object, status: int) -> dict[str, str]:
    assert answer.status_code == status, answer.text  # type: ignore[attr-defined]
    told: dict[str, str] = answer.json()  # type: ignore[attr-defined]
    assert set(told) == {"detail", "message", "error", "error_type", "id"}
    assert all(isinstance(value, str) and value for value in told.values())
    assert told["detail"] == told["message"] == told["error"]
    assert told["id"] == answer.headers["x-request-id"]  # type: ignore[attr-defined]
    assert answer.headers["content-type"] == "application/json"  # type: ignore[attr-defined]
    return told


@pytest.mark.parametrize(("error", "status", "kind"), UPSTREAM)
def test_what_triton_says(error: BatonError, status: int, kind: str) -> None:
    with InMemory(FakeConnection(error=error)) as gateway:
        for path in ("/v1/rerank", "/rerank"):
            answer = gateway.post(path, json=FRUIT)
            told = check(answer, status)
            assert told["error_type"] == kind
            assert INSIDE not in answer.text
            assert "/opt" not in answer.text
            assert ("retry-after" in answer.headers) == (status == 429)
    if status == 422:
        assert "document 3" in told["detail"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("GET", "/nowhere", None, 404, "/nowhere"),
        ("GET", "/v1/rerank", None, 405, "GET"),
        ("DELETE", "/v1/models", None, 405, "DELETE"),
        ("POST", "/v1/rerank", b"", 400, "not JSON"),
        ("POST", "/v1/rerank", b"{", 400, "not JSON"),
        ("POST", "/v1/rerank", b"null", 400, "no JSON object"),
        ("POST", "/v1/rerank", b"\xff\xfe", 400, "UTF-8"),
        ("POST", "/v1/rerank", b'{"query": NaN}', 400, "NaN"),
        ("POST", "/v1/rerank", b'{"query": "a", "query": "b"}', 400, "'query' twice"),
        ("POST", "/v1/rerank", b'{"documents": ["a"]}', 422, "query"),
        ("POST", "/v1/rerank", b'{"query": "a"}', 422, "documents"),
        ("POST", "/v1/rerank", b'{"query": "a", "documents": []}', 422, "documents is empty"),
        ("POST", "/v1/rerank", b'{"query": "a", "documents": ["b", 7]}', 422, "$.documents[1]"),
        ("POST", "/v1/rerank", b'{"query": "a", "documents": [{"x": 1}]}', 422, "documents[0]"),
        ("POST", "/v1/rerank", b'{"query": "a", "documents": ["b"], "top_n": -1}', 422, "top_n"),
        ("POST", "/v1/rerank", b'{"query": "\\ud800", "documents": ["b"]}', 422, "query"),
        ("POST", "/rerank", b'{"query": "a", "documents": [{"image": "data:\\ud800;base64,eA=="}]}', 422, "wrong kind"),
        (
            "POST",
            "/rerank",
            b'{"query": "a", "rank_fields": ["\\ud800"], "documents": [{"\\ud800": {}}]}',
            422,
            "ud800",
        ),
        ("POST", "/rerank", b'{"query": "a", "texts": ["b"], "documents": ["b"]}', 422, "both"),
        ("POST", "/rerank", b'{"query": "a", "texts": [{"text": "b"}]}', 422, "$.texts[0]"),
        ("POST", "/rerank", b'{"query": "a", "texts": ["b"], "truncation_direction": "Left"}', 422, "Left"),
        ("POST", "/rerank", b'{"query": "a"}', 422, "documents"),
    ],
)
def test_what_clients_do_wrong(method: str, path: str, body: bytes | None, status: int, said: str) -> None:
    with InMemory() as gateway:
        told = check(gateway.request(method, path, content=body), status)
    assert said in told["detail"]


def test_a_defect_tells_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a secret")

    with InMemory() as gateway:
        monkeypatch.setattr(gateway.gateway, "_target", broken)
        answer = gateway.post("/v1/rerank", json=FRUIT)
        told = check(answer, 500)
        assert gateway.get("/healthz").status_code == 200
    assert "secret" not in answer.text
    assert told["error_type"] == "Internal"
    assert "a secret" in caplog.text, "the log has it"


def test_a_score_that_is_no_number() -> None:
    import numpy as np

    class Broken(FakeConnection):
        async def infer(self, *given: object) -> dict[str, np.ndarray]:  # type: ignore[override]
            return dict(await super().infer(*given)) | {"scores": np.array([[0.5, np.nan, 0.1]], dtype=np.float32)}  # type: ignore[arg-type]

    with InMemory(Broken()) as gateway:
        told = check(gateway.post("/v1/rerank", json=FRUIT), 502)
    assert "document 1" in told["detail"]


def test_a_logit_that_json_cannot_hold() -> None:
    import numpy as np

    class Broken(FakeConnection):
        async def infer(self, *given: object) -> dict[str, np.ndarray]:  # type: ignore[override]
            return dict(await super().infer(*given)) | {"logits": np.array([[0.5, np.inf, 0.1]], dtype=np.float32)}  # type: ignore[arg-type]

    with InMemory(Broken()) as gateway:
        told = check(gateway.post("/v1/rerank", json=FRUIT | {"raw_scores": True}), 502)
    assert "document 1" in told["detail"]


def test_fewer_scores_than_documents() -> None:
    import numpy as np

    class Broken(FakeConnection):
        async def infer(self, *given: object) -> dict[str, np.ndarray]:  # type: ignore[override]
            return dict(await super().infer(*given)) | {"scores": np.array([[0.5]], dtype=np.float32)}  # type: ignore[arg-type]

    with InMemory(Broken()) as gateway:
        check(gateway.post("/v1/rerank", json=FRUIT), 502)
