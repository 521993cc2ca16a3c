from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.support.evidence import rests_on
from tests.unit.verify.tiny import edit, files, safetensors, write

from baton.domain import Release, Verdict
from baton.errors import CheckpointError, NoRoom, Refused, RepositoryError, UsageError
from baton.evidence import IntegrityEvidence
from baton.push import push
from baton.staging import VERIFYING
from baton.verify.checkpoint import describe, read_meta
from baton.verify.integrity import check_integrity
from baton.verify.sums import SUMS

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "models"
    (folder / "engine").mkdir(parents=True)
    (folder / "engine" / "config.pbtxt").write_text("")
    return folder


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "source")


def staging_of(repository):
    return repository.with_name(f"models.staging-{os.geteuid()}") / "engine"


def left_in_staging(repository):
    staging = staging_of(repository)
    return sorted(path.name for path in staging.iterdir() if path.name != ".lock") if staging.exists() else []


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_first_push_becomes_version_one(repository, source):
    (source / SHARDS[0]).chmod(0o600)
    seen = []
    pushed = push(source, repository, "engine", progress=lambda *step: seen.append(step))
    assert (pushed.version, pushed.folder, pushed.resumed) == (1, repository / "engine" / "1", False)
    there = content(pushed.folder)
    sums = there.pop("SHA256SUMS").decode()
    assert there == files()
    assert sums == "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files().items()))
    assert pushed.bytes == sum(map(len, there.values())) + len(sums)
    assert check_integrity(describe(pushed.folder)).verdict is Verdict.PASS
    assert oct(pushed.folder.stat().st_mode & 0o777) == "0o755"
    assert {oct(path.stat().st_mode & 0o777) for path in pushed.folder.iterdir()} == {"0o644"}
    assert left_in_staging(repository) == []
    total = sum(map(len, files().values()))
    copied = [step for step in seen if step[2] != VERIFYING]
    assert copied[-1][:2] == (total, total)
    assert {step[2] for step in copied} == set(files())
    assert seen[-1] == (total, total, VERIFYING)


def test_a_number_is_never_used_twice(repository, source):
    engine = repository / "engine"
    assert push(source, repository, "engine", floor=4).version == 5
    shutil.rmtree(engine / "5")
    assert push(source, repository, "engine", floor=5).version == 6
    for name in ("008", "9b", "notes"):
        (engine / name).mkdir()
    (engine / "11").symlink_to("/nowhere")
    (engine / "12").write_text("a file")
    assert push(source, repository, "engine", floor=5).version == 13
    with pytest.raises(Refused, match="larger than any"):
        push(source, repository, "engine", floor=2**31 - 1)


def test_label_and_release_are_written_and_the_rest_stays(repository, source):
    assert read_meta(push(source, repository, "engine").folder).label == "1"
    folder = push(source, repository, "engine", label="v2", release=Release.RETRAINED).folder
    assert (read_meta(folder).label, read_meta(folder).release) == ("v2", Release.RETRAINED)
    (source / "version.toml").write_text('label = "old"\nnotes = "kept"\n[metrics]\nndcg = 0.9\n')
    folder = push(source, repository, "engine", label="new").folder
    meta = read_meta(folder)
    assert (meta.label, meta.notes, meta.metrics, meta.declared) == ("new", "kept", {"ndcg": 0.9}, False)
    assert "version.toml" not in (folder / "SHA256SUMS").read_text()
    assert read_meta(source).label == "old"
    with pytest.raises(CheckpointError, match="label"):
        push(source, repository, "engine", label="\x1b[2J")


def test_sums_of_the_source_are_verified(repository, tmp_path):
    source = write(tmp_path / "source", sums=True)
    folder = push(source, repository, "engine").folder
    assert describe(folder).value(SUMS) == describe(source).value(SUMS)
    (source / "version.toml").write_text('label = "a"\n')
    with (source / "SHA256SUMS").open("a") as file:
        file.write(hashlib.sha256(b'label = "a"\n').hexdigest() + "  version.toml\n")
    folder = push(source, repository, "engine", label="b").folder
    assert rests_on(check_integrity(describe(folder)), IntegrityEvidence).hashed_files == len(files())
    write(source, files(fill=1))
    with pytest.raises(CheckpointError, match=r"model-00001-of-00002.safetensors of .*source has SHA-256"):
        push(source, repository, "engine")
    assert left_in_staging(repository) == []


