"""Reads tensors out of safetensors files: into memory, or as a mapping of the file.

``read`` reads a tensor straight into its memory. Copying it out of a mapping, as is usual, would count the mapped pages
as memory of the process too, so that a load would take up to twice the weights. safetensors 0.8 can read without a
mapping, but only a whole tensor in the file's type: converting it takes the largest tensor twice. Names, types and
locations come from safetensors' own reader, which checks the file's header.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import torch
from safetensors import SafetensorError, safe_open

from .errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from torch import Tensor

PIECE_BYTES = 16 * 2**20
"""Bytes that are read, checked and converted at once, while they are in the processor's cache."""
TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class _Slice(Protocol):
    """A tensor in a file that is not read yet."""

    def get_dtype(self) -> str: ...
    def get_shape(self) -> list[int]: ...


class _Header(Protocol):
    """What is used of ``safe_open``; safetensors does not give its types."""

    def offset_keys(self) -> list[str]: ...
    def get_slice(self, name: str, /) -> _Slice: ...
    def get_tensor(self, name: str, /) -> Tensor: ...


class TensorLocation(NamedTuple):
    """Where a tensor is in its file: ``start`` is the offset of its first byte."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int


class Shard:
    """One safetensors file, open."""

    def __init__(self, path: Path) -> None:
        """Open it and read its header.

        Raises:
            CheckpointError: It is missing or damaged, or holds another type than ``TYPES``.
        """
        self._path = path
        try:
            # Unbuffered: pieces are large, and are read straight into the tensor.
            self._file = path.open("rb", buffering=0)
            try:
                self._header: _Header = safe_open(path, framework="pt")
                self.locations = self._read_locations()
            except BaseException:
                self._file.close()
                raise
        except (SafetensorError, OSError) as error:
            raise self._unreadable(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def location(self, name: str) -> TensorLocation:
        """A tensor's location, type and shape.

        Raises:
            CheckpointError: It is not there.
        """
        if name not in self.locations:
            raise self._unreadable(f"it does not contain tensor {name}")
        return self.locations[name]

    def read(self, name: str, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A tensor in memory of its own, read piece by piece: besides it, only one piece is in memory.

        Raises:
            CheckpointError: It is not there, cannot be read, or a value is not finite in ``dtype``.
        """
        location = self.location(name)
        tensor = torch.empty(location.shape, dtype=dtype, device=device)
        flat = tensor.view(-1)
        step = PIECE_BYTES // location.dtype.itemsize
        direct = dtype is location.dtype and device.type == "cpu"
        buffer = None if direct else torch.empty(min(step, flat.numel()), dtype=location.dtype)
        broken = 0
        self._file.seek(location.start)
        for start in range(0, flat.numel(), step):
            piece = flat[start : start + step]
            if buffer is None:
                self._fill(name, piece)
            else:
                self._fill(name, buffer[: len(piece)])
                piece.copy_(buffer[: len(piece)])
            broken += _not_finite(piece)
        self._check(name, broken)
        return tensor

    def rows(self, name: str, rows: Sequence[int]) -> Tensor:
        """Some rows of a matrix, in the file's type, on the CPU; the others are not read.

        Raises:
            CheckpointError: As ``read``.
        """
        location = self.location(name)
        found = torch.empty((len(rows), *location.shape[1:]), dtype=location.dtype)
        for row, target in zip(rows, found, strict=True):
            self._file.seek(location.start + row * target.nbytes)
            self._fill(name, target)
        self._check(name, _not_finite(found))
        return found

    def mapped(self, name: str) -> Tensor | None:
        """A tensor on a private mapping of the file, in the file's type; None if it is not aligned in the file.

        Raises:
            CheckpointError: As ``read``.
        """
        self.location(name)
        try:
            tensor = self._header.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise self._unreadable(error) from error
        if tensor.data_ptr() % tensor.element_size():
            return None
        self._check(name, _not_finite(tensor))
        return tensor

    def _read_locations(self) -> dict[str, TensorLocation]:
        """Tensors follow each other without a gap behind the header, which safetensors has checked."""
        start = 8 + int.from_bytes(self._file.read(8), "little")
        locations = {}
        for name in self._header.offset_keys():
            view = self._header.get_slice(name)
            kind = view.get_dtype()
            if kind not in TYPES:
                raise CheckpointError(
                    f"{self._path.parent}: {name} in {self._path.name} is of type {kind}; the engine reads weights in "
                    f"{', '.join(TYPES)} only, so export the checkpoint in one of these"
                )
            locations[name] = TensorLocation(TYPES[kind], tuple(view.get_shape()), start)
            start += prod(locations[name].shape) * TYPES[kind].itemsize
        return locations

    def _fill(self, name: str, target: Tensor) -> None:
        """Read on into ``target``, which is contiguous and on the CPU."""
        # Not every type has a buffer in Python (bf16 has none); bytes have.
        view = target.view(-1).view(torch.uint8).numpy().data
        while view:
            try:
                got = self._file.readinto(view)
            except OSError as error:
                raise self._unreadable(error) from error
            if not got:
                raise self._unreadable(f"it ends in the middle of {name}")
            view = view[got:]

    def _check(self, name: str, broken: int) -> None:
        if broken:
            raise CheckpointError(
                f"{self._path.parent}: {name} in {self._path.name} holds {broken} values that are not finite"
            )

    def _unreadable(self, cause: object) -> CheckpointError:
        return CheckpointError(f"{self._path.parent}: {self._path.name} cannot be read: {cause}")


def _not_finite(tensor: Tensor) -> int:
    """How many values are not finite; copies the tensor only if there are some."""
    if not tensor.numel() or bool(torch.stack(torch.aminmax(tensor)).isfinite().all()):
        return 0
    return int((~torch.isfinite(tensor)).sum())
