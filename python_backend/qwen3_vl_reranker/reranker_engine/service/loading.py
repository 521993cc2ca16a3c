"""Loads a checkpoint on the configured device and in the configured type, or in a fallback that the operator allows."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from reranker_engine.inference.scorer import Scorer, ScorerSettings
from reranker_engine.inference.selftest import self_test

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

REFUSE, LOWER_DTYPE, CPU = ON_NO_MEMORY = ("refuse", "lower_dtype", "cpu")
COPY, MAP = WEIGHTS = ("copy", "map")
BF16_CAPABILITY = 8
"""The first generation of NVIDIA GPUs that computes in bf16 is Ampere, compute capability 8.0."""
NO_MEMORY = (
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
DEVICE_LOST = (
    "an illegal memory access was encountered",
    "an illegal instruction was encountered",
    "device-side assert triggered",
    "unspecified launch failure",
    "misaligned address",
    "invalid program counter",
    "hardware stack error",
    "operation not supported on global/shared address space",
    "uncorrectable ECC error encountered",
    "the launch timed out and was terminated",
    "unknown error",
    "context is destroyed",
)
"""Words of CUDA errors after which the process can use the GPU no more (the driver's documentation: "must be terminated
and relaunched"). Others, as an invalid argument, end one request."""
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class LoadedScorer:
    """A scorer that passed its self-test.

    Attributes:
        scorer: The scorer.
        device: Where it runs: ``cpu``, ``cuda:<n>``, or several of these, comma-separated.
        dtype: ``fp32``, ``bf16`` or ``fp16``.
        asked_device: The configured device.
        asked_dtype: The configured type.
        fallback: What was done because it did not fit: ``none``, ``lower_dtype`` or ``cpu``.
        weights: ``map`` where weights lie on mappings of the files, else ``copy``.
        weights_s: Seconds to read the checkpoint.
        self_test_s: Seconds of the self-test.
        warm_s: Seconds of the last round of the self-test.
    """

    scorer: Scorer
    device: str
    dtype: str
    asked_device: str
    asked_dtype: str
    fallback: str
    weights: str
    weights_s: float
    self_test_s: float
    warm_s: float


def load(folder: Path, settings: ScorerSettings, on_no_memory: str, warn: Callable[[str], None]) -> LoadedScorer:
    """Load and test a checkpoint.

    Args:
        folder: The checkpoint.
        settings: The configuration.
        on_no_memory: One of ``ON_NO_MEMORY``; what to do if the checkpoint does not fit as configured.
        warn: Called with a message for the log when a fallback is used.

    Raises:
        CheckpointError: The folder is no checkpoint that can be served.
        RuntimeError: Memory does not suffice, and no fallback is allowed or left.
        ValueError: A configured GPU is missing, and the CPU is not allowed as a fallback.
    """
    devices, dtype, fallback = settings.devices, settings.dtype, "none"
    # The best type of a missing GPU is not known.
    asked_device, asked_dtype = _device_names(devices), "auto" if dtype is None else NAMES[dtype]
    if unseen := _missing_gpus(devices):
        if on_no_memory != CPU:
            raise ValueError(
                f"{folder}: {unseen}; install a torch with CUDA, or choose the CPU with kind: KIND_CPU in "
                "instance_group, or allow it with parameter on_no_memory = cpu"
            )
        warn(f"{folder}: {unseen}; on_no_memory is cpu, so it is loaded in fp32 on cpu instead")
        devices, dtype, fallback = (CPU,), torch.float32, CPU
    elif dtype is None:
        dtype = best_dtype(devices)
        asked_dtype = NAMES[dtype]
    start = time.monotonic()
    while True:
        try:
            scorer = Scorer(folder, replace(settings, devices=devices, dtype=dtype))
            read = time.monotonic()
            warm_s = self_test(scorer)
            tested = time.monotonic()
            break
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            fault = f"{folder}: does not fit in {NAMES[dtype]} on {_device_names(devices)} ({error})"
            fallback_to = _fallback(devices, dtype, on_no_memory)
            if fallback_to is None:
                raise RuntimeError(
                    f"{fault}, and on_no_memory is {on_no_memory}; free memory, or allow more with that parameter"
                ) from None
        devices, dtype = fallback_to
        fallback = on_no_memory
        found = f"{NAMES[dtype]} on {_device_names(devices)}"
        warn(f"{fault}; on_no_memory is {on_no_memory}, so it is loaded in {found} instead")
        # Not in the except block: there the traceback's frames still hold the weights that were read so far.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if settings.map_weights and scorer.mapped < 1:
        warn(
            f"{folder}: weights is {MAP}, but {1 - scorer.mapped:.0%} of their bytes are copies: a tensor stays in its "
            f"file only on a CPU (this is {_device_names(devices)}), and where the file holds it in {NAMES[dtype]}, as "
            "it is served"
        )
    return LoadedScorer(
        scorer=scorer,
        device=_device_names(devices),
        dtype=NAMES[dtype],
        asked_device=asked_device,
        asked_dtype=asked_dtype,
        fallback=fallback,
        weights=MAP if scorer.mapped else COPY,
        weights_s=read - start,
        self_test_s=tested - read,
        warm_s=warm_s,
    )


def _device_names(devices: Sequence[str]) -> str:
    """Devices as messages, the log and metrics name them."""
    return ",".join(devices)


def best_dtype(devices: Sequence[str]) -> torch.dtype:
    """bf16 if all GPUs compute in it, fp16 if one of them does not, fp32 on a CPU."""
    if CPU in devices:
        return torch.float32
    major = min(torch.cuda.get_device_capability(device)[0] for device in devices)
    return torch.bfloat16 if major >= BF16_CAPABILITY else torch.float16


def gpus() -> int:
    """How many GPUs torch sees."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _missing_gpus(devices: Sequence[str]) -> str:
    """Names configured GPUs that torch does not see, as a part of a message; empty if none is missing."""
    there = gpus()
    missing = [device for device in devices if device != CPU and int(device.partition(":")[2]) >= there]
    return f"is to run on {', '.join(missing)}, but torch sees {there or 'no'} GPU{'s'[: there > 1]}" if missing else ""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the GPU or on the host.

    torch has its own exception for its allocator on the GPU only: the driver's and the libraries' own come as words.
    """
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)
    )


def is_device_lost(error: BaseException) -> bool:
    """Whether the GPU can't be used by this process any more, so that each later pass will fail, too."""
    text = str(error)
    return isinstance(error, RuntimeError) and "CUDA error: " in text and any(words in text for words in DEVICE_LOST)


def _fallback(
    devices: tuple[str, ...], dtype: torch.dtype, on_no_memory: str
) -> tuple[tuple[str, ...], torch.dtype] | None:
    """The device and type to try next; None: none is left."""
    if on_no_memory == LOWER_DTYPE and dtype is torch.float32:
        half = best_dtype(devices)
        return devices, half if half is not torch.float32 else torch.bfloat16
    if on_no_memory == CPU and CPU not in devices:
        return (CPU,), torch.float32
    return None
