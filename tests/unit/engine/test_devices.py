"""One model over several GPUs: which layer lies where, and that nothing changes but where things are computed.

The GPUs are fakes (``fake_gpus.py``): the CPU computes, and an operation on tensors of two of them fails.
"""

from __future__ import annotations

import inspect
import json
import random
import shutil
import textwrap
from itertools import combinations_with_replacement

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from layout import write_weights
from tests.unit.engine.fake_gpus import DeviceMismatch, FakeGpus, device_of
from tests.unit.engine.support import BASE
from tests.unit.engine.test_batching import mixed_requests, prepare
from torch import nn

from reranker_engine.inference.scorer import Scorer, ScorerSettings
from reranker_engine.model import decoder, weights
from reranker_engine.model.config import read_config
from reranker_engine.model.decoder import Decoder
from reranker_engine.model.placement import divide
from reranker_engine.model.reranker import Reranker
from reranker_engine.service import loading

LAYERS = 6
GPUS = ("cuda:0", "cuda:1", "cuda:2")
ROOM = 10**9


# Where layers lie


def shares(chosen, layers, first, last, room):
    """What share of each device's room is taken."""
    load = [0] * len(room)
    for layer, device in zip(layers, chosen, strict=True):
        load[device] += layer
    load[0] += first
    load[-1] += last
    return [taken / free if free else (float("inf") if taken else 0.0) for taken, free in zip(load, room, strict=True)]


models = st.tuples(
    st.lists(st.integers(1, 1000), min_size=1, max_size=7),
    st.integers(0, 3000),
    st.integers(0, 500),
    st.lists(st.integers(0, 4000), min_size=1, max_size=4),
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(models)
def test_every_layer_lies_on_one_device_in_order_and_no_division_is_better(model):
    layers, _, _, room = model
    every = [shares(c, *model) for c in combinations_with_replacement(range(len(room)), len(layers))]
    least = min(max(one) for one in every)
    if least > 1:
        with pytest.raises(MemoryError, match=r"bytes, and .* are free"):
            divide(*model)
        return
    chosen = divide(*model)
    assert len(chosen) == len(layers)
    assert list(chosen) == sorted(chosen)
    assert set(chosen) <= set(range(len(room)))
    found = shares(chosen, *model)
    assert max(found) == pytest.approx(least)
    squares = min(sum(s * s for s in one) for one in every if max(one) <= least)
    assert sum(s * s for s in found) == pytest.approx(squares), "and of the best the most even one"


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 1000), min_size=1, max_size=60),
    st.integers(0, 9000),
    st.integers(0, 900),
    st.integers(1, 8),
)
def test_no_device_holds_more_than_a_layer_over_its_part(layers, first, last, devices):
    found = shares(divide(layers, first, last, [ROOM] * devices), layers, first, last, [1] * devices)
    part = max((sum(layers) + first + last) / devices, first, last)
    assert max(found) <= part + max(layers)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 64), st.integers(1, 1000), st.integers(1, 8))
def test_equal_layers_on_equal_devices_differ_by_one(count, size, devices):
    chosen = divide([size] * count, 0, 0, [ROOM] * devices)
    counts = [chosen.count(device) for device in range(devices)]
    assert max(counts) - min(counts) <= 1


@settings(max_examples=100, deadline=None, derandomize=True)
@given(models, st.integers(2, 1000))
def test_only_the_shares_count(model, factor):
    layers, first, last, room = model
    assume(all(room))
    grown = [one * 10**7 for one in room]
    more = [one * 10**7 * factor for one in room]
    assert divide(layers, first, last, grown) == divide(layers, first, last, more)


def test_a_larger_device_gets_more():
    assert divide([10] * 12, 0, 0, [100, 200, 300]) == (0,) * 2 + (1,) * 4 + (2,) * 6
    assert divide([10] * 4, 0, 0, [100, 0, 100]) == (0, 0, 2, 2)
    # What lies on the first one besides is taken into account, and what lies on the last.
    assert divide([10] * 6, 40, 0, [100, 100]) == (0,) + (1,) * 5
    assert divide([10] * 6, 0, 40, [100, 100]) == (0,) * 5 + (1,)


