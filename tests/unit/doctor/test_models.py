"""The keys of ``config.pbtxt``: each that is missing is named, with the line to add; nothing is rewritten."""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace
from pathlib import Path

import pytest

from baton.config import DEFAULT_SERVICE, Config, load
from baton.doctor import Setup, models
from baton.doctor.finding import Finding
from baton.domain import Model
from baton.errors import Refused
from baton.journal import JOURNAL, Journal
from baton.share import shared
from baton.triton import pbtxt
from baton.triton.repository import ServiceFiles

ENGINE = DEFAULT_SERVICE.engine
TEMPLATE = shared("model_repository", ENGINE, "config.pbtxt").read_text("utf-8")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "models" / ENGINE / "3").mkdir(parents=True)
    return replace(load(None), repository=tmp_path / "models")


def look(config: Config, text: str | None = None) -> dict[str, Finding]:
    if text is not None:
        (config.repository / ENGINE / "config.pbtxt").write_text(text)
    found = list(models.engines(Setup(config)))
    assert len({one.name for one in found}) == len(found)
    return {one.name: one for one in found}


def without(text: str, named: str) -> str:
    """The template without one tensor, or one parameter."""
    block = rf"  \{{\n(?:    #[^\n]*\n)*    (?:name|key): \"{named}\"\n.*?\n  \}},?\n"
    cut, count = re.subn(block, "", text, flags=re.DOTALL)
    assert count == 1
    return re.sub(r"\},\n\]", "}\n]", cut)


def test_the_template_has_all(config: Config) -> None:
    found = look(config, TEMPLATE)
    assert found[f"{ENGINE} config"].verdict == "ok"
    assert found["reranker config"].verdict == "skipped"
    assert len(found) == 2


def test_before_there_is_a_repository(tmp_path: Path) -> None:
    (found,) = models.engines(Setup(replace(load(None), repository=tmp_path / "none")))
    assert found.verdict == "skipped"


def test_no_file_is_written_from_the_template(config: Config) -> None:
    found = look(config)[f"{ENGINE} config"]
    file = config.repository / ENGINE / "config.pbtxt"
    assert (found.verdict, file.exists()) == ("warn", False)
    (serve,) = models.engine(Setup(config, starts=False), DEFAULT_SERVICE)
    assert (serve.verdict, serve.mend) == ("fail", found.mend)
    assert found.fix is not None
    found.fix.act()
    assert file.read_text() == TEMPLATE
    file.write_text("# a person's\n")
    found.fix.act()
    assert file.read_text() == "# a person's\n"


def test_a_file_that_baton_knows_is_put_back_by_baton(config: Config, tmp_path: Path) -> None:
    """The one that comes with Baton lacks what an operator set, and would be taken for his next edit."""
    config = replace(config, state=tmp_path / "state")
    with contextlib.closing(Journal(config.state / JOURNAL)) as journal:
        journal.notes.config_text(Model.ENGINE).put(DEFAULT_SERVICE.name, f"{TEMPLATE}# dtype is bf16\n")
    found = look(config)[f"{ENGINE} config"]
    assert found.fix is not None
    with pytest.raises(Refused, match="Baton has recorded what stood there"):
        found.fix.act()
    assert not (config.repository / ENGINE / "config.pbtxt").exists()
    with contextlib.closing(Journal(config.state / JOURNAL)) as journal:
        journal.notes.config_text(Model.ENGINE).put(DEFAULT_SERVICE.name, None)
    found.fix.act()
    assert (config.repository / ENGINE / "config.pbtxt").read_text() == TEMPLATE


def test_without_a_template_it_is_left_to_the_person(config: Config) -> None:
    (found,) = models.engines(Setup(replace(config, services=(replace(DEFAULT_SERVICE, engine="other"),))))
    assert (found.verdict, found.fix) == ("fail", None)


def test_a_file_that_is_broken(config: Config) -> None:
    found = look(config, TEMPLATE + "}")[f"{ENGINE} config"]
    assert found.verdict == "fail"
    assert "can't be parsed" in found.message


@pytest.mark.parametrize(
    ("tensor", "verdict", "line"),
    [
        ("query", "fail", 'input { name: "query" data_type: TYPE_STRING dims: 1 }'),
        ("documents", "fail", 'input { name: "documents" data_type: TYPE_STRING dims: -1 allow_ragged_batch: true }'),
        ("instruction", "warn", 'input { name: "instruction" data_type: TYPE_STRING dims: 1 optional: true }'),
        ("options", "warn", 'input { name: "options" data_type: TYPE_STRING dims: 1 optional: true }'),
        ("media", "warn", "optional: true"),
        ("scores", "fail", 'output { name: "scores" data_type: TYPE_FP32 dims: -1 }'),
        ("model_version", "fail", 'output { name: "model_version" data_type: TYPE_INT64 dims: 1 }'),
        ("logits", "warn", 'output { name: "logits" data_type: TYPE_FP32 dims: -1 }'),
        ("tokens", "warn", 'output { name: "tokens" data_type: TYPE_INT64 dims: -1 }'),
    ],
)
def test_a_missing_tensor_is_named_with_its_line(config: Config, tensor: str, verdict: str, line: str) -> None:
    text = without(TEMPLATE, tensor)
    (name,) = {one for one in look(config, text) if one.startswith(ENGINE)}
    found = look(config)[name]
    assert (name, found.verdict) == (f"{ENGINE} {tensor}", verdict)
    assert line in (found.mend or "")
    assert found.fix is None
    # The line, added as it is told, is what was missing.
    added = re.search(r"`(.*?)`", found.mend or "")
    assert added is not None
    assert f"{ENGINE} {tensor}" not in look(config, f"{text}\n{added[1]}\n")


