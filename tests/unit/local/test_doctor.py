"""Every check that fails says how to mend it."""

from __future__ import annotations

import shutil
import socket
from functools import partial
from types import SimpleNamespace

import pytest

from baton import doctor
from baton.watch.watcher import file_system


def by_name(results):
    return {check.name: check for check in results}


def test_what_is_missing_is_told_with_its_mend(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        results = doctor.checks(
            repository=tmp_path,
            state=tmp_path,
            triton=tmp_path,
            ports={"grpc": port},
            engine_packages=["numpy", "no_such_package"],
        )
    found = by_name(results)
    assert found["tritonserver"].ok is False
    assert found["port grpc"].ok is False
    assert f"Port {port} (grpc)" in found["port grpc"].message
    assert "--grpc-port" in found["port grpc"].mend
    assert found["engine packages"].message == "not installed beside Baton: no_such_package"
    assert all(check.mend for check in results if check.ok is not True)


def test_a_server_that_does_not_run(tmp_path, monkeypatch):
    class Installed:
        binary = tmp_path / "tritonserver"
        libraries = ()
        version = None
        source = "installed"

    Installed.binary.write_text("#!/bin/sh\necho 'libdcgm.so.3: cannot open shared object file' >&2\nexit 127\n")
    Installed.binary.chmod(0o755)
    check = doctor._runs(Installed)
    assert check.ok is False
    assert "libdcgm.so.3" in check.message


def test_too_little_space(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "MINIMUM_DISK", 2**62)
    check = doctor._disk("disk", tmp_path)
    assert check.ok is False
    assert check.mend


def test_the_file_system_of_a_path(tmp_path, monkeypatch):
    table = tmp_path / "mountinfo"
    table.write_text(
        f"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:1 / {tmp_path}/with\\040blank rw - nfs4 host:/x rw\n"
        f"3 1 0:2 / {tmp_path}/other rw - tmpfs tmpfs rw\n"
    )
    monkeypatch.setattr(doctor, "file_system", partial(file_system, mountinfo=table))
    (tmp_path / "with blank").mkdir()
    remote = doctor._file_system(tmp_path / "with blank" / "deeper")
    assert remote.ok is None
    assert "nfs4" in remote.message
    local = doctor._file_system(tmp_path)
    assert (local.ok, local.message) == (True, "ext4")
    table.write_text("")
    assert doctor._file_system(tmp_path).message == "unknown"


def test_a_network_file_system_advises_polling(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "file_system", lambda path: "nfs4")
    check = doctor._file_system(tmp_path)
    assert check.ok is None
    assert "poll" in check.mend


def test_a_state_directory_on_a_network_file_system(tmp_path, monkeypatch):
    assert doctor._state_file_system(tmp_path).ok
    monkeypatch.setattr(doctor, "file_system", lambda path: "nfs4")
    check = doctor._state_file_system(tmp_path)
    assert check.ok is None
    assert "two control planes may act at once" in check.message
    assert "a disk of this machine" in check.mend


def test_a_state_directory_that_others_may_open(tmp_path):
    state = tmp_path / "state"
    assert doctor._private(state).ok is True  # Baton makes it
    state.mkdir(mode=0o700)
    assert doctor._private(state).ok is True
    state.chmod(0o750)
    check = doctor._private(state)
    assert (check.ok, check.mend) == (None, f"chmod 700 {state}")
    assert "mode 0750" in check.message


@pytest.mark.parametrize(("free", "ok"), [(10_000, True), (2_000, True), (1_999, None), (0, None)])
def test_room_for_versions(tmp_path, monkeypatch, free, ok):
    for version, size in ((1, 500), (2, 1_000)):
        (tmp_path / "engine" / str(version)).mkdir(parents=True)
        (tmp_path / "engine" / str(version) / "weights").write_bytes(bytes(size))
    (tmp_path / "engine" / "config.pbtxt").write_text("name: 'engine'")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=free))
    check = doctor.room_for_versions(tmp_path, "ranker", "engine", 5)
    assert check.ok is ok
    assert f"{free // 1_000} more of the size of version 2 (1000 bytes) fit" in check.message
    assert "2 on disk take 1.5 KiB" in check.message
    assert "keep_versions = 5 holds up to 6.8 KiB" in check.message
    assert (check.mend is None) is (ok is True)


def test_room_for_versions_before_there_is_any(tmp_path):
    assert doctor.room_for_versions(tmp_path, "ranker", "engine", None).ok
    (tmp_path / "engine").mkdir()
    assert doctor.room_for_versions(tmp_path, "ranker", "engine", None).ok
    (tmp_path / "engine" / "1").symlink_to(tmp_path)
    assert doctor.room_for_versions(tmp_path, "ranker", "engine", 5).ok
