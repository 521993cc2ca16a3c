"""The backend in the real Triton server: an unmodified checkpoint folder is served, bad ones are not."""

from __future__ import annotations

import json
import random
import shutil
from concurrent.futures import ThreadPoolExecutor

import faults
import numpy as np
import pytest
import tritonclient.grpc as triton
from shapes import draw
from tests.engine.support import BACKEND, BASE, ROOT, png, score
from tests.support.triton import running_triton
from tritonclient.utils import InferenceServerException

pytestmark = [pytest.mark.triton, pytest.mark.slow]
ENGINE = "qwen3_vl_reranker"


def tensor(name, values):
    found = triton.InferInput(name, [1, len(values)], "BYTES")
    raw = [value if isinstance(value, bytes) else json.dumps(value).encode() for value in values]
    found.set_data_from_numpy(np.array([raw], dtype=np.object_))
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Version 1 is a link to the base checkpoint; 2 is empty, 3 holds a weight that is no number."""
    tmp = tmp_path_factory.mktemp("triton")
    model = tmp / "repository" / ENGINE
    model.mkdir(parents=True)
    shutil.copy(ROOT / "model_repository" / ENGINE / "config.pbtxt", model)
    (model / "1").symlink_to(BASE)
    (model / "2").mkdir()
    faults.make("nan", BASE, model / "3")
    backends = tmp / "backends"
    backends.mkdir()
    shutil.copytree(BACKEND, backends / ENGINE, ignore=shutil.ignore_patterns("__pycache__"))
    with running_triton(tmp, tmp / "repository", load=[ENGINE], backends=(backends,)) as running:
        yield running, model


@pytest.fixture
def client(server):
    with triton.InferenceServerClient(server[0].grpc_url) as client:
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


@pytest.mark.parametrize(
    ("version", "cause"), [(2, "this is not a checkpoint folder"), (3, "holds 1 values that are not finite")]
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