def test_an_output_that_is_only_wished_for(config: Config) -> None:
    """A file that was deployed before there was this output serves on without it, and is never rewritten."""
    found = look(config, without(TEMPLATE, "logits"))[f"{ENGINE} logits"]
    assert (found.verdict, found.fix) == ("warn", None)
    assert "Baton never adds it by itself" in found.message
    assert "loads every version again" in (found.mend or "")


BATCHING = "dynamic_batching {\n  max_queue_delay_microseconds: 1000\n}"
POLICY = "version_policy { specific { versions: [ 1 ] } }"
FAULTS = {
    "version_policy": (POLICY, "version_policy { latest { num_versions: 1 } }", "fail", "versions: [ 3 ]"),
    "max_batch_size": ("max_batch_size: 16", "", "fail", "`max_batch_size: 16`"),
    "default_queue_policy": (
        "dynamic_batching {", "dynamic_batching { default_queue_policy { max_queue_size: 3 } ", "warn", "Take it out",
    ),
    "dynamic_batching": (BATCHING, "", "warn", "delay_microseconds: 1000"),
    "model_warmup": (POLICY, f'{POLICY} model_warmup {{ name: "w" batch_size: 1 }}', "warn", "Take it out"),
    "scheduling": (POLICY, f"{POLICY} model_transaction_policy {{ decoupled: true }}", "fail", "decoupled"),
    "dtyp": ('key: "dtype"', 'key: "dtyp"', "fail", "Is dtype meant?"),
    "query": (
        'name: "query"\n    data_type: TYPE_STRING', 'name: "query"\n    data_type: TYPE_FP32', "fail", "TYPE_STRING",
    ),
    "options": (
        "optional: true\n  },\n  {\n    # Encoded", "}, {\n    # Encoded", "fail", "optional: true",
    ),
    "documents": ("dims: [ -1 ]\n    allow_ragged_batch: true", "dims: [ -1 ]", "warn", "allow_ragged_batch: true"),
    "user": ("input [", 'input { name: "user" data_type: TYPE_STRING dims: 1 }\ninput [', "fail", "optional: true"),
    "ensemble_scheduling": (
        BATCHING, "ensemble_scheduling { }", "fail", "`engine` in",
    ),
    "config": ('name: "qwen3_vl_reranker"', 'name: "another"', "warn", "Correct it"),
}  # fmt: skip


@pytest.mark.parametrize("key", FAULTS)
def test_a_key_that_is_missing_or_harmful(config: Config, key: str) -> None:
    old, new, verdict, mend = FAULTS[key]
    assert TEMPLATE.count(old) == 1
    found = look(config, TEMPLATE.replace(old, new))
    names = {name for name in found if name.startswith(ENGINE)}
    if key == "ensemble_scheduling":  # which takes the place of dynamic_batching
        names.remove(f"{ENGINE} dynamic_batching")
    assert names == {f"{ENGINE} {key}"}
    one = found[f"{ENGINE} {key}"]
    assert (one.verdict, one.fix) == (verdict, None)
    assert mend in (one.mend or "")


def test_tensors_that_are_no_rerankers_are_the_operators(config: Config) -> None:
    """Another kind of service has no template, and what every engine needs is still looked at."""
    config = replace(config, services=(replace(DEFAULT_SERVICE, probe=None),))
    text = f'backend: "onnxruntime"\n{POLICY}\n'
    assert set(look(config, text)) == {f"{ENGINE} input"}
    tensors = 'input { name: "x" data_type: TYPE_FP32 dims: 3 } output { name: "y" data_type: TYPE_FP32 dims: 3 }'
    assert look(config, f"{text}{tensors}\n")[f"{ENGINE} config"].verdict == "ok"


def test_defaults_that_hold_are_told(config: Config) -> None:
    found = look(config, without(TEMPLATE, "threads"))[f"{ENGINE} config"]
    assert found.verdict == "ok"
    assert "defaults hold for the parameters threads" in found.message


def test_parameters_are_those_of_the_engine() -> None:
    """The template has each parameter that the engine reads; Triton's own are the engine's list."""
    root = Path(__file__).parents[3] / "python_backend" / "qwen3_vl_reranker" / "reranker_engine"
    source = (root / "service" / "settings.py").read_text()
    named = re.search(r"TRITON_PARAMETERS = \{(.*?)\}", source)
    assert named is not None
    assert set(re.findall(r'"(\w+)"', named[1])) == models.TRITONS_PARAMETERS
    assert "initialize_timeout_s" in pbtxt.parse(TEMPLATE, Path(ENGINE, "config.pbtxt")).parameters


def test_an_alias_that_passes_less_on(config: Config) -> None:
    look(config, without(TEMPLATE, "logits"))
    files = ServiceFiles(config.repository, "reranker", ENGINE)
    files.set_alias(3)
    assert look(config)["reranker config"].message == f"leads to {ENGINE} version 3"
    found = look(config, TEMPLATE.replace("max_batch_size: 16", "max_batch_size: 8"))["reranker config"]
    assert found.verdict == "warn"
    assert "lacks the output logits, max_batch_size: 8" in found.message


def test_an_alias_that_is_none(config: Config) -> None:
    look(config, TEMPLATE)
    (config.repository / "reranker").mkdir()
    (config.repository / "reranker" / "config.pbtxt").write_text('platform: "ensemble"\n')
    assert look(config)["reranker config"].verdict == "fail"
