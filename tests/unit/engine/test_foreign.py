"""Checkpoints as other tools save, merge and convert them: the logits that transformers 5 gives, or a sentence."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.unit.engine.support import BASE

from reranker_engine.inference.scorer import Scorer, ScorerSettings
from reranker_engine.model.errors import CheckpointError

EMBEDDING, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
IMAGES, VIDEOS = "preprocessor_config.json", "video_preprocessor_config.json"


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.fixture
def tensors():
    return {name: value for path in BASE.glob("*.safetensors") for name, value in load_file(path).items()}


@pytest.fixture
def save(tmp_path):
    """Saves tensors as one file, beside the other files of the base checkpoint."""

    def write(tensors, **settings):
        folder = tmp_path / "checkpoint"
        shutil.copytree(BASE, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
        save_file({name: value.clone() for name, value in tensors.items()}, folder / "model.safetensors")
        edit(folder / "config.json", lambda config: config.update(settings))
        return folder

    return write


def logits(scorer):
    """Of the engine, with the tokens of each pair."""
    documents = [json.dumps({"text": f"a {colour} circle"}).encode() for colour in ("red", "blue", "cyan")]
    prepared = scorer.prepare(scorer.parse(b'{"text": "a red circle"}', documents))
    pairs = [[*prepared.query.tokens, *document.tokens] for document in prepared.documents]
    return scorer.logits([prepared])[0], pairs


def official(folder, pairs, yes, no):
    transformers = pytest.importorskip("transformers")
    model = transformers.Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        rows = [model(input_ids=torch.tensor([tokens])).logits[0, -1] for tokens in pairs]
    return np.array([float(row[yes] - row[no]) for row in rows])


def other_head(tensors):
    generator = torch.Generator().manual_seed(7)
    return tensors[EMBEDDING] + 0.05 * torch.randn(tensors[EMBEDDING].shape, generator=generator)


LOADED = {
    "one file": lambda tensors: (tensors, {}),
    "a head in the file that equals the tied one": lambda tensors: (tensors | {HEAD: tensors[EMBEDDING]}, {}),
    "a head in the file, said to be tied": lambda tensors: (tensors | {HEAD: other_head(tensors)}, {}),
    "a head in the file, untied": lambda tensors: (
        tensors | {HEAD: other_head(tensors)},
        {"tie_word_embeddings": False},
    ),
    "an fp32 head beside bf16": lambda tensors: (
        {name: value.bfloat16() for name, value in tensors.items()} | {HEAD: other_head(tensors)},
        {},
    ),
    "fp16": lambda tensors: ({name: value.half() for name, value in tensors.items()}, {}),
    "the inner model's names": lambda tensors: (
        {name.removeprefix("model."): value for name, value in tensors.items()},
        {},
    ),
    "frequencies of an older release": lambda tensors: (
        tensors | {"model.language_model.rotary_emb.inv_freq": torch.ones(16)},
        {},
    ),
}


@pytest.mark.parametrize("case", LOADED)
def test_what_transformers_loads_has_its_scores(save, tensors, case):
    changed, settings = LOADED[case](tensors)
    folder = save(changed, **settings)
    scorer = Scorer(folder, ScorerSettings())
    ours, pairs = logits(scorer)
    tokenizer = scorer._prompts._tokenizer
    assert np.abs(ours - official(folder, pairs, tokenizer.yes, tokenizer.no)).max() < 1e-4


def lora(tensors):
    return {f"base_model.model.{name}": value for name, value in tensors.items()}


REFUSED = {
    "a head that is nowhere": (lambda tensors: tensors, {"tie_word_embeddings": False}, "lm_head.weight is missing"),
    "names of a wrapper": (lambda t: {f"module.{name}": value for name, value in t.items()}, {}, "do not fit|missing"),
    "an adapter's names": (lora, {}, "do not fit|missing"),
    "one tensor more": (lambda tensors: tensors | {"value_head.weight": torch.ones(4)}, {}, "value_head"),
    "8-bit weights": (
        lambda tensors: tensors | {"model.language_model.norm.weight": torch.ones(128, dtype=torch.int8)},
        {},
        "is of type I8",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_served_is_refused_by_name(save, tensors, case):
    change, settings, words = REFUSED[case]
    with pytest.raises(CheckpointError, match=words):
        Scorer(save(change(tensors), **settings), ScorerSettings())


def test_only_the_outer_setting_ties_the_head(save, tensors):
    folder = save(tensors)
    edit(folder / "config.json", lambda config: config.pop("tie_word_embeddings"))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is missing"):
        Scorer(folder, ScorerSettings())


@pytest.fixture
def joint(tmp_path):
    """A folder with the processor's files as transformers 5 saves them."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(BASE, folder)
    parts = {"image_processor": json.loads((folder / IMAGES).read_text())}
    parts["video_processor"] = json.loads((folder / VIDEOS).read_text())
    (folder / "processor_config.json").write_text(json.dumps(parts))
    for name in (IMAGES, VIDEOS, "chat_template.json", "vocab.json", "merges.txt"):
        (folder / name).unlink()
    return folder


def normalisation(folder):
    pixels = Scorer(folder, ScorerSettings())._pixels
    return pixels.mean, pixels.std


def test_the_processor_that_transformers_5_saves_is_read(joint, base):
    assert normalisation(joint) == (base._pixels.mean, base._pixels.std)
    assert (logits(Scorer(joint, ScorerSettings()))[0] == logits(base)[0]).all()


def test_the_joint_file_comes_first_as_in_transformers(joint):
    transformers = pytest.importorskip("transformers")
    both = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    edit(joint / "processor_config.json", lambda value: [part.update(both) for part in value.values()])
    shutil.copy(BASE / IMAGES, joint)
    official = transformers.AutoImageProcessor.from_pretrained(joint)
    assert (
        normalisation(joint)
        == (tuple(official.image_mean), tuple(official.image_std))
        == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    )


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("image_processor", {"do_normalize": False}, "do_rescale or do_normalize"),
        ("video_processor", {"do_rescale": False}, "do_rescale or do_normalize"),
        ("image_processor", {"rescale_factor": 1.0}, "another rescale_factor"),
        ("image_processor", {"image_mean": None}, "lacks image_mean or image_std"),
        ("video_processor", {"image_std": [0.1, 0.1, 0.1]}, "other image_mean or image_std"),
    ],
)
def test_settings_that_would_change_pixels_are_refused(joint, part, change, words):
    edit(joint / "processor_config.json", lambda value: value[part].update(change))
    with pytest.raises(CheckpointError, match=f"processor_config.*{words}"):
        Scorer(joint, ScorerSettings())
