"""The gate ``compatibility``: architecture, tokenizer and processor fit the service.

It reads only JSON files and safetensors headers, so a folder that can't serve is refused before a load takes minutes.
Not covered: what needs the model itself, such as whether "yes" and "no" are single tokens. The engine checks that when
it loads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from baton.domain import Gate, GateResult, Release, Verdict
from baton.errors import CheckpointError
from baton.evidence import CompatibilityEvidence
from baton.verify.checkpoint import Checkpoint
from baton.verify.files import printable
from baton.verify.integrity import summary
from baton.verify.layout import CONFIG, IMAGES, PROCESSOR, TOKENIZER, VIDEOS, absent_helpers, has_vision
from baton.verify.patterns import pipeline_problems
from baton.verify.tokens import Tokenizer

T = TypeVar("T")

_LAYER: Final = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_BLOCK: Final = re.compile(r"(?:^|\.)visual\.blocks\.(\d+)\.")
_TOWERS: Final = re.compile(r"(?:^|\.)(?:visual|vision_\w+|vision|audio_\w+)\.")
"""Names of the parts beside the language model; their layers are counted by other settings."""

RERANKER: Final = "Qwen3VLForConditionalGeneration"
_NAMES: Final = re.compile(r"(?:model\.)?(?:language_model|visual)\..+|lm_head\.weight|.+\.inv_freq")
_QUANTISED: Final = re.compile(r"(?:weight_\w+|\w*scales?\w*|qweight|qzeros|g_idx|biases|SCB|absmax|quant_\w+)$")
_TYPES: Final = frozenset({"F64", "F32", "F16", "BF16"})
"""What the engine reads."""

LARGEST_SETTING: Final = 10**8
"""Of whole numbers in ``config.json``; positions (10 million) are the largest in use."""
LONGEST_SETTING: Final = 10_000
"""Elements of a list there; names of labels and of layers are the longest."""
_PATCHES: Final = {
    "patch_size": "patch_size", "temporal_patch_size": "temporal_patch_size", "merge_size": "spatial_merge_size",
}  # fmt: skip
"""Settings of the image processor, and those of ``vision_config`` that they must equal."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(slots=True)
class _Found:
    """What was read before the first problem that ends the check."""

    architecture: str | None = None
    tokens: int | None = None
    tokens_changed: int | None = None


def check_compatibility(
    candidate: Checkpoint, stable: Checkpoint | None, *, architecture: str | None, release: Release | None = None
) -> GateResult:
    """Judge from its files whether ``candidate`` can stand in for ``stable``, or serve as the first version.

    ``architecture`` is the class (``architectures``) or ``model_type`` that the service is configured for; ``None``
    means that of ``stable``, and with neither any architecture fits. ``release`` is what a person declared, ``None``
    what ``version.toml`` says: an ``equivalent`` version must have the vocabulary of ``stable`` to the token, since
    other ids are other inputs; a ``retrained`` one may have learned new tokens, as long as every id has a row in the
    embeddings. ``observed`` is the number of problems. Never raises for what is in the folders.
    """
    found = _Found()
    try:
        problems = list(_problems(candidate, stable, architecture, release, found))
    except CheckpointError as error:
        problems = [str(error)]
    evidence = CompatibilityEvidence(
        architecture=found.architecture,
        tokens=found.tokens,
        tokens_changed=found.tokens_changed,
        problems=tuple(problems) or None,
    )
    if problems:
        message = summary(problems)
        return GateResult(Gate.COMPATIBILITY, Verdict.FAIL, message, float(len(problems)), 0.0, evidence=evidence)
    against = f"as in version {stable.name}" if stable is not None else "as the service asks"
    if stable is None and architecture is None:
        against = "with nothing to compare it with"
    message = f"{found.architecture}, {against}; {found.tokens:,} tokens, tokenizer and processor fit."
    if changed := found.tokens_changed:
        message += f" {changed:,} tokens differ from version {stable.name if stable else ''}, as retraining may."
    return GateResult(Gate.COMPATIBILITY, Verdict.PASS, message, 0.0, 0.0, evidence=evidence)