# What is computed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of six layers, into three of which deepstack goes, with random weights: scores differ."""
    made = tmp_path_factory.mktemp("deep") / "checkpoint"
    shutil.copytree(BASE, made, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
    raw = json.loads((made / "config.json").read_text())
    raw["text_config"] |= {"num_hidden_layers": LAYERS}
    raw["vision_config"] |= {"depth": 4, "deepstack_visual_indexes": [0, 1, 2]}
    (made / "config.json").write_text(json.dumps(raw))
    model = Reranker(read_config(made))
    torch.manual_seed(11)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv3d | nn.Embedding):
            nn.init.normal_(module.weight, std=0.1)
            if getattr(module, "bias", None) is not None:
                nn.init.normal_(module.bias, std=0.1)
    write_weights(made, {f"model.{name}": value for name, value in model.state_dict().items() if name != "head"})
    return made


REQUESTS = mixed_requests(random.Random(3))


def scores(scorer):
    """Of requests with texts, images and videos together, cold and then with a warm vision cache."""
    asked = [prepare(scorer, *request) for request in REQUESTS]
    return [one for _ in range(2) for one in scorer.score(asked)]


@pytest.fixture(scope="module")
def whole(folder):
    """What the undivided model scores, by the tokens of a pass."""
    return {budget: scores(Scorer(folder, ScorerSettings(max_batch_tokens=budget))) for budget in (300, 16384)}


def divided(folder, monkeypatch, chosen=None, budget=16384, devices=GPUS, dtype=torch.float32):
    monkeypatch.setattr(weights, "free_bytes", lambda _: ROOM)
    if chosen is not None:
        monkeypatch.setattr(weights, "divide", lambda *_: chosen)
    return Scorer(folder, ScorerSettings(devices=devices, dtype=dtype, max_batch_tokens=budget))


@pytest.mark.parametrize("budget", [300, 16384])
@pytest.mark.parametrize(
    "chosen",
    [
        None,
        (0, 0, 1, 1, 2, 2),
        (0, 1, 2, 2, 2, 2),  # deepstack goes into layers on three devices
        (1, 1, 1, 1, 1, 1),  # embedding, layers and head all elsewhere
        (2, 2, 2, 2, 2, 2),
        (0, 0, 0, 0, 0, 0),
        (0, 0, 0, 0, 0, 1),  # the last layer, which is computed differently
    ],
)
def test_scores_are_those_of_the_undivided_model(folder, whole, monkeypatch, chosen, budget):
    with FakeGpus() as gpus:
        found = scores(divided(folder, monkeypatch, chosen, budget))
    for one, expected in zip(found, whole[budget], strict=True):
        assert one.tobytes() == expected.tobytes()
    assert len({round(float(score), 5) for one in found for score in one}) > 10, "there is something to compare"
    used = {GPUS[0], GPUS[2]} | {GPUS[device] for device in chosen or (0, 1, 2)}
    assert {name for name in gpus.computed if name.startswith("cuda")} == used


def test_weights_lie_where_the_map_says_and_nowhere_else(folder, monkeypatch):
    chosen = (0, 1, 1, 1, 2, 2)
    with FakeGpus():
        model = divided(folder, monkeypatch, chosen).model
        where = {name: str(device_of(parameter)) for name, parameter in model.named_parameters()}
    layers = {f"language_model.layers.{layer}.": GPUS[device] for layer, device in enumerate(chosen)}
    for name, device in where.items():
        expected = next((gpu for prefix, gpu in layers.items() if name.startswith(prefix)), None)
        if expected is None:
            expected = GPUS[2] if name in ("head", "language_model.norm.weight") else GPUS[0]
        assert device == expected, name
    assert str(model.device) == "cpu", "the pretence is over"


def test_the_map_counts_what_lies_there_besides(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(weights, "divide", lambda *args: asked.append(args) or divide(*args))
    with FakeGpus():
        model = divided(folder, monkeypatch, dtype=torch.bfloat16).model
    ((layers, first, last, room),) = asked
    assert room == [ROOM] * 3
    taken = sum(parameter.nbytes for parameter in model.parameters())
    assert sum(layers) + first + last == taken, "every weight is counted once, in the type that it is loaded in"
    assert layers == [sum(p.nbytes for p in layer.parameters()) for layer in model.language_model.layers]
    assert last == model.head.nbytes + model.language_model.norm.weight.nbytes


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("x, layout = x.to(device), layout.to(device)", "x = x.to(device)"),
        ("x, layout = x.to(device), layout.to(device)", "layout = layout.to(device)"),
        ("rotary = (rotary[0].to(device), rotary[1].to(device))", "rotary = (rotary[0].to(device), rotary[1])"),
        ("levels = [level.to(device) for level in levels]", "pass"),
        ("visual = (visual[0].to(device), levels)", "pass"),
    ],
)
def test_what_is_left_behind_is_noticed(folder, monkeypatch, line, instead):
    source = textwrap.dedent(inspect.getsource(Decoder.forward))
    assert source.count(line) == 1
    names: dict[str, object] = {}
    exec(
        compile("from __future__ import annotations\n" + source.replace(line, instead), "x", "exec"),
        vars(decoder),
        names,
    )
    monkeypatch.setattr(Decoder, "forward", names["forward"])
    with FakeGpus(), pytest.raises(DeviceMismatch, match="tensors on cuda:0, cuda:1 meet"):
        scores(divided(folder, monkeypatch, (0, 1, 2, 2, 2, 2)))


