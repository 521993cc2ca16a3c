"""The backend in the real Triton server: an unmodified checkpoint folder is served, bad ones are not."""

from __future__ import annotations

import json
import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton
from harness.network import fetch
from harness.triton import start
from harness.waiting import until
from shapes import draw
from tests.support.triton import running_triton
from tests.unit.engine.support import BACKEND, BASE, RETRAINED, ROOT, png, score
from tools.make_checkpoints import faults
from tritonclient.utils import InferenceServerException

from baton.domain import EngineInfo
from baton.local import procfs
from baton.triton.grpc import GrpcTriton
from reranker_engine.inference.scorer import Scorer, ScorerSettings

pytestmark = [pytest.mark.triton, pytest.mark.slow]
ENGINE = "qwen3_vl_reranker"
LONG_S = 300.0
PARTS = ("start", "imports", "weights", "self_test")


def tensor(name, values):
    found = triton.InferInput(name, [1, len(values)], "BYTES")
    raw = [value if isinstance(value, bytes) else json.dumps(value).encode() for value in values]
    found.set_data_from_numpy(np.array([raw], dtype=np.object_))
    return found


@pytest.fixture(scope="module")
def base():
    torch.set_num_threads(1)
    return Scorer(BASE, ScorerSettings())


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Version 1 is a link to the base checkpoint; 2 is empty, 3 holds a weight that is no number.

    The tokenizer of 5 never ends where a client's text has a run of z, that of 6 after an Armenian letter alone.
    """
    tmp = tmp_path_factory.mktemp("triton")
    model = tmp / "repository" / ENGINE
    model.mkdir(parents=True)
    shutil.copy(ROOT / "model_repository" / ENGINE / "config.pbtxt", model)
    (model / "1").symlink_to(BASE)
    (model / "2").mkdir()
    faults.make("nan", BASE, model / "3")
    for version, pattern in (("5", "(z+){1,999}[qQ]"), ("6", r"\p{Armenian}(\p{L}+){1,99}[qQ]")):
        shutil.copytree(BASE, model / version)
        table = json.loads((BASE / "tokenizer.json").read_text("utf-8"))
        table["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern
        (model / version / "tokenizer.json").write_text(json.dumps(table), "utf-8")
    backends = tmp / "backends"
    backends.mkdir()
    shutil.copytree(BACKEND, backends / ENGINE, ignore=shutil.ignore_patterns("__pycache__"))
    with running_triton(tmp, tmp / "repository", load=[ENGINE], backends=(backends,)) as running:
        yield running, model


class Client(triton.InferenceServerClient):
    """Its load calls come back. On a busy machine one of Triton 24.10 hangs now and then: the model's process is ready
    and waits for its first command, and Triton for its answer. ``pyproject.toml`` has such a test run once more."""

    def __init__(self, server):
        super().__init__(server.grpc_url)
        self._server = server

    def load_model(self, name):
        try:
            super().load_model(name, client_timeout=LONG_S)
        except InferenceServerException as error:
            if "Deadline Exceeded" in str(error):
                self._server.stop(timeout=0.0)
            if self._server.pid is None:
                raise AssertionError(f"Triton ended by itself, or had to be: {error}") from error
            raise


@pytest.fixture
def client(server):
    running, model = server
    if running.pid is None:
        shutil.copy(ROOT / "model_repository" / ENGINE / "config.pbtxt", model)
        start(running, model.parents[1], model.parent, load=[ENGINE])
    with Client(running) as client:
        yield client


def test_scores_equal_those_of_the_engine_in_process(client, base):
    picture = png(draw(random.Random(2), ("red", "star")))
    documents = [{"text": "a red star"}, {"image": {"media": 0}}, {"text": "a blue ring"}]
    query = {"text": "find a red star"}
    result = client.infer(
        ENGINE,
        [tensor("query", [query]), tensor("documents", documents), tensor("media", [picture])],
    )
    assert result.as_numpy("model_version").tolist() == [[1]]
    expected = score(base, query, documents, media=[picture])
    assert np.abs(result.as_numpy("scores") - expected).max() <= 1e-5


def test_requests_of_different_sizes_and_one_bad_one_at_the_same_time(server, base):
    query = {"text": "one red circle"}
    documents = [{"text": f"number {number}"} for number in range(9)]

    def ask(count):
        with triton.InferenceServerClient(server[0].grpc_url) as client:
            sent = documents[:count] if count else [{"image": "/etc/hostname"}]
            try:
                result = client.infer(ENGINE, [tensor("query", [query]), tensor("documents", sent)])
            except InferenceServerException as error:
                return str(error)
            return result.as_numpy("scores")[0]

    counts = [0, 1, 5, 9, 2, 0, 7, 3] * 3
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, counts))
    expected = score(base, query, documents)
    for count, answer in zip(counts, answers, strict=True):
        if count:
            assert np.abs(answer - expected[:count]).max() <= 1e-5
        else:
            assert "INVALID_ARG" in answer
            assert "document 0: image 0: refers to a local file" in answer


def ask(address, count, more="", **options):
    with triton.InferenceServerClient(address) as client:
        documents = [{"text": f"number {number}{more}"} for number in range(count)]
        inputs = [tensor("query", [{"text": "a"}]), tensor("documents", documents)]
        start = time.monotonic()
        result = client.infer(ENGINE, inputs, **options)
        return result.as_numpy("scores")[0], time.monotonic() - start


COUNTERS = (
    "pairs_total",
    "tokens_total",
    "truncated_total",
    "batch_pairs_count",
    "batch_pairs_sum",
    "request_seconds_count",
)


def figure(server, name, *labels, version="1"):
    """The sum of a metric's series of one version that have the labels; 0 where there are none."""
    labels = (f'version="{version}"', *labels)
    lines = fetch(server[0].metrics_url).splitlines()
    found = [line for line in lines if line.startswith(name + "{") and all(label in line for label in labels)]
    return sum(float(line.split()[-1]) for line in found)


