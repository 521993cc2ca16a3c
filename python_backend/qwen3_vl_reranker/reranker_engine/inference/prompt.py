r"""The prompt of a (query, document) pair as token ids, M-RoPE positions and visual places.

A pair reads, with ``[]`` around control tokens::

    [im_start]system\n{SYSTEM}[im_end]\n[im_start]user\n<Instruct>: {instruction}<Query>:{query}\n<Document
    >:{document}[im_end]\n[im_start]assistant\n

It is built in the two parts shown. The first is the same for all documents of a request and is made once. Splitting
inside ``<Document>:`` is safe: between ``\n<Document`` and ``>:`` the tokenizer's pattern always ends a word, so the
parts tokenize as the whole would. Splitting after ``>:`` would not be, since ``>:`` joins with punctuation after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from reranker_engine.model.config import ModelConfig

    from .pixels import Visual
    from .tokenizer import TextTokenizer

SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)


@dataclass(frozen=True)
class Loaded:
    """The content of a query or a document with its media decoded; order of use: videos, images, texts."""

    visuals: tuple[Visual, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """A stretch of the prompt.

    Attributes:
        tokens: [n] token ids.
        positions: [3, n] M-RoPE positions, counted from 0.
        length: The position after the last one, which the next stretch begins at; less than n once there are images.
        places: [v] indices of the visual tokens in ``tokens``.
        visuals: The images and videos that fill them, in order.
        cut: Tokens of text that did not fit and were left out.
    """

    tokens: NDArray[np.int64]
    positions: NDArray[np.int64]
    length: int
    places: NDArray[np.int64]
    visuals: tuple[Visual, ...]
    cut: int = 0


@dataclass(frozen=True)
class Budgets:
    """Limits in tokens; see ``docs/engine.md``."""

    max_length: int = 10240
    """One pair without the closing five tokens (the reference's ``MAX_LENGTH``)."""
    max_query_tokens: int = 8192
    """System text, instruction and query together."""
    min_document_tokens: int = 8192
    """A document may always have so many, however long the query is; it gets more where ``max_length`` leaves it."""


class PromptBuilder:
    def __init__(self, tokenizer: TextTokenizer, config: ModelConfig, budgets: Budgets) -> None:
        self._tokenizer = tokenizer
        self._config = config
        self._budgets = budgets
        start, end = tokenizer.im_start, tokenizer.im_end
        self._opening = [start, *tokenizer.encode(f"system\n{SYSTEM}"), end, *tokenizer.encode("\n"), start]
        self._closing = [end, *tokenizer.encode("\n"), start, *tokenizer.encode("assistant\n")]
        self._turn = tokenizer.encode("\n<Document")

    def query(self, instruction: str, query: Loaded) -> Part:
        """The part that all documents of a request share.

        A query over its budget loses the end of its text.

        Raises:
            InputError: Its media or the instruction alone are over the budget.
        """
        lead = f"user\n<Instruct>: {instruction}<Query>:"
        budget = self._budgets.max_query_tokens - len(self._opening) - len(self._turn)
        fixed = len(self._tokenizer.encode(lead))
        if fixed > budget // 2:
            raise InputError(
                f"instruction: is {fixed} tokens long; at most half of the query's {budget} tokens may go to it"
            )
        part = _Part(self._config)
        part.ids(self._opening)
        try:
            self._content(part, lead, query, len(self._opening) + budget, tail="\n<Document")
        except InputError as error:
            raise error.at("query") from error
        return part.done()

    def document(self, query: Part, document: Loaded) -> Part:
        """The part after the shared one. A document over its budget loses the end of its text.

        Raises:
            InputError: Its media alone are over the budget.
        """
        budget = max(self._budgets.max_length - len(query.tokens), self._budgets.min_document_tokens)
        part = _Part(self._config)
        self._content(part, ">:", document, budget, tail="")
        part.ids(self._closing)
        return part.done()

    def _content(self, part: _Part, lead: str, content: Loaded, budget: int, tail: str) -> None:
        """Append ``lead`` + media + texts + ``tail``, cutting the texts' end so that ``part`` stays within ``budget``.

        The tail comes on top of the budget. Cut and tail are tokenized apart; uncut, they are tokenized as one, since
        the tokenizer joins a newline with the punctuation before it.
        """
        text = lead
        # Told before they are laid out: there may be thousands.
        media = part.count + sum(visual.tokens + 2 * visual.grid[0] for visual in content.visuals)
        if media > budget:
            raise InputError(f"its images and videos take {media} tokens; at most {budget} are allowed")
        for visual in content.visuals:
            part.visuals.append(visual)
            for label in [f"<{seconds:.1f} seconds>" for seconds in visual.timestamps] or [""]:
                part.ids(self._tokenizer.encode(text + label))
                part.group(visual)
                text = ""
        room = budget - part.count
        whole = self._tokenizer.encode(text + "".join(content.texts) + tail)
        kept, ending = len(self._tokenizer.encode(text)), self._tokenizer.encode(tail)
        if len(whole) - len(ending) <= room:
            part.ids(whole)
            return
        if kept > room:
            raise InputError(f"its images and videos take {part.count} tokens; at most {budget} are allowed")
        body = self._tokenizer.encode(text + "".join(content.texts)) if tail else whole
        part.cut = len(body) - room
        part.ids(body[:room])
        part.ids(ending)


class _Part:
    """A ``Part`` in the making."""

    def __init__(self, config: ModelConfig) -> None:
        self.visuals: list[Visual] = []
        self.cut = 0
        self._config = config
        self._tokens: list[int] = []
        self._positions: list[NDArray[np.int64]] = []
        self._places: list[NDArray[np.int64]] = []
        self._next = 0

    @property
    def count(self) -> int:
        return len(self._tokens)

    def ids(self, ids: Sequence[int]) -> None:
        """Text: all three positions advance by one a token."""
        self._tokens.extend(ids)
        steps = np.arange(self._next, self._next + len(ids), dtype=np.int64)
        self._positions.append(np.broadcast_to(steps, (3, len(ids))))
        self._next += len(ids)

    def group(self, visual: Visual) -> None:
        """One frame group of ``visual`` between its control tokens: one time for its tokens, height and width count up.

        The group takes as many positions as its longer side has tokens (Qwen3-VL's M-RoPE; time goes into the text
        label before each group).
        """
        merge = self._config.vision.spatial_merge_size
        rows, columns = visual.grid[1] // merge, visual.grid[2] // merge
        self.ids([self._config.vision_start_token_id])
        pad = self._config.video_token_id if visual.is_video else self._config.image_token_id
        self._places.append(np.arange(self.count, self.count + rows * columns, dtype=np.int64))
        self._tokens.extend([pad] * (rows * columns))
        height, width = np.divmod(np.arange(rows * columns, dtype=np.int64), columns)
        self._positions.append(np.stack([np.zeros_like(height), height, width]) + self._next)
        self._next += max(rows, columns)
        self.ids([self._config.vision_end_token_id])

    def done(self) -> Part:
        return Part(
            tokens=np.asarray(self._tokens, dtype=np.int64),
            positions=np.concatenate(self._positions, axis=1),
            length=self._next,
            places=np.concatenate(self._places) if self._places else np.zeros(0, dtype=np.int64),
            visuals=tuple(self.visuals),
            cut=self.cut,
        )
