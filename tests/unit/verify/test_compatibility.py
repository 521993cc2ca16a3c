from __future__ import annotations

import json

import pytest
from tests.unit.verify.tiny import ARCHITECTURE, edit, files, safetensors, shards, tokenizer, write

from baton.domain import Release, Verdict
from baton.verify.checkpoint import describe
from baton.verify.compatibility import check_compatibility


@pytest.fixture
def stable(tmp_path):
    return write(tmp_path / "1")


@pytest.fixture
def candidate(tmp_path):
    return write(tmp_path / "2", fill=1)


def described(candidate, stable):
    return describe(candidate), describe(stable) if stable is not None else None


def refused(candidate, stable=None, architecture=None, release=None):
    result = check_compatibility(*described(candidate, stable), architecture=architecture, release=release)
    assert result.verdict is Verdict.FAIL, result
    return result.message


def passed(candidate, stable=None, architecture=None, release=None):
    result = check_compatibility(*described(candidate, stable), architecture=architecture, release=release)
    assert result.verdict is Verdict.PASS, result
    return result.message


def test_the_same_kind_fits(candidate, stable):
    assert f"{ARCHITECTURE}, as in version 1; 7 tokens" in passed(candidate, stable)
    assert "as the service asks" in passed(candidate, None, ARCHITECTURE)
    passed(candidate, stable, "qwen3_vl")
    assert "nothing to compare" in passed(candidate)


def test_another_architecture_is_refused(candidate, stable):
    edit(candidate, "config.json", architectures=["BertModel"], model_type="bert")
    assert f"config.json says BertModel, the stable version is {ARCHITECTURE}" in refused(candidate, stable)
    assert "configured for qwen3_vl" in refused(candidate, None, "qwen3_vl")
    edit(candidate, "config.json", architectures=[ARCHITECTURE])
    assert "model_type 'bert'" in refused(candidate, stable)


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "video_preprocessor_config.json"]
)
def test_a_missing_helper_is_refused(candidate, stable, name):
    (candidate / name).unlink()
    assert f"{name} is not there" in refused(candidate, stable)


def test_a_text_model_needs_no_processor(candidate):
    edit(candidate, "config.json", vision_config=None, architectures=["Qwen3ForCausalLM"], model_type="qwen3")
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        (candidate / name).unlink()
    passed(candidate)


def test_an_id_without_an_embedding_is_refused(candidate):
    (candidate / "tokenizer.json").write_text(json.dumps(tokenizer(8)))
    assert "largest id is 8, the embeddings have 8 rows" in refused(candidate)


def test_another_vocabulary_is_for_retrained_versions_only(candidate, stable):
    table = tokenizer()
    table["added_tokens"].append({"id": 7, "content": "<new>"})
    (candidate / "tokenizer.json").write_text(json.dumps(table))
    assert "1 tokens differ from version 1, such as '<new>' (id none there, 7 here)" in refused(candidate, stable)
    assert "1 tokens differ" in passed(candidate, stable, release=Release.RETRAINED)
    (candidate / "version.toml").write_text('release = "retrained"\n')
    passed(candidate, stable)
    assert "retrained" in refused(candidate, stable, release=Release.EQUIVALENT)


def test_another_kind_of_tokenizer_is_refused(candidate, stable):
    table = {"model": {"type": "Unigram", "vocab": [["a", -1.0], ["b", -2.0]]}}
    (candidate / "tokenizer.json").write_text(json.dumps(table))
    assert "kind Unigram, the stable version's is BPE" in refused(candidate, stable, release=Release.RETRAINED)


def test_a_tokenizer_in_the_older_files_is_read(candidate, stable):
    (candidate / "tokenizer.json").unlink()
    (candidate / "vocab.json").write_text(json.dumps({f"t{number}": number for number in range(6)}))
    (candidate / "merges.txt").write_text("#version: 0.2\n")
    edit(candidate, "tokenizer_config.json", added_tokens_decoder={"6": {"content": "<|im_end|>"}})
    passed(candidate, stable)


@pytest.mark.parametrize("table", [{}, {"model": {"vocab": {"a": "b"}}}, {"model": {"vocab": {}}}, {"model": 1}])
def test_a_broken_tokenizer_is_refused(candidate, table):
    (candidate / "tokenizer.json").write_text(json.dumps(table))
    assert "tokenizer.json" in refused(candidate)


