"""Parameters of config.pbtxt, and the watchdog over loading."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import torch
from tests.unit.engine.support import BACKEND, ROOT

from reranker_engine.service.settings import read_settings
from reranker_engine.service.watchdog import EXIT_CODE, initialize_timeout

PBTXT = (ROOT / "model_repository" / "qwen3_vl_reranker" / "config.pbtxt").read_text(encoding="utf-8")


def settings(kind="CPU", device_id="0", gpus=0, **parameters):
    entries = {name: {"string_value": value} for name, value in parameters.items()}
    return read_settings({"parameters": entries}, kind, device_id, gpus)


def test_defaults():
    found = settings()
    assert found.threads == max(1, len(os.sched_getaffinity(0)) - 1)
    assert initialize_timeout({}) == 840
    assert not found.cache_metrics
    assert found.scorer.devices == ("cpu",)
    assert found.scorer.dtype is None
    assert found.scorer.media.allowed_roots == ()
    assert found.scorer.media.allowed_hosts == ()
    assert (found.max_requests, found.default_timeout_s) == (1024, 300.0)


def test_values():
    found = settings(
        dtype="bf16", threads="3", allowed_media_roots="/a, /b", allowed_media_hosts="X.example", max_length="512"
    )
    assert found.scorer.dtype is torch.bfloat16
    assert found.threads == 3
    assert [str(root) for root in found.scorer.media.allowed_roots] == ["/a", "/b"]
    assert found.scorer.media.allowed_hosts == ("x.example",)
    assert found.scorer.budgets.max_length == 512
    found = settings(max_requests="7", default_timeout_s="0", max_video_pixels="9")
    assert (found.max_requests, found.default_timeout_s, found.scorer.media.max_video_pixels) == (7, 0.0, 9)


@pytest.mark.parametrize(
    ("parameters", "cause"),
    [
        ({"dtype": "int8"}, "parameter dtype is 'int8'; it must be one of auto, fp32, bf16, fp16"),
        ({"cache_metrics": "1"}, "parameter cache_metrics is '1'; it must be one of off, on"),
        ({"threads": "many"}, "parameter threads is 'many', which is no number"),
        ({"max_length": "10"}, "parameter max_length is '10'; it must be at least 256"),
        ({"allowed_media_roots": "data"}, "parameter allowed_media_roots names 'data', which is no absolute path"),
        ({"treads": "2"}, "parameter treads is unknown to this engine"),
    ],
)
def test_impossible_values_are_named(parameters, cause):
    with pytest.raises(ValueError, match=re.escape(cause)):
        settings(**parameters)


@pytest.mark.parametrize(
    ("kind", "device_id", "gpus", "devices", "found"),
    [
        ("CPU", "0", 2, "", ("cpu",)),
        ("GPU", "0", 2, "", ("cuda:0",)),
        ("GPU", "1", 2, "", ("cuda:1",)),
        ("GPU", "1", 0, "", ("cuda:1",)),
        ("MODEL", "0", 2, "1, 0", ("cuda:1", "cuda:0")),
        ("MODEL", "0", 3, "all", ("cuda:0", "cuda:1", "cuda:2")),
        ("MODEL", "0", 0, "all", ("cuda:0",)),
    ],
)
def test_devices(kind, device_id, gpus, devices, found):
    assert settings(kind, device_id, gpus, devices=devices).scorer.devices == found


@pytest.mark.parametrize(
    ("kind", "devices", "cause"),
    [
        ("MODEL", "0,one", "parameter devices names 'one'; it must be numbers of GPUs"),
        ("MODEL", "all,0", "parameter devices names 'all'; it must be numbers of GPUs"),
        ("MODEL", "0,-1", "parameter devices names '-1'"),
        ("MODEL", "1,0,01", "parameter devices names GPU 1 twice"),
        ("MODEL", "", "here the kind is KIND_MODEL, and devices is empty"),
        ("GPU", "0,1", "here the kind is KIND_GPU, and devices is 0, 1"),
        ("CPU", "all", "here the kind is KIND_CPU, and devices is all"),
    ],
)
def test_impossible_devices_are_named(kind, devices, cause):
    with pytest.raises(ValueError, match=re.escape(cause)):
        settings(kind, devices=devices)


@pytest.mark.parametrize("text", ["nan", "0", "soon"])
def test_an_impossible_timeout_is_named(text):
    with pytest.raises(ValueError, match=f"parameter initialize_timeout_s is '{text}'"):
        initialize_timeout({"parameters": {"initialize_timeout_s": {"string_value": text}}})


def test_the_shipped_configuration_names_the_parameters_and_their_defaults():
    shipped = dict(re.findall(r'key: "(\w+)"\s+value: \{ string_value: "([^"]*)" \}', PBTXT))
    assert settings(**shipped) == settings()
    assert float(shipped["initialize_timeout_s"]) == initialize_timeout({})
    documented = (ROOT / "docs" / "reference" / "engine.md").read_text(encoding="utf-8")
    for name in shipped:
        assert f"`{name}`" in documented


@pytest.mark.parametrize(
    ("hang", "said"),
    [
        ("time.sleep(600)", "loading /x took longer than 0.5 s; this process ends itself"),
        # A hang that holds the interpreter lock: no Python thread can run, faulthandler's timer can.
        ("ctypes.PyDLL(None).sleep(600)", "Timeout"),
    ],
)
def test_the_watchdog_ends_a_process_that_hangs_while_loading(hang, said):
    program = (
        "import ctypes, time; from reranker_engine.service import watchdog; watchdog.GRACE_S = 0.5\n"
        f"with watchdog.watchdog(0.5, 'loading /x'): {hang}"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=BACKEND, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode in (EXIT_CODE, 1)
    assert said in done.stderr


def test_the_watchdog_leaves_a_quick_load_alone():
    program = (
        "import time; from reranker_engine.service import watchdog; watchdog.GRACE_S = 0.1\n"
        "with watchdog.watchdog(0.3, 'loading'): pass\ntime.sleep(0.8); print('alive')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=BACKEND, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout == "alive\n"
    assert done.stderr == ""
