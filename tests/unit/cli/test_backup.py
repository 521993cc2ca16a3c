"""``ctl backup`` and ``ctl restore``: what they print, and what they refuse. What a restore leads to: engine_loop."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from tests.support.reasons import plain
from tests.unit.cli.conftest import Ctl, tidy

from baton.api import SOCKET, claim
from baton.cli import follow
from baton.journal import EVERY_SERVICE, JOURNAL, Journal
from baton.reasons import Reason, because
from baton.schema import SCHEMA_VERSION

SECRET = "only its owner may read what persons wrote"


@pytest.fixture
def journal(state: Path) -> Path:
    """A journal with one event, of which no control plane is in use."""
    path = state / JOURNAL
    made = Journal(path)
    made.events.append(1_767_225_600.0, "note", plain(SECRET), who="ann")
    made.close()
    return path


def test_there_and_back(ctl: Ctl, journal: Path, tmp_path: Path) -> None:
    copied = ctl("backup", str(tmp_path / "b.db"))
    assert copied.exit_code == 0
    assert "0 rollouts, the last entry of 2026-01-01T00:00:00Z" in " ".join(copied.stdout.split())
    tidy(copied.stderr)
    more = Journal(journal)
    more.events.append(1_767_225_700.0, "note", plain("later"), who="ann")
    more.close()
    done = ctl("restore", str(tmp_path / "b.db"))
    assert done.exit_code == 0
    assert f"{JOURNAL}.before-" in done.stdout
    assert "`ctl resume`" in " ".join(done.stderr.split())
    tidy(done.stderr)
    back = Journal(journal)
    noted, told = back.events.newest()
    assert (noted["kind"], noted["message"]) == ("note", SECRET)
    assert told["kind"] == "restore"
    assert told["why"] == because(Reason.RESTORED, file="b.db", last="2026-01-01T00:00:00Z")
    assert back.notes.paused().get(EVERY_SERVICE) is True
    back.close()


def test_as_data(ctl: Ctl, journal: Path, tmp_path: Path) -> None:
    made = json.loads(ctl("--output", "json", "backup", str(tmp_path)).stdout)
    assert set(made) == {"file", "bytes", "rollouts", "last_entry"}
    assert Path(made["file"]).stat().st_size == made["bytes"]
    done = json.loads(ctl("--output", "json", "restore", made["file"]).stdout)
    assert set(done) == {"journal", "restored_from", "last_entry", "kept", "turned_back", "paused"}
    assert Path(done["kept"]).is_file()


def test_its_owner_alone_may_read_it(ctl: Ctl, journal: Path, tmp_path: Path) -> None:
    journal.chmod(0o644)
    before = os.umask(0)
    try:
        assert ctl("backup", str(tmp_path / "b.db")).exit_code == 0
        assert ctl("restore", str(tmp_path / "b.db")).exit_code == 0
    finally:
        os.umask(before)
    for file in (tmp_path / "b.db", journal):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_nothing_is_replaced_unasked(ctl: Ctl, journal: Path, tmp_path: Path) -> None:
    (tmp_path / "b.db").write_text("mine")
    refused = ctl("backup", str(tmp_path / "b.db"))
    assert refused.exit_code == 3
    assert "--force" in refused.stderr
    assert (tmp_path / "b.db").read_text() == "mine"
    assert ctl("backup", str(tmp_path / "b.db"), "--force").exit_code == 0


def test_no_place_for_it(ctl: Ctl, journal: Path, tmp_path: Path) -> None:
    refused = ctl("backup", str(tmp_path / "no" / "b.db"))
    assert refused.exit_code == 3
    assert "No such file or directory" in " ".join(refused.stderr.split())


def test_a_state_directory_in_use_is_not_restored(ctl: Ctl, journal: Path, state: Path, tmp_path: Path) -> None:
    assert ctl("backup", str(tmp_path / "b.db")).exit_code == 0
    before = journal.read_bytes()
    with claim(state / SOCKET):
        refused = ctl("restore", str(tmp_path / "b.db"))
        assert ctl("backup", str(tmp_path / "c.db")).exit_code == 0, "a copy disturbs nobody"
    assert refused.exit_code == 3
    assert f"process {os.getpid()}" in " ".join(refused.stderr.split())
    assert journal.read_bytes() == before


@pytest.mark.parametrize("what", ["text", "other"])
def test_what_is_no_backup(ctl: Ctl, journal: Path, tmp_path: Path, what: str) -> None:
    file = tmp_path / "b.db"
    file.write_text("some text, and no journal of Baton's" * 99)
    if what == "other":
        file.unlink()
        other = Journal(file)
        other.database.connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        other.close()
    refused = ctl("restore", str(file))
    assert refused.exit_code == 1
    told = " ".join(refused.stderr.split())
    assert str(file) in told
    assert "as it was; name another backup" in told
    assert ctl("restore", str(tmp_path / "nothing.db")).exit_code == 2


def test_a_first_journal_may_come_from_a_backup(ctl: Ctl, journal: Path, tmp_path: Path) -> None:
    """On another machine, say."""
    assert ctl("backup", str(tmp_path / "b.db")).exit_code == 0
    done = ctl("--state", str(tmp_path / "new"), "--output", "json", "restore", str(tmp_path / "b.db"))
    assert done.exit_code == 0
    assert json.loads(done.stdout)["kept"] is None
    assert (tmp_path / "new" / JOURNAL).is_file()


@pytest.mark.parametrize("verb", ["backup", "restore"])
def test_another_machine_is_not_taken_for_this_one(ctl: Ctl, journal: Path, tmp_path: Path, verb: str) -> None:
    file = tmp_path / "b.db"
    assert ctl("backup", str(file)).exit_code == 0
    before = {p: p.read_bytes() for p in journal.parent.iterdir() if p.is_file()}
    refused = ctl("--server", "https://elsewhere:9465", verb, str(file))
    assert refused.exit_code == 2
    assert f"`ctl {verb}` works on the state directory of this machine" in " ".join(refused.stderr.split())
    assert {p: p.read_bytes() for p in journal.parent.iterdir() if p.is_file()} == before


def test_a_person_is_asked_before_the_journal_is_replaced(
    ctl: Ctl, journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ctl("backup", str(tmp_path / "b.db")).exit_code == 0
    monkeypatch.setattr(follow, "can_ask", lambda: True)
    before = journal.stat().st_ino
    declined = ctl("restore", str(tmp_path / "b.db"), input="n\n")
    assert "Nothing was done." in declined.stderr
    assert declined.exit_code != 0
    assert journal.stat().st_ino == before
    assert ctl("restore", str(tmp_path / "b.db"), "--yes").exit_code == 0
