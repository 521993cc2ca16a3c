"""What happens when a checkpoint does not fit: a refusal, or what the operator allowed, said aloud."""

from __future__ import annotations

import pytest
import torch
from tests.unit.engine.support import BASE

from reranker_engine.inference.scorer import Scorer, ScorerSettings
from reranker_engine.model.errors import CheckpointError
from reranker_engine.service import loading
from reranker_engine.service.loading import is_device_lost, is_out_of_memory, load

LOST = "CUDA error: an illegal memory access was encountered\nSearch for `cudaErrorIllegalAddress'."
NO_MEMORY = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.fixture
def small(monkeypatch):
    """A machine on which only the combinations in the returned set fit; a GPU is played by the CPU."""
    fits, tried = set(), []

    def construct(folder, settings):
        tried.append((",".join(settings.devices), loading.NAMES[settings.dtype]))
        if tried[-1] not in fits:
            raise NO_MEMORY
        return Scorer(folder, ScorerSettings(dtype=settings.dtype))

    monkeypatch.setattr(loading, "Scorer", construct)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(loading, "gpus", lambda: 2)
    return fits, tried


def test_refuse_names_what_does_not_fit_and_the_way_out(small):
    with pytest.raises(
        RuntimeError, match=r"does not fit in bf16 on cuda:0 \(CUDA out of memory.*on_no_memory is refuse"
    ):
        load(BASE, ScorerSettings(devices=("cuda:0",)), "refuse", pytest.fail)
    assert small[1] == [("cuda:0", "bf16")]


@pytest.mark.parametrize(
    ("device", "dtype", "allowed", "tried"),
    [
        ("cuda:0", torch.float32, "lower_dtype", [("cuda:0", "fp32"), ("cuda:0", "bf16")]),
        ("cpu", None, "lower_dtype", [("cpu", "fp32"), ("cpu", "bf16")]),
        ("cuda:0", None, "cpu", [("cuda:0", "bf16"), ("cpu", "fp32")]),
        ("cuda:1,cuda:0", torch.float32, "lower_dtype", [("cuda:1,cuda:0", "fp32"), ("cuda:1,cuda:0", "bf16")]),
        ("cuda:0,cuda:1", None, "cpu", [("cuda:0,cuda:1", "bf16"), ("cpu", "fp32")]),
    ],
)
def test_what_is_allowed_is_tried_and_told(small, device, dtype, allowed, tried):
    small[0].add(tried[-1])
    said = []
    loaded = load(BASE, ScorerSettings(devices=tuple(device.split(",")), dtype=dtype), allowed, said.append)
    assert small[1] == tried
    assert (loaded.device, loaded.dtype) == tried[-1]
    assert (loaded.asked_device, loaded.asked_dtype) == tried[0]
    assert loaded.fallback == allowed
    assert len(said) == 1
    assert f"on_no_memory is {allowed}, so it is loaded in {tried[-1][1]} on {tried[-1][0]} instead" in said[0]


@pytest.mark.parametrize(("device", "allowed"), [("cuda:0", "lower_dtype"), ("cpu", "cpu")])
def test_where_nothing_is_left_it_is_refused(small, device, allowed):
    with pytest.raises(RuntimeError, match="does not fit"):
        load(BASE, ScorerSettings(devices=(device,)), allowed, pytest.fail)
    assert len(small[1]) == 1


def test_nothing_else_is_taken_for_want_of_memory(tmp_path):
    with pytest.raises(CheckpointError):
        load(tmp_path, ScorerSettings(), "lower_dtype", pytest.fail)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(RuntimeError(LOST))
    with pytest.raises(RuntimeError) as found:
        torch.empty(2**55)
    assert is_out_of_memory(found.value)


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call.",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_want_of_memory_that_has_no_exception_of_its_own(small, monkeypatch, words):
    """As the driver and NVIDIA's libraries say it; the errors are raised here, no GPU took part."""
    monkeypatch.setattr(loading, "Scorer", lambda *_: failing(words))
    with pytest.raises(RuntimeError, match="does not fit in bf16 on cuda:0"):
        load(BASE, ScorerSettings(devices=("cuda:0",)), "refuse", pytest.fail)
    assert not is_device_lost(RuntimeError(words))


def failing(words):
    raise RuntimeError(words)


def test_what_the_gpu_does_not_recover_from():
    assert is_device_lost(RuntimeError(LOST))
    assert not is_device_lost(RuntimeError("CUDA error: invalid argument"))
    assert not is_device_lost(RuntimeError("unknown error"))
    assert not is_device_lost(ValueError(LOST))


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16)])
def test_the_type_follows_the_device(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert loading.best_dtype(("cuda:1",)) is dtype
    assert loading.best_dtype(("cpu",)) is torch.float32


def test_of_several_gpus_the_oldest_decides_the_type(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", {"cuda:0": (9, 0), "cuda:1": (7, 0)}.get)
    assert loading.best_dtype(("cuda:0",)) is torch.bfloat16
    assert loading.best_dtype(("cuda:0", "cuda:1")) is torch.float16


@pytest.mark.parametrize(
    ("there", "devices", "missing"),
    [
        (0, ("cuda:1",), "is to run on cuda:1, but torch sees no GPU;"),
        (1, ("cuda:1",), "is to run on cuda:1, but torch sees 1 GPU;"),
        (2, ("cuda:0", "cuda:2", "cuda:3"), "is to run on cuda:2, cuda:3, but torch sees 2 GPUs;"),
    ],
)
def test_a_gpu_that_torch_does_not_see_is_no_silent_cpu(monkeypatch, there, devices, missing):
    monkeypatch.setattr(loading, "gpus", lambda: there)
    for allowed in ("refuse", "lower_dtype"):
        with pytest.raises(ValueError, match=f"{missing} .* allow it with parameter on_no_memory = cpu"):
            load(BASE, ScorerSettings(devices=devices), allowed, pytest.fail)
    said = []
    for dtype, asked in ((None, "auto"), (torch.bfloat16, "bf16")):
        loaded = load(BASE, ScorerSettings(devices=devices, dtype=dtype), "cpu", said.append)
        assert (loaded.device, loaded.dtype, loaded.fallback) == ("cpu", "fp32", "cpu")
        assert (loaded.asked_device, loaded.asked_dtype) == (",".join(devices), asked)
    assert said == [f"{BASE}: {missing} on_no_memory is cpu, so it is loaded in fp32 on cpu instead"] * 2
