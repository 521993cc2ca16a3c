"""Reads which token has which id, from whichever files the tokenizer is in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from baton.errors import CheckpointError
from baton.verify.files import read_object, shown
from baton.verify.layout import TOKENIZER, TOKENIZER_CONFIG
from baton.verify.patterns import PIPELINE


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """What a tokenizer's files tell.

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


def read_tokenizer(folder: Path) -> Tokenizer:
    """Read the vocabulary; raises ``CheckpointError`` naming the file that is not as it must be."""
    if (folder / TOKENIZER).exists():
        return _joint(read_object(folder / TOKENIZER))
    if (folder / "vocab.json").exists():
        ids = _numbers(read_object(folder / "vocab.json"), "vocab.json")
        if (folder / "added_tokens.json").exists():
            ids |= _numbers(read_object(folder / "added_tokens.json"), "added_tokens.json")
        added = read_object(folder / TOKENIZER_CONFIG).get("added_tokens_decoder")
        for number, token in added.items() if isinstance(added, dict) else ():
            if isinstance(token, dict) and isinstance(token.get("content"), str) and number.isdecimal():
                ids[token["content"]] = int(number)
        return Tokenizer("BPE", ids)
    return Tokenizer(None, None)


def _joint(table: Mapping[str, Any]) -> Tokenizer:
    model = table.get("model")
    if not isinstance(model, dict):
        raise CheckpointError(f"{TOKENIZER} has no model.", mend="Save the tokenizer again.")
    kind, vocabulary = model.get("type"), model.get("vocab")
    if isinstance(vocabulary, list):  # Unigram: [token, score] in the order of ids
        ids = {
            row[0]: number
            for number, row in enumerate(vocabulary)
            if isinstance(row, list) and row and isinstance(row[0], str)
        }
    else:
        ids = _numbers(vocabulary, TOKENIZER)
    added = table.get("added_tokens")
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and isinstance(token.get("content"), str) and isinstance(token.get("id"), int):
            ids[token["content"]] = token["id"]
    if not ids:
        raise CheckpointError(f"{TOKENIZER} holds no tokens.", mend="Save the tokenizer again.")
    pipeline = {name: table.get(name) for name in PIPELINE}
    return Tokenizer(shown(kind[:40]) if isinstance(kind, str) else None, ids, pipeline)


def _numbers(value: object, file: str) -> dict[str, int]:
    if not isinstance(value, dict) or not all(
        isinstance(token, str) and type(number) is int and number >= 0 for token, number in value.items()
    ):
        raise CheckpointError(f"{file} does not map tokens to whole numbers.", mend="Save the tokenizer again.")
    return dict(value)
