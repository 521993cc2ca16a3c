"""``ctl init``: what it writes can be used as it is, and nothing that is there already is changed."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from tests.support.toy import make_checkpoint
from tests.unit.cli.conftest import Ctl

from baton.cli.init import shared_template
from baton.config import load, parse
from baton.domain import Step
from baton.share import shared

KEEP = "keep_versions = 5"
"""The one key that is set, and not to its default: on a disk that is one's own, nobody else clears away."""
ENGINE = Path("model_repository", "qwen3_vl_reranker")


def test_each_key_that_is_commented_out_shows_its_default(tmp_path: Path) -> None:
    text = shared_template()
    uncommented, count = re.subn(r"^# (?=\w+ = )", "", text, flags=re.MULTILINE)
    assert count > 10
    usual, shown = (parse(tomllib.loads(one), "test", tmp_path) for one in (text, uncommented))
    golden = tmp_path / "golden" / "golden.jsonl"
    assert shown.services[0].golden == golden, "the one key without a default"
    assert shown.services[0].traffic.steps == (Step(5.0, hold=30.0), Step(50.0, over=90.0))
    assert repr(shown).replace(repr(golden), "None") == repr(usual)


def test_old_versions_are_removed_unless_a_person_takes_the_line_out(tmp_path: Path) -> None:
    service = parse(tomllib.loads(shared_template()), "test", tmp_path).services[0]
    assert service.rollout.keep_versions == 5
    assert load(None).services[0].rollout.keep_versions is None


def test_its_services_and_servers_are_those_without_a_configuration(tmp_path: Path) -> None:
    file = tmp_path / "baton.toml"
    file.write_text(shared_template().replace(KEEP, ""))
    assert (load(file).services, load(file).servers) == (load(None).services, load(None).servers)


def test_an_empty_folder(ctl: Ctl, tmp_path: Path) -> None:
    done = ctl("init")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "baton.toml").read_text() == shared_template()
    template = shared("model_repository", "qwen3_vl_reranker", "config.pbtxt")
    assert (tmp_path / ENGINE / "config.pbtxt").read_bytes() == template.read_bytes()
    assert [entry.name for entry in (tmp_path / ENGINE).iterdir()] == ["config.pbtxt"]
    assert "ctl push CHECKPOINT" in done.stderr


def test_the_demo_brings_a_version_and_a_golden_set(ctl: Ctl, tmp_path: Path) -> None:
    done = ctl("--output", "json", "init", "--demo", "here")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["version"] == 1
    config = load(tmp_path / "here" / "baton.toml")
    assert config.services[0].golden is not None
    assert config.services[0].golden.is_file()
    assert (tmp_path / "here" / ENGINE / "1" / "config.json").is_file()
    assert "cd here && ctl up" in done.stderr


def test_a_checkpoint_of_ones_own(ctl: Ctl, tmp_path: Path) -> None:
    made = make_checkpoint(tmp_path / "mine")
    assert ctl("init", "--checkpoint", str(made), "here").exit_code == 0
    assert (tmp_path / "here" / ENGINE / "1" / "config.json").read_bytes() == (made / "config.json").read_bytes()


def test_a_configuration_that_is_there_is_not_changed(ctl: Ctl, tmp_path: Path) -> None:
    (tmp_path / "baton.toml").write_text("# mine\n")
    done = ctl("init", "--demo")
    assert done.exit_code == 3
    assert "baton.toml is there already" in done.stderr
    assert [entry.name for entry in tmp_path.iterdir() if entry.name != "state"] == ["baton.toml"]


def test_after_a_checkpoint_that_is_none_the_same_command_can_be_given_again(ctl: Ctl, tmp_path: Path) -> None:
    broken = make_checkpoint(tmp_path / "mine")
    text = (broken / "config.json").read_text()
    (broken / "config.json").write_text(text[:-9])
    done = ctl("init", "--checkpoint", str(broken), "here")
    assert done.exit_code not in {0, 1}, done.output
    assert "config.json" in done.stderr
    assert sorted(entry.name for entry in (tmp_path / "here").iterdir() if "staging" not in entry.name) == [
        "model_repository"
    ]
    (broken / "config.json").write_text(text)
    assert ctl("init", "--checkpoint", str(broken), "here").exit_code == 0
    assert load(tmp_path / "here" / "baton.toml").repository == tmp_path / "here" / "model_repository"


@pytest.mark.parametrize("words", [("--demo", "--checkpoint", "."), ("a.file",)])
def test_what_can_not_be_meant(ctl: Ctl, tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "a.file").write_text("")
    assert ctl("init", *words).exit_code == 2