PASSES = "baton_engine_batch_pairs_count"


def test_small_requests_beside_a_large_one(server):
    """A small one is answered while the large ones that were there before it have passes to go."""
    address = server[0].grpc_url
    ask(address, 500)
    settle(server)
    before = figure(server, PASSES)
    with ThreadPoolExecutor(6) as pool:
        large = [pool.submit(ask, address, 4000, " red" * 25) for _ in range(6)]
        until(lambda: figure(server, PASSES) > before, "it is under way")
        answered_at = []
        while not all(one.done() for one in large):
            ask(address, 1)
            answered_at.append(figure(server, PASSES))
        scores, _ = large[0].result(120)
    assert answered_at[0] < figure(server, PASSES) - len(answered_at)  # each of the small ones has a pass at most
    assert np.abs(scores[:1] - ask(address, 1, " red" * 25)[0]).max() <= 1e-5


def test_what_nobody_waits_for_is_not_computed(server):
    """Through the public protocol: a client that goes away, and a timeout that is over or can't be held."""
    address = server[0].grpc_url
    settle(server)
    pairs = figure(server, "baton_engine_pairs_total")
    more = " red" * 150  # enough to compute for the fastest machine
    with pytest.raises(InferenceServerException, match="Deadline Exceeded"):
        ask(address, 4000, more, client_timeout=3)
    until(lambda: rejected(server, "cancelled") == 1, "the cancelled one is noticed")
    with pytest.raises(InferenceServerException, match=r"UNAVAILABLE.*deadline: the request's timeout"):
        ask(address, 4000, more, timeout=2_000_000)
    until(lambda: rejected(server, "deadline") == 1, "the late one is counted")
    with pytest.raises(InferenceServerException, match=r"UNAVAILABLE.*deadline: the request's timeout"):
        ask(address, 1, timeout=1)
    ask(address, 2, timeout=60_000_000)
    settle(server)
    assert figure(server, "baton_engine_pairs_total") == pairs + 2


