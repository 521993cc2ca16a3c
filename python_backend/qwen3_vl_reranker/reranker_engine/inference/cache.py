"""A cache of the vision tower's features of images and videos, by their pixels."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from reranker_engine.model.vision import VisualFeatures

if TYPE_CHECKING:
    from torch import Tensor


class FeatureCache:
    """Features by a hash of the pixels; evicts the least recently used first.

    Attributes:
        limit: Bytes that all features together may take; 0 turns the cache off.
        used: Bytes that they take.
        hits: How often ``get`` found the features.
        misses: How often it did not.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.hits = 0
        self.misses = 0
        self._features: OrderedDict[bytes, VisualFeatures] = OrderedDict()

    def __len__(self) -> int:
        return len(self._features)

    def get(self, digest: bytes) -> VisualFeatures | None:
        found = self._features.get(digest)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._features.move_to_end(digest)
        return found

    def put(self, digest: bytes, features: VisualFeatures) -> None:
        """Store features, unless they alone are over the limit. Their tensors must not be changed afterwards."""
        size = _size(features)
        if size > self.limit:
            return
        if digest in self._features:
            self.used -= _size(self._features.pop(digest))
        self._features[digest] = features
        self.used += size
        while self.used > self.limit:
            _, oldest = self._features.popitem(last=False)
            self.used -= _size(oldest)


def _size(features: VisualFeatures) -> int:
    tensors: tuple[Tensor, ...] = (features.embeds, *features.deepstack)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
