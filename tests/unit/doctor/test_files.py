"""The state directory, the repository's folder, keys and leftovers."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from baton.beside import folder_beside
from baton.config import ApiConfig, Config, ControlConfig, ServerConfig, load
from baton.doctor import files
from baton.errors import Refused
from baton.watch.watcher import file_system

OLD = time.time() - 2 * files.LEFT_AFTER_S


def test_all_of_a_place_that_is_well(tmp_path: Path) -> None:
    found = list(files.repository_and_state(load(None)))
    assert {one.name for one in found} >= {"repository disk", "state private", "push", "leftovers", "file watches"}
    assert len({one.name for one in found}) == len(found)
    assert all(one.mend is None for one in found if one.verdict in {"ok", "skipped"})


def test_too_little_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert files.disk("disk", tmp_path).ok is not None
    monkeypatch.setattr(files, "MINIMUM_DISK", 2**62)
    found = files.disk("disk", tmp_path)
    assert found.verdict == "fail"
    assert found.mend


def test_a_place_that_can_not_be_written(tmp_path: Path) -> None:
    assert files.writable("state", tmp_path / "new").message.endswith(f"{tmp_path / 'new'} will be made")
    found = files.writable("state", Path("/proc"))
    assert (found.name, found.verdict) == ("state writable", "fail")
    assert found.mend


def test_a_state_directory_that_others_may_open(tmp_path: Path) -> None:
    state = tmp_path / "state"
    missing = files.private(state)
    assert (missing.verdict, state.exists()) == ("ok", False)
    assert missing.fix is not None
    missing.fix.act()
    assert state.stat().st_mode & 0o777 == 0o700
    assert files.private(state).verdict == "ok"
    assert files.private(state).fix is None
    state.chmod(0o750)
    found = files.private(state)
    assert (found.verdict, found.mend) == ("warn", f"chmod 700 {state}")
    assert "mode 0750" in found.message
    assert found.fix is not None
    found.fix.act()
    assert files.private(state).verdict == "ok"


def test_a_mode_is_not_changed_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir(mode=0o755)
    (tmp_path / "state").symlink_to("other")
    found = files.private(tmp_path / "state")
    assert found.fix is not None
    with pytest.raises(OSError, match="state"):
        found.fix.act()
    assert (tmp_path / "other").stat().st_mode & 0o777 == 0o755


def test_the_file_system_of_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        f"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:1 / {tmp_path}/with\\040blank rw - nfs4 host:/x rw\n"
        f"3 1 0:2 / {tmp_path}/other rw - tmpfs tmpfs rw\n"
    )
    monkeypatch.setattr(files, "file_system", partial(file_system, mountinfo=table))
    (tmp_path / "with blank").mkdir()
    remote = files.repository_file_system(tmp_path / "with blank" / "deeper")
    assert remote.verdict == "warn"
    assert "nfs4" in remote.message
    assert "poll" in (remote.mend or "")
    local = files.repository_file_system(tmp_path)
    assert (local.ok, local.message) == (True, "ext4")
    table.write_text("")
    assert files.repository_file_system(tmp_path).message == "unknown"


def test_a_state_directory_on_a_network_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert files.state_file_system(tmp_path).ok
    monkeypatch.setattr(files, "file_system", lambda path: "nfs4")
    found = files.state_file_system(tmp_path)
    assert found.verdict == "warn"
    assert "two control planes may act at once" in found.message
    assert "a disk of this machine" in (found.mend or "")


def test_a_file_system_on_which_locks_hold_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert files.locks(tmp_path)
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    found = files.state_file_system(tmp_path)
    assert found.verdict == "fail"
    assert "without locks" in found.message


def test_a_push_that_can_publish_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "models"
    assert files.renames(repository, ["engine"]).verdict == "skipped"
    (repository / "engine").mkdir(parents=True)
    assert files.renames(repository, ["engine", "not there"]).verdict == "ok"
    monkeypatch.setattr(files, "mount", lambda path: "7" if path.name == "engine" else "8")
    found = files.renames(repository, ["engine"])
    assert found.verdict == "fail"
    assert found.mend == f"Mount {tmp_path} instead of {repository / 'engine'}."


def test_a_mount_of_its_own_is_another_mount(tmp_path: Path) -> None:
    assert files.mount(tmp_path) == files.mount(tmp_path.parent)
    assert files.mount(Path("/proc")) != files.mount(tmp_path)


def test_a_place_where_nothing_can_be_staged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    found = files.renames(tmp_path / "models", [])
    assert found.verdict == "warn"
    assert f"-m 700 {folder_beside(tmp_path / 'models')}" in (found.mend or "")


def test_few_file_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    assert files.watches().verdict == "ok"
    monkeypatch.setattr(files, "MINIMUM_WATCHES", 1 << 40)
    assert files.watches().verdict == "warn"


def with_keys(tmp_path: Path) -> Config:
    for name in ("key", "token"):
        (tmp_path / name).write_text("a-planted-secret\n")
        (tmp_path / name).chmod(0o600)
    api = ApiConfig("127.0.0.1:1", tmp_path / "cert", tmp_path / "private", tmp_path / "token")
    server = ServerConfig("gpu", "10.0.0.1:1", admin_key_file=tmp_path / "key")
    return Config(servers=(server,), control=ControlConfig(api=api))


def test_keys_that_others_may_read(tmp_path: Path) -> None:
    config = with_keys(tmp_path)
    assert [(one.name, one.verdict) for one in files.keys(config)] == [("key of gpu", "ok"), ("token", "ok")]
    (tmp_path / "key").chmod(0o644)
    (tmp_path / "token").unlink()
    key, token = files.keys(config)
    assert (key.verdict, token.verdict, token.fix) == ("fail", "fail", None)
    assert "a-planted-secret" not in f"{key}{token}"
    assert key.fix is not None
    key.fix.act()
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert next(iter(files.keys(config))).verdict == "ok"


def test_a_key_that_is_no_key_is_left_to_the_person(tmp_path: Path) -> None:
    config = with_keys(tmp_path)
    (tmp_path / "key").write_text("two words\n")
    assert next(iter(files.keys(config))).fix is None


def leave(path: Path, age: float) -> Path:
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"half")
    for one in (path / "model.safetensors", path):
        os.utime(one, (age, age))
    return path


def test_what_a_push_left_behind(tmp_path: Path) -> None:
    repository, state = tmp_path / "models", tmp_path / "state"
    repository.mkdir()
    assert files.leftovers(repository, state).message == "none"
    staging = folder_beside(repository) / "engine"
    recent = leave(staging / "recent", time.time())
    (staging / ".lock").touch()
    found = files.leftovers(repository, state)
    assert (found.verdict, found.fix) == ("ok", None)
    assert "goes on when it is given again" in found.message
    old = [leave(staging / "old", OLD), leave(state / "backends" / ".new-1", OLD)]
    broken = repository / ".engine.config.pbtxt.baton"
    broken.touch()
    os.utime(broken, (OLD, OLD))
    found = files.leftovers(repository, state)
    assert found.verdict == "warn"
    assert "2 more" in found.message
    assert found.fix is not None
    found.fix.act()
    assert [one.exists() for one in (*old, broken, recent)] == [False, False, False, True]
    assert files.leftovers(repository, state).verdict == "ok"


def test_a_push_under_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    old = leave(folder_beside(tmp_path / "models") / "engine" / "old", OLD)
    found = files.leftovers(tmp_path / "models", tmp_path / "state")
    assert found.fix is not None
    with (old.parent / ".lock").open("w") as lock:
        (old.parent / ".lock").chmod(0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Refused, match="under way"):
            found.fix.act()
    assert old.exists()


@pytest.mark.parametrize(("free", "ok"), [(10_000, True), (2_000, True), (1_999, None), (0, None)])
def test_room_for_versions(tmp_path, monkeypatch, free, ok):
    for version, size in ((1, 500), (2, 1_000)):
        (tmp_path / "engine" / str(version)).mkdir(parents=True)
        (tmp_path / "engine" / str(version) / "weights").write_bytes(bytes(size))
    (tmp_path / "engine" / "config.pbtxt").write_text("name: 'engine'")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=free))
    check = files.room_for_versions(tmp_path, "ranker", "engine", 5)
    assert check.ok is ok
    assert f"{free // 1_000} more of the size of version 2 (1000 bytes) fit" in check.message
    assert "2 on disk take 1.5 KiB" in check.message
    assert "keep_versions = 5 holds up to 6.8 KiB" in check.message
    assert (check.mend is None) is (ok is True)


def test_room_for_versions_before_there_is_any(tmp_path):
    assert files.room_for_versions(tmp_path, "ranker", "engine", None).ok
    (tmp_path / "engine").mkdir()
    assert files.room_for_versions(tmp_path, "ranker", "engine", None).ok
    (tmp_path / "engine" / "1").symlink_to(tmp_path)
    assert files.room_for_versions(tmp_path, "ranker", "engine", 5).ok
