"""The client and the probe against a real Triton, over gRPC and HTTP."""

import json
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tests.support.settings import judge_invariance, judge_latency, judge_output, judge_warmup
from tests.support.toy import engine_config, make_checkpoint, make_repository, write_golden
from tests.support.triton import running_triton

from baton import probe
from baton.client import InvalidInput, NotServing, Reranker
from baton.domain import Release, Verdict
from baton.errors import TimedOut, TritonError

pytestmark = pytest.mark.triton

DOCUMENTS = ["a green pear", "a round red apple", "a red car"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A real Triton: ``reranker`` is the alias of ``toy`` 1; ``toy`` 2 depends on its batch; ``slow`` is slow."""
    place = tmp_path_factory.mktemp("triton")
    repository = make_repository(place / "repository", {"toy": [1]}, alias="reranker")
    make_checkpoint(repository / "toy" / "2", seed=1, toy={"batch_noise": 0.05})
    (repository / "toy" / "config.pbtxt").write_text(engine_config("toy", [1, 2]))
    make_checkpoint(repository / "slow" / "1", toy={"delay_ms": 3000})
    make_checkpoint(repository / "slow" / "2", toy={"error_rate": 1.0})
    (repository / "slow" / "config.pbtxt").write_text(engine_config("slow", [1, 2]))
    with running_triton(place, repository, load=["reranker", "slow"]) as running:
        yield running


@pytest.fixture(params=["grpc", "http"])
def connect(request, server):
    """Makes clients of this protocol and closes them."""
    made = []

    def make(**more):
        address = server.grpc_url if request.param == "grpc" else server.http_url
        made.append(Reranker(address, protocol=request.param, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_ranks_and_tells_the_version(connect):
    ranking = connect().rank("red apple", DOCUMENTS, instruction="find fruit", options={"fps": 1}, request_id="abc")
    assert ranking.order[0] == 1
    assert all(0 <= score <= 1 for score in ranking.scores)
    assert (ranking.version, ranking.request_id) == (1, "abc")


def test_an_exact_version_and_many_documents(connect):
    engine = connect(model="toy")
    assert engine.rank("red", DOCUMENTS, model_version=2).version == 2
    assert len(engine.rank("red", ["document"] * 500, model_version="1").scores) == 500


def test_binaries_arrive_whole(connect):
    image = bytes(range(256)) * 4000 + b"\0\0"
    ranking = connect().rank(Reranker.image(image, text="red"), [Reranker.video([image, b"\0"]), "red"])
    assert len(ranking.scores) == 2


def test_bad_input_names_the_document_before_and_after_the_wire(connect, monkeypatch):
    reranker = connect()
    with pytest.raises(InvalidInput, match=r"documents\[1\]"):
        reranker.rank("red", ["a", {"txt": "b"}])
    monkeypatch.setattr("baton.client._KEYS", ("text", "image", "video", "txt"))
    with pytest.raises(InvalidInput, match="document 1"):
        reranker.rank("red", ["a", {"txt": "b"}])
    assert reranker.rank("red", ["a"]).version == 1


@pytest.mark.parametrize(("model", "version"), [("nobody", ""), ("toy", 9)])
def test_what_is_not_loaded_is_not_serving(connect, model, version):
    with pytest.raises(NotServing, match=model):
        connect(model=model).rank("red", DOCUMENTS, model_version=version)


def test_an_error_of_the_model_keeps_its_words(connect):
    with pytest.raises(TritonError, match="now and then") as raised:
        connect(model="slow").rank("red", DOCUMENTS, model_version=2)
    assert not isinstance(raised.value, NotServing)


def test_a_slow_answer_times_out_and_the_client_can_be_used_again(connect):
    reranker = connect(model="slow", timeout_s=0.4)
    with pytest.raises(TimedOut):
        reranker.rank("red", DOCUMENTS, model_version=1)
    with pytest.raises(TritonError, match="now and then"):
        reranker.rank("red", DOCUMENTS, model_version=2)


# One thread's HTTP connection ends with the thread, whenever Python gets to it.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_threads_share_a_client(connect):
    reranker = connect()
    expected = reranker.rank("red apple", DOCUMENTS).scores
    found, failed = [], []

    def work():
        try:
            found.extend(reranker.rank("red apple", DOCUMENTS).scores for _ in range(20))
        except Exception as error:  # noqa: BLE001 told by the assertion below
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(found) == 160
    assert all(scores == expected for scores in found)


class Port:
    """The probe's port, in its simplest form."""

    def __init__(self, address):
        self.client = triton.InferenceServerClient(address)

    def __call__(self, version, inputs, timeout_s):
        tensors = []
        for name, value in inputs.items():
            tensor = triton.InferInput(name, list(value.shape), "BYTES")
            tensor.set_data_from_numpy(value)
            tensors.append(tensor)
        answer = self.client.infer("toy", tensors, model_version=str(version), client_timeout=timeout_s)
        return {name: answer.as_numpy(name) for name in ("scores", "model_version")}


def test_the_gates_of_a_whole_rollout(server, tmp_path):
    asks = probe.get("reranker")(probe.load_golden(write_golden(tmp_path / "golden.jsonl", 12)))
    infer = Port(server.grpc_url)
    go = {"cancelled": lambda: False, "timeout_s": 30.0}
    try:
        assert len(asks.smoke(infer, 1, timeout_s=30.0).scores) == 6
        one, two = asks.score_golden(infer, 1, **go), asks.score_golden(infer, 2, **go)
        assert judge_output(Release.EQUIVALENT, one, one, asks.relevance).verdict is Verdict.PASS
        assert judge_output(Release.EQUIVALENT, one, two, asks.relevance).verdict is Verdict.FAIL
        assert judge_output(Release.RETRAINED, one, two, asks.relevance).verdict is Verdict.PASS
        for version, verdict in ((1, Verdict.PASS), (2, Verdict.FAIL)):
            pairs = asks.check_invariance(infer, version, **go)
            assert judge_invariance(pairs, precision="fp32").verdict is verdict
        requests = asks.latency_requests()
        go["clock"] = time.perf_counter
        warm = probe.measure_warmup(
            infer, 2, requests, decide=lambda s: judge_warmup(s).verdict is not Verdict.RUNNING, warm_requests=16, **go
        )
        assert judge_warmup(warm).verdict in {Verdict.PASS, Verdict.FAIL}

        def judged(samples):
            return judge_latency(samples, limit=100.0).verdict  # however noisy the machine is

        go |= {"min_samples": 200, "max_samples": 2000, "budget_s": 300}
        samples = probe.measure_latency(infer, 1, 2, requests, decide=lambda s: judged(s) is not Verdict.RUNNING, **go)
        assert len(samples.candidate) >= 40
        assert judged(samples) is Verdict.PASS
    finally:
        infer.client.close()


def test_the_examples_of_the_documentation(server, monkeypatch):
    """Each Python block of docs/reference/client.md runs as it stands, against this server's ports."""
    text = (Path(__file__).parents[2] / "docs" / "reference" / "client.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) >= 3
    png = json.dumps("not decoded by the toy").encode()
    monkeypatch.setattr(Path, "read_bytes", lambda _: png)
    scope = {"np": np}
    for block in blocks:
        code = block.replace("localhost:8001", server.grpc_url).replace("localhost:8000", server.http_url)
        exec(compile(code, "docs/reference/client.md", "exec"), scope)
