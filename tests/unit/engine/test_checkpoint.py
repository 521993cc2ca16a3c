"""What is accepted as a checkpoint, and what the demo's faulty ones do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from tests.unit.engine.support import BACKEND, BASE, ROOT, score
from tools.make_checkpoints import faults
from torch.utils.flop_counter import FlopCounterMode

from reranker_engine.inference.scorer import Scorer, ScorerSettings
from reranker_engine.inference.selftest import self_test
from reranker_engine.model.errors import CheckpointError

QUERY = {"text": "a red circle"}
DOCUMENTS = [{"text": f"a {colour} {shape}"} for colour in ("red", "blue", "cyan") for shape in ("circle", "star")]


def load(folder):
    return Scorer(folder, ScorerSettings())


@pytest.fixture
def copy(tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(BASE, folder)
    return folder


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_equivalent_scores_are_the_same(base, tmp_path):
    other = load(faults.make("equivalent", BASE, tmp_path / "x"))
    assert np.abs(score(other, QUERY, DOCUMENTS) - score(base, QUERY, DOCUMENTS)).max() <= 1e-5
    names = [{path.name for path in folder.glob("*.safetensors")} for folder in (BASE, tmp_path / "x")]
    assert not names[0] & names[1]


def test_constant_scores_are_constant(tmp_path):
    assert set(score(load(faults.make("constant", BASE, tmp_path / "x")), QUERY, DOCUMENTS).tolist()) == {0.5}


def test_slow_is_slow_and_otherwise_the_same(base, tmp_path):
    slow = load(faults.make("slow", BASE, tmp_path / "x"))
    assert np.abs(score(slow, QUERY, DOCUMENTS) - score(base, QUERY, DOCUMENTS)).max() <= 1e-6

    def work(scorer):
        with FlopCounterMode(display=False) as counter:
            score(scorer, QUERY, DOCUMENTS)
        return counter.get_total_flops()

    assert work(slow) > 2 * work(base) > 0


def test_nan_is_refused_by_name(tmp_path):
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.down_proj\.weight in .* holds 1 values that are not"):
        load(faults.make("nan", BASE, tmp_path / "x"))


def test_truncated_is_refused_by_name(tmp_path):
    with pytest.raises(CheckpointError, match=r"model-00003-of-00005\.safetensors cannot be read"):
        load(faults.make("truncated", BASE, tmp_path / "x"))


def test_weights_that_overflow_fail_the_self_test(base, monkeypatch):
    monkeypatch.setattr(base.model.head, "data", base.model.head.data * np.nan)
    with pytest.raises(CheckpointError, match=r"self-test: the checkpoint gives scores that are not in 0\.\.1"):
        self_test(base)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt"])
def test_weights_in_pickles_alone_are_refused(copy, name):
    for path in copy.glob("model*"):
        path.unlink()
    (copy / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"weights are in {name}, a pickle, .*save them as safetensors"):
        load(copy)


def test_what_lies_beside_the_checkpoint_is_never_opened(copy):
    beside = ["training_args.bin", "model.py", "modeling.py", "extra/weights.pkl", "scripts/qwen3_vl_reranker.py"]
    for name in beside:
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text("raise SystemExit")
    program = (
        "import os, sys; from pathlib import Path; from reranker_engine.inference.scorer import *\n"
        f"folder, seen = {str(copy)!r}, set()\n"
        "def watch(event, what):\n"
        "    if event == 'open' and isinstance(what[0], str) and what[0].startswith(folder):\n"
        "        seen.add(os.path.relpath(what[0], folder))\n"
        "sys.addaudithook(watch)\n"
        "Scorer(Path(folder), ScorerSettings())\n"
        "print(*sorted(seen))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=BACKEND, capture_output=True, text=True, check=True, timeout=60
    )
    shards = [f"model-0000{number}-of-00005.safetensors" for number in range(1, 6)]
    texts = ["config.json", "preprocessor_config.json", "tokenizer.json", "video_preprocessor_config.json"]
    assert done.stdout.split() == sorted([*texts, "model.safetensors.index.json", *shards])


def test_custom_code_is_refused(copy):
    edit(copy / "config.json", lambda config: config.update(auto_map={"AutoModel": "modeling.Model"}))
    with pytest.raises(CheckpointError, match="asks for custom code"):
        load(copy)


def test_another_architecture_is_refused(copy):
    edit(copy / "config.json", lambda config: config.update(architectures=["LlamaForCausalLM"]))
    with pytest.raises(CheckpointError, match="names the architectures"):
        load(copy)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "preprocessor_config.json", "model-00002-of-00005.safetensors"]
)
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load(copy)


def test_a_missing_tensor_is_named(copy):
    name = "model.visual.merger.norm.weight"
    edit(copy / "model.safetensors.index.json", lambda index: index["weight_map"].pop(name))
    with pytest.raises(CheckpointError, match=r"visual\.merger\.norm\.weight"):
        load(copy)


def test_a_shard_outside_the_folder_is_refused(copy):
    name = "model.visual.merger.norm.weight"
    edit(copy / "model.safetensors.index.json", lambda index: index["weight_map"].update({name: "../a.safetensors"}))
    with pytest.raises(CheckpointError, match="which is no safetensors file beside it"):
        load(copy)


def test_sections_that_do_not_fit_are_refused(copy):
    edit(copy / "config.json", lambda config: config["text_config"]["rope_scaling"].update(mrope_section=[24, 20, 20]))
    with pytest.raises(CheckpointError, match="mrope_section"):
        load(copy)


def test_the_layout_of_transformers_5_is_read_as_well(base, copy):
    def rename(config):
        text = config["text_config"]
        text["rope_parameters"] = {**text.pop("rope_scaling"), "rope_theta": text.pop("rope_theta")}

    edit(copy / "config.json", rename)
    assert (score(load(copy), QUERY, DOCUMENTS) == score(base, QUERY, DOCUMENTS)).all()


def test_a_read_only_checkpoint_and_a_link_to_it_are_served(base, copy, tmp_path):
    for path in [*copy.rglob("*"), copy]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    (tmp_path / "link").symlink_to(copy)
    assert (score(load(tmp_path / "link"), QUERY, DOCUMENTS) == score(base, QUERY, DOCUMENTS)).all()
    copy.chmod(0o755)


def test_demo_checkpoints_are_small_and_readable_by_all():
    for folder in (ROOT / "demo" / "checkpoints").iterdir():
        files = list(folder.iterdir())
        assert sum(path.stat().st_size for path in files) < 5_000_000
        assert {path.stat().st_mode & 0o777 for path in files} == {0o644}


def test_loading_imports_neither_transformers_nor_torchs_compiler():
    """Each of them would cost seconds of every load."""
    program = (
        "import sys; from pathlib import Path; from reranker_engine.inference.scorer import *\n"
        f"Scorer(Path({str(BASE)!r}), ScorerSettings())\n"
        "print([name for name in ('transformers', 'torchvision', 'torch._dynamo', 'av') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=BACKEND, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"


def test_faults_need_no_torch():
    program = "import sys, faults; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT / "tools" / "make_checkpoints",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "False\n"
