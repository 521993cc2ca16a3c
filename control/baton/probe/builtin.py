"""A request made from the model's configuration alone, for a service without a probe.

It shows whether a version answers with finite numbers in the declared shapes. Not covered: whether an answer is right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baton.domain import Signature, TensorSpec
from baton.errors import InvalidRequest, TritonError
from baton.probe.base import Infer, Stop, Tensors, check

_NUMBERS = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64, "INT8": np.int8,
    "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip
_SIZES = (1, 16)
"""For a dimension of any size; the second is tried where the first is refused: a window may be larger than 1."""
_LARGEST = 2**24
"""Values of one tensor."""
_TEXT = b"1"
"""Text, a number and JSON at once."""


class NoRequest(TritonError):
    """No request can be made of the configuration, or the version takes none that was made."""


def ask_builtin(infer: Infer, version: int, signature: Signature, *, cancelled: Stop, timeout_s: float) -> str | None:
    """Ask a version the built-in request. Returns what is wrong with the answer, None for a good one.

    Raises:
        NoRequest: there is no request that shows anything.
        TritonError: it answered every request that could be made with an error; and what else ``infer`` raises.
    """
    failed: TritonError | None = None
    for inputs in _requests(signature):
        check(cancelled)
        try:
            return _wrong(infer(version, inputs, timeout_s), signature)
        except TritonError as error:
            failed = error
    if failed is None:
        named = ", ".join(f"{i.name} ({i.datatype} {list(i.shape)})" for i in signature.inputs) or "none"
        raise NoRequest(f"no request can be made of its inputs: {named}")
    if isinstance(failed, InvalidRequest):
        raise NoRequest(f"version {version} refuses the built-in request: {failed.message.rstrip('.')}")
    raise failed


def _requests(signature: Signature) -> Iterator[Tensors]:
    wanted = [tensor for tensor in signature.inputs if not tensor.optional]
    open_sizes = any(size < 0 for tensor in wanted for size in tensor.shape)
    for any_size in _SIZES if open_sizes else _SIZES[:1]:
        made = {tensor.name: _tensor(tensor, any_size, batched=signature.batched) for tensor in wanted}
        whole = {name: value for name, value in made.items() if value is not None}
        if made and len(whole) == len(made):
            yield whole


def _tensor(tensor: TensorSpec, any_size: int, *, batched: bool) -> NDArray[Any] | None:
    shape = (*((1,) if batched else ()), *(any_size if size < 0 else size for size in tensor.shape))
    if math.prod(shape) > _LARGEST:
        return None
    if tensor.datatype == "BYTES":
        return np.full(shape, _TEXT, dtype=np.object_)
    kind = _NUMBERS.get(tensor.datatype)
    return None if kind is None else np.ones(shape, dtype=kind)


def _wrong(outputs: Tensors, signature: Signature) -> str | None:
    for tensor in signature.outputs:
        value = outputs.get(tensor.name)
        if value is None:
            return f"its answer lacks the output {tensor.name}"
        shape = (*((1,) if signature.batched else ()), *tensor.shape)
        fits = len(shape) == value.ndim and all(w in (-1, size) for w, size in zip(shape, value.shape, strict=True))
        if not fits or not value.size:
            return f"its output {tensor.name} has the shape {list(value.shape)}, and {list(shape)} is declared"
        if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
            bad = int(np.sum(~np.isfinite(value)))
            return f"{bad} of {value.size} values of its output {tensor.name} are not finite numbers"
    return None
