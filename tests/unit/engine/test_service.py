"""The Triton side, with a stand-in for Triton's Python module: shapes, errors, isolation between requests."""

from __future__ import annotations

import importlib
import json
import random
import re
import shutil
import subprocess
import sys
import threading
import types
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from harness.waiting import until
from shapes import draw
from tests.unit.engine.support import BACKEND, BASE, data_uri, official_prompt
from tokenizers import Tokenizer

CONFIG = {"parameters": {"threads": {"string_value": "1"}}}


class TritonError:
    INVALID_ARG, INTERNAL, CANCELLED, UNAVAILABLE = "INVALID_ARG", "INTERNAL", "CANCELLED", "UNAVAILABLE"

    def __init__(self, message, code):
        self.message, self.code = message, code


@dataclass
class Tensor:
    name: str
    array: Any

    def as_numpy(self):
        return self.array


@dataclass
class Response:
    output_tensors: list[Tensor] = field(default_factory=list)
    error: TritonError | None = None

    def __getitem__(self, name):
        return next(tensor.array for tensor in self.output_tensors if tensor.name == name)


USUAL = ("scores", "model_version")
"""What a request asks for that names no outputs, where the configuration has no others."""


class Request:
    def __init__(self, query, documents, *, cancelled=False, timeout_us=0, wanted=USUAL, **more):
        self.tensors = {"query": [query], "documents": documents, **more}
        self.cancelled = cancelled
        self.timeout_us = timeout_us
        self.wanted = wanted
        self.sent = []

    def is_cancelled(self):
        return self.cancelled

    def timeout(self):
        return self.timeout_us

    def requested_output_names(self):
        return self.wanted

    def get_response_sender(self):
        return types.SimpleNamespace(send=lambda response, flags: self.sent.append(response))


class Metric:
    def __init__(self, family, labels):
        self.family, self.labels = family, frozenset(labels.items())

    def increment(self, value):
        assert value >= 0 or self.family.kind == "gauge"
        METRICS[self.family.name, self.labels] = METRICS.get((self.family.name, self.labels), 0) + value

    def observe(self, value):
        METRICS.setdefault((self.family.name, self.labels), []).append(value)


class MetricFamily:
    COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

    def __init__(self, name, description, kind):
        self.name, self.kind = name, kind

    def Metric(self, labels, buckets=()):  # noqa: N802 - Triton's name
        return Metric(self, labels)


METRICS = {}
"""As Triton keeps them: beyond the life of a version."""


def metric(name, **labels):
    """A figure of version 8, which one test alone uses."""
    labels = frozenset({"model": "qwen3_vl_reranker", "version": "8", **labels}.items())
    return METRICS.get((f"baton_engine_{name}", labels))


def as_tensor(request, name):
    value = request.tensors.get(name)
    if value is None:
        return None
    if isinstance(value, np.ndarray):
        return Tensor(name, value)
    raw = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in value]
    return Tensor(name, np.array([raw], dtype=np.object_))


def ignored(_):
    pass


@pytest.fixture(scope="module")
def backend():
    """The backend's class, imported as Triton imports it."""
    stand_in: Any = types.ModuleType("triton_python_backend_utils")
    stand_in.Tensor, stand_in.InferenceResponse, stand_in.TritonError = Tensor, Response, TritonError
    stand_in.get_input_tensor_by_name = as_tensor
    stand_in.MetricFamily = MetricFamily
    stand_in.TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
    stand_in.Logger = types.SimpleNamespace(log_info=ignored, log_warn=ignored, log_error=ignored)
    sys.modules["triton_python_backend_utils"] = stand_in
    scheduler: Any = importlib.import_module("reranker_engine.service.scheduler")
    held, scheduler.EXECUTE_WAIT_S = scheduler.EXECUTE_WAIT_S, 600.0  # however slow the machine is
    yield importlib.import_module("reranker_engine.service.backend")
    scheduler.EXECUTE_WAIT_S = held
    del sys.modules["triton_python_backend_utils"]
    for module in ("instance", "metrics", "responses"):
        del sys.modules[f"reranker_engine.service.{module}"]


def arguments(repository, version="7", config=CONFIG):
    return {
        "model_config": json.dumps(config),
        "model_instance_kind": "CPU",
        "model_instance_device_id": "0",
        "model_name": "qwen3_vl_reranker",
        "model_repository": str(repository),
        "model_version": version,
    }


