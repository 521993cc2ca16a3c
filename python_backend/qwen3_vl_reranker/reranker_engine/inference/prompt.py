r"""Builds the prompt of a (query, document) pair: token ids, M-RoPE positions, and where the visual tokens are.

A pair reads, with ``[]`` around control tokens::

    [im_start]system\n{SYSTEM}[im_end]\n[im_start]user\n<Instruct>: {instruction}<Query>:{query}\n<Document
    >:{document}[im_end]\n[im_start]assistant\n

It is built in the two parts shown. The first is the same for all documents of a request, and is built once. Splitting
inside ``<Document>:`` is safe: the tokenizer's pattern always ends a word between ``\n<Document`` and ``>:``, so the
parts give the same tokens as the whole. Splitting after ``>:`` is not safe: ``>:`` joins with punctuation after it.
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
LEAD = ">:"
"""Begins the second part, before the document's own content."""


@dataclass(frozen=True)
class DecodedContent:
    """A query or a document with its media decoded, in the order of the prompt: videos and images, then texts."""

    visuals: tuple[Visual, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class PromptPart:
    """A part of the prompt: what all documents share, or one document.

    Attributes:
        tokens: [n] token ids.
        positions: [3, n] M-RoPE positions, counted from 0.
        length: The position at which the next part begins; less than n if there are images.
        visual_indices: [v] indices of the visual tokens in ``tokens``.
        visuals: Their images and videos, in order.
        cut: Tokens of text that were left out because they did not fit.
    """

    tokens: NDArray[np.int64]
    positions: NDArray[np.int64]
    length: int
    visual_indices: NDArray[np.int64]
    visuals: tuple[Visual, ...]
    cut: int = 0


@dataclass(frozen=True)
class Budgets:
    """Limits in tokens; see ``docs/reference/engine.md``."""

    max_length: int = 10240
    """Tokens of one pair without the closing five (the reference's ``MAX_LENGTH``)."""
    max_query_tokens: int = 8192
    """System text, instruction and query together."""
    min_document_tokens: int = 8192
    """Tokens that a document may always have, however long the query is; more if ``max_length`` leaves room."""


class PromptBuilder:
    def __init__(self, tokenizer: TextTokenizer, config: ModelConfig, budgets: Budgets) -> None:
        self._tokenizer = tokenizer
        self._config = config
        self._budgets = budgets
        start, end = tokenizer.im_start, tokenizer.im_end
        self._opening = [start, *tokenizer.encode(f"system\n{SYSTEM}"), end, *tokenizer.encode("\n"), start]
        self._closing = [end, *tokenizer.encode("\n"), start, *tokenizer.encode("assistant\n")]
        self._turn = tokenizer.encode("\n<Document")
        self._lead = tokenizer.encode(LEAD)

    def query(self, instruction: str, query: DecodedContent) -> PromptPart:
        """The part that all documents of a request share.

        A query over its budget loses the end of its text.

        Raises:
            InputError: Its media alone, or the instruction, are over the budget.
        """
        lead = f"user\n<Instruct>: {instruction}<Query>:"
        budget = self._budgets.max_query_tokens - len(self._opening) - len(self._turn)
        fixed = len(self._tokenizer.encode(lead))
        if fixed > budget // 2:
            raise InputError(
                f"instruction: is {fixed} tokens long; at most half of the query's {budget} tokens may go to it"
            )
        part = _PromptPartBuilder(self._config)
        part.add_tokens(self._opening)
        try:
            self._content(part, lead, query, len(self._opening) + budget, tail="\n<Document")
        except InputError as error:
            raise error.at("query") from error
        return part.build()

    def document(self, query: PromptPart, document: DecodedContent, most: int | None = None) -> PromptPart:
        """The part after the shared one. A document over its budget loses the end of its text.

        ``most``: tokens of the document's own content, where the budget is not smaller.

        Raises:
            InputError: Its media alone are over the budget.
        """
        budget = max(self._budgets.max_length - len(query.tokens), self._budgets.min_document_tokens)
        if most is not None:
            budget = min(budget, len(self._lead) + most)
        part = _PromptPartBuilder(self._config)
        self._content(part, LEAD, document, budget, tail="")
        part.add_tokens(self._closing)
        return part.build()

    def _content(self, part: _PromptPartBuilder, lead: str, content: DecodedContent, budget: int, tail: str) -> None:
        """Append ``lead`` + media + texts + ``tail``, with the end of the texts cut so that ``part`` fits ``budget``.

        The tail is not counted. Uncut texts are tokenized together with the tail, since the tokenizer joins a newline
        with punctuation before it; cut texts are tokenized without it.
        """
        text = lead
        # Checked before they are laid out: there may be thousands.
        media = part.count + sum(visual.tokens + 2 * visual.grid[0] for visual in content.visuals)
        if media > budget:
            raise InputError(f"its images and videos take {media} tokens; at most {budget} are allowed")
        for visual in content.visuals:
            part.visuals.append(visual)
            for label in [f"<{seconds:.1f} seconds>" for seconds in visual.timestamps] or [""]:
                part.add_tokens(self._tokenizer.encode(text + label))
                part.add_frame_group(visual)
                text = ""
        room = budget - part.count
        whole = self._tokenizer.encode(text + "".join(content.texts) + tail)
        kept, ending = len(self._tokenizer.encode(text)), self._tokenizer.encode(tail)
        if len(whole) - len(ending) <= room:
            part.add_tokens(whole)
            return
        if kept > room:
            raise InputError(f"its images and videos take {part.count} tokens; at most {budget} are allowed")
        body = self._tokenizer.encode(text + "".join(content.texts)) if tail else whole
        part.cut = len(body) - room
        part.add_tokens(body[:room])
        part.add_tokens(ending)


class _PromptPartBuilder:
    """Builds a ``PromptPart``."""

    def __init__(self, config: ModelConfig) -> None:
        self.visuals: list[Visual] = []
        self.cut = 0
        self._config = config
        self._tokens: list[int] = []
        self._positions: list[NDArray[np.int64]] = []
        self._visual_indices: list[NDArray[np.int64]] = []
        self._next = 0

    @property
    def count(self) -> int:
        return len(self._tokens)

    def add_tokens(self, ids: Sequence[int]) -> None:
        """Append text: all three positions advance by one per token."""
        self._tokens.extend(ids)
        steps = np.arange(self._next, self._next + len(ids), dtype=np.int64)
        self._positions.append(np.broadcast_to(steps, (3, len(ids))))
        self._next += len(ids)

    def add_frame_group(self, visual: Visual) -> None:
        """Append one frame group of ``visual`` between its control tokens.

        Its tokens share one time position; height and width count up. The group takes as many positions as its longer
        side has tokens (Qwen3-VL's M-RoPE; the time itself is in the text label before each group).
        """
        merge = self._config.vision.spatial_merge_size
        rows, columns = visual.grid[1] // merge, visual.grid[2] // merge
        self.add_tokens([self._config.vision_start_token_id])
        pad = self._config.video_token_id if visual.is_video else self._config.image_token_id
        self._visual_indices.append(np.arange(self.count, self.count + rows * columns, dtype=np.int64))
        self._tokens.extend([pad] * (rows * columns))
        height, width = np.divmod(np.arange(rows * columns, dtype=np.int64), columns)
        self._positions.append(np.stack([np.zeros_like(height), height, width]) + self._next)
        self._next += max(rows, columns)
        self.add_tokens([self._config.vision_end_token_id])

    def build(self) -> PromptPart:
        return PromptPart(
            tokens=np.asarray(self._tokens, dtype=np.int64),
            positions=np.concatenate(self._positions, axis=1),
            length=self._next,
            visual_indices=np.concatenate(self._visual_indices)
            if self._visual_indices
            else np.zeros(0, dtype=np.int64),
            visuals=tuple(self.visuals),
            cut=self.cut,
        )
