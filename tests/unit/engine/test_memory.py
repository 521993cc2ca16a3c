"""Weights into memory: what is read, what stays in the file, and that neither takes more than it must."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.unit.engine.support import BASE, score

from reranker_engine.inference import selftest
from reranker_engine.inference.scorer import Scorer, ScorerSettings
from reranker_engine.model import shards
from reranker_engine.model.errors import CheckpointError
from reranker_engine.model.shards import Shard
from reranker_engine.service.loading import load

CPU = torch.device("cpu")
QUERY = {"text": "a red circle"}
DOCUMENTS = [{"text": "a red circle"}, {"text": "a blue star"}]
OUTPUT, INPUT = "lm_head.weight", "model.language_model.embed_tokens.weight"


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(shards, "PIECE_BYTES", 64)


def single(folder, change=lambda _: None, **config):
    """The base checkpoint with all weights in one file, after ``change`` was made to them."""
    shutil.copytree(BASE, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
    tensors = {name: tensor for path in BASE.glob("*.safetensors") for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


def shift(path):
    """Move a file's data by one byte, as a writer may that does not align its header."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    path.write_bytes(struct.pack("<Q", length + 1) + data[8 : 8 + length] + b" " + data[8 + length :])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.usefixtures("small_pieces")
def test_tensors_are_read_piece_by_piece_and_converted(tmp_path, dtype):
    generator = torch.Generator().manual_seed(3)
    tensors = {
        f"{kind}-{shape}": torch.randn(shape, generator=generator).to(kind)
        for kind in shards.TYPES.values()
        for shape in ((), (0, 4), (1,), (37,), (5, 7, 3))
    }
    save_file(tensors, tmp_path / "x.safetensors")
    with Shard(tmp_path / "x.safetensors") as shard:
        assert set(shard.locations) == set(tensors)
        for name, tensor in tensors.items():
            found = shard.read(name, dtype=dtype, device=CPU)
            assert found.dtype is dtype
            assert torch.equal(found, tensor.to(dtype))
        matrix = next(name for name in tensors if name.endswith("(5, 7, 3)"))
        assert torch.equal(shard.rows(matrix, (4, 1)), tensors[matrix][[4, 1]])


@pytest.mark.usefixtures("small_pieces")
def test_values_that_are_not_finite_are_counted_in_all_pieces(tmp_path):
    values = torch.zeros(100)
    values[[3, 40, 99]] = torch.tensor([np.nan, np.inf, -np.inf])
    save_file({"w": values, "large": torch.full((9,), 1e5)}, tmp_path / "x.safetensors")
    with Shard(tmp_path / "x.safetensors") as shard:
        for read in (lambda: shard.read("w", dtype=torch.float32, device=CPU), lambda: shard.mapped("w")):
            with pytest.raises(CheckpointError, match=r"w in x\.safetensors holds 3 values that are not finite"):
                read()
        assert shard.read("large", dtype=torch.bfloat16, device=CPU).isfinite().all()
        with pytest.raises(CheckpointError, match=r"large in .* holds 9 values that are not finite"):
            shard.read("large", dtype=torch.float16, device=CPU)


def test_a_file_that_is_cut_while_it_is_read_is_an_error(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.zeros(100)}, path)
    with Shard(path) as shard:
        os.truncate(path, path.stat().st_size - 1)
        with pytest.raises(CheckpointError, match=r"x\.safetensors cannot be read: it ends in the middle of w"):
            shard.read("w", dtype=torch.float32, device=CPU)


def test_another_type_is_named(tmp_path):
    save_file({"w": torch.zeros(4, dtype=torch.int32)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"w in x\.safetensors is of type I32; the engine reads weights in F64"):
        Shard(tmp_path / "x.safetensors")


def test_weights_stay_in_the_files_where_they_are_asked_to(base, tmp_path):
    folder = single(tmp_path / "x")
    mapped = load(folder, ScorerSettings(map_weights=True), "refuse", pytest.fail)
    assert (mapped.weights, mapped.scorer.mapped) == ("map", 1)
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("x/model.safetensors")]
    places = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in maps]
    for name, parameter in mapped.scorer.model.named_parameters():
        inside = any(start <= parameter.data_ptr() < end for start, end in places)
        assert inside == (name != "head"), name
    assert np.array_equal(score(mapped.scorer, QUERY, DOCUMENTS), score(base, QUERY, DOCUMENTS))