@pytest.fixture(scope="module")
def model(backend, tmp_path_factory):
    repository = tmp_path_factory.mktemp("repository")
    (repository / "7").symlink_to(BASE)
    model = backend.TritonPythonModel()
    model.initialize(arguments(repository))
    yield model
    model.finalize()


DOCUMENTS = [{"text": "a red circle"}, {"text": "a blue star"}]


def test_scores_and_version(model):
    (response,) = model.execute([Request({"text": "red"}, DOCUMENTS)])
    assert response.error is None
    assert response["scores"].shape == (1, 2)
    assert response["scores"].dtype == np.float32
    assert response["model_version"].tolist() == [[7]]
    assert response["model_version"].dtype == np.int64


def test_logits_and_tokens_where_they_are_asked_for(model):
    documents = [*DOCUMENTS, {"image": data_uri(draw(random.Random(2), ("red", "star")).resize((64, 64)))}]
    usual, told = model.execute(
        [Request({"text": "red"}, documents), Request({"text": "red"}, documents, wanted=(*USUAL, "logits", "tokens"))]
    )
    assert [tensor.name for tensor in usual.output_tensors] == [*USUAL]
    assert [(tensor.name, tensor.array.dtype, tensor.array.shape) for tensor in told.output_tensors] == [
        ("scores", np.float32, (1, 3)),
        ("model_version", np.int64, (1, 1)),
        ("logits", np.float32, (1, 3)),
        ("tokens", np.int64, (1, 3)),
    ]
    assert np.abs(1 / (1 + np.exp(-told["logits"].astype(np.float64))) - told["scores"]).max() <= 1e-6
    assert np.abs(told["scores"] - usual["scores"]).max() <= 1e-5
    tokenizer = Tokenizer.from_file(str(BASE / "tokenizer.json"))
    contents = [one["text"] for one in DOCUMENTS] + [f"<|vision_start|>{'<|image_pad|>' * 4}<|vision_end|>"]
    prompts = [official_prompt("red", content) for content in contents]
    assert told["tokens"].tolist() == [[len(tokenizer.encode(prompt).ids) for prompt in prompts]]


def test_tokens_are_those_that_are_left_after_a_cut(model):
    (whole, cut) = model.execute(
        [
            Request({"text": "red"}, [{"text": "red circle " * 50}], wanted=("tokens",), options=[options])
            for options in ({}, {"max_document_tokens": 7})
        ]
    )
    (empty,) = model.execute([Request({"text": "red"}, [{"text": ""}], wanted=("tokens",))])
    assert cut["tokens"] == empty["tokens"] + 7 < whole["tokens"]


def test_only_the_broken_request_of_a_batch_fails(model):
    good = Request({"text": "red"}, DOCUMENTS)
    bad = Request({"text": "red"}, [DOCUMENTS[0], {"image": {"media": 0}}], media=[b"no picture"])
    responses = model.execute([good, bad, Request({"text": "x"}, [b"{"]), good, Request({}, DOCUMENTS)])
    errors = [response.error and (response.error.code, response.error.message) for response in responses]
    assert errors[0] is errors[3] is None
    assert errors[1][0] == errors[2][0] == errors[4][0] == "INVALID_ARG"
    assert errors[1][1].startswith("document 1: image 0: cannot be decoded as an image")
    assert errors[2][1].startswith("document 0: is not valid JSON")
    assert errors[4][1].startswith("query: is empty")
    assert np.abs(responses[0]["scores"] - model.execute([good])[0]["scores"]).max() <= 1e-5


def test_a_cancelled_request_is_not_computed(model):
    cancelled, good = model.execute(
        [Request({"text": "red"}, DOCUMENTS, cancelled=True), Request({"text": "red"}, DOCUMENTS)]
    )
    assert cancelled.error.code == "CANCELLED"
    assert good.error is None


def test_a_request_whose_timeout_is_over_is_not_computed(model):
    late, good = model.execute(
        [Request({"text": "red"}, DOCUMENTS, timeout_us=1), Request({"text": "red"}, DOCUMENTS, timeout_us=10**9)]
    )
    assert late.error.code == "UNAVAILABLE"
    assert late.error.message.startswith("deadline: the request's timeout of 1e-06 s")
    assert good.error is None


