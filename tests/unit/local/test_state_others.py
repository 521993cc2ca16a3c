"""A state directory that another user made, or may write in: nothing of his is used, nothing else is overwritten."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from tests.support.others import as_nobody, common_place, give, takes_root

from baton import backup
from baton.api import SOCKET, claim
from baton.doctor import files
from baton.durable import make_private, open_private
from baton.errors import Refused, Untrusted
from baton.journal import JOURNAL, Journal
from baton.local.assemble import assemble

pytestmark = takes_root


@pytest.fixture
def place():
    with common_place() as found:
        (found / "precious").write_text("kept")
        yield found
        assert (found / "precious").read_text() == "kept"


@pytest.fixture
def state(place):
    """Of root's, and everybody may write in it, as some volumes of containers are."""
    (place / "state").mkdir()
    (place / "state").chmod(0o777)
    return place / "state"


def hold(state):
    with claim(state / SOCKET):
        pass


def test_a_state_directory_of_another_user(place):
    """Whose owner could put other code for Triton, another key or another journal into it at any time."""
    (place / "state").mkdir(mode=0o700)
    give(place / "state")
    for act in (hold, lambda state: Journal(state / JOURNAL), make_private):
        with pytest.raises(Untrusted, match=r"state belongs to nobody, .*Baton runs as root"):
            act(place / "state")
    assert list((place / "state").iterdir()) == []


@pytest.mark.parametrize("kind", ["link", "hard link", "fifo", "theirs"])
@pytest.mark.parametrize("name", ["baton.lock", "triton.log"])
def test_a_file_that_another_user_put_there(place, state, name, kind):
    path = state / name
    match kind:
        case "link":
            as_nobody(lambda: path.symlink_to(place / "precious"))
        case "hard link":
            path.hardlink_to(place / "precious")
        case "fifo":
            as_nobody(lambda: os.mkfifo(path))
        case "theirs":
            as_nobody(lambda: path.write_text("theirs"))
            path.chmod(0o666)

    def write():
        with open_private(path) as log:
            log.write(b"a line")

    with pytest.raises(Untrusted, match=f"{name} .*another user may have put it there. Nothing was written"):
        hold(state) if name == "baton.lock" else write()
    if kind == "theirs":
        assert path.read_text() == "theirs"


@pytest.mark.parametrize("kind", ["link", "theirs"])
def test_a_journal_that_another_user_put_there(place, state, kind):
    other = place / "other.db"
    Journal(other).close()
    before = other.read_bytes()
    if kind == "link":
        as_nobody(lambda: (state / JOURNAL).symlink_to(other))
    else:
        (state / JOURNAL).write_bytes(before)
        give(state / JOURNAL)
    with pytest.raises(Untrusted, match=rf"{JOURNAL} .*another user may have put it there"):
        Journal(state / JOURNAL)
    assert other.read_bytes() == before


def test_a_log_goes_on_where_it_ended(place):
    for line in (b"one\n", b"two\n"):
        with open_private(place / "log") as log:
            assert log.tell() == (place / "log").stat().st_size
            log.write(line)
    assert (place / "log").read_bytes() == b"one\ntwo\n"
    assert (place / "log").stat().st_mode & 0o777 == 0o600


def test_code_of_another_user_for_triton(place, state, monkeypatch):
    monkeypatch.setattr(sys.modules["baton.local.assemble"], "_digest", lambda *_: "digest")
    as_nobody(lambda: (state / "backends" / "digest").mkdir(parents=True))
    with pytest.raises(Untrusted, match="backends belongs to nobody"):
        assemble(None, [], state)


def test_a_backup_to_where_everybody_may_write(place):
    Journal(place / "state" / JOURNAL).close()
    (place / "open").mkdir()
    (place / "open").chmod(0o777)
    with pytest.raises(Refused, match=r"Every user can write in .*open"):
        backup.backup(place / "state", place / "open", force=False)
    (place / "open").chmod(0o1777)
    made = Path(backup.backup(place / "state", place / "open", force=False).file)
    assert (made.stat().st_uid, made.stat().st_mode & 0o777) == (0, 0o600)


def warning(place, name="repository writers"):
    (check,) = (
        c for c in (files.others(place / "models", place / "state"), files.private(place / "state")) if c.name == name
    )
    return check


def test_doctor_tells_who_can_write_in_the_repository(place):
    (place / "models" / "engine").mkdir(parents=True)
    assert warning(place).ok is True
    for folder in (place, place / "models", place / "models" / "engine"):
        folder.chmod(0o777)
        assert warning(place).ok is None
        assert f"every user of this machine can write in {folder}" in warning(place).message
        folder.chmod(0o1777)
        assert (warning(place).ok is True) == (folder == place)  # in a sticky folder nobody renames the repository
        folder.chmod(0o755)
    give(place / "models" / "engine")
    assert f"nobody can write in {place / 'models' / 'engine'}" in warning(place).message
    (place / "state").mkdir()
    give(place / "state")  # nobody is the user who runs Baton, then
    assert warning(place).ok is True
    assert "belongs to nobody" in warning(place, "state private").message
    os.chown(place / "models", 0, 65534)
    (place / "models").chmod(0o2775)
    assert f"the group nogroup can write in {place / 'models'}" in warning(place).message
