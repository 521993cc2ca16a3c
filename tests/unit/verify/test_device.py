"""The gate ``capacity`` on GPUs. Not run on a GPU: memory is told by figures, and NVML by a stand-in."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
from tests.unit.verify.tiny import config, safetensors, write

from baton.domain import Verdict
from baton.verify.capacity import estimate_bytes
from baton.verify.checkpoint import describe
from baton.verify.device import CONTEXT_BYTES, DeviceMemory, Need, Placement, check_devices, need, nvml, visible

GIB = 1 << 30


def check(need, placement, *free, numbered=True, copies=1):
    devices = [
        DeviceMemory(f"GPU-{i}", 24 * GIB, free * GIB, "NVML", i if numbered else None) for i, free in enumerate(free)
    ]
    return check_devices(need, placement, devices, margin=0.1, factor=1.2, dtype="bf16", copies=copies)


def test_the_served_type_counts_and_not_the_stored_one(tmp_path):
    folder = write(tmp_path / "1")  # 80 elements of fp32
    assert [need(describe(folder), dtype, 0).weights for dtype in (None, "fp32", "bf16", "fp16")] == [
        320,
        320,
        160,
        160,
    ]
    assert estimate_bytes(describe(folder), overhead=1.0, process=0, dtype="bf16") == 160
    half = tmp_path / "2"
    write(half, {"model.safetensors": safetensors({"w": (10,)}, dtype="BF16", width=2)})
    assert need(describe(half), "fp32", 0).weights == 40
    assert estimate_bytes(describe(half), overhead=1.0, process=0, dtype="fp32") == 40


def test_the_peak_is_keys_and_values_of_all_layers_and_one_layers_work(tmp_path):
    """For the published 8B in bf16 at 16,384 tokens keys and values are 2.4 GB."""
    text = {"hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
            "head_dim": 128, "intermediate_size": 12288}  # fmt: skip
    folder = edited(tmp_path, config() | {"text_config": text})
    peak = need(describe(folder), "bf16", None).peak
    assert peak == 16_384 * 2 * (2 * 36 * 8 * 128 + 4 * 4096 + 3 * 12288)
    assert need(describe(folder), "fp32", 100).peak == 100 * 4 * (2 * 36 * 8 * 128 + 4 * 4096 + 3 * 12288)


def edited(place, settings):
    folder = write(place / "1")
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def test_a_large_batch_may_take_more_than_the_factor_leaves():
    assert Need(1000, 100).total(1.5) == 1500
    assert Need(1000, 900).total(1.5) == 1900


@pytest.mark.parametrize(
    ("placement", "free", "verdict", "device"),
    [
        (Placement("gpu", (1,)), (1, 20), Verdict.PASS, "GPU-1"),
        (Placement("gpu", (0,)), (1, 20), Verdict.FAIL, "GPU-0"),
        (Placement("any"), (20, 1), Verdict.FAIL, "GPU-1"),
        (Placement("any"), (20, 15), Verdict.PASS, "GPU-1"),
        (Placement("gpu", count=2), (15,), Verdict.FAIL, "GPU-0"),
        (Placement("gpu", divided=True), (8, 8), Verdict.PASS, "GPU-0, GPU-1"),
        (Placement("gpu", divided=True), (5, 5), Verdict.FAIL, "GPU-0, GPU-1"),
    ],
)
def test_the_device_that_the_instances_go_to_decides(placement, free, verdict, device):
    """8 GiB of weights: 9.6 GiB with the factor, half a GiB for the context, 10 % on top."""
    result = check(Need(8 * GIB, GIB), placement, *free)
    assert (result.verdict, result.evidence.device) == (verdict, device)
    assert (result.evidence.source, result.evidence.dtype, result.evidence.what) == ("NVML", "bf16", "device memory")
    assert (result.observed > result.limit) is (verdict is Verdict.FAIL)


def test_without_numbers_the_tightest_gpu_decides():
    assert check(Need(8 * GIB, 0), Placement("gpu", (1,)), 1, 20, numbered=False).verdict is Verdict.FAIL


def test_servers_that_share_a_gpu_each_take_their_part():
    assert check(Need(4 * GIB, 0), Placement("gpu"), 10).verdict is Verdict.PASS
    result = check(Need(4 * GIB, 0), Placement("gpu"), 10, copies=2)
    assert result.verdict is Verdict.FAIL
    assert result.evidence.needed_bytes == 2 * (int(4 * GIB * 0.2) + 4 * GIB + CONTEXT_BYTES)


class NoDriver(Exception):
    pass


def library(*, works=True, asked=None):
    def init():
        if not works:
            raise NoDriver

    def refuses(*_):
        raise NoDriver

    return SimpleNamespace(
        NVMLError=NoDriver,
        nvmlInit=init,
        nvmlShutdown=lambda: asked.append("shutdown"),
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetMemoryInfo=lambda number: SimpleNamespace(total=24 * GIB, free=number * GIB, used=0),
        nvmlDeviceGetUUID=lambda number: f"GPU-{number}" if number else b"GPU-0",
        nvmlDeviceGetMigMode=refuses,
    )


def test_nvml_numbers_the_gpus(monkeypatch):
    asked = []
    monkeypatch.setitem(sys.modules, "pynvml", library(asked=asked))
    assert nvml() == [DeviceMemory(f"GPU-{i}", 24 * GIB, i * GIB, "NVML", i) for i in range(2)]
    assert asked == ["shutdown"]


def test_of_a_gpu_that_is_divided_its_instances_count(monkeypatch):
    """The whole may have much free, and the instance that a process got nothing. Of three places one is empty."""
    made = library(asked=[])
    mode = {0: (0, 0), 1: (1, 1)}

    def instance(number, place):
        if place == 1:
            raise NoDriver
        return f"{number}-{place}"

    made.nvmlDeviceGetMigMode = mode.__getitem__
    made.nvmlDeviceGetMaxMigDeviceCount = lambda _: 3
    made.nvmlDeviceGetMigDeviceHandleByIndex = instance
    made.nvmlDeviceGetMemoryInfo = lambda one: SimpleNamespace(total=24 * GIB, free=GIB if isinstance(one, str) else 9)
    made.nvmlDeviceGetUUID = lambda one: f"MIG-{one}" if isinstance(one, str) else f"GPU-{one}"
    monkeypatch.setitem(sys.modules, "pynvml", made)
    assert [(one.name, one.free, one.number) for one in nvml()] == [
        ("GPU-0", 9, 0), ("MIG-1-0", GIB, None), ("MIG-1-2", GIB, None),
    ]  # fmt: skip
    made.nvmlDeviceGetMigMode = lambda _: (1, 1)
    told = [DeviceMemory("GPU-0", 80 * GIB, 70 * GIB, "Triton's metrics")]
    assert {one.name[:4] for one in visible(told, nvml())} == {"MIG-"}, "Triton tells of the whole GPU"


def test_without_a_driver_or_the_package_there_are_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", library(works=False))
    assert nvml() == []
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml() == []