@pytest.mark.parametrize(
    ("level", "changes", "words"),
    [
        ("text_config", {"hidden_size": 8}, "hidden_size 8, the tensor model.language_model.embed_tokens.weight"),
        ("text_config", {"vocab_size": 9}, "vocab_size 9"),
        ("text_config", {"num_hidden_layers": 28}, "layers 28, the weights hold 2, the last one is number 1"),
        ("text_config", {"num_hidden_layers": 1}, "num_hidden_layers 1"),
        ("vision_config", {"depth": 3}, "vision_config.depth 3"),
        ("vision_config", {"patch_size": 14}, "preprocessor_config.json says patch_size 16"),
    ],
)
def test_settings_and_weights_must_agree(candidate, level, changes, words):
    table = json.loads((candidate / "config.json").read_text())
    edit(candidate, "config.json", **{level: table[level] | changes})
    assert words in refused(candidate)


def test_a_hole_in_the_layers_is_seen(candidate):
    name = "model-00002-of-00002.safetensors"
    tensors = {key.replace("layers.1", "layers.7"): shape for key, shape in shards()[name].items()}
    (candidate / name).write_bytes(safetensors(tensors))
    assert "the last one is number 7" in refused(candidate)


def test_a_head_that_is_not_there_is_refused(candidate):
    edit(candidate, "config.json", tie_word_embeddings=False)
    assert "lm_head.weight" in refused(candidate)


def test_only_the_outer_setting_ties_the_head(candidate):
    table = json.loads((candidate / "config.json").read_text())
    text = table["text_config"] | {"tie_word_embeddings": True}
    edit(candidate, "config.json", tie_word_embeddings=None, text_config=text)
    assert "No file holds lm_head.weight" in refused(candidate)


FOREIGN = {
    "gptq": ("model.language_model.layers.0.mlp.up_proj.qweight", "F16", "no quantised weights"),
    "bitsandbytes": ("model.language_model.layers.0.mlp.up_proj.SCB", "F32", "no quantised weights"),
    "mlx": ("model.language_model.layers.0.mlp.up_proj.scales", "BF16", "no quantised weights"),
    "compressed tensors": ("model.language_model.layers.0.mlp.up_proj.weight_scale", "F32", "no quantised weights"),
    "fp8": ("model.language_model.layers.0.mlp.up_proj.weight", "F8_E4M3", "weights of type F8_E4M3"),
    "peft": ("base_model.model.lm_head.weight", "F32", "merge it into its model"),
    "unmerged lora": ("model.language_model.layers.0.mlp.up_proj.lora_A.weight", "F32", "merge it into its model"),
    "a wrapper": ("module.lm_head.weight", "F32", "does not know, such as 'module.lm_head.weight'"),
    "an older layout": ("visual_tower.norm.weight", "F32", "does not know"),
    "a trainer's value head": ("v_head.summary.weight", "F32", "does not know"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_the_engine_would_refuse_is_told_before_the_load(candidate, case):
    name, kind, words = FOREIGN[case]
    for path in candidate.glob("model*"):
        path.unlink()
    width = {"F32": 4, "F8_E4M3": 1}.get(kind, 2)
    tensors = {key: shape for shard in shards().values() for key, shape in shard.items()}
    tensors.setdefault(name, (4, 4))
    (candidate / "model.safetensors").write_bytes(safetensors(tensors, dtype=kind, width=width))
    assert words in refused(candidate)


def test_a_quantisation_in_the_settings_is_refused(candidate):
    edit(candidate, "config.json", quantization_config={"quant_method": "fp8"})
    assert "config.json has a quantization_config: the engine serves no quantised weights" in refused(candidate)


def test_broken_folders_are_told_and_never_raise(tmp_path, candidate, stable):
    assert "config.json can't be opened" in refused(tmp_path / "gone", stable)
    assert "stable version gone can't be compared" in refused(candidate, tmp_path / "gone")
    (stable / "tokenizer.json").write_text("[]")
    assert "stable version 1 can't be compared" in refused(candidate, stable)
    (candidate / "config.json").write_text("[1]")
    assert "where an object" in refused(candidate, stable)
    write(candidate, files())
    (candidate / "model-00001-of-00002.safetensors").write_bytes(b"x")
    assert "model-00001-of-00002.safetensors" in refused(candidate)
