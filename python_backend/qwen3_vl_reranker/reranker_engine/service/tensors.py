"""Reads a request's bytes out of Triton's tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reranker_engine.inference.errors import InputError
from reranker_engine.inference.steps import StepKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from triton_python_backend_utils import Tensor


SMALL_BYTES = 2**16
"""A request with no more JSON than this is parsed in a few milliseconds."""


@dataclass(frozen=True)
class RawRequest:
    query: bytes
    documents: list[bytes]
    instruction: bytes | None
    options: bytes | None
    media: list[bytes]

    def first_step(self, *, remote_media: bool) -> StepKind:
        """What kind of step parsing it is.

        Args:
            remote_media: Media may be on other hosts. Parsing then fetches the first element of a list in ``video``, to
                see whether it is an image.
        """
        parts = (self.query, *self.documents)
        if remote_media and any(b"video" in part or b"\\u" in part for part in parts):
            return StepKind.NETWORK
        is_small = not self.media and sum(map(len, parts)) <= SMALL_BYTES
        return StepKind.SHORT if is_small else StepKind.LONG


def read_request(tensor: Callable[[str], Tensor | None]) -> RawRequest:
    """Read the inputs of one request.

    Args:
        tensor: Returns the input tensor with a name, or None if the request has none.

    Raises:
        InputError: A tensor's shape is not [1, n], or not [1, 1] for ``query``, ``instruction`` and ``options``.
    """
    query = _elements(tensor, "query")
    instruction, options = _elements(tensor, "instruction"), _elements(tensor, "options")
    for name, found in (("query", query), ("instruction", instruction), ("options", options)):
        if found is not None and len(found) != 1:
            raise InputError(f"{name}: holds {len(found)} elements; it must hold one")
    if query is None:
        raise InputError("query: is missing")
    return RawRequest(
        query=query[0],
        documents=_elements(tensor, "documents") or [],
        instruction=instruction[0] if instruction else None,
        options=options[0] if options else None,
        media=_elements(tensor, "media") or [],
    )


def _elements(tensor: Callable[[str], Tensor | None], name: str) -> list[bytes] | None:
    found = tensor(name)
    if found is None:
        return None
    array = found.as_numpy()
    if array.ndim != 2 or array.shape[0] != 1:  # noqa: PLR2004 - batch and elements
        raise InputError(f"{name}: has the shape {list(array.shape)}; it must be [1, n]: one query a request")
    return [bytes(element) if not isinstance(element, str) else element.encode() for element in array[0]]