def test_the_hidden_state_crosses_once_a_boundary(folder, monkeypatch):
    """In a pass the row, the layout and the angles go over, wherever the boundary is; only scores come back."""
    crossed = []
    for chosen in ((0, 1, 1, 1, 1, 1), (0, 0, 0, 1, 1, 1), (0, 0, 0, 0, 0, 1)):
        with FakeGpus() as gpus:
            scorer = divided(folder, monkeypatch, chosen, devices=GPUS[:2])
            asked = [prepare(scorer, {"text": "red"}, [{"text": "a red one"}])]
            gpus.crossings.clear()
            scorer.score(asked)
            assert gpus.crossings["cuda:1", "cuda:0"] == 0
            assert gpus.crossings["cuda:1", "cpu"] == 1
            crossed.append(gpus.crossings["cuda:0", "cuda:1"])
    # The row, two of angles, the documents' ends, and of each of two groups three indices.
    assert crossed == [10] * 3


def test_what_does_not_fit_on_all_together_is_an_ordinary_want_of_memory(folder, monkeypatch):
    monkeypatch.setattr(loading, "gpus", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    with torch.device("meta"):
        need = sum(parameter.nbytes for parameter in Reranker(read_config(folder)).parameters())
    monkeypatch.setattr(weights, "free_bytes", lambda _: need * 2 // 5)
    asked = ScorerSettings(devices=GPUS[:2], dtype=torch.float32)
    said = []
    with FakeGpus():
        with pytest.raises(
            RuntimeError, match=rf"does not fit in fp32 on cuda:0,cuda:1 \(the weights take {need:,} bytes"
        ):
            loading.load(folder, asked, "refuse", pytest.fail)
        loaded = loading.load(folder, asked, "lower_dtype", said.append)
        assert (loaded.device, loaded.dtype, loaded.fallback) == ("cuda:0,cuda:1", "bf16", "lower_dtype")
        assert (loaded.asked_device, loaded.asked_dtype) == ("cuda:0,cuda:1", "fp32")
    assert len(said) == 1


def test_one_device_is_not_asked_for_its_memory(folder, monkeypatch):
    monkeypatch.setattr(weights, "free_bytes", pytest.fail)
    with FakeGpus() as gpus:
        scorer = Scorer(folder, ScorerSettings(devices=("cuda:1",), dtype=torch.float32))
        scores(scorer)
    assert {name for name in gpus.computed if name.startswith("cuda")} == {"cuda:1"}


# The pretence


def test_tensors_of_two_devices_do_not_meet():
    here, there = torch.arange(4.0), [0, 2]
    with FakeGpus() as gpus:
        one, two = here.to("cuda:0"), here.to("cuda:1")
        assert (str(one.device), str(two[1:].device), str(one[None].half().T.device)) == ("cuda:0", "cuda:1", "cuda:0")
        assert one.to("cuda:0") is one
        assert gpus.crossings == {("cpu", "cuda:0"): 1, ("cpu", "cuda:1"): 1}
        assert str((one + 1 + torch.tensor(2.0)).device) == "cuda:0", "numbers meet all"
        for meeting in (
            lambda: one + two,
            lambda: one + here,
            lambda: torch.cat([one, two]),
            lambda: one[torch.tensor(there, device="cuda:1")],
            lambda: one.__setitem__(slice(0, 2), two[:2]),
            lambda: one.index_add(0, torch.tensor(there, device="cuda:0"), two[:2]),
            lambda: nn.functional.scaled_dot_product_attention(one[None], one[None], two[None]),
            lambda: nn.functional.linear(one, nn.Parameter(two[None])),
            one.numpy,
        ):
            with pytest.raises(DeviceMismatch):
                meeting()
        two.to("cuda:0").zero_()
        assert two.cpu().numpy().tolist() == [0, 1, 2, 3], "a copy on another device is another tensor"
    assert np.array_equal(here.numpy(), [0, 1, 2, 3])
