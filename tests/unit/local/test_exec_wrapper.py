"""What a command gets before it begins: memory that others can't open, a umask, and no core dumps."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.users import NO_RIGHTS, ORDINARY, TWO_USERS, as_user

from baton.doctor import host
from baton.local import exec_wrapper, procfs
from baton.local.exec_wrapper import OWN, SHARED, Memory

TELL = """
import json, os, resource, sys
place = "/dev/shm/" + sys.argv[1]
made = os.open(place, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
os.fchmod(made, 0o644)  # as boost does
first = os.fstat(made).st_mode & 0o777
os.fchmod(made, 0o640)  # what is no business of the filter's
size = os.statvfs("/dev/shm")
told = {
    "made": first, "changed": os.fstat(made).st_mode & 0o777, "folder": os.stat("/dev/shm").st_mode & 0o777,
    "owner": os.stat("/dev/shm").st_uid, "size": size.f_blocks * size.f_frsize, "umask": os.umask(0),
    "core": resource.getrlimit(resource.RLIMIT_CORE), "user": [os.getuid(), os.getgid()],
    "mounts": os.stat("/proc/self/ns/mnt").st_ino,
    "rights": [line for line in open("/proc/self/status") if line.startswith("CapEff")],
}
os.unlink(place)
print(json.dumps(told))
"""


def run(memory: str, *before: str, words: list[str] | None = None) -> dict[str, Any]:
    command = words or exec_wrapper.wrapped_command(
        [sys.executable, "-c", TELL, f"baton-test-{os.getpid()}"], memory=memory
    )
    done = subprocess.run([*before, *command], capture_output=True, text=True, check=False, umask=0)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def rights() -> str:
    return next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))


def test_it_is_told_what_a_command_gets() -> None:
    memory, why = exec_wrapper.memory_here(OWN)
    told = run(OWN)
    own = told["mounts"] != Path("/proc/self/ns/mnt").stat().st_ino
    assert own == (memory is Memory.OWN)
    assert (why == "the kernel gives it no other ()") == own
    if own:
        machine = os.statvfs("/dev/shm")
        assert (told["folder"], told["owner"]) == (0o700, os.getuid())
        assert told["size"] == machine.f_blocks * machine.f_frsize
    assert told["user"] == [os.getuid(), os.getgid()]
    assert told["umask"] == 0o077
    assert told["core"] == [min(1, resource.getrlimit(resource.RLIMIT_CORE)[1] % 2**64)] * 2
    assert told["rights"] == [f"{rights()}\n"]  # root goes on reading other users' files


@TWO_USERS
def test_an_ordinary_user_gets_it_too_and_no_rights() -> None:
    command = exec_wrapper.wrapped_command([sys.executable, "-c", TELL, "baton-test"], memory=OWN)
    told = run(OWN, words=as_user(ORDINARY, command))
    allowed = subprocess.run(as_user(ORDINARY, ["unshare", "--user", "--mount", "true"]), check=False).returncode == 0
    assert (told["folder"], told["made"]) == ((0o700, 0o644) if allowed else (0o777, 0o600))
    assert told["user"] == [ORDINARY, ORDINARY]
    assert told["rights"] == ["CapEff:\t0000000000000000\n"]


def test_shared_memory_is_closed_from_its_first_moment() -> None:
    told = run(SHARED)
    assert told["mounts"] == Path("/proc/self/ns/mnt").stat().st_ino
    assert (told["made"], told["changed"]) == (0o600, 0o640)
    assert exec_wrapper.memory_here(SHARED) == (Memory.CLOSED, "it uses files that lie there")


@TWO_USERS
def test_where_the_kernel_allows_no_namespace() -> None:
    told = run(OWN, *NO_RIGHTS)
    assert (told["made"], told["changed"]) == (0o600, 0o640)
    code = "from baton.local.exec_wrapper import *; memory, why = memory_here(OWN); print(explain(memory, why))"
    done = subprocess.run([*NO_RIGHTS, sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Triton shares the machine's /dev/shm, since the kernel gives it no other (" in done.stdout
    assert "not permitted" in done.stdout
    assert "other users can't open clients' requests there" in done.stdout


def test_where_there_is_no_filter_either(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(exec_wrapper.__file__).parent)!r}); import exec_wrapper\n"
        "exec_wrapper.FILTERED, sys.argv = {}, ['exec_wrapper', '0', '0', 'shared']\n"
        "exec_wrapper.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == Memory.OPEN
    assert done.stderr == f"no filter for {os.uname().machine}"
    assert "every user of this machine can read" in exec_wrapper.explain(Memory.OPEN, "it is so")


def test_a_command_that_asks_for_none_keeps_what_it_had() -> None:
    told = run("")
    assert (told["made"], told["umask"]) == (0o644, 0)
    assert told["core"] == list(resource.getrlimit(resource.RLIMIT_CORE))


def test_files_in_shared_memory_stay_in_sight(tmp_path: Path) -> None:
    assert exec_wrapper.memory_for(tmp_path / "repository", tmp_path) == OWN
    (tmp_path / "link").symlink_to("/dev/shm/models")
    assert exec_wrapper.memory_for(tmp_path, tmp_path / "link") == SHARED


def test_what_a_try_that_fails_did_is_gone() -> None:
    def act() -> None:
        os.chdir("/proc")
        raise OSError(1, "so it is")

    before = Path.cwd()
    assert exec_wrapper._fails_in_a_child(act) == "so it is"
    assert exec_wrapper._fails_in_a_child(lambda: None) == ""
    assert Path.cwd() == before


@pytest.mark.parametrize(
    ("found", "regions", "starts", "ok", "said"),
    [
        (Memory.OWN, [], True, True, "of its own"),
        (Memory.CLOSED, [], True, None, "since so it is; other users can't open clients' requests"),
        (Memory.OPEN, ["its-own"], True, None, "since so it is; every user of this machine can read"),
        (Memory.OWN, ["a", "b"], True, None, "can read clients' requests in /dev/shm/a and 1 more"),
        (Memory.OWN, ["a"], False, None, "can read clients' requests in /dev/shm/a"),
        (Memory.OWN, [], False, True, "no Triton here leaves them open"),
    ],
)
def test_doctor_tells(
    found: Memory, regions: list[str], said: str, monkeypatch: pytest.MonkeyPatch, *, starts: bool, ok: bool | None
) -> None:
    monkeypatch.setattr(host, "memory_here", lambda _memory: (found, "so it is"))
    monkeypatch.setattr(procfs, "open_regions", lambda: regions)
    check = host.requests(Path("repository"), Path("state"), starts=starts)
    assert check.ok is ok
    assert said in check.message
    assert ok or check.mend


def test_regions_that_everybody_can_read(tmp_path: Path) -> None:
    """A process with a stub's command line stands for another user's Triton."""
    name = f"baton-test-{os.getpid()}-region"
    script = tmp_path / "model" / "1" / "model.py"
    script.parent.mkdir(parents=True)
    script.write_text("print(flush=True); import time; time.sleep(600)")
    region = procfs.SHARED_MEMORY / name
    words = ["triton_python_backend_stub", str(script), name, "1", "1", str(os.getpid())]
    with subprocess.Popen(words, executable=sys.executable, stdout=subprocess.PIPE) as stub:
        try:
            assert stub.stdout is not None
            stub.stdout.readline()
            assert name not in procfs.open_regions()  # in a /dev/shm of its own
            region.touch(mode=0o600)
            assert name not in procfs.open_regions()
            region.chmod(0o644)
            assert name in procfs.open_regions()
        finally:
            stub.kill()
            region.unlink(missing_ok=True)