def _problems(
    candidate: Checkpoint,
    stable: Checkpoint | None,
    architecture: str | None,
    release: Release | None,
    found: _Found,
) -> Iterator[str]:
    config = candidate.settings(CONFIG)
    yield from _absurd(config)
    found.architecture = _kind(config)
    before = _of_stable(stable, lambda one: one.settings(CONFIG))
    yield from _other_architecture(config, before, architecture)
    files = {entry.name for entry in candidate.files}
    absent = absent_helpers(files, config, candidate.value_or_none(PROCESSOR))
    yield from (f"{sentence}: requests can't be prepared without it." for sentence in absent)
    tensors = dict(candidate.tensors())
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    yield from _ill_shaped(config, shapes)
    if RERANKER in _classes(config):
        yield from _not_served({name: tensor.dtype for name, tensor in tensors.items()}, config)
    yield from _other_patches(candidate, config)
    if absent:
        return
    tokenizer = candidate.tokenizer()
    found.tokens = tokenizer.count
    rows = _vocabulary_rows(config, shapes)
    if rows is not None and tokenizer.largest >= rows:
        yield (
            f"The tokenizer's largest id is {tokenizer.largest:,}, the embeddings have {rows:,} rows: "
            "tokenizer and weights are from different models."
        )
    known = _of_stable(stable, Checkpoint.tokenizer)
    risks = pipeline_problems(tokenizer.pipeline, known.pipeline if known else {})
    yield from (f"{TOKENIZER}: {risk}: take the tokenizer that the model was published with." for risk in risks)
    if stable is not None and known is not None:
        yield from _other_tokens(tokenizer, known, stable.name, release or candidate.meta().release, found)


def _of_stable(stable: Checkpoint | None, ask: Callable[[Checkpoint], T]) -> T | None:
    if stable is None:
        return None
    try:
        return ask(stable)
    except CheckpointError as error:
        raise CheckpointError(f"The stable version {stable.name} can't be compared with: {error}") from error


