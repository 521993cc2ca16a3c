"""One request on its way through the model, pass by pass."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .batching import Work

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from reranker_engine.model.decoder import Past
    from reranker_engine.model.vision import VisualFeatures

    from .batching import Portion
    from .pixels import Visual
    from .prompt import Part


@dataclass(frozen=True)
class Prepared:
    """A request that is checked, decoded and tokenized: nothing of what is left to do can be the client's fault."""

    query: Part
    documents: tuple[Part, ...]

    @property
    def truncated(self) -> int:
        """How many of its query and documents lost the end of their text."""
        return sum(part.cut > 0 for part in (self.query, *self.documents))


class Scoring:
    """A request that is being scored.

    Attributes:
        prepared: The request.
        work: What is left of it.
        logits: [documents] in fp32; those of documents that are dealt out.
        past: Keys and values of the prefix, between the first pass and the last.
        features: Of images and videos, by the ``id`` of their ``Visual``, from the first pass that needs them to the
            last: the same picture often stands in several documents, and the cache may be off or too small.
    """

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.work = Work(len(prepared.query.tokens), [len(document.tokens) for document in prepared.documents])
        self.logits: NDArray[np.float32] = np.empty(len(prepared.documents), dtype=np.float32)
        self.past: Past | None = None
        self.features: dict[int, VisualFeatures] = {}
        parts = (prepared.query, *prepared.documents)
        self._uses = Counter(id(visual) for part in parts for visual in part.visuals)

    def visuals(self, portion: Portion) -> Iterator[Visual]:
        """The images and videos that a pass has to look at."""
        for part in self._parts(portion):
            yield from part.visuals

    def store(self, portion: Portion, logits: NDArray[np.float32], past: Past | None) -> None:
        """Take in what a pass computed, and let go of what no later one needs."""
        self.logits[list(portion.documents)] = logits
        self.past = past
        for visual in self.visuals(portion):
            self._uses[id(visual)] -= 1
            if not self._uses[id(visual)]:
                self.features.pop(id(visual), None)

    def _parts(self, portion: Portion) -> list[Part]:
        documents = [self.prepared.documents[at] for at in portion.documents]
        return [self.prepared.query, *documents] if portion.first else documents
