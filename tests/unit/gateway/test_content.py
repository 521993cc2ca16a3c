"""Documents in all their forms, as the engine gets them; and what is wrong with one is told with its name."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from tests.support.gateway import InMemory

from baton.gateway.content import content
from baton.gateway.problems import Problem
from baton.testing.gateway import FakeConnection

PNG, CLIP = b"\x89PNG\0one", b"\0clip"
IMAGE = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
VIDEO = f"data:video/webm;codecs=vp8,opus;base64,{base64.b64encode(CLIP).decode()}"
URL = "https://pictures.example.com/a.png"
FILES = {"photo": PNG}
GOOD: list[tuple[Any, Any]] = [
    ("text", {"text": "text"}),
    ("", {"text": ""}),
    ({"text": "a", "id": 7, "title": "b"}, {"text": "a"}),
    ({"text": ["a", "b"]}, {"text": ["a", "b"]}),
    ({"text": None, "image": IMAGE}, {"image": PNG}),
    ({"image": [IMAGE, URL]}, {"image": [PNG, URL]}),
    ({"image": {"url": URL}, "text": "a"}, {"text": "a", "image": URL}),
    ({"video": VIDEO}, {"video": CLIP}),
    ({"video": [IMAGE, IMAGE]}, {"video": [PNG, PNG]}),
    ({"image": "attachment:photo"}, {"image": PNG}),
    ({"content": "a"}, {"text": "a"}),
    ({"content": [{"type": "text", "text": "a"}]}, {"text": "a"}),
    (
        {
            "content": [
                {"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}},
                {"type": "text", "text": "a"},
            ]
        },
        {"image": PNG, "text": "a"},
    ),
    ({"content": [{"type": "image_url", "image_url": IMAGE}] * 2}, {"image": [PNG, PNG]}),
    ({"content": [{"type": "video_url", "video_url": {"url": VIDEO}}]}, {"video": CLIP}),
    ({"content": [{"type": "video", "video": [IMAGE, IMAGE]}]}, {"video": [PNG, PNG]}),
    ({"image": "data:image/png;base64,iVBO\nRw=="}, {"image": b"\x89PNG"[:4]}),
]
BAD: list[tuple[Any, str]] = [
    (7, "d is a number"),
    (True, "d is a boolean"),
    (["a"], "d is a list"),
    ({}, "d has no text"),
    ({"txt": "a"}, "d has no text"),
    ({"text": 7}, "d.text is a number"),
    ({"text": []}, "d.text is a list"),
    ({"text": ["a", None]}, "d.text is a list"),
    ({"image": 7}, "d.image is a number"),
    ({"image": []}, "d.image is an empty list"),
    ({"image": [IMAGE, None]}, "d.image[1] is null"),
    ({"image": {"media": 0}}, "d.image is an object"),
    ({"image": "data:image/png,abc"}, "d.image is a data URI without ;base64,"),
    ({"image": "data:text/plain;base64,YQ=="}, "d.image is a data URI of the wrong kind"),
    ({"image": "data:image/png;base64,Y"}, "d.image holds broken base64"),
    ({"image": "data:image/png;base64,"}, "d.image is empty (0 bytes)"),
    ({"image": "attachment:other"}, "d.image names the file 'other', which did not come along"),
    ({"content": []}, "d.content is no list of parts"),
    ({"content": [7]}, "d.content[0] is no part that is known"),
    ({"content": [{"type": "audio"}]}, "d.content[0] is no part that is known"),
    ({"content": [{"type": ["text"]}]}, "d.content[0] is no part that is known"),
    ({"content": [{"type": "text"}]}, "d.content[0] has no text"),
    ({"content": [{"type": "text", "text": 7}]}, "d.content[0].text is a number"),
]


@pytest.mark.parametrize(("given", "made"), GOOD)
def test_what_a_document_may_be(given: Any, made: Any) -> None:
    assert content("d", given, FILES) == made


@pytest.mark.parametrize(("given", "said"), BAD)
def test_what_is_wrong_is_named(given: Any, said: str) -> None:
    with pytest.raises(Problem) as raised:
        content("d", given, FILES)
    assert str(raised.value).startswith(said)
    assert raised.value.status == 422


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (["title"], "Pears"),
        (["title", "text"], "title: Pears\ntext: green"),
        (["text", "year"], "text: green\nyear: 2024"),
        (["missing", "title"], "title: Pears"),
        (["missing"], "green"),
        ([], "green"),
    ],
)
def test_rank_fields(fields: list[str], text: str) -> None:
    assert content("d", {"title": "Pears", "text": "green", "year": 2024}, {}, fields) == {"text": text}


def test_a_rank_field_that_is_no_text() -> None:
    with pytest.raises(Problem, match=r"d\.tags is a list"):
        content("d", {"tags": ["a"]}, {}, ["tags"])


def test_an_upload_with_named_files() -> None:
    fake = FakeConnection()
    described = {
        "query": {"image": "attachment:a"},
        "documents": [{"image": "attachment:b"}, {"image": "attachment:a"}],
    }
    parts: Any = {
        "request": (None, json.dumps(described), "application/json"),
        "a": ("a.png", PNG, "image/png"),
        "b": ("b.png", CLIP, "image/png"),
    }
    with InMemory(fake) as gateway:
        assert gateway.post("/v1/rerank", files=parts).status_code == 200
        as_file = parts | {"request": ("request.json", json.dumps(described), "application/json")}
        assert gateway.post("/v1/rerank", files=as_file).status_code == 200
    for asked in fake.asked:
        # Each distinct one is sent once, decoded.
        assert asked.inputs["media"][0].tolist() == [PNG, CLIP]
        assert asked.inputs["documents"][0].tolist() == [b'{"image": {"media": 1}}', b'{"image": {"media": 0}}']


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"a": ("a.png", PNG)}, "no part 'request'"),
        ([("request", (None, "{}")), ("a", ("a", PNG)), ("a", ("b", PNG))], "Two parts have the name 'a'"),
        ([("request", (None, "{}")), ("request", (None, "{}"))], "Two parts have the name 'request'"),
        ({"request": (None, "[]")}, "no JSON object"),
        ({"request": (None, "{")}, "not JSON"),
    ],
)
def test_an_upload_that_is_wrong(parts: Any, said: str) -> None:
    with InMemory() as gateway:
        answer = gateway.post("/v1/rerank", files=parts)
    assert answer.status_code == 400
    assert said in answer.json()["detail"]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"--x\r\n\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", b"nothing of that kind"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; name=request\r\n\r\n{"),
        (
            "multipart/form-data; boundary=x; charset=nonsense",
            b"--x\r\nContent-Disposition: form-data; name=request\r\n\r\n{}\r\n--x--\r\n",
        ),
    ],
)
def test_a_form_that_is_none(kind: str, body: bytes) -> None:
    with InMemory() as gateway:
        answer = gateway.post("/v1/rerank", content=body, headers={"content-type": kind})
    assert answer.status_code in {400, 422}, answer.text


def test_addresses_are_passed_on_and_never_fetched() -> None:
    fake = FakeConnection()
    with InMemory(fake) as gateway:
        body = {"query": "a", "documents": [{"content": [{"type": "image_url", "image_url": {"url": URL}}]}]}
        assert gateway.post("/v1/rerank", json=body).status_code == 200
    assert json.loads(fake.asked[0].inputs["documents"][0, 0]) == {"image": URL}
    assert "media" not in fake.asked[0].inputs
