"""``python -m bench.speed`` on a tiny shape, on the CPU and on a GPU that the CPU plays; and what it counts."""

from __future__ import annotations

import io
import json
import math

import pytest
import torch
from bench.speed import published
from bench.speed.cases import TEXT, VISION, make_cases, make_checkpoint
from bench.speed.cost import flops, matrix_rate
from bench.speed.measure import Line, Promises, Speed, lines
from bench.speed.one_pair import OnePair
from bench.speed.published import TOLERANCE, left_out, share, show, show_shape, weight_bytes
from bench.speed.shapes import PUBLISHED, Shape
from rich.console import Console
from tests.unit.engine.fake_gpus import FakeGpus
from torch.utils.flop_counter import FlopCounterMode

from reranker_engine.inference.scorer import Scorer, ScorerSettings

CPU = torch.device("cpu")
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 600,
    "rope_scaling": {"mrope_interleaved": True, "mrope_section": [6, 5, 5], "rope_type": "default"},
}
SEEING = {"hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "depth": 3, "out_hidden_size": 64}
TINY = Shape("tiny", TEXT | SMALL, VISION | SEEING | {"deepstack_visual_indexes": [0, 1]}, tied=False)


@pytest.fixture(autouse=True, scope="module")
def _lean():
    """Two threads that wait for each other on cores that others use take minutes for what one does in seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("tiny") / "checkpoint"
    make_checkpoint(made, text=TINY.text, vision=TINY.vision, tied=TINY.tied)
    return made


@pytest.fixture(scope="module")
def scorer(folder):
    return Scorer(folder, ScorerSettings())


def printed(do):
    """What ``do`` prints on the console that it gets."""
    page = io.StringIO()
    do(Console(file=page, width=200, highlight=False))
    return page.getvalue()


# The whole of it


@pytest.mark.slow
def test_a_shape_is_measured_and_its_tables_are_printed():
    promises, after = Promises(), []
    text = printed(
        lambda console: show_shape(
            console,
            promises,
            TINY,
            CPU,
            matrix_rate(CPU, torch.bfloat16, sides=(64,), seconds=0.01),
            counts=(1, 8),
            then=lambda name, checkpoint, engine: after.append((name, checkpoint.is_dir(), engine)),
        )
    )
    assert promises.broken == []
    assert "tiny in bf16: times as fast as one pair at a time; pairs a second at 8" in text
    assert "tiny in bf16: share of the matrix rate in percent" in text
    for name in ("short texts (92 / 49)", "long query (484 / 69)", "image query (317 / 49)", "with a warm cache"):
        assert name in text
    assert text.count("flash_attention_for_cpu") == 5
    ((name, there, engine),) = after
    assert (name, there) == ("tiny", True)
    assert {parameter.dtype for name, parameter in engine.model.named_parameters() if name != "head"} == {
        torch.bfloat16
    }


def test_on_a_gpu_all_of_both_ways_is_computed_there(monkeypatch):
    """No tensor of the CPU meets one of the GPU, and no time is taken without waiting for it."""
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    promises = Promises()
    with FakeGpus() as gpus:
        text = printed(lambda console: show_shape(console, promises, TINY, torch.device("cuda:0"), 1e9, counts=(1,)))
    assert promises.broken == []
    assert "short texts (92 / 49)" in text
    assert gpus.computed["cuda:0"] > 1000
    assert set(map(str, waited)) == {"cuda:0"}


def test_without_a_gpu_one_line_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    promises = Promises()
    text = printed(lambda console: show(console, promises))
    assert text == "The published shapes in bf16 were left out: torch sees no GPU here.\n"
    assert promises.broken == []


def test_a_gpu_that_is_too_small_gets_a_line_for_each_shape(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Small")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (6 * 10**9, 8 * 10**9))
    monkeypatch.setattr(published, "matrix_rate", lambda *_: 1e14)
    text = printed(lambda console: show(console, Promises()))
    assert "Small, torch" in text
    assert "100 TFLOP/s" in text
    assert "2B was left out: the engine and one pair at a time need 17 GB of the GPU, 6 GB are free." in text
    assert "8B was left out" in text


def test_the_temporary_folder_must_hold_the_checkpoint(tmp_path):
    assert left_out(10**10, 10**11, 2 * 10**10, tmp_path) is None
    reason = left_out(10**10, 10**11, 10**10, tmp_path)
    assert reason is not None
    assert "10.0 GB are free in" in reason
    assert "TMPDIR" in reason


# Shapes and weights


def test_the_published_shapes_have_the_published_sizes():
    """In bf16; of the 8B one with the output embedding, which the engine leaves in the file."""
    assert [shape.name for shape in PUBLISHED] == ["2B", "8B"]
    assert [weight_bytes(shape) / 1e9 for shape in PUBLISHED] == pytest.approx([4.26, 17.53], abs=0.01)


def test_a_checkpoint_is_what_was_asked_for(folder, scorer):
    config = json.loads((folder / "config.json").read_text())
    assert config["tie_word_embeddings"] is config["text_config"]["tie_word_embeddings"] is False
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert "lm_head.weight" in index
    model = scorer.model
    embedding = model.language_model.embed_tokens.weight
    assert float(embedding.std()) == pytest.approx(0.04, rel=0.05)
    assert float(model.language_model.norm.weight.min()) == 1
    assert not model.visual.blocks[0].attn.qkv.bias.any()


# What is counted


def attention_flops(q, k, _v, *_, **__):
    batch, heads, queries, dim = q
    return 4 * batch * heads * queries * k[2] * dim


def test_flops_are_those_that_torch_counts_but_for_what_masks_hide(scorer):
    """A picture in the query, the same other one in each document: it is seen once, and nothing is padded."""
    request = make_cases(scorer)[3].request(3)
    query = {**request.query, "image": {"media": 0}}
    documents = [{"image": {"media": 1}}] * 3
    prepared = type(request)(query, documents, request.media).prepared(scorer)
    sdpa = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    scorer.cache.__init__(0)
    with FlopCounterMode(display=False, custom_mapping={sdpa: attention_flops}) as counter:
        scorer.score([prepared])
    by_op = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    counted = by_op.pop("aten._scaled_dot_product_flash_attention_for_cpu")
    found = flops(scorer.model, prepared)
    assert found.linear == sum(by_op.values())
    text = scorer.model.config.text
    prefix, document = len(prepared.query.tokens), len(prepared.documents[0].tokens)
    hidden = prefix * (prefix - 1) / 2 + 3 * document * (document - 1) / 2
    assert found.attention == counted - 4 * text.num_heads * text.head_dim * hidden * (text.num_layers - 1)
    assert found.total == found.linear + found.attention


def test_a_share_is_arithmetic_over_time_over_rate(scorer, monkeypatch):
    case = make_cases(scorer)[0]
    took = iter([9.0, 9.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0])
    monkeypatch.setattr(published, "timed", lambda work, device: (next(took), work()))
    found = share(case, scorer, 2, rate=1e9)
    work = flops(scorer.model, case.request(2).prepared(scorer)).total / 1e9
    assert (found.whole, found.passes) == pytest.approx((work / 5, work / 2)), "medians, the first round left out"


def test_the_matrix_rate_is_that_of_the_best_product():
    one = matrix_rate(CPU, torch.float32, sides=(8, 256), seconds=0.02)
    assert math.isfinite(one)
    assert one > matrix_rate(CPU, torch.float32, sides=(8,), seconds=0.02)


@pytest.mark.parametrize(("apart", "broken"), [(TOLERANCE, 0), (TOLERANCE * 1.01, 1), (math.nan, 1)])
def test_scores_that_differ_are_told(apart, broken):
    promises = Promises()
    promises.same(Line("short texts", 3, {8: Speed(2.0, 3.0, apart)}), TOLERANCE, of="2B")
    assert len(promises.broken) == broken
    text = printed(promises.told)
    assert ("2B short texts, 8 documents: scores differ by" in text) == bool(broken)


def test_one_pair_at_a_time_of_other_weights_is_noticed(folder, scorer):
    """What ``apart`` compares can differ: here are two models."""
    official = OnePair(folder)
    official._head = -official._head
    promises = Promises()
    promises.same(next(lines(scorer, official, counts=(1,))), 1e-4)
    assert len(promises.broken) == 1
