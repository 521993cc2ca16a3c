"""Reads the golden set: requests that every candidate must answer, with grades of the documents where they are known.

JSON lines, one case a line; blank lines are passed over:

    {"id": "apple-1", "kind": "text", "query": {"text": "red apple"}, "documents": [{"text": "..."}, {"text": "..."}],
     "relevance": [0, 3], "instruction": "...", "options": {"fps": 1}, "notes": "..."}

``id``, ``kind``, ``query`` and ``documents`` are required. ``relevance`` holds one grade a document, 0 (not relevant)
to 10. Images and videos stand in the file as ``data:`` URIs, so that the set is one file with one digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baton.errors import ConfigError

MAX_BYTES = 256 * 2**20
MAX_CASES = 5_000
MAX_DOCUMENTS = 1_000
"""Of one case. Each rollout sends the whole set twice, one request at a time: a larger one is a mistake."""
MAX_GRADE = 10

_REQUIRED = ("id", "kind", "query", "documents")
_OPTIONAL = ("relevance", "instruction", "options", "notes")


@dataclass(frozen=True, slots=True)
class GoldenCase:
    """One request and what is known of its answer. Contents are the contract's JSON objects."""

    id: str
    kind: str
    query: Mapping[str, Any]
    documents: tuple[Mapping[str, Any], ...]
    relevance: tuple[int, ...] | None = None
    instruction: str | None = None
    options: Mapping[str, Any] | None = None
    size: int = 0
    """Bytes of the line: a measure of how much work the request is."""


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """All cases, in the order of the file. ``digest`` is the file's SHA-256, in hexadecimal."""

    cases: tuple[GoldenCase, ...]
    digest: str

    @property
    def relevance(self) -> dict[str, tuple[int, ...]]:
        """The grades of the labelled cases, by case."""
        return {case.id: case.relevance for case in self.cases if case.relevance is not None}


def load_golden(path: Path) -> GoldenSet:
    """Read a golden set. Raises :class:`~baton.errors.ConfigError` naming file, line, cause and mend."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(f"{path} is {size} bytes.", mend=f"A golden set may have {MAX_BYTES} at most.")
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"The golden set {path} can't be read: {error.strerror}.", mend="Name a file of JSON lines."
        ) from error
    cases: dict[str, GoldenCase] = {}
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        case = _case(where, line)
        if case.id in cases:
            raise ConfigError(f"{where}: the id {case.id!r} was there before.", mend="Give each case its own id.")
        cases[case.id] = case
        if len(cases) > MAX_CASES:
            raise ConfigError(f"{where}: more than {MAX_CASES} cases.", mend="Take a sample.")
    if not cases:
        raise ConfigError(f"The golden set {path} holds no case.", mend="Add at least one line.")
    return GoldenSet(tuple(cases.values()), hashlib.sha256(raw).hexdigest())


def _case(where: str, line: bytes) -> GoldenCase:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not JSON: {error}.", mend="Write one JSON object on each line.") from error
    _need(isinstance(data, dict), f"{where} is not a JSON object.", 'Write {"id": ..., "kind": ...}.')
    for key in _REQUIRED:
        _need(key in data, f"{where} has no {key!r}.", f"Required are {', '.join(_REQUIRED)}.")
    unknown = [key for key in data if key not in (*_REQUIRED, *_OPTIONAL)]
    _need(not unknown, f"{where}: {unknown and unknown[0]!r} is unknown.", f"Allowed too are {', '.join(_OPTIONAL)}.")
    for key in ("id", "kind"):
        _need(isinstance(data[key], str) and data[key] != "", f"{where}: {key!r} is not text.", "Give it a short name.")
    documents, relevance = data["documents"], data.get("relevance")
    _need(isinstance(documents, list), f"{where}: 'documents' is not a list.", "Give a list of objects.")
    _need(1 <= len(documents) <= MAX_DOCUMENTS, f"{where}: {len(documents)} documents.", f"Give 1 to {MAX_DOCUMENTS}.")
    _content(f"{where}: 'query'", data["query"])
    for index, document in enumerate(documents):
        _content(f"{where}: documents[{index}]", document)
    if relevance is not None:
        _grades(where, relevance, len(documents))
    instruction, options = data.get("instruction"), data.get("options")
    _need(instruction is None or isinstance(instruction, str), f"{where}: 'instruction' is not text.", "Leave it out.")
    _need(options is None or isinstance(options, dict), f"{where}: 'options' is not an object.", "Leave it out.")
    return GoldenCase(
        id=data["id"],
        kind=data["kind"],
        query=data["query"],
        documents=tuple(documents),
        relevance=None if relevance is None else tuple(relevance),
        instruction=instruction,
        options=options,
        size=len(line),
    )


def _content(where: str, content: Any) -> None:
    _need(isinstance(content, dict) and content != {}, f"{where} is not an object.", 'Write {"text": "..."}.')
    for value in content.values():
        for item in value if isinstance(value, list) else [value]:
            # A golden line has no media tensor to refer to.
            _need(isinstance(item, str) and item != "", f"{where} holds something that is not text.", "Use data: URIs.")


def _grades(where: str, relevance: Any, documents: int) -> None:
    whole = isinstance(relevance, list) and all(type(grade) is int and 0 <= grade <= MAX_GRADE for grade in relevance)
    _need(whole, f"{where}: 'relevance' is not a list of grades.", f"Give whole numbers from 0 to {MAX_GRADE}.")
    _need(
        len(relevance) == documents,
        f"{where}: {len(relevance)} grades for {documents} documents.",
        "Give one for each document.",
    )


def _need(fits: bool, problem: str, mend: str) -> None:  # noqa: FBT001 reads as an assertion
    if not fits:
        raise ConfigError(problem, mend=mend)
