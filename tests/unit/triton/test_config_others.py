"""``config.pbtxt`` in a repository that another user may write in: he decides what is served, and nothing else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tests.support.others import as_nobody, common_place, give, takes_root
from tests.support.toy import engine_config

from baton.cli import local
from baton.config import ServiceConfig
from baton.errors import RepositoryError, Unreadable
from baton.triton.repository import ServiceFiles

pytestmark = takes_root

NAME = "engine"
BASE = engine_config(NAME, [1])


@pytest.fixture
def place():
    with common_place() as found:
        (found / "models" / NAME / "1").mkdir(parents=True)
        (found / "models" / NAME / "config.pbtxt").write_text(BASE)
        give(found / "models")
        (found / "private").mkdir(mode=0o700)
        (found / "private" / "secret").write_text('name: "sesame open"\nplatform: 1\n')
        (found / "private" / "secret").chmod(0o600)
        yield found


@pytest.fixture
def files(place):
    return ServiceFiles(place / "models", "public", NAME)


@pytest.fixture
def untouched(place):
    """The private folder is as it was, in the end."""

    def look():
        return {path.name: (path.read_bytes(), path.stat().st_mode) for path in (place / "private").iterdir()}

    before = look()
    yield place / "private" / "secret"
    assert look() == before


def link(name, to):
    as_nobody(lambda: Path(name).symlink_to(to))


def test_a_link_in_the_place_of_the_temporary_file(place, files, untouched):
    link(place / "models" / f".{NAME}.config.pbtxt.baton", untouched)
    files.set_policy(frozenset({2}))
    assert files.policy() == {2}
    assert not (place / "models" / NAME / "config.pbtxt").is_symlink()


def test_a_hard_link_in_the_place_of_the_temporary_file(place, files, untouched):
    (place / "models" / f".{NAME}.config.pbtxt.baton").hardlink_to(untouched)
    files.set_policy(frozenset({2}))
    assert files.policy() == {2}


def test_a_fifo_in_the_place_of_the_temporary_file(place, files):
    os.mkfifo(place / "models" / f".{NAME}.config.pbtxt.baton")
    files.set_policy(frozenset({2}))
    assert files.policy() == {2}


def test_an_alias_that_is_a_link(place, files, untouched):
    """It is written without being read before."""
    as_nobody(files.alias_dir.mkdir)
    link(files.alias_dir / "config.pbtxt", untouched)
    with pytest.raises(
        RepositoryError, match=r"A link that nobody made leads to .*/private/secret, which belongs to root"
    ):
        files.set_alias(1)


def test_a_link_to_where_nothing_is(place, files, untouched):
    as_nobody(files.alias_dir.mkdir)
    link(files.alias_dir / "config.pbtxt", place / "private" / "new")
    with pytest.raises(RepositoryError, match=r"which is not there. Nothing was written"):
        files.set_alias(1)


def test_a_model_s_folder_that_is_a_link(place, files, untouched):
    link(files.alias_dir, place / "private")
    with pytest.raises(RepositoryError, match=r"A link that nobody made leads to .*/private"):
        files.set_alias(1)


def test_folders_that_are_links_to_another_repository(place, files):
    """What Baton takes away in a folder of its own (a number that the alias named before, a splitter's file) stays."""
    theirs = place / "other" / "public"
    for number in ("1", "2"):
        (theirs / number).mkdir(parents=True)
        (theirs / number / "model.safetensors").write_text("kept")
    files.set_alias(1)
    (theirs / "config.pbtxt").write_text((files.alias_dir / "config.pbtxt").read_text())
    files.alias_dir.rename(place / "away")
    link(files.alias_dir, theirs)
    link(files.splitter_dir, theirs)
    before = {path: path.read_text() for path in theirs.rglob("*") if path.is_file()}
    for act in (files.tidy_alias, lambda: files.set_splitter(None), lambda: files.set_alias(None)):
        with pytest.raises(RepositoryError, match=r"A link that nobody made leads to .*other/public"):
            act()
    assert {path: path.read_text() for path in theirs.rglob("*") if path.is_file()} == before


def test_a_folder_swapped_while_it_is_tidied(place, files, monkeypatch):
    other = place / "other"
    (other / "7").mkdir(parents=True)
    (other / "7" / "model.safetensors").write_text("kept")
    files.set_alias(1)
    (files.alias_dir / "7").mkdir()
    give(place / "models")
    real = shutil.rmtree

    def late(path, **more):
        files.alias_dir.rename(place / "away")
        link(files.alias_dir, other)
        real(path, **more)

    monkeypatch.setattr(shutil, "rmtree", late)
    files.tidy_alias()
    assert not (place / "away" / "7").exists()
    assert (other / "7" / "model.safetensors").read_text() == "kept"


def test_a_secret_is_not_read_and_not_told(files, untouched):
    (files.engine_dir / "config.pbtxt").unlink()
    link(files.engine_dir / "config.pbtxt", untouched)
    with pytest.raises(Unreadable, match="A link that nobody made") as told:
        files.policy()
    assert "sesame" not in str(told.value)


def test_a_folder_swapped_between_the_check_and_the_rename(place, files, untouched, monkeypatch):
    """Their link leads to a file of theirs, until the last moment; the file's name is that of a secret."""
    theirs = place / "theirs"
    theirs.mkdir()
    (theirs / "secret").write_text(BASE)
    give(theirs)
    (files.engine_dir / "config.pbtxt").unlink()
    link(files.engine_dir / "config.pbtxt", theirs / "secret")
    real = os.fsync

    def late(descriptor):
        if not (place / "away").exists():
            theirs.rename(place / "away")
            theirs.symlink_to(place / "private")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", late)
    files.set_policy(frozenset({2}))
    assert "versions: [ 2 ]" in (place / "away" / "secret").read_text()


def test_links_of_their_own_and_of_root_are_followed(place, files):
    for owner, name in ((give, "theirs"), (lambda path: path, "ours")):
        (place / name).mkdir()
        (place / name / "engine.pbtxt").write_text(BASE)
        owner(place / name)
        (files.engine_dir / "config.pbtxt").unlink()
        (files.engine_dir / "config.pbtxt").symlink_to(place / name / "engine.pbtxt")
        owner(files.engine_dir / "config.pbtxt")
        files.set_policy(frozenset({2}))
        assert files.policy() == {2}
        assert (files.engine_dir / "config.pbtxt").is_symlink()


def test_the_template_of_an_engine(place, untouched, monkeypatch):
    checkout = place / "checkout"
    (checkout / "model_repository" / NAME).mkdir(parents=True)
    (checkout / "model_repository" / NAME / "config.pbtxt").write_text(BASE)
    monkeypatch.setattr(local, "shared", checkout.joinpath)
    (place / "models" / NAME / "config.pbtxt").unlink()
    link(place / "models" / NAME / ".config.pbtxt.new", untouched)
    local.prepare_engine(place / "models", ServiceConfig(name="public", engine=NAME))
    assert (place / "models" / NAME / "config.pbtxt").read_text() == BASE


def test_an_engine_in_a_closed_folder(place, monkeypatch):
    def closed(_path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", closed)
    with pytest.raises(RepositoryError, match=r"looked at: Permission denied\. Nothing was started"):
        local.prepare_engine(place / "models", ServiceConfig(name="public", engine=NAME))
