"""``logits`` and ``tokens`` of the real engine, by every way that a request takes, and files without them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from harness.places import CHECKPOINTS, ENGINE, MODELS
from tests.support.gateway import serving
from tests.support.triton import OUR_BACKENDS, running_triton, tensors
from tests.unit.engine.support import official_prompt
from tests.unit.splitter.rig import Rig, version_of
from tokenizers import Tokenizer
from tritonclient.utils import InferenceServerException

from baton.gateway.app import Service
from baton.local import LocalTriton

pytestmark = pytest.mark.triton

TEMPLATE = (MODELS / ENGINE / "config.pbtxt").read_text()
USUAL, FURTHER = {"scores", "model_version"}, {"logits", "tokens"}
QUERY, DOCUMENTS = "red star", ["a blue ring", "there is a red star here", "red " * 40]
ASKED = tensors(triton, {"text": QUERY}, [{"text": one} for one in DOCUMENTS])


def older(text: str) -> str:
    """The template as it was before there were these outputs."""
    cut, count = re.subn(r",\n  \{\n    #[^\n]*\n    name: \"(?:logits|tokens)\"\n.*?\n  \}", "", text, flags=re.DOTALL)
    assert count == len(FURTHER)
    return cut


def service(place: tuple[LocalTriton, Path], name: str, text: str, *checkpoints: str) -> Rig:
    """A service whose versions 1, 2, ... are checkpoints of the demo; nothing is loaded yet."""
    rig = Rig(*place, name)
    versions = ", ".join(str(number) for number in range(1, len(checkpoints) + 1))
    rig.engine_files(named(rig, text).replace("versions: [ 1 ]", f"versions: [ {versions} ]"))
    for number, one in enumerate(checkpoints, 1):
        rig.files.folder(number).symlink_to(CHECKPOINTS / one)
    return rig


def named(rig: Rig, text: str) -> str:
    return text.replace(f'name: "{ENGINE}"', f'name: "{rig.engine}"', 1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalTriton, Path]]:
    """A Triton and its repository."""
    home = tmp_path_factory.mktemp("further")
    (home / "repository").mkdir()
    with running_triton(home, home / "repository", backends=(OUR_BACKENDS,)) as running:
        yield running, home / "repository"


@pytest.fixture(scope="module")
def rig(place: tuple[LocalTriton, Path]) -> Iterator[Rig]:
    """Two versions; the alias leads to the first."""
    made = service(place, "reranker", TEMPLATE, "base", "retrained")
    made.load(made.engine)
    made.point("engine")
    yield made
    made.end()


def names(result: Any) -> set[str]:
    return {one.name for one in result.get_response().outputs}


def wanting(*wanted: str) -> dict[str, Any]:
    return {"outputs": [triton.InferRequestedOutput(one) for one in wanted]} if wanted else {}


def agrees(result: Any) -> None:
    """The logits are those of the scores, and the tokens those of the prompts."""
    logits = result.as_numpy("logits").astype(np.float64)
    assert np.abs(1 / (1 + np.exp(-logits)) - result.as_numpy("scores")).max() <= 1e-6
    tokenizer = Tokenizer.from_file(str(CHECKPOINTS / "base" / "tokenizer.json"))
    expected = [len(tokenizer.encode(official_prompt(QUERY, one)).ids) for one in DOCUMENTS]
    assert result.as_numpy("tokens").tolist() == [expected]


@pytest.mark.parametrize("way", ["engine", "alias", "splitter"])
def test_who_asks_gets_them(rig: Rig, way: str) -> None:
    if way == "splitter":
        rig.begin()
        rig.route(weight=100)
    else:
        rig.point("engine")
    model = rig.engine if way == "engine" else rig.name
    version = {"model_version": "1"} if way == "engine" else {}

    def ask(*wanted: str) -> Any:
        return rig.client.infer(model, ASKED, **version, **wanting(*wanted))

    assert names(ask("scores")) == {"scores"}
    assert names(ask("scores", "model_version")) == USUAL
    assert names(ask("tokens")) == {"tokens"}
    whole = ask()
    assert names(whole) == USUAL | FURTHER, "who names none asks for all"
    assert version_of(whole) == (2 if way == "splitter" else 1)
    agrees(whole)
    agrees(ask("scores", *FURTHER))


def test_in_a_split_they_are_those_of_the_version_that_answers(rig: Rig) -> None:
    rig.begin()
    rig.route(weight=50, shadow=100)
    right = {
        number: rig.client.infer(rig.engine, ASKED, model_version=str(number)).as_numpy("logits") for number in (1, 2)
    }
    seen = set()
    for _ in range(40):
        result = rig.infer(*ASKED)
        agrees(result)
        seen.add(version_of(result))
        assert np.abs(result.as_numpy("logits") - right[version_of(result)]).max() <= 1e-4
    assert seen == {1, 2}


@pytest.fixture
def gateway(rig: Rig) -> Iterator[httpx.Client]:
    rig.point("engine")
    with serving(rig.server.grpc_url, services={rig.name: Service(rig.name, rig.engine)}) as (_, client):
        yield client


def told(client: httpx.Client, **more: Any) -> Any:
    answer = client.post("/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def values(answer: Any) -> list[float]:
    return [one["relevance_score"] for one in sorted(answer["results"], key=lambda one: one["index"])]


def test_the_gateway_counts_and_gives_logits(rig: Rig, gateway: httpx.Client) -> None:
    whole, usual = rig.infer(*ASKED), told(gateway)
    count = int(whole.as_numpy("tokens").sum())
    assert usual["usage"] == {"prompt_tokens": count, "total_tokens": count}
    assert usual["meta"]["tokens"] == {"input_tokens": count}
    raw = values(told(gateway, raw_scores=True))
    assert np.abs(np.subtract(raw, whole.as_numpy("logits")[0])).max() <= 1e-4
    assert any(not 0 <= one <= 1 for one in raw)


def test_the_gateway_limits_documents(gateway: httpx.Client) -> None:
    whole, cut = told(gateway), told(gateway, max_tokens_per_doc=5)
    assert "warnings" not in cut["meta"]
    assert cut["usage"]["total_tokens"] < whole["usage"]["total_tokens"]
    assert values(cut)[0] == pytest.approx(values(whole)[0], abs=1e-5), "short enough as it was"
    assert abs(values(cut)[2] - values(whole)[2]) > 1e-4
    refused = gateway.post(
        "/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS, "max_tokens_per_doc": 5, "truncate": False}
    )
    assert refused.status_code == 422
    assert "document 1" in refused.json()["detail"]


def test_files_that_were_deployed_without_them_serve_on(place: tuple[LocalTriton, Path]) -> None:
    """First nothing knows them; then somebody adds them to the engine's file; then Triton loads that; then Baton writes
    the alias anew."""
    rig = service(place, "older", older(TEMPLATE), "base")
    rig.files.set_splitter(1)
    rig.load(rig.engine)
    services = {rig.name: Service(rig.name, rig.engine)}
    with serving(rig.server.grpc_url, services=services) as (_, client):
        for step in ("engine", "splitter", "added", "loaded"):
            if step == "splitter":
                rig.load(rig.splitter)
                rig.point("splitter")
            elif step == "added":
                (rig.files.engine_dir / "config.pbtxt").write_text(named(rig, TEMPLATE))
            elif step == "loaded":
                rig.load(rig.engine)
            else:
                rig.point("engine")
            assert names(rig.infer(*ASKED)) == USUAL, step
            with pytest.raises(InferenceServerException, match="logits"):
                rig.infer(*ASKED, **wanting("scores", "logits"))
            answer = told(client, max_tokens_per_doc=5)
            assert answer["usage"]["total_tokens"] == 0
            assert answer["meta"]["warnings"] == ["max_tokens_per_doc was ignored: this engine does not know it"]
        rig.point("engine")
        agrees(rig.infer(*ASKED))
        rig.files.set_splitter(1)
        rig.load(rig.splitter)
        rig.point("splitter")
        agrees(rig.infer(*ASKED))
    rig.end()
