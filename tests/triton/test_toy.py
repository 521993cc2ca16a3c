"""The toy engine keeps the contract of the real one, and misbehaves when its checkpoint says so."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
import tritonclient.grpc as triton
from tests.support.toy import engine_config, golden_cases, make_checkpoint, make_repository, write_golden
from tests.support.triton import ask, running_triton
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.triton

SWITCHES = {
    1: {"nan": True},
    2: {"constant": 0.5},
    3: {"batch_noise": 0.5},
    4: {"error_rate": 1.0},
    5: {"exit_on_request": True},
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """One version for each switch that shows in answers."""
    tmp = tmp_path_factory.mktemp("odd")
    for version, toy in SWITCHES.items():
        make_checkpoint(tmp / "repository" / "odd" / str(version), toy=toy)
    (tmp / "repository" / "odd" / "config.pbtxt").write_text(engine_config("odd", SWITCHES))
    for version, quality in ((1, 1.0), (2, 0.0), (3, 1.0)):
        make_checkpoint(tmp / "repository" / "toy" / str(version), quality=quality, seed=1 + version // 3)
    make_checkpoint(tmp / "repository" / "toy" / "4", seed=1)
    (tmp / "repository" / "toy" / "config.pbtxt").write_text(engine_config("toy", [1, 2, 3, 4], load_log=tmp / "loads"))
    with running_triton(tmp, tmp / "repository", load=["odd", "toy"]) as server:
        yield server, tmp


def ordered_pairs(server, version):
    """The share of golden pairs of different relevance that a version orders rightly."""
    right = total = 0
    for case in golden_cases(6):
        scores = ask(
            server, "toy", case["query"]["text"], [item["text"] for item in case["documents"]], version=version
        ).scores
        ranked = sorted(zip(case["relevance"], scores, strict=True), key=lambda pair: pair[0])
        for (low, low_score), (high, high_score) in pairwise(ranked):
            if high > low:
                total += 1
                right += high_score > low_score
    return right / total


def test_quality_decides_the_ranking(odd):
    server, _ = odd
    assert ordered_pairs(server, 1) == 1.0
    assert ordered_pairs(server, 3) == 1.0
    assert ordered_pairs(server, 2) < 0.85


def test_scores_follow_the_weights_alone(odd):
    server, _ = odd
    texts = ["red round", "blue square", "red square"]
    one, other, same = (ask(server, "toy", "red round", texts, version=version).scores for version in (1, 3, 4))
    assert np.array_equal(one, same)
    assert np.abs(one - other).max() > 0.001
    alone = [float(ask(server, "toy", "red round", [text], version=1).scores[0]) for text in texts]
    assert alone == one.tolist()


def test_loads_are_counted(odd):
    _, tmp = odd
    lines = [line.split() for line in (tmp / "loads").read_text().splitlines()]
    assert sorted(int(version) for version, _, _ in lines) == [1, 2, 3, 4]


def test_bad_input_names_its_document(odd):
    server, _ = odd
    with pytest.raises(InferenceServerException, match="document 1 is not JSON") as refusal:
        ask(server, "toy", "red", ["red", b"{"], version=1)
    assert refusal.value.status() == "StatusCode.INVALID_ARGUMENT"
    with pytest.raises(InferenceServerException, match="document 0 must be a JSON object"):
        ask(server, "toy", "red", [b"{}"], version=1)


def test_optional_inputs_are_accepted(odd):
    server, _ = odd
    inputs = []
    for name, value in (
        ("query", b'{"text": ["red", "round"], "image": {"media": 0}}'),
        ("documents", b'{"video": [{"media": 0}]}'),
        ("instruction", b"rank"),
        ("options", b'{"fps": 1}'),
        ("media", b"\x00\xff"),
    ):
        tensor = triton.InferInput(name, [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[value]], dtype=np.object_))
        inputs.append(tensor)
    with triton.InferenceServerClient(server.grpc_url) as client:
        result = client.infer("toy", inputs, model_version="1", client_timeout=60)
    assert result.as_numpy("scores").shape == (1, 1)
    assert result.as_numpy("model_version").tolist() == [[1]]


def test_switches_show_in_the_answers(odd):
    server, _ = odd
    texts = ["red", "blue"]
    assert np.isnan(ask(server, "odd", "red", texts, version=1).scores).all()
    assert ask(server, "odd", "red", texts, version=2).scores.tolist() == [0.5, 0.5]
    assert (
        ask(server, "odd", "red", texts, version=3).scores[0] != ask(server, "odd", "red", ["red"], version=3).scores[0]
    )
    with pytest.raises(InferenceServerException, match="now and then"):
        ask(server, "odd", "red", texts, version=4)
    with pytest.raises(InferenceServerException):
        ask(server, "odd", "red", texts, version=5)
    assert ask(server, "odd", "red", texts, version=2).model_version == 2


def test_checkpoints_are_whole(tmp_path):
    folder = make_checkpoint(tmp_path / "1", shards=3)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = sorted(path.name for path in folder.glob("model-*.safetensors"))
    assert sorted(set(index["weight_map"].values())) == shards
    assert len(shards) == 3
    assert shards[0] == "model-00001-of-00003.safetensors"
    header = (folder / shards[0]).read_bytes()
    assert int.from_bytes(header[:8], "little") % 8 == 0
    assert "toy" not in json.loads((folder / "config.json").read_text())


def test_golden_set_is_labelled(tmp_path):
    lines = [json.loads(line) for line in write_golden(tmp_path / "golden.jsonl", 4).read_text().splitlines()]
    assert lines == golden_cases(4)
    assert all(len(case["documents"]) == len(case["relevance"]) and max(case["relevance"]) == 3 for case in lines)


def test_a_repository_without_engines_is_empty(tmp_path):
    assert make_repository(tmp_path / "repository", {}) == tmp_path / "repository"
