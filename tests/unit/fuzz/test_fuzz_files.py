"""Every parser of files raises the error that it documents, in time, and nothing else."""

from __future__ import annotations

import contextlib
import json
import math
import struct
import tomllib
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.fuzz.strategies import NASTY_NUMBERS, NASTY_TEXTS, bounded, raw, scalars, values, wounded
from tests.unit.verify.tiny import header_of, safetensors, tokenizer

from baton import allowed, config
from baton.errors import CheckpointError, ConfigError, RepositoryError
from baton.probe.golden import load_golden
from baton.triton import pbtxt
from baton.verify.checkpoint import describe
from baton.verify.compatibility import check_compatibility
from baton.verify.layout import true_kind
from baton.verify.meta import as_meta, check_table, parse_table, render_table
from baton.verify.names import highest_number, name_problem, version_of
from baton.verify.patterns import pattern_problem, pipeline_problems
from baton.verify.safetensors import BITS
from baton.verify.sums import parse_sums, render_sums

ROOT = Path(__file__).parents[3]
PBTXT = (ROOT / "model_repository" / "qwen3_vl_reranker" / "config.pbtxt").read_text("utf-8")
TENSORS = safetensors({"a": (2, 3), "b": (4,), "c": ()})
META = b'label = "v2"\nrelease = "retrained"\ntrained_at = 2026-01-01\nnotes = "n"\n[metrics]\nndcg = 0.5\n'
SUMS = (("0" * 64 + "  config.json\n") + ("a" * 64 + " *model.safetensors\n")).encode()
GOLDEN = b'{"id": "a", "kind": "text", "query": {"text": "q"}, "documents": [{"text": "d"}, {"text": "e"}], "relevance": [0, 3]}\n'
BATON = (ROOT / "demo" / "baton.toml").read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def told(error):
    assert "\x1b" not in str(error)
    assert len(str(error)) < 20_000


@bounded
@given(data=st.one_of(wounded(TENSORS), st.builds(lambda text: struct.pack("<Q", len(text)) + text, raw(TENSORS[8:]))))
def test_safetensors_bytes(folder, data):
    path = folder / "m.safetensors"
    path.write_bytes(data)
    try:
        header = header_of(path)
    except CheckpointError as error:
        told(error)
    else:
        assert header.expected_size == len(data)


@bounded
@given(table=st.dictionaries(st.one_of(st.text(max_size=5), st.just("__metadata__")), st.one_of(
    values(("dtype", "shape", "data_offsets")),
    st.fixed_dictionaries({
        "dtype": st.sampled_from((*BITS, "X")), "shape": st.lists(st.integers(-1, 2**63), max_size=5),
        "data_offsets": st.lists(st.integers(-1, 100), max_size=3),
    }),
), max_size=4))  # fmt: skip
def test_safetensors_headers(folder, table):
    text = json.dumps(table).encode()
    path = folder / "h.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))
    with contextlib.suppress(CheckpointError):
        assert header_of(path).expected_size == path.stat().st_size


@bounded
@given(text=raw(META))
def test_version_toml(text):
    try:
        table = parse_table(text)
    except CheckpointError as error:
        told(error)
    else:
        as_meta(table, "1")
        assert check_table(tomllib.loads(render_table(table))) == table


@bounded
@given(text=raw(SUMS))
def test_sha256sums(text):
    try:
        sums = parse_sums(text)
    except CheckpointError as error:
        told(error)
    else:
        assert all(
            len(digest) == 64 and not name.startswith("/") and ".." not in name.split("/")
            for name, digest in sums.items()
        )
        plain = {name: digest for name, digest in sums.items() if not set(name) & set("\\\n\r")}
        assert parse_sums(render_sums(plain).encode(errors="surrogateescape")) == plain


@bounded
@given(text=raw(json.dumps(tokenizer()).encode()))
def test_tokenizer_bytes(folder, text):
    (folder / "tokenizer.json").write_bytes(text)
    with contextlib.suppress(CheckpointError):
        list(pipeline_problems(describe(folder).tokenizer().pipeline, {}))


@bounded
@given(table=values(("model", "vocab", "type", "added_tokens", "id", "content", "normalizer", "pre_tokenizer", "Regex", "pattern")),
       settings=values(("text_config", "vision_config", "hidden_size", "architectures", "depth", "tie_word_embeddings")))  # fmt: skip
