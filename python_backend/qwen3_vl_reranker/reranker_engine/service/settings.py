"""Reads and checks the ``parameters`` of config.pbtxt."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from reranker_engine.inference.prompt import Budgets
from reranker_engine.inference.request import RequestLimits
from reranker_engine.inference.scorer import ScorerSettings
from reranker_engine.inference.sources import MediaPolicy

from .loading import COPY, CPU, MAP, ON_NO_MEMORY, REFUSE, WEIGHTS
from .watchdog import TIMEOUT_PARAMETER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ON_OFF = {"off": False, "on": True}
DTYPES = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MAX_REQUESTS = 1024
DEFAULT_TIMEOUT_S = 300.0
"""For requests without a timeout: longer than a client waits that does not say so."""
TRITON_PARAMETERS = {"EXECUTION_ENV_PATH", "FORCE_CPU_ONLY_INPUT_TENSORS", "TRITON_BATCH_STRATEGY_PATH"}
"""Parameters that Triton and its python backend read themselves."""


@dataclass(frozen=True)
class Settings:
    scorer: ScorerSettings
    threads: int
    on_no_memory: str
    cache_metrics: bool
    max_requests: int
    """Requests in progress at once; further ones are refused."""
    default_timeout_s: float
    """For a request that brings no timeout; 0: no limit."""


def read_settings(config: Mapping[str, Any], instance_kind: str, device_id: str, gpus: int) -> Settings:
    """Turn a model configuration's ``parameters`` into settings.

    Args:
        config: The model configuration as Triton gives it, parsed from JSON.
        instance_kind: Triton's: ``GPU``, ``CPU`` or ``MODEL``.
        device_id: Number of the GPU that Triton gives the instance, where ``instance_kind`` is ``GPU``.
        gpus: How many GPUs torch sees.

    Raises:
        ValueError: A parameter is unknown or has an impossible value; the text names it.
    """
    values = {name: str(entry.get("string_value", "")).strip() for name, entry in config.get("parameters", {}).items()}

    def number(name: str, default: float, low: float) -> float:
        text = values.pop(name, "")
        try:
            value = float(text) if text else default
        except ValueError:
            raise ValueError(f"parameter {name} is {text!r}, which is no number") from None
        if not value >= low:
            raise ValueError(f"parameter {name} is {text!r}; it must be at least {low:g}")
        return value

    def listed(name: str) -> list[str]:
        return [part.strip() for part in values.pop(name, "").split(",") if part.strip()]

    def chosen(name: str, options: Iterable[str], default: str) -> str:
        value = values.pop(name, "") or default
        if value not in options:
            raise ValueError(f"parameter {name} is {value!r}; it must be one of {', '.join(options)}")
        return value

    dtype = chosen("dtype", DTYPES, "auto")
    on_no_memory = chosen("on_no_memory", ON_NO_MEMORY, REFUSE)
    weights = chosen("weights", WEIGHTS, COPY)
    cache_metrics = ON_OFF[chosen("cache_metrics", ON_OFF, "off")]
    roots = listed("allowed_media_roots")
    if relative := [root for root in roots if not Path(root).is_absolute()]:
        raise ValueError(f"parameter allowed_media_roots names {relative[0]!r}, which is no absolute path")
    budgets, limits, media = Budgets(), RequestLimits(), MediaPolicy()
    budgets = Budgets(
        max_length=int(number("max_length", budgets.max_length, 256)),
        max_query_tokens=int(number("max_query_tokens", budgets.max_query_tokens, 256)),
        min_document_tokens=int(number("min_document_tokens", budgets.min_document_tokens, 64)),
    )
    limits = RequestLimits(
        max_documents=int(number("max_documents", limits.max_documents, 1)),
        max_text_chars=int(number("max_text_chars", limits.max_text_chars, 1)),
        max_request_chars=int(number("max_request_chars", limits.max_request_chars, 1)),
        max_media=int(number("max_media", limits.max_media, 0)),
        max_request_tokens=int(number("max_request_tokens", limits.max_request_tokens, 1)),
        max_visual_tokens=int(number("max_visual_tokens", limits.max_visual_tokens, 0)),
    )
    media = MediaPolicy(
        allowed_roots=tuple(Path(root) for root in roots),
        allowed_hosts=tuple(host.lower() for host in listed("allowed_media_hosts")),
        max_bytes=int(number("max_media_bytes", media.max_bytes, 1)),
        max_pixels=int(number("max_media_pixels", media.max_pixels, 1)),
        max_request_pixels=int(number("max_request_pixels", media.max_request_pixels, 1)),
        max_video_pixels=int(number("max_video_pixels", media.max_video_pixels, 1)),
        max_video_frames=int(number("max_video_frames", media.max_video_frames, 1)),
    )
    settings = Settings(
        scorer=ScorerSettings(
            devices=_devices(instance_kind, device_id, listed("devices"), gpus),
            dtype=DTYPES[dtype],
            budgets=budgets,
            limits=limits,
            media=media,
            max_batch_tokens=int(number("max_batch_tokens", ScorerSettings.max_batch_tokens, 1)),
            vision_cache_bytes=int(number("vision_cache_bytes", ScorerSettings.vision_cache_bytes, 0)),
            map_weights=weights == MAP,
        ),
        threads=int(number("threads", 0, 0)) or default_threads(),
        on_no_memory=on_no_memory,
        cache_metrics=cache_metrics,
        max_requests=int(number("max_requests", MAX_REQUESTS, 1)),
        default_timeout_s=number("default_timeout_s", DEFAULT_TIMEOUT_S, 0),
    )
    unknown = sorted(values.keys() - TRITON_PARAMETERS - {TIMEOUT_PARAMETER})
    if unknown:
        raise ValueError(f"parameter {unknown[0]} is unknown to this engine")
    return settings


def _devices(instance_kind: str, device_id: str, asked: list[str], gpus: int) -> tuple[str, ...]:
    """The devices of an instance. Loading checks whether they exist."""
    if (instance_kind == "MODEL") != bool(asked):
        raise ValueError(
            "parameter devices goes with kind: KIND_MODEL in instance_group, by which Triton leaves the choice of GPUs "
            f"to the engine; here the kind is KIND_{instance_kind}, and devices is {', '.join(asked) or 'empty'}"
        )
    if asked == ["all"]:
        # With no GPU, loading reports the first one as missing.
        return tuple(f"cuda:{number}" for number in range(max(gpus, 1)))
    if wrong := [one for one in asked if not (one.isascii() and one.isdecimal())]:
        raise ValueError(f'parameter devices names {wrong[0]!r}; it must be numbers of GPUs, such as "0,1", or "all"')
    numbers = [int(one) for one in asked]
    if twice := [number for number in numbers if numbers.count(number) > 1]:
        raise ValueError(f"parameter devices names GPU {twice[0]} twice")
    if numbers:
        return tuple(f"cuda:{number}" for number in numbers)
    return (f"cuda:{device_id}",) if instance_kind == "GPU" else (CPU,)


def default_threads() -> int:
    """One core fewer than this process may use, which leaves one to Triton and to decoding; at least one."""
    return max(1, len(os.sched_getaffinity(0)) - 1)
