import json
import subprocess
import sys

import numpy as np
import pytest

from baton import client
from baton.client import InvalidInput, Ranking, Reranker, decode, encode
from baton.client_errors import error_of
from baton.errors import TimedOut, TritonError, UsageError


def objects(tensor):
    return [json.loads(item) for item in tensor[0]]


def test_text_is_short_for_an_object():
    tensors = encode("red apple", ["pear", {"text": ["a", "b"]}])
    assert set(tensors) == {"query", "documents"}
    assert tensors["query"].shape == (1, 1)
    assert tensors["documents"].shape == (1, 2)
    assert objects(tensors["query"]) == [{"text": "red apple"}]
    assert objects(tensors["documents"]) == [{"text": "pear"}, {"text": ["a", "b"]}]


def test_optional_tensors():
    tensors = encode("q", ["d"], instruction="find it, ça va", options={"fps": 2})
    assert tensors["instruction"][0, 0].decode() == "find it, ça va"
    assert objects(tensors["options"]) == [{"fps": 2}]


def test_binaries_go_to_the_media_tensor_each_once_and_whole():
    frames = [b"frame\x00", b"png\x00\x00"]
    tensors = encode(
        Reranker.image(b"png\x00\x00"),
        [Reranker.video(frames, text="two"), {"image": {"media": 0}}, {"image": "data:image/png;base64,AA=="}],
        media=[b"given\x00"],
    )
    assert list(tensors["media"][0]) == [b"given\x00", b"png\x00\x00", b"frame\x00"]
    assert objects(tensors["query"]) == [{"image": {"media": 1}}]
    assert objects(tensors["documents"]) == [
        {"video": [{"media": 2}, {"media": 1}], "text": "two"},
        {"image": {"media": 0}},
        {"image": "data:image/png;base64,AA=="},
    ]


@pytest.mark.parametrize(
    ("query", "documents", "says"),
    [
        ("q", [], "documents is empty"),
        ("q", "one", "documents is one document"),
        ("q", {"text": "one"}, "documents is one document"),
        (None, ["d"], "query is NoneType"),
        ({}, ["d"], "query is empty"),
        ("q", ["d", {"txt": "d"}], "documents[1] has the unknown key 'txt'"),
        ("q", ["d", 7], "documents[1] is int"),
        ("q", [{"text": 7}], "documents[0].text is int"),
        ("q", [{"text": b"d"}], "documents[0].text is bytes"),
        ("q", [{"image": 7}], "documents[0].image is int"),
        ("q", [{"image": {"image": b""}}], "documents[0].image is dict"),
        ("q", ["d", {"video": [b"f", None]}], "documents[1].video[1] is NoneType"),
        ("q", [{"video": []}], "documents[0].video is an empty list"),
        ("q", [{"image": {"media": 0}}], "documents[0].image refers to media 0, and 0 were given"),
        ("q", [{"image": {"media": True}}], "documents[0].image refers to media True"),
        ("q", ["d", "\ud800"], "documents[1] is not valid Unicode"),
    ],
)
def test_what_can_not_be_sent_is_named(query, documents, says):
    with pytest.raises(InvalidInput) as raised:
        encode(query, documents)
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"instruction": 7}, "instruction is int"),
        ({"options": {"fps": float("nan")}}, "options can't be written"),
        ({"media": b"x"}, "media is one item"),
        ({"media": ["x"]}, "media[0] is str"),
    ],
)
def test_bad_extras_are_named(more, says):
    with pytest.raises(InvalidInput) as raised:
        encode("q", ["d"], **more)
    assert says in str(raised.value)


def test_decode():
    outputs = {"scores": np.array([[0.25, 0.5]], dtype=np.float32), "model_version": np.array([[3]])}
    assert decode(outputs) == ([0.25, 0.5], 3)
    for broken in (
        {"scores": outputs["scores"]},
        {**outputs, "scores": outputs["scores"][0]},
        {**outputs, "model_version": np.array([[1, 2]])},
    ):
        with pytest.raises(TritonError):
            decode(broken)


def test_order_is_best_first_and_stable_with_nan_last():
    assert Ranking([0.5, float("nan"), 0.9, 0.5], 1, "id").order == [2, 0, 3, 1]


@pytest.mark.parametrize(
    ("url", "protocol", "expected"),
    [
        ("host:8001", None, ("grpc", "host:8001")),
        ("host:8000", "http", ("http", "host:8000")),
        ("http://host:8000/", None, ("http", "host:8000")),
        ("grpc://10.0.0.1:8001", "grpc", ("grpc", "10.0.0.1:8001")),
        ("[::1]:8001", None, ("grpc", "[::1]:8001")),
    ],
)
def test_addresses(url, protocol, expected):
    reranker = Reranker(url, protocol=protocol)
    assert (reranker.protocol, reranker.address) == expected


@pytest.mark.parametrize(
    ("url", "protocol"),
    [
        ("host", None),
        ("https://host:8000", None),
        ("http://host:8000", "grpc"),
        ("host:8000", "rest"),
        ("host:x", None),
        ("http://host:8000/path", None),
        ("", None),
    ],
)
def test_bad_addresses_are_refused(url, protocol):
    with pytest.raises(UsageError):
        Reranker(url, protocol=protocol)


def test_bad_timeouts_are_refused_and_a_closed_one_says_so():
    with pytest.raises(UsageError):
        Reranker("host:1", timeout_s=0)
    with Reranker("host:1") as reranker:
        pass
    with pytest.raises(UsageError, match="closed"):
        reranker.rank("q", ["d"])


def test_importing_is_quick():
    heavy = "import sys, baton.client; print([m for m in ('grpc', 'gevent', 'tritonclient') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_what_the_engine_has_no_time_or_no_room_for():
    """The engine's own words; through an alias Triton puts its own before them."""
    late = error_of("UNAVAILABLE", "in ensemble 'reranker', deadline: the time is over", "a:1", 3.0)
    assert isinstance(late, TimedOut)
    full = error_of("UNAVAILABLE", "busy: 1024 requests are under way here", "a:1", 3.0)
    assert isinstance(full, client.NotServing)
    assert client.call_options("", "x", 0.03) == {"model_version": "", "request_id": "x", "timeout": 30_000}
    assert client.call_options("", "x", float("inf"))["timeout"] == 10**15
