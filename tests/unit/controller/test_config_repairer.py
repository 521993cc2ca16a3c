"""A ``config.pbtxt`` that an edit made unusable is put back; every other edit stays."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from tests.support.toy import engine_config

from baton.controller.config_repairer import ConfigFiles, ConfigRepairer
from baton.domain import Model
from baton.errors import RepositoryError, Unreadable
from baton.journal import Journal
from baton.ownership import follow
from baton.triton import config_file
from baton.triton.repository import ServiceFiles


class Bench:
    """A service's files under a repairer, with a clock by hand."""

    def __init__(self, root: Path) -> None:
        self.now = 100.0
        self.told: list[tuple[str, dict]] = []
        self.files = ServiceFiles(root / "repository", "ranker", "engine")
        self.engine = self.files.engine_dir / "config.pbtxt"
        self.alias = self.files.alias_dir / "config.pbtxt"
        self.engine.parent.mkdir(parents=True)
        self.engine.write_text(engine_config("engine", [1]))
        self.files.set_alias(1)
        self.journal = Journal(root / "journal.db")
        self.start()

    def start(self) -> None:
        self.repairer = ConfigRepairer(
            self.files, self.journal, lambda: self.now, lambda text, data: self.told.append((text, dict(data)))
        )

    def look(self) -> tuple:
        """What the files say, once everything that the repairer finds is repaired and recorded."""
        found = self.repairer.read()
        for broken in found.repairs:
            self.repairer.repair(broken.model)
        found = self.repairer.read() if found.repairs else found
        assert not found.repairs
        for one in found.unrecorded:
            self.repairer.record(one.model, one.text)
        return found.version_policy, (found.alias, found.split), found.splitter

    def repaired(self) -> tuple:
        """The same, where something is broken. That it is seen changes nothing."""
        before = self.texts()
        found = self.repairer.read()
        assert [b.since for b in found.repairs] == [self.now] * len(found.repairs) != []
        assert found == ConfigFiles(repairs=found.repairs), "nothing else is known"
        assert self.texts() == before
        self.now += 1.0
        assert self.repairer.read() == found, "since when is remembered"
        return self.look()

    def texts(self) -> dict[Path, str]:
        return {p: p.read_text() for p in self.files.repository.rglob("*") if p.is_file()}


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    assert made.look() == ({1}, (1, False), None)
    yield made
    made.journal.close()


@pytest.mark.parametrize("kept", [0, 1, 5])
def test_a_file_that_was_cut_between_two_fields(bench, kept):
    good = bench.engine.read_text()
    for tail in ("", "version_policy { specific { versions: [ 1 ] } }\n"):
        bench.engine.write_text("".join(good.splitlines(keepends=True)[:kept]) + tail)
        assert bench.repaired()[0] == {1}
        assert bench.engine.read_text() == good


@pytest.mark.parametrize("kept", [0, 1, -1])
def test_a_splitter_that_was_cut_between_two_fields(bench, kept):
    bench.files.set_splitter(1)
    assert bench.look()[2] == 1
    path = bench.files.splitter_dir / "config.pbtxt"
    good = path.read_text()
    path.write_text("".join(good.splitlines(keepends=True)[:kept]))
    assert bench.repaired()[2] == 1
    assert path.read_text() == good
    bench.repairer.record(Model.SPLITTER, None)
    bench.files.set_splitter(None)
    assert bench.look()[2] is None


def test_both_files_edited_at_once(bench):
    edited = bench.engine.read_text() + "# by hand\n"
    bench.engine.write_text(edited)
    bench.alias.write_text("}} half of a")
    assert bench.repaired() == ({1}, (1, False), None)
    bench.look()
    bench.engine.write_text("")
    bench.repaired()
    assert bench.engine.read_text() == edited


@pytest.mark.parametrize("restarted", [False, True])
def test_garbage_is_replaced_by_what_was_there(bench, restarted):
    for path in (bench.engine, bench.alias):
        good = path.read_text()
        path.write_text("}} half of a")
        if restarted:
            bench.start()
        assert bench.repaired() == ({1}, (1, False), None)
        assert path.read_text() == good
        assert bench.told[-1][1]["stood_there"] == "}} half of a"