def _absurd(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the numbers that no model has: a program that allocates by them would take all memory."""
    levels = {"": config} | {f"{key}.": value for key, value in config.items() if isinstance(value, dict)}
    for prefix, level in levels.items():
        for key, value in level.items():
            name = printable((prefix + key)[:80])
            whole = isinstance(value, int) and not isinstance(value, bool)
            if whole and abs(value) > LARGEST_SETTING:
                yield f"{CONFIG} says {name} {str(value)[:30]}: no model is that large."
            elif isinstance(value, list) and len(value) > LONGEST_SETTING:
                yield f"{CONFIG} says {name} with {len(value):,} elements: no model has so many."


def _kind(config: Mapping[str, Any]) -> str:
    classes = _classes(config)
    return printable((classes[0] if classes else str(config.get("model_type", "no architecture")))[:100])


def _classes(config: Mapping[str, Any]) -> list[str]:
    value = config.get("architectures")
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def _other_architecture(
    config: Mapping[str, Any], before: Mapping[str, Any] | None, architecture: str | None
) -> Iterator[str]:
    own = {*_classes(config), config.get("model_type")}
    if architecture is not None:
        if architecture not in own:
            yield f"{CONFIG} says {_kind(config)}, the service is configured for {architecture}."
        return
    if before is None:
        return
    wanted = set(_classes(before))
    if wanted and not wanted & own:
        yield f"{CONFIG} says {_kind(config)}, the stable version is {_kind(before)}."
    elif before.get("model_type") != config.get("model_type"):
        yield (
            f"{CONFIG} says model_type {config.get('model_type')!r}, "
            f"the stable version says {before.get('model_type')!r}."
        )


def _not_served(tensors: Mapping[str, str], config: Mapping[str, Any]) -> Iterator[str]:
    """Yield tensors of other tools, which the engine of this architecture would refuse in the middle of a load.

    ``tensors`` are their types by name.
    """
    other = sorted({kind for name, kind in tensors.items() if kind not in _TYPES and not name.endswith(".inv_freq")})
    why = ""
    if packed := next((name for name in sorted(tensors) if _QUANTISED.search(name)), None):
        why = f"The checkpoint has {printable(packed)[:200]}"
    if other:
        why = f"The checkpoint holds weights of type {', '.join(other)}"
    if config.get("quantization_config"):
        why = f"{CONFIG} has a quantization_config"
    if why:
        yield f"{why}: the engine serves no quantised weights; save the model in bf16, fp16 or fp32."
        return
    if adapter := next((name for name in sorted(tensors) if "lora_" in name or name.startswith("base_model.")), None):
        name = printable(adapter)[:200]
        yield f"{name} is part of an adapter: merge it into its model (merge_and_unload) and save that."
    elif strange := sorted(name for name in tensors if not _NAMES.fullmatch(name)):
        name = printable(strange[0])[:200]
        yield (
            f"{len(strange):,} tensors have names that {RERANKER} does not know, such as {name!r}: "
            "save it with save_pretrained of that class."
        )


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Models with more than text keep the language model's settings one level deeper."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def _embeddings(shapes: Shapes) -> tuple[str, tuple[int, ...]] | None:
    names = (name for name in shapes if name.endswith("embed_tokens.weight") and not _TOWERS.search(name))
    return next(((name, shapes[name]) for name in names), None)


def _vocabulary_rows(config: Mapping[str, Any], shapes: Shapes) -> int | None:
    found = _embeddings(shapes)
    if found is not None and found[1]:
        return found[1][0]
    size = _text(config).get("vocab_size")
    return size if isinstance(size, int) else None


def _ill_shaped(config: Mapping[str, Any], shapes: Shapes) -> Iterator[str]:
    """Yield where ``config.json`` and the headers disagree; what it doesn't say, or they don't name, fits."""
    text = _text(config)
    rows, width = text.get("vocab_size"), text.get("hidden_size")
    found = _embeddings(shapes)
    if found is not None and isinstance(rows, int) and isinstance(width, int) and found[1] != (rows, width):
        yield (
            f"{CONFIG} says vocab_size {rows:,} and hidden_size {width:,}, "
            f"the tensor {found[0]} has the shape {'x'.join(map(str, found[1]))}."
        )
    language = [name for name in shapes if not _TOWERS.search(name)]
    yield from _miscounted("num_hidden_layers", text.get("num_hidden_layers"), _LAYER, language)
    if has_vision(config):
        yield from _miscounted("vision_config.depth", config["vision_config"].get("depth"), _BLOCK, list(shapes))
    # transformers fills a head that is not there with random numbers, and only logs it.
    # Of the two settings the outer one counts, and the reranker's default is false.
    default = False if RERANKER in _classes(config) else text.get("tie_word_embeddings", True)
    heads = ("ForCausalLM", "ForConditionalGeneration")
    if not config.get("tie_word_embeddings", default) and _kind(config).endswith(heads) and not any(
        name.endswith("lm_head.weight") for name in shapes
    ):  # fmt: skip
        yield (
            f"No file holds lm_head.weight, and {CONFIG} does not say tie_word_embeddings true at its top: "
            "the scores would be random. Save the model again, or set it if the model was trained so."
        )


def _miscounted(setting: str, said: object, pattern: re.Pattern[str], names: list[str]) -> Iterator[str]:
    there = {int(found[1]) for name in names if (found := pattern.search(name)) and len(found[1]) < 10}  # noqa: PLR2004
    # n different numbers of which the largest is n - 1 are 0 to n - 1.
    if not isinstance(said, int) or not there or (len(there) == said and max(there) == said - 1):
        return
    yield f"{CONFIG} says {setting} {said:,}, the weights hold {len(there):,}, the last one is number {max(there):,}."


def _other_patches(candidate: Checkpoint, config: Mapping[str, Any]) -> Iterator[str]:
    """Yield where the image settings cut pictures into other patches than the weights were trained on."""
    vision = config.get("vision_config")
    if not isinstance(vision, dict):
        return
    for file in (IMAGES, VIDEOS):
        settings = candidate.settings(file) if file in candidate.top else {}
        for here, there in _PATCHES.items():
            own, wanted = settings.get(here), vision.get(there)
            if isinstance(own, int) and isinstance(wanted, int) and own != wanted:
                yield f"{file} says {here} {own}, {CONFIG} says vision_config.{there} {wanted}."


def _other_tokens(
    tokenizer: Tokenizer, before: Tokenizer, stable: str, release: Release, found: _Found
) -> Iterator[str]:
    if before.kind is not None and tokenizer.kind is not None and before.kind != tokenizer.kind:
        yield f"The tokenizer is of the kind {tokenizer.kind}, the stable version's is {before.kind}."
        return
    if before.ids is None or tokenizer.ids is None:
        return
    changed = [token for token, _ in before.ids.items() ^ tokenizer.ids.items()]
    found.tokens_changed = len(set(changed))
    if changed and release is Release.EQUIVALENT:
        example = min(changed)
        yield (
            f"{len(set(changed)):,} tokens differ from version {stable}, such as {example[:40]!r} "
            f"(id {before.ids.get(example, 'none')} there, {tokenizer.ids.get(example, 'none')} here): an equivalent "
            'version has the same vocabulary. If it was retrained with new tokens, declare release = "retrained".'
        )
