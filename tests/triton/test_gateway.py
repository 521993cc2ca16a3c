"""The gateway in front of a real Triton: the engine's own scores in every shape, and what happens when it goes away."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from harness.places import CHECKPOINTS, ENGINE, GOLDEN, MODELS
from harness.waiting import until
from tests.support.gateway import FRUIT, PATHS, body_of, scores_of, serving
from tests.support.stage import still_run
from tests.support.toy import alias_config, make_repository
from tests.support.triton import OUR_BACKENDS, running_triton

from baton.client import InvalidInput, NotServing, Reranker, encode
from baton.errors import TimedOut, Unreachable
from baton.gateway.app import Service
from baton.gateway.pool import TritonConnection
from baton.local import LocalTriton
from baton.testing.gateway import FakeConnection

pytestmark = pytest.mark.triton

SHAPES = (*PATHS, "/rerank texts")
CASES = [json.loads(line) for line in GOLDEN.read_text().splitlines()]


# With the demo's checkpoints


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    """The real engine with the demo's two checkpoints; the alias leads to the first."""
    place = tmp_path_factory.mktemp("engine")
    folder = place / "repository" / ENGINE
    folder.mkdir(parents=True)
    config = (MODELS / ENGINE / "config.pbtxt").read_text()
    (folder / "config.pbtxt").write_text(config.replace("versions: [ 1 ]", "versions: [ 1, 2 ]"))
    for version, name in ((1, "base"), (2, "retrained")):
        shutil.copytree(CHECKPOINTS / name, folder / str(version))
    alias = place / "repository" / "reranker"
    (alias / "1").mkdir(parents=True)
    (alias / "config.pbtxt").write_text(
        alias_config("reranker", ENGINE, 1).replace("max_batch_size: 8", "max_batch_size: 16")
    )
    with running_triton(place, place / "repository", load=["reranker"], backends=(OUR_BACKENDS,)) as running:
        yield running


@pytest.fixture(scope="module")
def ask(engine: LocalTriton) -> Iterator[httpx.Client]:
    with serving(engine.grpc_url) as (_, client):
        yield client


@pytest.fixture(scope="module")
def direct(engine: LocalTriton) -> Iterator[Reranker]:
    with Reranker(engine.grpc_url, timeout_s=120) as reranker:
        yield reranker


def ranked(client: httpx.Client, path: str, query: Any, documents: list[Any], **more: Any) -> httpx.Response:
    answer = client.post(path.partition(" ")[0], json=body_of(path, query, documents, **more))
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.slow
@pytest.mark.parametrize("path", SHAPES)
def test_every_shape_gives_the_engines_scores(ask: httpx.Client, direct: Reranker, path: str) -> None:
    cases = [case for case in CASES if case["kind"] == "text" or (path != "/rerank texts" and case["kind"] != "video")]
    for case in cases:
        texts = path == "/rerank texts"
        query = case["query"]["text"] if texts else case["query"]
        documents = [one["text"] for one in case["documents"]] if texts else case["documents"]
        expected = direct.rank(query, documents).scores
        answer = ranked(ask, path, query, documents)
        found = scores_of(path, answer.json(), len(documents))
        assert np.abs(np.subtract(found, expected)).max() <= 1e-6, case["id"]
        assert answer.headers["x-model-version"] == "1"


def test_images_in_every_way_score_the_same(ask: httpx.Client, direct: Reranker) -> None:
    case = next(case for case in CASES if case["kind"] == "image")
    query, uris = case["query"]["text"], [one["image"] for one in case["documents"]]
    expected = direct.rank(query, [{"image": uri} for uri in uris]).scores
    files = {f"file{number}": base64.b64decode(uri.partition(",")[2]) for number, uri in enumerate(uris)}
    ways = {
        "object": [{"image": uri} for uri in uris],
        "parts": [{"content": [{"type": "image_url", "image_url": {"url": uri}}]} for uri in uris],
    }
    for way, documents in ways.items():
        found = scores_of("/v1/rerank", ranked(ask, "/v1/rerank", query, documents).json(), len(uris))
        assert np.abs(np.subtract(found, expected)).max() <= 1e-6, way
    described = {"query": query, "documents": [{"image": f"attachment:{name}"} for name in files]}
    parts: dict[str, Any] = {"request": (None, json.dumps(described), "application/json")}
    parts |= {name: (f"{name}.png", data, "image/png") for name, data in files.items()}
    answer = ask.post("/v2/rerank", files=parts)
    assert np.abs(np.subtract(scores_of("/v2/rerank", answer.json(), len(uris)), expected)).max() <= 1e-6


