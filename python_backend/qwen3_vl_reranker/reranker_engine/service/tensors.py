"""Triton tensors to the bytes of a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reranker_engine.inference.errors import InputError
from reranker_engine.inference.steps import Next

if TYPE_CHECKING:
    from collections.abc import Callable

    from triton_python_backend_utils import Tensor


SMALL_BYTES = 2**16
"""Of a request whose JSON is read within some milliseconds."""


@dataclass(frozen=True)
class RawRequest:
    query: bytes
    documents: list[bytes]
    instruction: bytes | None
    options: bytes | None
    media: list[bytes]

    def reading(self, *, far: bool) -> Next:
        """What reading it is like. ``far``: media may lie on other hosts; the first of a list has to be looked at."""
        parts = (self.query, *self.documents)
        if far and any(b"video" in part or b"\\u" in part for part in parts):
            return Next.NETWORK
        is_small = not self.media and sum(map(len, parts)) <= SMALL_BYTES
        return Next.SHORT if is_small else Next.LONG


def read_request(tensor: Callable[[str], Tensor | None]) -> RawRequest:
    """Read the inputs of one request.

    Args:
        tensor: Gives the input of a name, or None where the request has none.

    Raises:
        InputError: A tensor has another shape than the contract's: a batch dimension of 1, then one element for
            ``query``, ``instruction`` and ``options``.
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
