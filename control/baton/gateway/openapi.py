"""``/openapi.json``, made of the types of ``shapes``, and a page of it that loads nothing from anywhere."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from baton import __version__
from baton.gateway.shapes import RERANK, SCORE, TEXTS, Shape

_REF = "#/components/schemas/{name}"


class Problem(msgspec.Struct):
    """Every error, for every kind of client."""

    detail: str
    message: str
    error: str
    error_type: str
    id: str


class Model(msgspec.Struct):
    id: str
    object: str
    owned_by: str


class Models(msgspec.Struct):
    object: str
    data: list[Model]


@dataclass(frozen=True, slots=True)
class Described:
    """One path, as the document has it."""

    path: str
    method: str
    summary: str
    shapes: Sequence[Shape] = ()
    answer: Any = None


PATHS = (
    Described("/v1/rerank", "post", "Rank documents (Cohere v1, Jina, vLLM)", (RERANK,)),
    Described("/v2/rerank", "post", "Rank documents (Cohere v2, vLLM)", (RERANK,)),
    Described("/rerank", "post", "Rank documents, or with texts as TEI does", (RERANK, TEXTS)),
    Described("/score", "post", "Scores in the order of the documents (vLLM)", (SCORE,)),
    Described("/v1/models", "get", "What can be asked", answer=Models),
    Described("/healthz", "get", "Whether the gateway runs"),
    Described("/readyz", "get", "Whether a server answers through every alias"),
)
_ERRORS = {
    "400": "no JSON, no UTF-8, no multipart form",
    "401": "the API key is missing or unknown",
    "403": "this key may not ask for a version",
    "404": "no such model or version",
    "408": "the body did not arrive in time",
    "413": "too many bytes or documents",
    "422": "a field or a document that can't be used",
    "429": "too much at once",
    "502": "the engine failed",
    "503": "no server answers",
    "504": "no answer in time",
}


def document(*, keys: bool) -> dict[str, Any]:
    """The whole document. ``keys``: the gateway asks for an API key."""
    kinds = [Problem, Models]
    for shape in (RERANK, TEXTS, SCORE):
        kinds += [shape.request, shape.response]
    refs, schemas = msgspec.json.schema_components(kinds, ref_template=_REF)
    by_kind = {repr(kind): ref for kind, ref in zip(kinds, refs, strict=True)}
    paths: dict[str, Any] = {}
    for one in PATHS:
        paths[one.path] = {one.method: _operation(one, by_kind, keys=keys)}
    components: dict[str, Any] = {"schemas": schemas}
    if keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    info = {"title": "Baton gateway", "version": __version__}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": components}


def _operation(one: Described, by_kind: dict[str, Any], *, keys: bool) -> dict[str, Any]:
    def schema(kinds: Sequence[Any]) -> dict[str, Any]:
        found = [by_kind[repr(kind)] for kind in kinds]
        return found[0] if len(found) == 1 else {"anyOf": found}

    answers = [shape.response for shape in one.shapes] or ([one.answer] if one.answer else [])
    content = {"application/json": {"schema": schema(answers) if answers else {"type": "object"}}}
    made: dict[str, Any] = {
        "summary": one.summary,
        "operationId": f"{one.method}_{one.path.strip('/').replace('/', '_')}",
        "responses": {"200": {"description": "done", "content": content}},
    }
    problem = {"application/json": {"schema": schema([Problem])}}
    if one.shapes:
        asked = schema([shape.request for shape in one.shapes])
        form = {
            "type": "object",
            "properties": {"request": asked},
            "required": ["request"],
            "additionalProperties": True,
        }
        made["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": asked}, "multipart/form-data": {"schema": form}},
        }
        for status, words in _ERRORS.items():
            made["responses"][status] = {"description": words, "content": problem}
    elif one.path == "/readyz":
        made["responses"]["503"] = {"description": "not now", "content": content}
    elif one.answer:
        made["responses"]["401"] = {"description": _ERRORS["401"], "content": problem}
    if keys and (one.shapes or one.answer):
        made["security"] = [{"key": []}]
    return made


_STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code,pre{font:14px/1.4 monospace}pre{background:#f4f4f4;padding:.7rem;overflow:auto}"
    "h2{margin-top:2rem}summary{cursor:pointer}"
)
CURL = """curl {url}/v1/rerank -H 'Content-Type: application/json' -d '
  {{"query": "red apple", "documents": ["a green pear", "a round red apple"]}}'"""


def page(described: dict[str, Any], url: str) -> str:
    """The document for a person: plain HTML, no script, no file of its own."""
    head = (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Baton gateway</title><link rel=icon href='data:,'><style>{_STYLE}</style><h1>Baton gateway</h1>"
        f"<p>The rerank API. For programs: <a href=openapi.json>openapi.json</a>.</p>"
        f"<pre>{html.escape(CURL.format(url=url))}</pre>"
    )
    parts = [head]
    for path, methods in described["paths"].items():
        for method, one in methods.items():
            parts.append(f"<h2><code>{method.upper()} {path}</code></h2><p>{html.escape(one['summary'])}</p>")
            statuses = ", ".join(f"{status} {html.escape(r['description'])}" for status, r in one["responses"].items())
            parts.append(f"<p>{statuses}</p>")
    for name, schema in described["components"]["schemas"].items():
        text = html.escape(json.dumps(schema, indent=2))
        parts.append(f"<details><summary><code>{html.escape(name)}</code></summary><pre>{text}</pre></details>")
    return "".join(parts)
