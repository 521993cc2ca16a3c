"""Reads a tokenizer's vocabulary from whichever files it is in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from baton.errors import CheckpointError
from baton.verify.files import printable
from baton.verify.layout import TOKENIZER
from baton.verify.patterns import PIPELINE


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A tokenizer's vocabulary and settings.

    ``kind`` is its algorithm (``BPE``, ``Unigram``, ``WordPiece``); ``ids`` maps every token, special ones too, to its
    id. Both are ``None`` for binary formats (``tokenizer.model``), which Baton does not read.
    """

    kind: str | None
    ids: Mapping[str, int] | None
    pipeline: Mapping[str, Any] = field(default_factory=dict)
    """The settings of ``tokenizer.json`` that work on text, by the names of ``patterns.PIPELINE``."""

    @property
    def count(self) -> int:
        return len(self.ids or ())

    @property
    def largest(self) -> int:
        """The largest id; -1 when none is known."""
        return max((self.ids or {}).values(), default=-1)


class UnfitError(CheckpointError):
    """A tokenizer file can be read, and does not hold a vocabulary."""


def older_tokenizer(vocabulary: Mapping[str, int], added: Mapping[str, int], settings: Mapping[str, Any]) -> Tokenizer:
    """The one that ``vocab.json``, ``added_tokens.json`` and ``tokenizer_config.json`` make together."""
    ids = {**vocabulary, **added}
    decoder = settings.get("added_tokens_decoder")
    for number, token in decoder.items() if isinstance(decoder, dict) else ():
        if isinstance(token, dict) and isinstance(token.get("content"), str) and number.isdecimal():
            ids[token["content"]] = int(number)
    return Tokenizer("BPE", ids)


def tokenizer_of(table: object) -> Tokenizer:
    """The one that a parsed ``tokenizer.json`` describes; raises ``UnfitError``."""
    if not isinstance(table, dict):
        raise UnfitError(f"{TOKENIZER} holds a {type(table).__name__} where an object {{...}} belongs.")
    model = table.get("model")
    if not isinstance(model, dict):
        raise UnfitError(f"{TOKENIZER} has no model.", mend="Save the tokenizer again.")
    kind, vocabulary = model.get("type"), model.get("vocab")
    if isinstance(vocabulary, list):  # Unigram: [token, score] in the order of ids
        ids = {
            row[0]: number
            for number, row in enumerate(vocabulary)
            if isinstance(row, list) and row and isinstance(row[0], str)
        }
    else:
        ids = numbers(vocabulary, TOKENIZER)
    added = table.get("added_tokens")
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and isinstance(token.get("content"), str) and isinstance(token.get("id"), int):
            ids[token["content"]] = token["id"]
    if not ids:
        raise UnfitError(f"{TOKENIZER} holds no tokens.", mend="Save the tokenizer again.")
    pipeline = {name: table.get(name) for name in PIPELINE}
    return Tokenizer(printable(kind[:40]) if isinstance(kind, str) else None, ids, pipeline)


def numbers(value: object, file: str) -> dict[str, int]:
    """A vocabulary: token to id; raises ``UnfitError`` naming the file for anything else."""
    if not isinstance(value, dict) or not set(map(type, value.values())) <= {int} or min(value.values(), default=0) < 0:
        raise UnfitError(f"{file} does not map tokens to whole numbers.", mend="Save the tokenizer again.")
    return value