def settle(server):
    """Wait until all that was answered is counted: figures come in bulk, this one not before those that precede it."""
    for _ in range(2):
        counted = rejected(server, "request")
        with pytest.raises(InferenceServerException, match="is not valid JSON"), triton_client(server) as client:
            client.infer(ENGINE, [tensor("query", [b"{"]), tensor("documents", [b"{}"])])
        until(lambda counted=counted: rejected(server, "request") == counted + 1, "the error is counted")


def triton_client(server):
    return triton.InferenceServerClient(server[0].grpc_url)


def rejected(server, cause):
    return figure(server, "baton_engine_rejected_total", f'cause="{cause}"')


def test_the_engines_metrics_stand_beside_tritons(server, client):
    picture = png(draw(random.Random(5), ("blue", "star")))
    settle(server)
    before = {name: figure(server, f"baton_engine_{name}") for name in COUNTERS}
    for _ in range(2):
        client.infer(
            ENGINE,
            [
                tensor("query", [{"text": "blue"}]),
                tensor("documents", [{"image": {"media": 0}}, {"text": "a"}]),
                tensor("media", [picture]),
            ],
        )
    until(lambda: figure(server, "baton_engine_pairs_total") == before["pairs_total"] + 4, "the pairs are counted")
    grown = {name: figure(server, f"baton_engine_{name}") - value for name, value in before.items()}
    assert grown.pop("tokens_total") > 100
    assert grown == {
        "pairs_total": 4,
        "truncated_total": 0,
        "batch_pairs_count": 2,
        "batch_pairs_sum": 4,
        "request_seconds_count": 2,
    }
    assert "vision_cache" not in fetch(server[0].metrics_url)  # by default it tells nobody who else sent a picture
    assert figure(server, "baton_engine_info", 'device="cpu"', 'dtype="fp32"', 'fallback="none"', 'weights="copy"') == 1
    parts = {part: figure(server, "baton_engine_load_seconds", f'part="{part}"') for part in PARTS}
    assert 0 < parts["start"] < parts["imports"]
    assert parts["weights"] > 0 < parts["self_test"]


def served(server, client):
    """Has Triton serve the versions that it is called with, by the policy on disk."""
    model = server[1]
    config = (model / "config.pbtxt").read_text()

    def serve(versions):
        (model / "new").write_text(config.replace("versions: [ 1 ]", f"versions: [ {versions} ]"))
        (model / "new").replace(model / "config.pbtxt")
        client.load_model(ENGINE)

    return serve


def test_versions_count_beside_each_other_and_after_each_other(server, client):
    """A version that leaves takes its gauges along, and nobody else's figures."""
    model, serve = server[1], served(server, client)

    (model / "4").symlink_to(RETRAINED)
    try:
        for round_ in (1, 2):
            serve("1, 4")
            until(lambda: client.is_model_ready(ENGINE, "4"), "version 4 is loaded")
            until(lambda: figure(server, "baton_engine_info", version="4") == 1, "version 4 tells of itself")
            ask(server[0].grpc_url, 3, model_version="4")
            serve("1")
            until(lambda: figure(server, "baton_engine_info", version="4") == 0, "version 4 takes leave")
            assert figure(server, "baton_engine_pairs_total", version="4") == 3 * round_
            assert figure(server, "baton_engine_info") == 1
            settle(server)
            pairs = figure(server, "baton_engine_pairs_total")
            ask(server[0].grpc_url, 2)
            settle(server)
            assert figure(server, "baton_engine_pairs_total") == pairs + 2
    finally:
        serve("1")
        (model / "4").unlink()