def test_a_video_and_its_frames(ask: httpx.Client, direct: Reranker) -> None:
    case = next(case for case in CASES if case["kind"] == "video")
    expected = direct.rank(case["query"], case["documents"]).scores
    found = scores_of("/v1/rerank", ranked(ask, "/v1/rerank", case["query"], case["documents"]).json(), len(expected))
    assert np.abs(np.subtract(found, expected)).max() <= 1e-6


def test_an_error_of_the_engine_names_the_document(ask: httpx.Client) -> None:
    broken = "data:image/png;base64," + base64.b64encode(b"no picture").decode()
    answer = ask.post("/v1/rerank", json={"query": "red", "documents": ["a", {"image": broken}]})
    assert answer.status_code == 422
    assert "document 1" in answer.json()["detail"]
    local = ask.post("/v1/rerank", json={"query": "red", "documents": [{"image": "/etc/passwd"}]})
    assert local.status_code == 422
    assert "document 0" in local.json()["detail"]


def test_without_the_further_outputs_it_serves_without_usage_and_logits(ask: httpx.Client) -> None:
    answer = ranked(ask, "/v1/rerank", **FRUIT, max_tokens_per_doc=4096).json()
    assert answer["usage"] == {"prompt_tokens": 0, "total_tokens": 0}
    assert answer["meta"]["warnings"] == ["max_tokens_per_doc was ignored: this engine does not know it"]
    assert ask.post("/v1/rerank", json=FRUIT | {"raw_scores": True}).status_code == 422


