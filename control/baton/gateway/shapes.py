"""The shapes that clients speak: for each one parser into :class:`Query`, and one writer from :class:`Answer`.

Three shapes cover the clients that are known: *rerank* (Cohere v1 and v2, Jina, vLLM, infinity) with ``documents``,
*texts* (Text Embeddings Inference) with ``texts``, and *score* (vLLM's ``/score``). They are lenient where clients
are: null is a field that is left out, ``"true"`` is true, unknown fields are ignored. docs/reference/gateway.md has
every field; the types here are also what ``/openapi.json`` is made of.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from baton.client import Ranking
from baton.gateway.content import Content, Files, content, text_of
from baton.gateway.problems import BAD, FAILED, INVALID, Problem, invalid

Object: TypeAlias = dict[str, Any]
Item: TypeAlias = str | dict[str, Any]
Items: TypeAlias = str | dict[str, Any] | list[str | dict[str, Any]]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
_S = TypeVar("_S", bound=Struct)


class Common(Struct, kw_only=True):
    """What every shape may say."""

    model: str | None = None
    """A service, or ``service@version``."""
    instruction: str | None = None
    user: str | None = None
    """Requests of one user meet the same version while traffic is split."""
    fps: float | None = None
    max_frames: int | None = None
    max_tokens_per_doc: Count | None = None
    truncate_prompt_tokens: int | None = None
    truncate: bool | None = None
    top_n: Count | None = None
    top_k: Count | None = None
    return_documents: bool | None = None
    return_text: bool | None = None
    raw_scores: bool | None = None
    use_activation: bool | None = None


class RerankRequest(Common, kw_only=True):
    """Cohere v1 and v2, Jina, vLLM, infinity."""

    query: Item
    documents: Items
    rank_fields: list[str] | None = None


class TextsRequest(Common, kw_only=True):
    """Text Embeddings Inference."""

    query: Item
    texts: list[str]
    truncation_direction: str | None = None


class ScoreRequest(Common, kw_only=True):
    """vLLM's scores: one query, in its three spellings."""

    text_1: Items | None = None
    text_2: Items | None = None
    queries: Items | None = None
    documents: Items | None = None
    items: Items | None = None
    data_1: Items | None = None
    data_2: Items | None = None


class Result(Struct):
    index: int
    relevance_score: float
    document: dict[str, str] | UnsetType = UNSET


class Usage(Struct):
    """Tokens of the documents' prompts, the query in each; 0 where the engine does not tell."""

    prompt_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, answer: Answer) -> Usage:
        return cls(answer.tokens or 0, answer.tokens or 0)


class Meta(Struct):
    """Cohere's, and which version answered."""

    api_version: dict[str, str]
    billed_units: dict[str, int]
    tokens: dict[str, int] | UnsetType = UNSET
    model_version: int | UnsetType = UNSET
    warnings: list[str] | UnsetType = UNSET


class RerankResponse(Struct):
    id: str
    object: str
    created: int
    model: str
    results: list[Result]
    usage: Usage
    meta: Meta


class TextResult(Struct):
    index: int
    score: float
    text: str | UnsetType = UNSET


class Score(Struct):
    index: int
    object: str
    score: float


class ScoreResponse(Struct):
    id: str
    object: str
    created: int
    model: str
    data: list[Score]
    usage: Usage