def test_a_model_for_several_gpus_is_told_from_what_serves_it(server, client):
    """KIND_MODEL comes through to the engine; that there are no GPUs is an error, or told where the CPU is allowed."""
    model = server[1].parent / "divided"
    model.mkdir()
    (model / "1").symlink_to(BASE)
    config = (ROOT / "model_repository" / ENGINE / "config.pbtxt").read_text()
    for before, after in (
        (f'name: "{ENGINE}"', 'name: "divided"'),
        ("kind: KIND_AUTO", "kind: KIND_MODEL"),
        ('key: "devices"\n    value: { string_value: ""', 'key: "devices"\n    value: { string_value: "0,1"'),
    ):
        assert config.count(before) == 1
        config = config.replace(before, after)
    (model / "config.pbtxt").write_text(config)
    try:
        with pytest.raises(InferenceServerException, match="is to run on cuda:0, cuda:1, but torch sees no GPU"):
            client.load_model("divided")
        (model / "config.pbtxt").write_text(config.replace('"refuse"', '"cpu"'))
        client.load_model("divided")
        lowered = EngineInfo("cpu", "fp32", "cpu", "cuda:0,cuda:1", "auto")
        plain = EngineInfo("cpu", "fp32", "none", "cpu", "fp32")
        with closing(GrpcTriton("a", server[0].grpc_url, metrics=server[0].metrics_url.split("/")[2])) as seen:
            wanted = {ENGINE: {1: {plain}}, "divided": {1: {lowered}}}
            until(lambda: seen.engine_infos() == wanted, "both tell what they run in")
            client.unload_model("divided")
            del wanted["divided"]
            until(lambda: seen.engine_infos() == wanted, "what left tells nothing")
    finally:
        client.unload_model("divided")
        shutil.rmtree(model)


@pytest.mark.parametrize(
    ("version", "cause"),
    [
        (2, "this is not a checkpoint folder"),
        (3, "holds 1 values that are not finite"),
        (
            5,
            r"the tokenizers library failed with the text 'z', over and over .PanicException: Onig: .*take the token",
        ),
    ],
)
def test_a_bad_version_does_not_load_and_the_live_one_goes_on(server, client, version, cause):
    model = server[1]
    config = (model / "config.pbtxt").read_text()
    (model / "new").write_text(config.replace("versions: [ 1 ]", f"versions: [ 1, {version} ]"))
    (model / "new").replace(model / "config.pbtxt")
    with pytest.raises(InferenceServerException, match=cause):
        client.load_model(ENGINE)
    assert client.is_model_ready(ENGINE, "1")
    assert not client.is_model_ready(ENGINE, str(version))
    result = client.infer(ENGINE, [tensor("query", [{"text": "a"}]), tensor("documents", [{"text": "b"}])])
    assert result.as_numpy("scores").shape == (1, 1)
    (model / "new").write_text(config)
    (model / "new").replace(model / "config.pbtxt")
    client.load_model(ENGINE)


def test_a_panic_is_answered_and_ends_the_process_which_can_be_loaded_again(server, client):
    """Nobody waits for a thread that is gone, and Triton lets go of the version: no request was in its process."""
    serve = served(server, client)

    def state():
        found = client.get_model_repository_index().models
        return next((one.state for one in found if (one.name, one.version) == (ENGINE, "6")), "gone")

    def processes():
        return len([one for one in procfs.stubs() if one.model == ENGINE and one.version == 6])

    inputs = [
        tensor("query", [{"text": "\u0531" + "a" * 60 + "!q"}]),
        tensor("documents", [{"text": "a red circle"}]),
    ]
    try:
        serve("1, 6")
        assert processes() == 1
        for _ in range(2):
            ask(server[0].grpc_url, 3, model_version="6")
            with pytest.raises(InferenceServerException, match=r"PanicException: Onig.*process ends itself") as caught:
                client.infer(ENGINE, inputs, model_version="6")
            assert "INTERNAL" in str(caught.value.status())
            until(lambda: not processes(), "the process ends")
            serve("1")
            until(lambda: state() != "UNLOADING", "Triton lets go of it")
            ask(server[0].grpc_url, 3)
            serve("1, 6")
            until(lambda: client.is_model_ready(ENGINE, "6"), "it is loaded again")
    finally:
        serve("1")
