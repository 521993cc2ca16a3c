"""The gate ``capacity`` for a model on GPUs: whether a version fits into device memory beside the stable one.

Pure but for :func:`nvml`. Not run on a GPU yet: held to recorded metrics of Triton and to a stand-in for NVML.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Final, Literal

from baton.domain import Gate, GateResult, Verdict
from baton.evidence import CapacityEvidence
from baton.reasons.words import format_bytes
from baton.verify.capacity import ITEM_BYTES, weights_bytes
from baton.verify.checkpoint import Checkpoint

CONTEXT_BYTES: Final = 512 << 20
"""The CUDA context of a process, and the libraries' workspaces. An estimate: nothing was measured here."""
BATCH_TOKENS: Final = 16_384
"""Of one pass, where the model's configuration does not say: what the reranker's engine takes then."""
TRITON, NVML = "Triton's metrics", "NVML"
_INSTANCE: Final = "MIG-"
"""How the name of a part of a divided GPU begins."""


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """One GPU's memory in bytes. ``name`` is its UUID, ``number`` its place in the order of the driver, where known."""

    name: str
    total: int
    free: int
    source: str
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model's configuration has its instances run.

    ``device`` is ``host``, ``gpu``, or ``any``: on GPUs where there are some. ``gpus`` are numbers, empty for all.
    ``count`` instances run on each (on the host: in all), or one is ``divided`` over them. ``dtype`` and
    ``batch_tokens`` are parameters of the model that Baton knows; None where they are not given, or leave the choice to
    the engine.
    """

    device: Literal["host", "gpu", "any"]
    gpus: tuple[int, ...] = ()
    count: int = 1
    divided: bool = False
    dtype: str | None = None
    batch_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Need:
    """Estimated bytes of a version: its weights in the served type, and what a pass of the largest batch takes."""

    weights: int
    peak: int

    def total(self, factor: float) -> int:
        """Weights times ``factor`` leaves room for allocator slack; a large batch may take more than that."""
        return self.weights + max(int(self.weights * (factor - 1)), self.peak)


def need(checkpoint: Checkpoint, dtype: str | None, batch_tokens: int | None) -> Need:
    """What the version takes when it is served in ``dtype`` (None: as it is stored).

    The peak is keys and values of all layers for ``batch_tokens`` tokens, which the decoder holds for a whole pass (2.4
    GB for the published 8B at 16,384 tokens), and one layer's activations. Raises ``CheckpointError`` when a file can't
    be read.
    """
    found = checkpoint.value_or_none("config.json")
    config = found if isinstance(found, dict) else {}
    text = config.get("text_config", config)
    text = text if isinstance(text, dict) else {}

    def number(key: str, otherwise: int = 0) -> int:
        value = text.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 32 else otherwise

    hidden, heads = number("hidden_size"), number("num_attention_heads", 1)
    head = number("head_dim", hidden // heads)
    kept = 2 * number("num_hidden_layers") * number("num_key_value_heads", heads) * head
    layer = 4 * hidden + 3 * number("intermediate_size")
    tokens = BATCH_TOKENS if batch_tokens is None else batch_tokens
    return Need(weights_bytes(checkpoint, dtype), tokens * (kept + layer) * ITEM_BYTES.get(dtype or "", 2))


def nvml() -> list[DeviceMemory]:
    """The GPUs of this machine in NVML's order; none without the driver or the package ``nvidia-ml-py``."""
    try:
        library: Any = import_module("pynvml")
    except ImportError:
        return []
    try:
        library.nvmlInit()
    except library.NVMLError:
        return []
    try:
        return [device for number in range(library.nvmlDeviceGetCount()) for device in _devices(library, number)]
    except library.NVMLError:  # a driver that does not tell: Triton may
        return []
    finally:
        library.nvmlShutdown()


def _devices(library: Any, number: int) -> Iterator[DeviceMemory]:
    """A GPU; or its instances, if it is divided (MIG). A process gets one of those, and which is not known here."""
    handle = library.nvmlDeviceGetHandleByIndex(number)
    try:
        divided, _ = library.nvmlDeviceGetMigMode(handle)
    except library.NVMLError:  # it can't be divided
        divided = 0
    if not divided:
        yield _device(library, handle, number)
        return
    for place in range(library.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            instance = library.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
        except library.NVMLError:  # none is in that place
            continue
        yield _device(library, instance, None)


def _device(library: Any, handle: Any, number: int | None) -> DeviceMemory:
    memory, uuid = library.nvmlDeviceGetMemoryInfo(handle), library.nvmlDeviceGetUUID(handle)
    name = uuid.decode() if isinstance(uuid, bytes) else str(uuid)
    return DeviceMemory(name, int(memory.total), int(memory.free), NVML, number)


def visible(told: Sequence[DeviceMemory], here: Sequence[DeviceMemory]) -> Sequence[DeviceMemory]:
    """A server's GPUs, by its metrics (``told``) and by NVML (``here``): NVML's figures of those that it sees.

    NVML shows all of the machine. A server in a container or with ``CUDA_VISIBLE_DEVICES`` sees some, and counts them
    from 0.
    """
    names = {device.name for device in told}
    both = [device for device in here if device.name in names]
    if both:
        return [replace(device, number=number) for number, device in enumerate(both)]
    # Of a divided GPU Triton names the whole. With nothing in common it is elsewhere, as behind a tunnel.
    return here if not told or any(device.name.startswith(_INSTANCE) for device in here) else told


def check_devices(
    needed: Need,
    placement: Placement,
    devices: Sequence[DeviceMemory],
    *,
    margin: float,
    factor: float,
    dtype: str | None,
    copies: int = 1,
) -> GateResult:
    """Judge whether ``needed`` bytes and a ``margin`` (a fraction of them) are free where the instances will be.

    ``copies`` servers share these GPUs. A model on each of several GPUs must fit into the one with the least free
    memory. One that is divided over them must fit into all together, which is the least that is needed.
    """
    chosen = _chosen(placement, devices)
    each = needed.total(factor) + CONTEXT_BYTES
    if placement.divided:
        total, free = needed.total(factor) + CONTEXT_BYTES * len(chosen), sum(device.free for device in chosen)
        name = ", ".join(device.name for device in chosen)
    else:
        tightest = min(chosen, key=lambda device: device.free)
        total, free, name = each * placement.count, tightest.free, tightest.name
    total *= copies
    limit = round(free / (1 + margin))
    source = chosen[0].source
    evidence = CapacityEvidence(
        needed_bytes=total,
        available_bytes=free,
        margin=margin,
        what="device memory",
        device=name,
        source=source,
        dtype=dtype,
        weights_bytes=needed.weights,
        peak_bytes=needed.peak,
    )
    served = f" in {dtype}" if dtype else ""
    says = f"An estimated {format_bytes(total)} of device memory{served} plus a margin of {margin:.0%}"
    place = f"the {format_bytes(free)} that are free on {name}, by {source}"
    if total <= limit:
        message = f"{says} fits into {place}."
        return GateResult(Gate.CAPACITY, Verdict.PASS, message, float(total), float(limit), evidence=evidence)
    short = format_bytes(total * (1 + margin) - free)
    message = f"{says} does not fit into {place}: {short} short. Free that much, or serve a smaller type."
    return GateResult(Gate.CAPACITY, Verdict.FAIL, message, float(total), float(limit), evidence=evidence)


def _chosen(placement: Placement, devices: Sequence[DeviceMemory]) -> Sequence[DeviceMemory]:
    """The devices that the instances go to. Triton's metrics do not number them: then any may be meant."""
    numbered = [device for device in devices if device.number in placement.gpus]
    return numbered or devices