def test_a_copy_keeps_nothing_of_the_files(tmp_path):
    folder = single(tmp_path / "x")
    copied = load(folder, ScorerSettings(), "refuse", pytest.fail)
    assert (copied.weights, copied.scorer.mapped) == ("copy", 0)
    before = score(copied.scorer, QUERY, DOCUMENTS)
    (folder / "model.safetensors").write_bytes(bytes((folder / "model.safetensors").stat().st_size))
    assert np.array_equal(score(copied.scorer, QUERY, DOCUMENTS), before)


def test_what_cannot_stay_in_the_files_is_copied_and_told(base, tmp_path):
    folder = single(tmp_path / "x")
    said = []
    half = load(folder, ScorerSettings(map_weights=True, dtype=torch.bfloat16), "refuse", said.append)
    assert half.weights == "copy"
    assert len(said) == 1
    assert "weights is map, but 100% of their bytes are copies" in said[0]
    assert "where the file holds it in bf16" in said[0]
    shift(folder / "model.safetensors")
    unaligned = load(folder, ScorerSettings(map_weights=True), "refuse", said.append)
    assert len(said) == 2
    assert unaligned.weights == "copy"
    assert np.array_equal(score(unaligned.scorer, QUERY, DOCUMENTS), score(base, QUERY, DOCUMENTS))


def test_of_an_output_embedding_of_its_own_two_rows_are_read(base, tmp_path):
    def untie(tensors):
        rows = torch.full_like(tensors[INPUT], torch.nan)
        for token in (words["yes"], words["no"]):
            rows[token] = tensors[INPUT][token]
        tensors[OUTPUT] = rows

    words = json.loads((BASE / "tokenizer.json").read_text())["model"]["vocab"]
    folder = single(tmp_path / "x", untie, tie_word_embeddings=False)
    assert np.array_equal(score(Scorer(folder, ScorerSettings()), QUERY, DOCUMENTS), score(base, QUERY, DOCUMENTS))
    spoilt = single(
        tmp_path / "y", lambda tensors: tensors.update({OUTPUT: torch.full_like(tensors[INPUT], torch.nan)}),
        tie_word_embeddings=False,
    )  # fmt: skip
    with pytest.raises(CheckpointError, match=r"lm_head\.weight in model\.safetensors holds \d+ values that are not"):
        Scorer(spoilt, ScorerSettings())


def test_an_output_embedding_that_is_missing_is_named(tmp_path):
    folder = single(tmp_path / "x", tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is missing, and config\.json does not tie it"):
        Scorer(folder, ScorerSettings())
    folder = single(tmp_path / "y", lambda tensors: tensors.pop(INPUT))
    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight is missing$"):
        Scorer(folder, ScorerSettings())


@pytest.mark.parametrize(("budget_s", "rounds"), [(0.0, 1), (60.0, 2)])
def test_the_self_test_is_not_repeated_where_it_takes_long(base, monkeypatch, budget_s, rounds):
    done = []
    monkeypatch.setattr(selftest, "WARM_UP_S", budget_s)
    monkeypatch.setattr(base, "score", lambda requests: done.append(1) or Scorer.score(base, requests))
    selftest.self_test(base)
    assert len(done) == rounds


@pytest.mark.slow
def test_a_load_takes_the_weights_once_and_versions_share_what_is_mapped(tmp_path):
    """As ``python -m bench.memory`` shows it, with a small checkpoint: what does not grow with it is allowed for."""
    from bench.memory.measure import link, memory
    from bench.speed.cases import make_checkpoint

    make_checkpoint(tmp_path / "x")
    link(tmp_path / "x", tmp_path / "linked")
    copied, mapped = (memory(tmp_path / "x", tmp_path / "linked", weights) for weights in ("copy", "map"))
    assert copied.weights == mapped.weights > 100 * 2**20
    fixed = 24 * 2**20 / copied.weights
    assert 1 <= copied.read <= 1.1 + fixed
    assert copied.second >= 0.9
    assert mapped.mapped == 1
    assert mapped.read <= 1.1 + fixed
    assert mapped.second <= 0.1 + fixed / 2