def test_a_long_request_is_answered_through_its_sender(model, monkeypatch):
    """``execute`` comes back for the next batch while the long one goes on."""
    scheduler, returned, passes = model._instance._scheduler, threading.Event(), []
    advance = scheduler._scorer.advance

    def one_pass_before_it_returns(*args):
        passes.append(args)
        assert len(passes) == 1 or returned.wait(60)
        return advance(*args)

    monkeypatch.setattr(scheduler._scorer, "advance", one_pass_before_it_returns)
    monkeypatch.setattr(scheduler._throughput, "slice_tokens", lambda _: 200)
    for name in ("EXECUTE_WAIT_S", "PREPARE_S", "SLICE_S"):  # however slow the machine is
        monkeypatch.setattr(sys.modules[type(scheduler).__module__], name, 60.0)
    long, short = Request({"text": "red"}, DOCUMENTS * 200), Request({"text": "red"}, DOCUMENTS)
    left, done = model.execute([long, short])
    returned.set()
    assert left is None
    assert done.error is None
    until(lambda: long.sent, "the long request's answer")
    (response,) = long.sent
    assert np.abs(response["scores"] - np.tile(done["scores"], 200)).max() <= 1e-5


def test_the_metrics_tell_what_was_done(backend, tmp_path):
    (tmp_path / "8").symlink_to(BASE)
    model = backend.TritonPythonModel()
    config = {"parameters": {"max_query_tokens": {"string_value": "256"}, "cache_metrics": {"string_value": "on"}}}
    model.initialize(arguments(tmp_path, "8", config))
    assert metric("pairs_total") == 0
    picture = data_uri(draw(random.Random(2), ("red", "star")))
    long = Request({"text": "red " * 500}, DOCUMENTS)
    model.execute([long, Request({"text": "red"}, [{"image": picture}, {"image": picture}, DOCUMENTS[0]])])
    model.execute([Request({"text": "red"}, [{"image": picture}])])
    model.execute([Request({"text": "red"}, DOCUMENTS, cancelled=True), Request({"text": "red"}, [b"{"])])
    refused = Request({"text": "red " * 500}, DOCUMENTS, options=[{"truncation": "refuse"}])
    (response,) = model.execute([refused])
    assert re.match(r"query: its text is \d+ tokens too long", response.error.message)
    model.execute([Request({"text": "red"}, DOCUMENTS, timeout_us=1), Request({"text": "red"}, [{"image": "/x"}])])
    told = {
        "device": "cpu",
        "dtype": "fp32",
        "fallback": "none",
        "asked_device": "cpu",
        "asked_dtype": "fp32",
        "weights": "copy",
    }
    until(lambda: metric("info", **told) == 1, "the gauge")
    until(lambda: metric("rejected_total", cause="deadline") == 1, "the last count")
    parts = ("start", "imports", "weights", "self_test")
    assert all(metric("load_seconds", part=part) > 0 for part in parts)
    held = metric("vision_cache_bytes")
    model.finalize()
    assert metric("pairs_total") == 2 + 3 + 1
    assert metric("tokens_total") == sum(metric("batch_tokens"))
    assert sum(metric("batch_pairs")) == 6
    assert len(metric("request_seconds")) == 3
    assert metric("truncated_total") == 1
    assert (metric("vision_cache_hits_total"), metric("vision_cache_misses_total")) == (1, 1)
    assert held > 0 == metric("vision_cache_bytes")
    assert metric("info", **told) == 0
    assert not any(metric("load_seconds", part=part) for part in parts)
    causes = ("cancelled", "request", "content", "deadline", "internal", "no_memory", "not_a_number")
    assert [metric("rejected_total", cause=cause) for cause in causes] == [1, 1, 2, 1, None, None, None]


