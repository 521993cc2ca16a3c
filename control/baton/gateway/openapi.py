"""``/openapi.json``, made of the types of ``shapes``, and a page of it that loads nothing from anywhere."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

import msgspec

from baton import __version__
from baton.gateway.problems import MEANING
from baton.gateway.shapes import RERANK, SCORE, TEXTS, Shape

_REF = "#/components/schemas/{name}"


class Problem(msgspec.Struct):
    """Every error, for every kind of client."""

    detail: str
    message: str
    error: str
    error_type: str
    id: str


class Models(msgspec.Struct):
    object: str
    data: list[dict[str, str]]


PATHS: tuple[tuple[str, str, str, Sequence[Shape], Any], ...] = (
    ("/v1/rerank", "post", "Rank documents (Cohere v1, Jina, vLLM)", (RERANK,), None),
    ("/v2/rerank", "post", "Rank documents (Cohere v2, vLLM)", (RERANK,), None),
    ("/rerank", "post", "Rank documents, or texts as TEI does", (RERANK, TEXTS), None),
    ("/score", "post", "Scores in the order of the documents (vLLM)", (SCORE,), None),
    ("/v1/models", "get", "What can be asked", (), Models),
    ("/healthz", "get", "Whether the gateway runs", (), None),
    ("/readyz", "get", "Whether a server answers through every alias", (), None),
)


def document(*, keys: bool) -> dict[str, Any]:
    """The whole document. ``keys``: the gateway asks for an API key."""
    kinds = [Problem, Models]
    for shape in (RERANK, TEXTS, SCORE):
        kinds += [shape.request, shape.response]
    refs, schemas = msgspec.json.schema_components(kinds, ref_template=_REF)
    by_kind = {repr(kind): ref for kind, ref in zip(kinds, refs, strict=True)}
    paths: dict[str, Any] = {}
    for path, method, summary, shapes, answer in PATHS:

        def schema(kinds: Sequence[Any]) -> dict[str, Any]:
            found = [by_kind[repr(kind)] for kind in kinds]
            anything: dict[str, Any] = {"type": "object"}
            return {"schema": found[0] if len(found) == 1 else {"anyOf": found} if found else anything}

        answers: list[Any] = [shape.response for shape in shapes] or [answer] * (answer is not None)
        content, problem = {"application/json": schema(answers)}, {"application/json": schema([Problem])}
        responses: dict[str, Any] = {"200": {"description": "done", "content": content}}
        for status, (_, words) in MEANING.items() if shapes or keys else ():
            responses[str(status)] = {"description": words, "content": problem}
        if path == "/readyz":
            responses["503"] = {"description": "not now", "content": content}
        made: dict[str, Any] = {
            "summary": summary,
            "operationId": f"{method}{path.replace('/', '_')}",
            "responses": responses,
        }
        if shapes:
            asked = schema([shape.request for shape in shapes])
            form = {"schema": {"type": "object", "properties": {"request": asked["schema"]}, "required": ["request"]}}
            kinds_of_body = {"application/json": asked, "multipart/form-data": form}
            made["requestBody"] = {"required": True, "content": kinds_of_body}
        if keys and (shapes or answer):
            made["security"] = [{"key": []}]
        paths[path] = {method: made}
    components: dict[str, Any] = {"schemas": schemas}
    if keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    info = {"title": "Baton gateway", "version": __version__}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": components}


_STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}summary{cursor:pointer}"
    "code,pre{font:14px/1.4 monospace}pre{background:#f4f4f4;padding:.7rem;overflow:auto}"
)
CURL = """curl {url}/v1/rerank -H 'Content-Type: application/json' -d '
  {{"query": "red apple", "documents": ["a green pear", "a round red apple"]}}'"""


def page(described: dict[str, Any], url: str) -> str:
    """The document for a person: plain HTML, no script, no file of its own."""
    head = (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Baton gateway</title><link rel=icon href='data:,'><style>{_STYLE}</style><h1>Baton gateway</h1>"
        f"<p>The rerank API. For programs: <a href='/openapi.json'>openapi.json</a>.</p>"
        f"<pre>{html.escape(CURL.format(url=url))}</pre>"
    )
    parts = [head]
    for path, method, summary, _, _ in PATHS:
        parts.append(f"<h2><code>{method.upper()} {path}</code></h2><p>{html.escape(summary)}</p>")
    for name, schema in described["components"]["schemas"].items():
        text = html.escape(json.dumps(schema, indent=2))
        parts.append(f"<details><summary><code>{name}</code></summary><pre>{text}</pre></details>")
    return "".join(parts)