def test_what_is_no_checkpoint_never_reaches_the_repository(repository, source):
    for name, data in (("merges.txt", b"\x7fELF"), ("config.json", b"x"), (SHARDS[0], files()[SHARDS[0]][:-1])):
        write(source)
        (source / name).write_bytes(data)
        with pytest.raises(CheckpointError, match=name):
            push(source, repository, "engine")
        (source / name).unlink()
    assert os.listdir(repository / "engine") == ["config.pbtxt"]  # noqa: PTH208
    assert left_in_staging(repository) == []


def test_a_cache_of_links_is_copied_as_files(repository, tmp_path):
    blobs = write(tmp_path / "hub" / "blobs")
    snapshot = tmp_path / "hub" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for name in files():
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    (tmp_path / "hub" / "sub").mkdir()
    (tmp_path / "hub" / "sub" / "config.json").write_text("{}")
    (snapshot / "1_Pooling").symlink_to("../../sub")
    (snapshot / ".git").mkdir()
    (snapshot / ".git" / "hook.py").write_text("")
    folder = push(snapshot, repository, "engine").folder
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    there = content(folder)
    assert there.keys() - {"SHA256SUMS"} == content(blobs).keys()
    assert check_integrity(describe(folder)).verdict is Verdict.PASS


def test_places_that_make_no_sense(repository, source, tmp_path):
    with pytest.raises(UsageError, match="not a folder"):
        push(tmp_path / "gone", repository, "engine")
    with pytest.raises(Refused, match="no engine other"):
        push(source, repository, "other")
    with pytest.raises(UsageError, match="name of an engine"):
        push(source, repository, "../engine")
    inside = write(repository / "engine" / "1")
    with pytest.raises(Refused, match="lies in the other"):
        push(inside, repository, "engine")
    with pytest.raises(Refused, match="lies in the other"):
        push(tmp_path, repository, "engine")


CHILD = """
import sys
from pathlib import Path
from baton.push import push

told = []

def stop_here(done, total, name):
    told.append(name)
    if told.count(sys.argv[3]) == 2:  # before its first byte, and after some
        print("in the middle", flush=True)
        sys.stdin.read()

push(Path(sys.argv[1]), Path(sys.argv[2]), "engine", progress=stop_here)
"""


def killed_at(name, source, repository):
    command = [sys.executable, "-c", CHILD, str(source), str(repository), name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "in the middle\n"
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL


def test_a_push_killed_in_the_middle_is_resumed(repository, source):
    killed_at(SHARDS[1], source, repository)
    assert os.listdir(repository / "engine") == ["config.pbtxt"]  # noqa: PTH208
    (staged,) = (path for path in staging_of(repository).iterdir() if path.is_dir())
    inode = (staged / SHARDS[0]).stat().st_ino
    assert (staged / SHARDS[1]).exists()
    (staged / "left.over").write_text("x")
    steps = []
    pushed = push(source, repository, "engine", progress=lambda *step: steps.append(step))
    assert pushed.resumed
    assert pushed.version == 1
    assert (pushed.folder / SHARDS[0]).stat().st_ino == inode
    assert SHARDS[0] not in {step[2] for step in steps}
    assert content(pushed.folder).keys() - {"SHA256SUMS"} == files().keys()
    assert left_in_staging(repository) == []


def test_what_changed_at_the_source_is_copied_again(repository, source):
    killed_at(SHARDS[1], source, repository)
    write(source, files(fill=3))
    folder = push(source, repository, "engine").folder
    assert (folder / SHARDS[0]).read_bytes() == files(fill=3)[SHARDS[0]]


def test_a_kept_file_that_was_damaged_is_found_out(repository, source):
    killed_at(SHARDS[1], source, repository)
    (staged,) = (path for path in staging_of(repository).iterdir() if path.is_dir())
    (staged / SHARDS[0]).write_bytes(files(fill=9)[SHARDS[0]])
    with pytest.raises(CheckpointError, match=SHARDS[0]):
        push(source, repository, "engine")
    assert not push(source, repository, "engine").resumed


@pytest.mark.parametrize("record", ["", "{", "[1]", '{"config.json": 3}', '{"config.json": ["a", "b", "c"]}'])
def test_a_record_that_was_cut_off_costs_only_a_copy(repository, source, record):
    killed_at(SHARDS[1], source, repository)
    (path,) = staging_of(repository).glob("*.json")
    path.write_text(record)
    assert push(source, repository, "engine").version == 1


def test_without_room_nothing_is_copied(repository, source, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10**9, 10**9, 1 << 20))
    with pytest.raises(NoRoom, match=r"1\.0 MiB are free.*Nothing was copied"):
        push(source, repository, "engine")
    (staged,) = (path for path in staging_of(repository).iterdir() if path.is_dir())
    assert content(staged) == {}


