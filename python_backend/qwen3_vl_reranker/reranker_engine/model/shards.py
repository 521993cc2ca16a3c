"""Reads tensors out of safetensors files: into memory of their own, or left where they are on a mapping of the file.

A tensor of its own is read straight into its memory. It could be copied out of a mapping, as is usual, but the pages of
a mapping count as the process's own memory while they are mapped, so that a load would take up to twice the weights.
safetensors 0.8 can read without a mapping, but a tensor whole and in the file's type only: converting it then takes the
largest one twice. Names, types and places come from safetensors' own reader, which checks the file's header.
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
"""What is read at once: it is looked at while the processor's cache still has it, and converted within so much."""
TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class _Slice(Protocol):
    """A tensor in a file, not read yet."""

    def get_dtype(self) -> str: ...
    def get_shape(self) -> list[int]: ...


class _Header(Protocol):
    """What is used of ``safe_open``, whose types safetensors does not tell."""

    def offset_keys(self) -> list[str]: ...
    def get_slice(self, name: str, /) -> _Slice: ...
    def get_tensor(self, name: str, /) -> Tensor: ...


class Place(NamedTuple):
    """Where a tensor lies: ``start`` is a byte of the file."""

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
            # Unbuffered: pieces are large, and go to where they belong.
            self._file = path.open("rb", buffering=0)
            try:
                self._header: _Header = safe_open(path, framework="pt")
                self.places = self._find()
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

    def place(self, name: str) -> Place:
        """Where a tensor lies, its type and shape.

        Raises:
            CheckpointError: It is not there.
        """
        if name not in self.places:
            raise self._unreadable(f"it does not contain tensor {name}")
        return self.places[name]

    def read(self, name: str, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A tensor in memory of its own, piece by piece: beside it no more than one piece is needed.

        Raises:
            CheckpointError: It is not there, cannot be read, or a value is not finite in ``dtype``.
        """
        place = self.place(name)
        tensor = torch.empty(place.shape, dtype=dtype, device=device)
        flat = tensor.view(-1)
        step = PIECE_BYTES // place.dtype.itemsize
        direct = dtype is place.dtype and device.type == "cpu"
        buffer = None if direct else torch.empty(min(step, flat.numel()), dtype=place.dtype)
        broken = 0
        self._file.seek(place.start)
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
        """Some rows of a matrix, in the file's type, on the CPU; the others are not looked at.

        Raises:
            CheckpointError: As ``read``.
        """
        place = self.place(name)
        found = torch.empty((len(rows), *place.shape[1:]), dtype=place.dtype)
        for row, target in zip(rows, found, strict=True):
            self._file.seek(place.start + row * target.nbytes)
            self._fill(name, target)
        self._check(name, _not_finite(found))
        return found

    def mapped(self, name: str) -> Tensor | None:
        """A tensor on a private mapping of the file, in the file's type; None where the file has it unaligned.

        Raises:
            CheckpointError: As ``read``.
        """
        self.place(name)
        try:
            tensor = self._header.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise self._unreadable(error) from error
        if tensor.data_ptr() % tensor.element_size():
            return None
        self._check(name, _not_finite(tensor))
        return tensor

    def _find(self) -> dict[str, Place]:
        """Tensors follow each other without a gap behind the header, which safetensors has checked."""
        start = 8 + int.from_bytes(self._file.read(8), "little")
        places = {}
        for name in self._header.offset_keys():
            view = self._header.get_slice(name)
            kind = view.get_dtype()
            if kind not in TYPES:
                raise CheckpointError(
                    f"{self._path.parent}: {name} in {self._path.name} is of type {kind}; the engine reads weights in "
                    f"{', '.join(TYPES)} only, so export the checkpoint in one of these"
                )
            places[name] = Place(TYPES[kind], tuple(view.get_shape()), start)
            start += prod(places[name].shape) * TYPES[kind].itemsize
        return places

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
    """How many values are not finite, without a copy of the tensor as long as all are."""
    if not tensor.numel() or bool(torch.stack(torch.aminmax(tensor)).isfinite().all()):
        return 0
    return int((~torch.isfinite(tensor)).sum())
