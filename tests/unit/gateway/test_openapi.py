"""The OpenAPI document is made of the types, and answers keep to it; its page loads nothing from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.support.gateway import FRUIT, PATHS, InMemory, body_of
from tests.unit.gateway.test_versions import keys_file

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "gateway.md").read_text()


def schema_of(document: dict[str, Any], path: str, status: str = "200") -> dict[str, Any]:
    found: dict[str, Any] = document["paths"][path]["post"]["responses"][status]["content"]["application/json"][
        "schema"
    ]
    return found | {"components": document["components"]}


@pytest.mark.parametrize("path", [*PATHS, "/rerank texts"])
def test_answers_keep_to_it(path: str) -> None:
    route = path.partition(" ")[0]
    with InMemory() as gateway:
        document = gateway.get("/openapi.json").json()
        body = body_of(path, FRUIT["query"], FRUIT["documents"], return_documents=True, return_text=True)
        jsonschema.validate(gateway.post(route, json=body).json(), schema_of(document, route))
        wrong = gateway.post(route, json={}).json()
        jsonschema.validate(wrong, schema_of(document, route, "422"))
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"nothing": 1}, schema_of(document, route))


def test_every_path_is_in_it() -> None:
    with InMemory() as gateway:
        document = gateway.get("/openapi.json").json()
        for path, methods in document["paths"].items():
            for method in methods:
                assert gateway.request(method.upper(), path).status_code not in {404, 405}


def test_keys_are_in_it_where_there_are_some(tmp_path: Path) -> None:
    with InMemory(keys_file=keys_file(tmp_path, web="")) as gateway:
        document = gateway.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert document["paths"]["/score"]["post"]["security"] == [{"key": []}]


def test_the_page_loads_nothing() -> None:
    with InMemory() as gateway:
        answer = gateway.get("/docs/")
        assert gateway.get("/").text == answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"<script|(?:src|href)=['\"]?(?:https?:)?//", answer.text)
    assert "/v1/rerank" in answer.text


def test_a_host_of_a_strangers_making_is_only_text() -> None:
    with InMemory() as gateway:
        answer = gateway.get("/docs", headers={"host": "a'><b>"})
    assert "<b>" not in answer.text


def test_every_field_is_in_the_reference() -> None:
    with InMemory() as gateway:
        schemas = gateway.get("/openapi.json").json()["components"]["schemas"]
    fields = {
        name for kind in ("RerankRequest", "TextsRequest", "ScoreRequest") for name in schemas[kind]["properties"]
    }
    assert {name for name in fields if f"`{name}`" not in PAGE} == set()