def test_a_disk_that_fills_up_meanwhile(tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting takes root")
    try:
        (disk / "models" / "engine").mkdir(parents=True)
        source = write(tmp_path / "source")
        (source / "merges.txt").write_bytes(b"a b\n" * 75_000)
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10**9, 0, 10**9))
        with pytest.raises(RepositoryError, match="full: No space left"):
            push(source, disk / "models", "engine")
        assert list((disk / "models" / "engine").iterdir()) == []
        assert left_in_staging(disk / "models") == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_file_larger_than_the_system_allows(repository, source, tmp_path):
    (source / "merges.txt").write_bytes(b"a b\n" * 75_000)
    code = (
        "import resource, sys; from pathlib import Path; from baton.push import push; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
        f"push(Path({str(source)!r}), Path({str(repository)!r}), 'engine')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "RepositoryError" in done.stderr
    assert "File too large" in done.stderr
    assert left_in_staging(repository) == []


def test_another_error_of_the_disk_keeps_what_was_copied(repository, source, monkeypatch):
    real = os.fsync
    calls = []

    def faulty(descriptor):
        calls.append(descriptor)
        if len(calls) == 4:
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", faulty)
    with pytest.raises(RepositoryError, match="Input/output error"):
        push(source, repository, "engine")
    assert left_in_staging(repository)
    monkeypatch.undo()
    assert push(source, repository, "engine").resumed


def test_a_source_that_changes_meanwhile(repository, source):
    def meddle(done, total, name):
        if name == "config.json" and done:
            edit(source, "config.json", more=1)

    with pytest.raises(Refused, match=r"config.json changed while"):
        push(source, repository, "engine", progress=meddle)
    assert push(source, repository, "engine").version == 1


def test_another_file_system_is_told(repository, source, monkeypatch):
    real, home = os.fstat, (repository / "engine").stat().st_ino

    def elsewhere(descriptor):
        status = real(descriptor)
        if status.st_ino == home:
            return os.stat_result([*status[:2], status.st_dev + 1, *status[3:]])
        return status

    monkeypatch.setattr(os, "fstat", elsewhere)
    with pytest.raises(RepositoryError, match="different file systems"):
        push(source, repository, "engine")


def test_two_pushes_at_once_get_two_numbers(repository, tmp_path):
    sources = [write(tmp_path / str(number), fill=number) for number in range(4)]
    gate = threading.Barrier(len(sources))

    def together(source):
        gate.wait()
        return push(source, repository, "engine")

    with ThreadPoolExecutor(len(sources)) as pool:
        pushed = list(pool.map(together, sources))
    assert sorted(one.version for one in pushed) == [1, 2, 3, 4]
    for number, one in enumerate(pushed):
        assert (one.folder / SHARDS[0]).read_bytes() == files(fill=number)[SHARDS[0]]
    assert left_in_staging(repository) == []


def test_the_same_source_pushed_twice_at_once(repository, source):
    with ThreadPoolExecutor(2) as pool:
        pushed = list(pool.map(lambda _: push(source, repository, "engine"), range(2)))
    assert sorted(one.version for one in pushed) == [1, 2]


def test_a_number_taken_at_the_last_moment(repository, source, monkeypatch):
    real = os.rename

    def late(name, target, **where):
        if target == "1":
            write(repository / "engine" / "1", {"somebody": b"else"})
        return real(name, target, **where)

    monkeypatch.setattr(os, "rename", late)
    assert push(source, repository, "engine").version == 2
    assert content(repository / "engine" / "1") == {"somebody": b"else"}


def test_a_single_file_of_weights(repository, tmp_path):
    single = {name: data for name, data in files().items() if "model" not in name}
    single["config.json"] = json.dumps({"model_type": "x"}).encode()
    single["model.safetensors"] = safetensors({"w": (3,)})
    folder = push(write(tmp_path / "source", single), repository, "engine").folder
    assert content(folder).keys() == {*single, "SHA256SUMS"}
