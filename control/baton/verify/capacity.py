"""The gate ``capacity``: whether a version fits into memory beside the stable one.

Not covered: GPU memory (``baton.verify.device``), and memory of other machines (the gate is skipped, and says so).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from baton.domain import Gate, GateResult, Verdict
from baton.evidence import CapacityEvidence
from baton.reasons.words import format_bytes
from baton.verify.checkpoint import Checkpoint
from baton.verify.safetensors import BITS

ITEM_BYTES: Final = {"fp32": 4, "bf16": 2, "fp16": 2}
_FLOATS: Final = frozenset({"F64", "F32", "F16", "BF16"})
PROCESS_BYTES: Final = 512 << 20
"""Memory of a backend process before it loads anything: importing torch 2.13 and transformers 5.23 took 343 MiB."""


def weights_bytes(checkpoint: Checkpoint, dtype: str | None) -> int:
    """Bytes of the weights when they are served in ``dtype``; None, or a type that is unknown here: as stored.

    Raises ``CheckpointError`` when a header can't be read.
    """
    item = ITEM_BYTES.get(dtype or "")
    return sum(
        tensor.size if item is None or tensor.dtype not in _FLOATS else tensor.size * 8 // BITS[tensor.dtype] * item
        for _, tensor in checkpoint.tensors()
    )


def estimate_bytes(
    checkpoint: Checkpoint, *, overhead: float, process: int = PROCESS_BYTES, dtype: str | None = None
) -> int:
    """The estimated memory in bytes of a version that serves: weights in ``dtype`` x ``overhead`` + ``process``.

    ``overhead`` covers activations, caches and allocator slack. Raises ``CheckpointError`` when a header can't be read.
    """
    return int(weights_bytes(checkpoint, dtype) * overhead) + process


def check_capacity(needed: int, available: int | None, *, margin: float, where: str = "") -> GateResult:
    """Judge whether ``needed`` bytes and a ``margin`` (a fraction of them) fit into the ``available`` bytes.

    ``where`` names the server in the message. ``observed`` is ``needed``, ``limit`` the most that would fit, both in
    bytes. ``available=None`` (nothing can be measured, as on a server elsewhere) passes as skipped, and says so: the
    gate ``load`` will tell.
    """
    place = f" on {where}" if where else ""
    evidence = CapacityEvidence(needed_bytes=needed, available_bytes=available, margin=margin, what="memory")
    if available is None:
        message = (
            f"Skipped: the free memory{place} can't be seen from here; an estimated {format_bytes(needed)} is needed."
        )
        return GateResult(Gate.CAPACITY, Verdict.PASS, message, float(needed), skipped=True, evidence=evidence)
    limit = round(available / (1 + margin))
    need = f"an estimated {format_bytes(needed)} of memory plus a margin of {margin:.0%}"
    if needed <= limit:
        message = f"A{need[1:]} fits into the {format_bytes(available)} that are free{place}."
        return GateResult(Gate.CAPACITY, Verdict.PASS, message, float(needed), float(limit), evidence=evidence)
    short = needed * (1 + margin) - available
    message = (
        f"A{need[1:]} does not fit into the {format_bytes(available)} that are free{place}: "
        f"{format_bytes(short)} short. Free that much, or serve a smaller type."
    )
    return GateResult(Gate.CAPACITY, Verdict.FAIL, message, float(needed), float(limit), evidence=evidence)


def available_memory(*, proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes that a new process here could take without swapping, or ``None`` when the system does not tell.

    It is the least of ``MemAvailable`` and, for this process's cgroup (version 2) and each one above it, ``memory.max``
    less what is in use. The kernel counts page cache as use; what it can drop is counted as free, since a
    push of 10 GB would otherwise look like 10 GB of memory gone. Limits of cgroup version 1 are not read.
    """
    rooms = []
    meminfo = _fields(proc / "meminfo")
    if "MemAvailable:" in meminfo:
        rooms.append(meminfo["MemAvailable:"] * 1024)
    group = _group(proc / "self" / "cgroup", cgroup)
    while group is not None:
        room = _room(group)
        if room is not None:
            rooms.append(room)
        group = group.parent if group != cgroup else None
    return min(rooms, default=None)


def _group(listing: Path, root: Path) -> Path | None:
    for line in _text(listing).splitlines():
        if line.startswith("0::/"):
            # In a container the path may be seen from outside ("/../.."): then the mounted root is the own group.
            parts = [part for part in line[4:].split("/") if part]
            return root if ".." in parts else root.joinpath(*parts)
    return None


def _room(group: Path) -> int | None:
    limit, current = _text(group / "memory.max").strip(), _text(group / "memory.current").strip()
    if not limit.isdecimal() or not current.isdecimal():  # "max", or a root group, which has no limit
        return None
    stat = _fields(group / "memory.stat")
    # Mapped files are the weights of the stable version: dropping them would slow it down.
    cache = stat.get("inactive_file", 0) + stat.get("active_file", 0) - stat.get("file_mapped", 0)
    in_use = int(current) - max(cache, 0) - stat.get("slab_reclaimable", 0)
    return max(int(limit) - max(in_use, 0), 0)


def _fields(path: Path) -> dict[str, int]:
    """``name figure ...`` lines, as in meminfo and memory.stat."""
    rows = (line.split() for line in _text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}


def _text(path: Path) -> str:
    """A file of the kernel; empty where this kernel or this container does not have it."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
