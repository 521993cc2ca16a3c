"""The state of one request while it is scored, pass by pass."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .batching import RemainingWork

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from reranker_engine.model.decoder import PrefixCache
    from reranker_engine.model.vision import VisualFeatures

    from .batching import BatchSlice
    from .pixels import Visual
    from .prompt import PromptPart


@dataclass(frozen=True)
class PreparedRequest:
    """A request that is checked, decoded and tokenized: what fails from here on is not the client's fault."""

    query: PromptPart
    documents: tuple[PromptPart, ...]

    @property
    def tokens(self) -> NDArray[np.int64]:
        """[documents] of each document's prompt: the query's part, which all share, and its own."""
        return len(self.query.tokens) + np.array([len(one.tokens) for one in self.documents], dtype=np.int64)

    @property
    def truncated(self) -> int:
        """How many of its query and documents lost the end of their text."""
        return sum(part.cut > 0 for part in (self.query, *self.documents))


class Scoring:
    """A request that is being scored.

    Attributes:
        prepared: The request.
        work: What is left to compute.
        logits: [documents] in fp32; valid for documents whose pass is done.
        prefix_cache: Keys and values of the prefix, between the first pass and the last.
        features: Of images and videos, by the ``id`` of their ``Visual``, from the first pass that needs them to the
            last: an image is often in several documents, and the feature cache may be off or too small.
    """

    def __init__(self, prepared: PreparedRequest) -> None:
        self.prepared = prepared
        self.work = RemainingWork(len(prepared.query.tokens), [len(document.tokens) for document in prepared.documents])
        self.logits: NDArray[np.float32] = np.empty(len(prepared.documents), dtype=np.float32)
        self.prefix_cache: PrefixCache | None = None
        self.features: dict[int, VisualFeatures] = {}
        parts = (prepared.query, *prepared.documents)
        self._uses = Counter(id(visual) for part in parts for visual in part.visuals)

    def visuals(self, batch_slice: BatchSlice) -> Iterator[Visual]:
        """The images and videos whose features a pass needs."""
        for part in self._parts(batch_slice):
            yield from part.visuals

    def store(self, batch_slice: BatchSlice, logits: NDArray[np.float32], prefix_cache: PrefixCache | None) -> None:
        """Store the results of a pass, and free what no later pass needs."""
        self.logits[list(batch_slice.documents)] = logits
        self.prefix_cache = prefix_cache
        for visual in self.visuals(batch_slice):
            self._uses[id(visual)] -= 1
            if not self._uses[id(visual)]:
                self.features.pop(id(visual), None)

    def _parts(self, batch_slice: BatchSlice) -> list[PromptPart]:
        documents = [self.prepared.documents[at] for at in batch_slice.documents]
        return [self.prepared.query, *documents] if batch_slice.first else documents
