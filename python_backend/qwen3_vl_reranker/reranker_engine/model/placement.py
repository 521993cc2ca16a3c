"""Divides the decoder layers of one model among several devices."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence


def free_bytes(device: torch.device) -> int:
    """What the driver says is free on a GPU."""
    free, _ = torch.cuda.mem_get_info(device)
    return free


def divide(layers: Sequence[int], first: int, last: int, room: Sequence[int]) -> tuple[int, ...]:
    """The device of each layer, as an index into ``room``.

    The hidden state passes the devices in order, so each device gets consecutive layers. Of all such divisions, this is
    one whose fullest device has the smallest filled share, and of these the most even one: equal bytes on equal
    devices.

    Args:
        layers: Bytes of each layer.
        first: Further bytes on the first device: embedding and vision tower.
        last: Further bytes on the last device: norm and head.
        room: Free bytes of each device; at least one.

    Raises:
        MemoryError: The model does not fit, however it is divided.
    """
    upto = list(accumulate(layers, initial=0))
    ends = range(len(upto))

    def share(device: int, start: int, end: int) -> float:
        """The share of a device that the layers from ``start`` to before ``end`` fill."""
        load = upto[end] - upto[start]
        load += first if device == 0 else 0
        load += last if device == len(room) - 1 else 0
        return load / room[device] if room[device] else (float("inf") if load else 0.0)

    fullest = [share(0, 0, end) for end in ends]
    for device in range(1, len(room)):
        fullest = [min(max(fullest[cut], share(device, cut, end)) for cut in ends[: end + 1]) for end in ends]
    limit = fullest[-1]
    if limit > 1:
        need = upto[-1] + first + last
        raise MemoryError(f"the weights take {need:,} bytes, and {', '.join(f'{free:,}' for free in room)} are free")

    def uneven(device: int, start: int, end: int) -> float:
        filled = share(device, start, end)
        return filled**2 if filled <= limit else float("inf")

    # For each number of layers: the unevenness of the best division, and where each device's layers end in it.
    best: list[tuple[float, tuple[int, ...]]] = [(uneven(0, 0, end), (end,)) for end in ends]
    for device in range(1, len(room)):
        best = [
            min((best[cut][0] + uneven(device, cut, end), (*best[cut][1], end)) for cut in ends[: end + 1])
            for end in ends
        ]
    _, stops = best[-1]
    return tuple(next(device for device, stop in enumerate(stops) if layer < stop) for layer in range(len(layers)))