@dataclass(frozen=True, slots=True)
class Query:
    """One request, whatever shape it came in."""

    query: Content
    documents: list[Content]
    asked: Common

    @property
    def top(self) -> int | None:
        """How many of the best to give back; None: all."""
        return self.asked.top_n or self.asked.top_k or None

    @property
    def echo(self) -> bool:
        """Whether the documents' texts are given back."""
        return bool(self.asked.return_documents or self.asked.return_text)

    @property
    def raw(self) -> bool:
        """Logits in the place of scores."""
        return bool(self.asked.raw_scores) or self.asked.use_activation is False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered. ``scores`` are in the order of the documents."""

    scores: list[float]
    version: int | None = None
    """Which engine version computed them; None where the model does not tell."""
    logits: list[float] | None = None
    tokens: int | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shape:
    """How one kind of client asks, and how it wants to be answered."""

    request: type[Common]
    response: Any
    parse: Callable[[Object, Files], Query]
    write: Callable[[str, str, Query, Answer], Any]


def _parsed(kind: type[_S], given: Object) -> _S:
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Problem(INVALID, f"The request does not fit: {error}.") from None


def _listed(value: Items) -> list[Item]:
    return value if isinstance(value, list) else [value]


def _documents(name: str, values: Items, files: Files, fields: Sequence[str] | None = None) -> list[Content]:
    items = _listed(values)
    if not items:
        raise invalid(name, "is empty: there is nothing to rank", "Give at least one document.")
    return [content(f"{name}[{number}]", item, files, fields) for number, item in enumerate(items)]


def parse_rerank(given: Object, files: Files) -> Query:
    asked = _parsed(RerankRequest, given)
    documents = _documents("documents", asked.documents, files, asked.rank_fields)
    return Query(content("query", asked.query, files), documents, asked)


def parse_texts(given: Object, files: Files) -> Query:
    asked = _parsed(TextsRequest, given)
    if (asked.truncation_direction or "Right").lower() != "right":
        raise invalid("truncation_direction", f"is {asked.truncation_direction!r}", 'Only the end is cut: "Right".')
    return Query(content("query", asked.query, files), _documents("texts", list(asked.texts), files), asked)


def parse_score(given: Object, files: Files) -> Query:
    asked = _parsed(ScoreRequest, given)
    queries, queries_name = _first(asked, "text_1", "queries", "data_1")
    documents, name = _first(asked, "text_2", "documents", "items", "data_2")
    asking = _listed(queries)
    if not asking or any(one != asking[0] for one in asking):
        raise invalid(queries_name, "is not one query", "Send a request for each query.")
    return Query(content(queries_name, asking[0], files), _documents(name, documents, files), asked)


def _first(asked: ScoreRequest, *names: str) -> tuple[Items, str]:
    for name in names:
        if (value := getattr(asked, name)) is not None:
            return value, name
    raise invalid(names[0], "is missing", f"Give {' or '.join(names)}.")


def _values(query: Query, answer: Answer) -> list[float]:
    """What the client wants to see, in the order of the documents."""
    if query.raw and answer.logits is None:
        raise invalid("raw_scores", "can't be given: this engine has no output logits", "Leave it out.")
    values = answer.logits if query.raw and answer.logits is not None else answer.scores
    if len(values) != len(query.documents):
        raise Problem(FAILED, f"{len(query.documents)} documents were sent and {len(values)} scores came back.")
    if wrong := [number for number, value in enumerate(values) if not math.isfinite(value)]:  # JSON has no such numbers
        raise Problem(FAILED, f"The score of document {wrong[0]} is not a number.", mend="Nothing was ranked.")
    return values


def _best(query: Query, values: list[float]) -> list[int]:
    return Ranking(values, 0, "").order[: query.top]


def write_rerank(request_id: str, model: str, query: Query, answer: Answer) -> RerankResponse:
    values = _values(query, answer)
    results = [
        Result(number, values[number], {"text": text_of(query.documents[number])} if query.echo else UNSET)
        for number in _best(query, values)
    ]
    meta = Meta(
        {"version": "2"},
        {"search_units": 1},
        tokens=UNSET if answer.tokens is None else {"input_tokens": answer.tokens},
        model_version=UNSET if answer.version is None else answer.version,
        warnings=list(answer.warnings) or UNSET,
    )
    return RerankResponse(request_id, "rerank", int(time.time()), model, results, Usage.of(answer), meta)


def write_texts(request_id: str, model: str, query: Query, answer: Answer) -> list[TextResult]:  # noqa: ARG001 - the shape of a writer
    values = _values(query, answer)
    return [
        TextResult(number, values[number], text_of(query.documents[number]) if query.echo else UNSET)
        for number in _best(query, values)
    ]


def write_score(request_id: str, model: str, query: Query, answer: Answer) -> ScoreResponse:
    """In the order of the documents, as vLLM does."""
    data = [Score(number, "score", value) for number, value in enumerate(_values(query, answer))]
    return ScoreResponse(request_id, "list", int(time.time()), model, data, Usage.of(answer))


RERANK = Shape(RerankRequest, RerankResponse, parse_rerank, write_rerank)
TEXTS = Shape(TextsRequest, list[TextResult], parse_texts, write_texts)
SCORE = Shape(ScoreRequest, ScoreResponse, parse_score, write_score)


def by_fields(given: Object) -> Shape:
    """Which of the two shapes that share ``POST /rerank`` this is."""
    texts, documents = given.get("texts") is not None, given.get("documents") is not None
    if texts and documents:
        raise Problem(INVALID, "The request has both texts and documents.", mend="Give one of them.")
    return TEXTS if texts else RERANK


def an_object(given: Any) -> Object:
    """Raises ``Problem`` where a body is JSON, and no object."""
    if not isinstance(given, dict):
        raise Problem(BAD, "The body is no JSON object.", mend='Give {"query": "...", "documents": ["...", ...]}.')
    return given
