"""Reads the header of a safetensors file, and nothing else.

A file is 8 bytes (the header's length, little-endian), the header (JSON), then the tensors' bytes without a gap. So
the header gives the length of the file, which proves completeness without reading the weights.
Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from typing import Any, Final

from baton.errors import CheckpointError
from baton.verify.files import MalformedError, UnfinishedError, parse_json, printable

HEADER_LIMIT: Final = 16 << 20
"""Bytes: a hundred thousand tensors. The reference implementation reads up to 100 MB, which would take gigabytes here;
the headers of the largest published models are below one."""
_PREFIX: Final = 8
_LARGEST: Final = 1 << 63
_RANK_LIMIT: Final = 64

BITS: Final[Mapping[str, int]] = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8,
    "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits per element of every type that the format knows."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor as the header describes it; ``start`` and ``end`` are byte offsets into the data section."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def size(self) -> int:
        """In bytes, as stored."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Header:
    """What a file's header promises. ``length`` is the header's own, ``expected_size`` the whole file's, in bytes."""

    tensors: Mapping[str, Tensor]
    length: int
    expected_size: int


def read_header(file: FileIO, name: str) -> Header:
    """Read and check the header of an open file, and that the file is exactly as long as it promises.

    Raises ``UnfinishedError`` when bytes are missing at the end, ``CheckpointError`` for anything else that is wrong
    with it, ``OSError`` when it can't be read.
    """
    size = os.fstat(file.fileno()).st_size
    prefix = _read(file, _PREFIX)
    length = int.from_bytes(prefix, "little")
    # A length of zero is a file whose space was allocated in advance and not yet written.
    if len(prefix) < _PREFIX or length == 0:
        raise _headless(name, size)
    if length > HEADER_LIMIT:
        raise CheckpointError(
            f"{printable(name)} promises a header of {length:,} bytes; at most {HEADER_LIMIT:,} are allowed.",
            mend="It is not a safetensors file: convert or copy it again.",
        )
    text = _read(file, min(length, max(size - _PREFIX, 0)))
    # Zeros are space that was allocated in advance; any other wrong first byte no further copying will mend.
    if not text.startswith((b"{", b"\x00")) and text:
        raise CheckpointError(
            f"{printable(name)} has no JSON header: it begins with {text[:4]!r} where '{{' belongs.",
            mend="It is not a safetensors file: convert or copy it again.",
        )
    if len(text) < length or text.endswith(b"\x00"):
        raise _headless(name, size)
    header = _checked(name, text)
    need = header.expected_size
    figures = f"{printable(name)} is {size:,} bytes, its header promises {need:,}: {abs(need - size):,} bytes are"
    if size < need:
        raise UnfinishedError(f"{figures} missing.", f"{printable(name)}: {size:,} of {need:,} bytes", cut=True)
    if size > need:
        raise CheckpointError(f"{figures} too many.", mend="Copy it again.")
    return header


def _headless(name: str, size: int) -> UnfinishedError:
    what = "its header is not there yet"
    return UnfinishedError(f"{printable(name)} is {size:,} bytes: {what}.", f"{printable(name)}: {what}")


def _read(file: FileIO, length: int) -> bytes:
    parts = []
    while length > 0 and (part := file.read(length)):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _checked(name: str, text: bytes) -> Header:
    try:
        table = parse_json(text)
    except MalformedError as error:
        what = f"The header of {printable(name)} is not valid JSON: {error}."
        raise CheckpointError(what, mend="Copy it again.") from error
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"The header of {printable(name)} holds a __metadata__ that is not text to text.")
    tensors = {key: _tensor(name, key, value) for key, value in table.items()}
    reached = 0
    for key, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if tensor.start != reached:
            fault = "leaves a gap" if tensor.start > reached else "overlaps the tensor before it"
            raise CheckpointError(
                f"{printable(name)}: tensor {key[:200]!r} {fault}: "
                f"it starts at byte {tensor.start:,}, not {reached:,}.",
                mend="Save the checkpoint again.",
            )
        reached = tensor.end
    return Header(tensors, len(text), _PREFIX + len(text) + reached)


def _tensor(name: str, key: str, value: Any) -> Tensor:
    def wrong(what: str) -> CheckpointError:
        return CheckpointError(f"{printable(name)}: tensor {key[:200]!r} {what}.", mend="Save the checkpoint again.")

    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise wrong("must have dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise wrong(f"has the unknown type {str(dtype)[:40]!r}")
    if not isinstance(shape, list) or not all(_natural(side) for side in shape) or len(shape) > _RANK_LIMIT:
        raise wrong("has a shape that is no list of whole numbers")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_natural(offset) for offset in offsets):  # noqa: PLR2004
        raise wrong("has data_offsets that are not two whole numbers")
    start, end = offsets
    bits = BITS[dtype]
    for side in shape:
        bits *= side
    if start > end or bits % 8 or bits // 8 != end - start:
        shape_text = "x".join(map(str, shape)) or "scalar"
        raise wrong(f"spans {end - start:,} bytes, its shape {shape_text} in {dtype} needs {bits / 8:,.0f}"
                    if bits < _LARGEST else "has a shape larger than any memory")  # fmt: skip
    return Tensor(dtype, tuple(shape), start, end)


def _natural(value: object) -> bool:
    return type(value) is int and 0 <= value < _LARGEST