def blocks(page: str, language: str) -> list[str]:
    text = (Path(__file__).parents[2] / "docs" / page).read_text()
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("source", ["page", "make up"])
def test_the_curl_lines_work_as_they_stand(ask: httpx.Client, tmp_path: Path, number: int, source: str) -> None:
    from demo.up import CURL, picture

    lines = [block for block in blocks("how-to/rerank-url.md", "sh") if block.startswith("curl")]
    if source == "make up":
        first, _, second = CURL.partition("With a picture:")
        lines = [first, second]
    for place in ("picture.png", ".baton/up/picture.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(picture())
    words = [
        "sh",
        "-c",
        "exec " + lines[number].strip().replace("http://127.0.0.1:8003", str(ask.base_url).rstrip("/")),
    ]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["results"][0]["index"] == (1 if number == 0 else 0), done.stdout


def test_the_python_lines_of_the_page(ask: httpx.Client, capsys: pytest.CaptureFixture[str]) -> None:
    [code] = blocks("how-to/rerank-url.md", "python")
    exec(code.replace("http://127.0.0.1:8003", str(ask.base_url).rstrip("/")), {})
    assert capsys.readouterr().out == "[1, 0] 1\n"


def test_ready_by_an_answer(ask: httpx.Client) -> None:
    assert ask.get("/readyz").json() == {"status": "ok", "services": {"reranker": True}}


# The same of a real connection and of the one in memory


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    """The toy with two versions, and ``slow``, which takes three seconds."""
    place = tmp_path_factory.mktemp("toy")
    repository = make_repository(place / "repository", {ENGINE: [1, 2]}, alias="reranker")
    config = json.loads((repository / ENGINE / "2" / "config.json").read_text())
    (repository / ENGINE / "2" / "config.json").write_text(json.dumps(config | {"toy": {"delay_ms": 3000}}))
    (repository / "slow" / "2").mkdir(parents=True)
    (repository / "slow" / "config.pbtxt").write_text(alias_config("slow", ENGINE, 2))
    with running_triton(place, repository, load=["reranker", "slow"]) as running:
        yield running


@pytest.mark.parametrize("real", [True, False], ids=["real", "memory"])
def test_logits_and_tokens_where_the_model_has_them(real: bool, tmp_path: Path) -> None:  # noqa: FBT001
    with contextlib.ExitStack() as stack:
        address = "memory"
        if real:
            repository = make_repository(tmp_path / "repository", {ENGINE: [1]}, alias="reranker", rich=True)
            address = stack.enter_context(running_triton(tmp_path, repository, load=["reranker"])).grpc_url
        _, client = stack.enter_context(serving(address, connect=TritonConnection if real else FakeConnection))
        usual = ranked(client, "/v1/rerank", **FRUIT).json()
        raw = ranked(client, "/v1/rerank", **FRUIT, raw_scores=True).json()
    assert usual["usage"]["total_tokens"] > 0
    assert [one["index"] for one in raw["results"]] == [one["index"] for one in usual["results"]]
    for logit, score in zip(raw["results"], usual["results"], strict=True):
        assert 1 / (1 + np.exp(-logit["relevance_score"])) == pytest.approx(score["relevance_score"], abs=1e-5)


@pytest.fixture(params=["real", "memory"])
def upstream(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """An address and what connects to it, in an event loop of the test's own."""
    if request.param == "memory":
        return "memory", lambda name: FakeConnection(name, versions=(1, 2), rich=False)
    return request.getfixturevalue("toy").grpc_url, TritonConnection


def through(upstream: tuple[str, Any], work: Any) -> Any:
    async def run() -> Any:
        connection = upstream[1](upstream[0])
        try:
            return await work(connection)
        finally:
            await connection.close()

    return asyncio.run(run())


INPUTS = encode("red apple", ["a green pear", "a round red apple"])


def test_a_connection_gives_scores_and_the_version(upstream: tuple[str, Any]) -> None:
    outputs = through(upstream, lambda one: one.infer("reranker", "", INPUTS, "id", 60.0))
    assert outputs["scores"].shape == (1, 2)
    assert ((outputs["scores"] >= 0) & (outputs["scores"] <= 1)).all()
    assert outputs["model_version"].tolist() == [[1]]
    assert {"scores", "model_version"} == through(upstream, lambda one: one.outputs("reranker", 60.0))


def test_a_connection_asks_one_version(upstream: tuple[str, Any]) -> None:
    outputs = through(upstream, lambda one: one.infer(ENGINE, "2", INPUTS, "id", 60.0))
    assert outputs["model_version"].tolist() == [[2]]


@pytest.mark.parametrize(("model", "version"), [("nobody", ""), (ENGINE, "9")])
def test_a_connection_tells_what_is_not_there(upstream: tuple[str, Any], model: str, version: str) -> None:
    with pytest.raises(NotServing):
        through(upstream, lambda one: one.infer(model, version, INPUTS, "id", 60.0))


def test_a_connection_names_the_document(upstream: tuple[str, Any]) -> None:
    inputs = dict(INPUTS, documents=np.array([[b'{"text": "a"}', b'{"txt": "b"}']], dtype=object))
    with pytest.raises(InvalidInput, match="document 1"):
        through(upstream, lambda one: one.infer("reranker", "", inputs, "id", 60.0))


def test_a_connection_gives_up_in_time(upstream: tuple[str, Any]) -> None:
    def slow(one: Any) -> Any:
        if isinstance(one, FakeConnection):
            one.answer_s = 3.0
        return one.infer(ENGINE, "2", INPUTS, "id", 0.3)

    with pytest.raises(TimedOut):
        through(upstream, slow)


def test_a_connection_to_nobody(upstream: tuple[str, Any]) -> None:
    def nobody(one: Any) -> Any:
        if isinstance(one, FakeConnection):
            one.reachable = False
            return one.infer("reranker", "", INPUTS, "id", 60.0)
        return lost("127.0.0.1:1")

    async def lost(address: str) -> Any:
        connection = TritonConnection(address)
        try:
            return await connection.infer("reranker", "", INPUTS, "id", 60.0)
        finally:
            await connection.close()

    with pytest.raises(Unreachable):
        through(upstream, nobody)


# Faults


SLOW = {"slow": Service("slow", ENGINE)}


def test_a_client_that_goes_away_frees_its_place(toy: LocalTriton) -> None:
    with serving(toy.grpc_url, services=SLOW, max_requests=1) as (gateway, client):
        told = httpx.Client(base_url=gateway.places["gateway_metrics"], trust_env=False)
        with told:
            with pytest.raises(httpx.ReadTimeout):
                client.post("/v1/rerank", json=FRUIT, timeout=1.0)
            until(lambda: 'status="499"} 1.0' in told.get("/metrics").text, "the gateway notices")
            assert "baton_gateway_in_flight 0.0" in told.get("/metrics").text
            assert client.post("/v1/rerank", json=FRUIT).status_code == 200


def test_an_engine_that_takes_too_long_is_504(toy: LocalTriton) -> None:
    with serving(toy.grpc_url, services=SLOW, timeout=0.5) as (_, client):
        answer = client.post("/v1/rerank", json=FRUIT)
        assert (answer.status_code, answer.json()["error_type"]) == (504, "Timeout")


def test_no_triton_is_503_in_every_shape() -> None:
    with serving("127.0.0.1:1") as (_, client):
        for path in SHAPES:
            answer = client.post(path.partition(" ")[0], json=body_of(path, "red", ["a"]))
            assert answer.status_code == 503
            assert "127.0.0.1" not in answer.text
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200


def test_a_stop_finishes_what_is_there(toy: LocalTriton) -> None:
    answers: list[int] = []
    with serving(toy.grpc_url, services=SLOW) as (gateway, client):
        thread = threading.Thread(target=lambda: answers.append(client.post("/v1/rerank", json=FRUIT).status_code))
        thread.start()
        with httpx.Client(base_url=gateway.places["gateway_metrics"], trust_env=False) as told:
            until(lambda: answers or "baton_gateway_in_flight 1.0" in told.get("/metrics").text, "it is under way")
        gateway.__exit__()
        thread.join()
    assert answers == [200]


@pytest.mark.slow
def test_one_of_two_servers_is_killed_under_load(tmp_path: Path) -> None:
    """Every request that ran on it goes to the other one: the budget of retries holds them."""
    repository = make_repository(tmp_path / "repository", {ENGINE: [1]}, alias="reranker")
    homes = [tmp_path / "a", tmp_path / "b"]
    for home in homes:
        home.mkdir()
    with (
        running_triton(homes[0], repository, load=["reranker"]) as first,
        running_triton(homes[1], repository, load=["reranker"]) as second,
        serving(first.grpc_url, second.grpc_url) as (gateway, _),
    ):
        stop, statuses = threading.Event(), []

        def work() -> None:
            with httpx.Client(base_url=gateway.places["gateway"], trust_env=False, timeout=120) as client:
                while not stop.is_set():
                    statuses.append(client.post("/v1/rerank", json=FRUIT).status_code)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        try:
            until(lambda: len(statuses) > 200, "answers of both")
            assert first.pid is not None
            os.kill(first.pid, signal.SIGKILL)
            so_far = len(statuses)
            until(lambda: len(statuses) > so_far + 300, "answers of the other")
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        still_run([second])
        assert set(statuses) == {200}
        with httpx.Client(base_url=gateway.places["gateway_metrics"], trust_env=False) as told:
            failures = [line for line in told.get("/metrics").text.splitlines() if "server_failures_total{" in line]
        assert any('what="retry"' in line for line in failures), failures