def test_no_metric_tells_whether_a_picture_was_seen_before(backend, tmp_path):
    """Who may read the metrics is no friend of the client who sent it."""

    def figures():
        found = {key: value for key, value in list(METRICS.items()) if ("version", "9") in key[1]}
        beats = "baton_engine_beats_total"  # they count time while there is work, a quarter of a second each
        return {key: value for key, value in found.items() if not isinstance(value, list) and key[0] != beats}

    def figure(name):
        return sum(value for key, value in figures().items() if key[0] == f"baton_engine_{name}")

    model, told = backend.TritonPythonModel(), []
    (tmp_path / "9").symlink_to(BASE)
    model.initialize(arguments(tmp_path, "9"))
    last = ("part", "self_test")
    until(lambda: any(last in labels for _, labels in figures()), "the last of the gauges")
    pictures = [data_uri(draw(random.Random(seed), ("red", "star"))) for seed in (3, 4)]

    cache = model._instance._scorer.cache
    hits, misses = cache.hits, cache.misses  # of the self-test
    for picture in (pictures[0], pictures[0], pictures[1]):  # a new one, a known one, a new one
        start, pairs = figures(), figure("pairs_total")
        model.execute([Request({"text": "red"}, [{"image": picture}])])
        until(lambda pairs=pairs: figure("pairs_total") == pairs + 1, "the count, which comes last")
        told.append(
            {name: value - start.get(name, 0) for name, value in figures().items() if value != start.get(name, 0)}
        )
    assert (cache.hits, cache.misses) == (hits + 1, misses + 2)
    model.finalize()
    assert told[0] == told[1] == told[2]
    assert told[0]
    assert not [name for name, _ in figures() if "cache" in name]


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        ({"documents": np.array([[b"{}"], [b"{}"]], dtype=np.object_)}, "documents: has the shape [2, 1]"),
        ({"query": np.array([[b"{}", b"{}"]], dtype=np.object_)}, "query: holds 2 elements; it must hold one"),
        ({"documents": np.zeros((1, 0), dtype=np.object_)}, "documents: there are none"),
        ({"instruction": [b"\xff"]}, "instruction: is not UTF-8"),
    ],
)
def test_wrong_shapes_are_the_clients_fault(model, more, cause):
    request = Request({"text": "red"}, DOCUMENTS)
    request.tensors.update(more)
    (response,) = model.execute([request])
    assert response.error.code == "INVALID_ARG"
    assert response.error.message.startswith(cause)


def test_a_failing_batch_is_repeated_one_by_one(model, monkeypatch):
    """Whatever one request does to the forward pass, the others are answered."""
    scorer = model._instance._scorer
    advance = scorer.advance

    def fails_on_three_documents(scorings, max_slice):
        if any(len(scoring.prepared.documents) == 3 for scoring in scorings):
            raise RuntimeError("out of memory")
        return advance(scorings, max_slice)

    monkeypatch.setattr(scorer, "advance", fails_on_three_documents)
    good, bad = Request({"text": "red"}, DOCUMENTS), Request({"text": "red"}, [*DOCUMENTS, DOCUMENTS[0]])
    responses = model.execute([good, bad, good])
    assert [response.error and response.error.code for response in responses] == [None, "INTERNAL", None]
    assert "out of memory" in responses[1].error.message


def test_a_score_that_is_no_number_is_an_error(model, monkeypatch):
    scorer = model._instance._scorer
    advance = scorer.advance

    def spoils_the_second(scorings, max_slice):
        slices = advance(scorings, max_slice)
        scorings[0].logits[1] = np.nan
        return slices

    monkeypatch.setattr(scorer, "advance", spoils_the_second)
    (response,) = model.execute([Request({"text": "red"}, DOCUMENTS)])
    assert response.error.code == "INTERNAL"
    assert response.error.message.startswith("document 1: the model's score is not a number")


def test_a_folder_that_is_no_checkpoint_does_not_load(backend, tmp_path):
    (tmp_path / "7").mkdir()
    with pytest.raises(Exception, match=r"config\.json is missing, so this is not a checkpoint folder"):
        backend.TritonPythonModel().initialize(arguments(tmp_path))


def test_a_wrong_parameter_does_not_load(backend, tmp_path):
    (tmp_path / "7").symlink_to(BASE)
    config = {"parameters": {"dtype": {"string_value": "fp8"}}}
    with pytest.raises(ValueError, match="parameter dtype is 'fp8'"):
        backend.TritonPythonModel().initialize(arguments(tmp_path, config=config))


def test_loading_and_serving_write_nothing_into_the_checkpoint(backend, tmp_path):
    folder = tmp_path / "7"
    shutil.copytree(BASE, folder)
    before = {path.name: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}
    model = backend.TritonPythonModel()
    model.initialize(arguments(tmp_path))
    model.execute([Request({"text": "red"}, DOCUMENTS)])
    model.finalize()
    assert {path.name: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]} == before


def test_the_entry_point_imports_nothing_heavy():
    """Triton imports it in a process of its own before each load, only to look at the class."""
    program = "import sys, model; print([name for name in ('torch', 'numpy', 'PIL') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=BACKEND, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"