def test_only_the_policy_is_put_in_where_only_that_is_lacking(bench):
    edited = bench.engine.read_text().replace("max_batch_size: 8", "max_batch_size: 4")
    without = "\n".join(line for line in edited.splitlines() if not line.startswith("version_policy"))
    for text in (without, edited.replace("specific { versions: [ 1 ] }", "latest { num_versions: 2 }")):
        bench.engine.write_text(text)
        assert bench.repaired()[0] == {1}
        assert "max_batch_size: 4" in bench.engine.read_text()


def test_what_is_mended_in_time_and_what_can_be_used_stays(bench):
    good = bench.engine.read_text()
    bench.engine.write_text("")
    [broken] = bench.repairer.read().repairs
    other = good.replace("versions: [ 1 ]", "versions: [ 1, 2 ]")
    bench.engine.write_text(other)
    bench.repairer.repair(broken.model)
    assert bench.look()[0] == {1, 2}
    assert bench.engine.read_text() == other
    assert bench.told == []


def test_a_policy_without_what_serves_is_not_what_is_put_back(bench):
    good = bench.engine.read_text()
    bench.engine.write_text(good.replace("versions: [ 1 ]", "versions: [ 9 ]"))
    assert bench.look()[0] == {9}
    bench.engine.unlink()
    assert bench.repaired()[0] == {1}
    assert bench.engine.read_text() == good


def test_an_alias_that_somebody_removed_and_one_that_baton_removes(bench):
    (bench.files.alias_dir / "1").rmdir()
    assert [b.since for b in bench.repairer.read().repairs] == [float("-inf")], "it is repaired at once"
    bench.alias.unlink()
    assert bench.repaired()[1] == (1, False)
    assert (bench.files.alias_dir / "1").is_dir()
    bench.repairer.record(Model.ALIAS, None)
    bench.files.set_alias(None)
    assert bench.look()[1] == (None, False)


@pytest.mark.parametrize(
    ("was", "by_hand"),
    [('model_name: "engine"', 'model_name: "another"'), ("model_version: 1", "model_version: 2"), ("versions: 1", "")],
)
def test_an_alias_that_triton_would_take_for_something_else(bench, was, by_hand):
    good = bench.alias.read_text()
    assert was in good
    bench.alias.write_text(good.replace(was, by_hand))
    assert bench.repaired()[1] == (1, False)
    assert bench.alias.read_text() == good


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_what_the_file_system_does_not_give_is_not_taken_for_broken(bench, monkeypatch, fails_at):
    edited = bench.engine.read_text() + "# by hand\n"
    bench.engine.write_text(edited)
    reads = 0

    def frozen(path: Path, *args, **options):
        nonlocal reads
        reads += 1
        if reads == fails_at:
            raise OSError(errno.EIO, "Input/output error")
        return real(path, *args, **options)

    real = follow
    monkeypatch.setattr(config_file, "follow", frozen)
    for _ in range(3):
        reads = 0
        with pytest.raises(Unreadable, match="Input/output error"):
            bench.repairer.read()
    monkeypatch.undo()
    assert bench.look() == ({1}, (1, False), None)
    assert bench.engine.read_text() == edited
    assert bench.told == []


def test_a_journal_that_was_begun_anew_learns_it_again(bench):
    bench.journal.start_over(0.0, "It was damaged.")
    bench.look()
    bench.start()
    bench.engine.write_text("")
    assert bench.repaired()[0] == {1}


def test_without_a_good_one_it_is_told_as_it_is(tmp_path):
    bench = Bench(tmp_path)
    bench.engine.write_text("}} half of a")
    with pytest.raises(RepositoryError, match=r"can't be parsed"):
        bench.look()
    assert bench.engine.read_text() == "}} half of a"
    bench.journal.close()
