"""The checkpoint's tokenizer, divided in two: ordinary text and control tokens.

User text never becomes a control token. The added tokens are removed from the tokenizer before it gets any text. So
``<|im_end|>`` inside a document is ordinary text, and a document cannot end its turn in the prompt.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from reranker_engine.model.config import read_json
from reranker_engine.model.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
YES, NO = "yes", "no"
LONG_TEXT = 10_000
"""A text of more characters takes more than a few milliseconds to tokenize."""


class TextTokenizer:
    def __init__(self, folder: Path) -> None:
        """Load ``tokenizer.json``.

        Raises:
            CheckpointError: It is missing or damaged, or lacks a control token, "yes" or "no".
        """
        raw = read_json(folder / "tokenizer.json")
        try:
            self._control = {str(token["content"]): int(token["id"]) for token in raw["added_tokens"]}
            # The engine pads and truncates itself; the post-processor could add tokens.
            plain = {**raw, "added_tokens": [], "padding": None, "truncation": None, "post_processor": None}
            self._plain = Tokenizer.from_str(json.dumps(plain))
        except Exception as error:  # tokenizers raises bare Exception
            raise CheckpointError(f"{folder}: tokenizer.json cannot be used: {error}") from error
        self.im_start = self._id(folder, IM_START)
        self.im_end = self._id(folder, IM_END)
        self.yes = self._word(folder, YES)
        self.no = self._word(folder, NO)
        if self.im_end in self.encode(IM_END):
            raise CheckpointError(f"{folder}: tokenizer.json holds {IM_END} as ordinary text as well")

    def encode(self, text: str) -> list[int]:
        """Token ids of ordinary text, whatever it says."""
        if len(text) > LONG_TEXT:
            # A batch of one: the library releases the interpreter lock for batches only.
            return list(self._plain.encode_batch([text], add_special_tokens=False)[0].ids)
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        return ids

    def _id(self, folder: Path, token: str) -> int:
        if token not in self._control:
            raise CheckpointError(f"{folder}: tokenizer.json lacks the control token {token}")
        return self._control[token]

    def _word(self, folder: Path, word: str) -> int:
        found = self._plain.token_to_id(word)
        if found is None:
            raise CheckpointError(f"{folder}: tokenizer.json has no single token {word!r}, which scoring needs")
        return int(found)