def test_settings_of_any_form(folder, table, settings):
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        (folder / name).write_text(json.dumps(table))
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "model.safetensors").write_bytes(TENSORS)
    told(check_compatibility(describe(folder), None, architecture=None).message)


@bounded
@given(pattern=st.text(alphabet="ab\\()[]{}|*+?^$.,:=!<>gkpPR012 \n", max_size=60))
def test_patterns(pattern):
    assert pattern_problem(pattern) is None or pattern_problem(pattern).isprintable()


@bounded
@given(name=st.text(max_size=40), head=st.binary(max_size=256))
def test_names_and_heads(name, head):
    true_kind(head)
    assert (version_of(name) is None) == (name_problem(name) is not None)
    assert highest_number([name]) >= (version_of(name) or 0)


@bounded
@given(
    text=st.one_of(wounded(PBTXT.encode()), st.binary(max_size=200)),
    versions=st.frozensets(st.integers(1, 2**31 - 1), max_size=3),
)
def test_config_pbtxt(text, versions):
    path = Path("config.pbtxt")
    try:
        before = text.decode()
        edited = pbtxt.with_specific_versions(before, versions, path)
    except (UnicodeDecodeError, RepositoryError):
        return
    assert pbtxt.specific_versions(edited, path) == versions
    old, new = pbtxt.parse(before, path), pbtxt.parse(edited, path)
    old.ClearField("version_policy")
    new.ClearField("version_policy")
    assert old == new
    assert pbtxt.with_specific_versions(edited, versions, path) == edited
    assert sum(line in edited for line in before.splitlines()) >= len(before.splitlines()) - 5


@bounded
@given(text=raw(GOLDEN, GOLDEN * 2))
def test_golden_sets(folder, text):
    (folder / "golden.jsonl").write_bytes(text)
    with contextlib.suppress(ConfigError):
        assert load_golden(folder / "golden.jsonl").cases


@bounded
@given(case=st.fixed_dictionaries({
    key: values(("text", "image")) for key in ("id", "kind", "query", "documents", "relevance", "instruction", "options")
}))  # fmt: skip
def test_golden_cases(folder, case):
    (folder / "case.jsonl").write_text(json.dumps(case))
    with contextlib.suppress(ConfigError):
        load_golden(folder / "case.jsonl")


@bounded
@given(text=raw(BATON, b"x = " + b"9" * 5000, b"x = " + b"[" * 5000))
def test_baton_toml(folder, text):
    (folder / "baton.toml").write_bytes(text)
    with contextlib.suppress(ConfigError):
        config.load(folder / "baton.toml")


def tables(shape):
    """Tables with the keys that they may have, and any values."""
    given = {}
    for one in fields(shape):
        if "table" in one.metadata:
            given[one.name] = st.one_of(tables(one.metadata["table"]), scalars)
        elif "list" in one.metadata:
            given[one.name] = st.one_of(st.lists(tables(one.metadata["list"]), max_size=2), scalars)
        else:
            given[one.name] = values()
    return st.fixed_dictionaries({}, optional=given)


@bounded
@given(data=tables(config.Config))
def test_configurations(data):
    with contextlib.suppress(ConfigError):
        config.parse(data, "baton.toml", Path())


CHECKED = [
    (shape, one)
    for shape in vars(config).values()
    if isinstance(shape, type) and is_dataclass(shape)
    for one in fields(shape)
    if "check" in one.metadata
]


@pytest.mark.parametrize(("shape", "one"), CHECKED, ids=[f"{shape.__name__}.{one.name}" for shape, one in CHECKED])
def test_every_key_takes_or_refuses_nasty_values(shape, one):
    for value in (
        *NASTY_TEXTS,
        *NASTY_NUMBERS,
        None,
        True,
        [],
        {},
        [[]],
        [{}],
        ["a", 1],
        [10**400],
        {"a": {}},
        "9" * 5000,
        "1e999s",
    ):
        with contextlib.suppress(allowed.Invalid):
            checked = one.metadata["check"](value)
            assert not isinstance(checked, float) or math.isfinite(checked), (value, checked)
