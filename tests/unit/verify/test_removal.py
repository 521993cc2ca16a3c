"""Version folders leave the repository at once or not at all, and nothing outside of it is touched."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.others import NOBODY, as_nobody, common_place, takes_root

from baton.beside import folder_beside
from baton.errors import RepositoryError, Untrusted
from baton.removal import Removal
from baton.verify.listing import look


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    engine = tmp_path / "models" / "engine"
    for number in (1, 2):
        (engine / str(number) / "deep").mkdir(parents=True)
        (engine / str(number) / "deep" / "weights").write_bytes(bytes(100 * number))
    (engine / "config.pbtxt").write_text("name: 'engine'")
    return tmp_path / "models"


def held(repository: Path) -> list[str]:
    return sorted(p.name for p in (repository / "engine").iterdir())


def beside(repository: Path) -> list[str]:
    place = folder_beside(repository) / "engine"
    return sorted(p.name for p in place.iterdir()) if place.is_dir() else []


def test_it_is_taken_out_at_once_and_deleted_later(repository):
    removal = Removal(repository, "engine")
    assert removal.left() == ()
    removal.take_out(1)
    assert held(repository) == ["2", "config.pbtxt"]
    assert removal.left() == (1,)
    assert (folder_beside(repository)).stat().st_mode & 0o077 == 0
    removal.delete()
    assert removal.left() == ()
    assert beside(repository) == []
    assert (repository / "engine" / "2" / "deep" / "weights").is_file()


def test_one_that_is_gone_is_no_error_and_looking_makes_nothing(repository):
    removal = Removal(repository, "engine")
    removal.take_out(7)
    removal.delete()
    assert held(repository) == ["1", "2", "config.pbtxt"]
    assert not folder_beside(repository).exists()


def test_a_link_goes_and_what_it_leads_to_stays(repository, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "weights").write_text("weights")
    (repository / "engine" / "3").symlink_to(tmp_path / "elsewhere")
    (repository / "engine" / "2" / "out").symlink_to(tmp_path / "elsewhere")
    removal = Removal(repository, "engine")
    for version in (2, 3):
        removal.take_out(version)
    removal.delete()
    assert held(repository) == ["1", "config.pbtxt"]
    assert beside(repository) == []
    assert (tmp_path / "elsewhere" / "weights").read_text() == "weights"


def test_what_is_no_folder_stays(repository):
    (repository / "engine" / "3").write_text("a file")
    with pytest.raises(RepositoryError, match="is no version's folder, and stays"):
        Removal(repository, "engine").take_out(3)
    assert "3" in held(repository)


def test_a_read_only_folder_within_is_deleted(repository):
    (repository / "engine" / "1" / "deep").chmod(0o555)
    removal = Removal(repository, "engine")
    removal.take_out(1)
    removal.delete()
    assert beside(repository) == []


@takes_root
def test_another_user_s_version_stays_and_the_message_says_whose_it_is():
    with common_place() as place:
        (place / "models" / "engine" / "1").mkdir(parents=True)
        for folder in (place, place / "models", place / "models" / "engine"):
            os.chown(folder, NOBODY, NOBODY)
        with pytest.raises(RepositoryError, match="1 belongs to root, mode 0755; Baton runs as nobody") as told:
            as_nobody(lambda: Removal(place / "models", "engine").take_out(1))
        assert "Permission denied" in str(told.value)
        assert "Clients are not affected" in str(told.value)
        assert (place / "models" / "engine" / "1").is_dir()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EBUSY, errno.EIO, errno.EACCES])
def test_an_error_of_the_file_system_leaves_the_whole_version(repository, monkeypatch, number):
    def refuse(*_args: object, **_options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(RepositoryError, match=os.strerror(number)):
        Removal(repository, "engine").take_out(1)
    assert (repository / "engine" / "1" / "deep" / "weights").stat().st_size == 100
    assert beside(repository) == []


def test_another_file_system_is_told(repository, monkeypatch):
    real, home = os.fstat, (repository / "engine").stat().st_ino

    def elsewhere(descriptor):
        status = real(descriptor)
        return os.stat_result([*status[:2], status.st_dev + 1, *status[3:]]) if status.st_ino == home else status

    monkeypatch.setattr(os, "fstat", elsewhere)
    with pytest.raises(RepositoryError, match="different file systems"):
        Removal(repository, "engine").take_out(1)
    assert "1" in held(repository)


def test_a_folder_beside_that_is_a_link_is_not_used(repository, tmp_path):
    (tmp_path / "theirs").mkdir()
    folder_beside(repository).symlink_to(tmp_path / "theirs")
    with pytest.raises(Untrusted):
        Removal(repository, "engine").take_out(1)
    assert "1" in held(repository)


def test_what_can_not_be_deleted_does_not_keep_the_rest(repository, monkeypatch):
    real = shutil.rmtree

    def rmtree(name, *args, **options):
        if name.startswith("removed-1-"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(name, *args, **options)

    removal = Removal(repository, "engine")
    removal.take_out(1)
    removal.take_out(2)
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    with pytest.raises(RepositoryError, match="What is left of a removed version can't be deleted"):
        removal.delete()
    assert removal.left() == (1,)
    monkeypatch.undo()
    removal.delete()
    assert removal.left() == ()


def test_nothing_but_what_was_removed_is_deleted(repository):
    removal = Removal(repository, "engine")
    removal.take_out(1)
    staged = folder_beside(repository) / "engine" / "0123456789abcdef"
    staged.mkdir()
    removal.delete()
    assert beside(repository) == ["0123456789abcdef"]


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from baton.removal import Removal

def die(*_args, **_options):
    os.kill(os.getpid(), signal.SIGKILL)

where, name = sys.argv[2].split(".")
real = getattr(dict(os=os, shutil=shutil)[where], name)
def after(*args, **options):
    real(*args, **options)
    die()
setattr(dict(os=os, shutil=shutil)[where], name, after if sys.argv[3] == "after" else die)
removal = Removal(Path(sys.argv[1]), "engine")
removal.take_out(1)
removal.delete()
"""


@pytest.mark.parametrize(
    ("call", "when", "whole"),
    [
        ("os.rename", "before", True),
        ("os.rename", "after", False),
        ("os.fchmod", "after", True),
        ("shutil.rmtree", "before", False),
        ("os.unlink", "after", False),
        ("os.rmdir", "after", False),
    ],
)
def test_killed_it_leaves_the_whole_version_or_what_the_next_start_deletes(repository, call, when, whole):
    done = subprocess.run([sys.executable, "-c", KILLED, str(repository), call, when], check=False)
    assert done.returncode == -signal.SIGKILL
    there = (repository / "engine" / "1" / "deep" / "weights").is_file()
    assert there is whole
    assert ("1" in held(repository)) is whole, "never half of a version"
    removal = Removal(repository, "engine")
    removal.delete()
    assert beside(repository) == []
    assert held(repository) == (["1"] if whole else []) + ["2", "config.pbtxt"]


def test_what_the_disk_gets_back(repository, tmp_path):
    folder = repository / "engine" / "1"
    (tmp_path / "far").write_bytes(bytes(5_000))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "more").write_bytes(bytes(7_000))
    (folder / "link").symlink_to(tmp_path / "far")
    (folder / "links").symlink_to(tmp_path / "folder")
    (folder / "second name").hardlink_to(tmp_path / "far")
    assert look(folder).own_size == 100
    assert look(folder).size == 100 + 5_000 * 2 + 7_000
    (tmp_path / "linked").symlink_to(folder)
    assert look(tmp_path / "linked").own_size == 0
