"""The machine that Triton runs on: what is installed, what it has, and what a Triton that runs was started with."""

from __future__ import annotations

import importlib.metadata
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support.users import TWO_USERS

from baton.config import Config, load
from baton.doctor import Setup, host, installation
from baton.errors import ConfigError
from baton.local import procfs
from baton.share import shared

OWN = (shared("python_backend"),)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "models").mkdir()
    return replace(load(None), repository=tmp_path / "models", state=tmp_path / "state")


# What is installed


def test_no_triton(tmp_path: Path) -> None:
    (found,) = installation.startable(tmp_path)
    assert (found.name, found.verdict) == ("tritonserver", "fail")
    assert found.mend


def test_a_server_that_does_not_run(tmp_path: Path) -> None:
    binary = tmp_path / "tritonserver"
    binary.write_text("#!/bin/sh\necho 'libdcgm.so.3: cannot open shared object file' >&2\nexit 127\n")
    binary.chmod(0o755)
    here: Any = SimpleNamespace(binary=binary, libraries=(), version=None, source="installed")
    found = installation.runs(here)
    assert found.verdict == "fail"
    assert "libdcgm.so.3" in found.message
    binary.write_text("#!/bin/sh\necho 'Usage: tritonserver'\n")
    assert installation.runs(here).verdict == "ok"


def test_backends_that_are_missing(config: Config, tmp_path: Path) -> None:
    assert installation.own_backends(config, OWN).verdict == "ok"
    assert installation.own_backends(config, ()).verdict == "warn"
    assert installation.own_backends(config, [tmp_path / "none"]).verdict == "fail"
    (tmp_path / "backends" / "qwen3_vl_reranker").mkdir(parents=True)
    found = installation.folder_backends(config, tmp_path / "backends", Path("/opt/tritonserver/backends"))
    assert found.verdict == "fail"
    assert "no splitter, which reranker_splitter needs: no rollout can split traffic" in found.message
    assert (found.mend or "").endswith("/opt/tritonserver/backends/")
    (tmp_path / "backends" / "splitter").mkdir()
    assert installation.folder_backends(config, tmp_path / "backends").verdict == "ok"
    (tmp_path / "backends" / "qwen3_vl_reranker").rmdir()
    assert "no version can be loaded" in installation.folder_backends(config, tmp_path / "backends").message
    assert installation.folder_backends(config, tmp_path / "none").verdict == "skipped"


def test_the_backend_that_a_deployed_engine_names_is_needed(config: Config) -> None:
    engine = config.repository / "qwen3_vl_reranker"
    engine.mkdir()
    (engine / "config.pbtxt").write_text('backend: "toy"\n')
    assert installation.needed_backends(config) == {"toy": "qwen3_vl_reranker", "splitter": "reranker_splitter"}


def test_packages_beside_baton() -> None:
    assert installation.own_packages(["numpy"]).verdict == "ok"
    found = installation.own_packages(["numpy", "no_such_package"])
    assert (found.verdict, "no_such_package: no version" in found.message) == ("fail", True)


def stub_for(tmp_path: Path, version: str) -> Path:
    stub = tmp_path / "triton_python_backend_stub"
    stub.write_bytes(b"\0libpython%s.so.1.0\0" % version.encode())
    return stub


def test_packages_of_the_python_that_triton_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(Path(sys.executable).parent)
    stub = stub_for(tmp_path, f"{sys.version_info.major}.{sys.version_info.minor}")
    assert installation.interpreter_packages(stub, path, ["numpy"]).verdict == "ok"
    # A folder in PYTHONPATH is none that Triton's stubs look into.
    (tmp_path / "no_such_package.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    missing = installation.interpreter_packages(stub, path, ["numpy", "no_such_package"])
    assert missing.verdict == "fail"
    assert "lacks no_such_package" in missing.message
    other = installation.interpreter_packages(stub_for(tmp_path, "3.7"), path, ["numpy"])
    assert (other.verdict, "run Python 3.7" in other.message) == ("warn", True)
    assert installation.interpreter_packages(stub, str(tmp_path), ["numpy"]).verdict == "skipped"
    assert installation.interpreter_packages(tmp_path / "none", path).verdict == "skipped"


def test_a_triton_that_is_installed_and_does_not_run(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("qwen3_vl_reranker", "splitter", "python"):
        (tmp_path / "backends" / name).mkdir(parents=True)
    monkeypatch.setattr(installation, "find_binary", lambda: tmp_path / "bin" / "tritonserver")
    server, backends, packages = installation.installed(config)
    assert (server.verdict, backends.verdict, packages.verdict) == ("ok", "ok", "skipped")

    def none() -> Path:
        raise ConfigError("No Triton is installed here.")

    monkeypatch.setattr(installation, "find_binary", none)
    (found,) = installation.installed(config)
    assert found.verdict == "fail"


# What the machine has


def test_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "available_memory", lambda: 1 << 40)
    assert host.memory().verdict == "ok"
    monkeypatch.setattr(host, "available_memory", lambda: 1 << 20)
    assert host.memory().verdict == "fail"
    monkeypatch.setattr(host, "available_memory", lambda: None)
    assert host.memory().verdict == "warn"


def space(free: int) -> Any:
    return lambda _: SimpleNamespace(f_bavail=free, f_frsize=1)


def test_shared_memory_as_a_container_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", space(1 << 30))
    tmp_path.chmod(0o1777)
    assert host.shared_memory(tmp_path).verdict == "ok"
    monkeypatch.setattr(os, "statvfs", space(64 << 20))
    found = host.shared_memory(tmp_path)
    assert found.verdict == "fail"
    assert "--shm-size" in (found.mend or "")
    monkeypatch.setattr(os, "statvfs", space(1 << 30))
    tmp_path.chmod(0o777)
    assert host.shared_memory(tmp_path).mend == "chmod 1777 /dev/shm"
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    tmp_path.chmod(0o755)
    assert "no version can be loaded" in host.shared_memory(tmp_path).message
    assert host.shared_memory(tmp_path / "none").verdict == "fail"


def test_few_open_files() -> None:
    assert host.open_files(65536, "Triton").verdict == "ok"
    assert host.open_files(resource.RLIM_INFINITY, "Triton").message == "without limit"
    assert host.open_files(1024, "Triton").verdict == "warn"


NVIDIA_SMI = {
    "echo 'No devices were found'": ("warn", "one is there and can't be used: No devices were found"),
    "true": ("warn", "can't be used: nvidia-smi ended with 0"),
    "echo 'NVIDIA H200, 139000 MiB, 143771 MiB, 570.1'": ("ok", "NVIDIA H200: 139000 MiB of 143771 MiB free"),
    "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18": (
        "warn",
        "can't be used: Failed to init",
    ),
}


@pytest.mark.parametrize("script", NVIDIA_SMI)
def test_a_gpu(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict, told = NVIDIA_SMI[script]
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(host, "has_gpu", lambda: True)
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "2.13.0")
    found = host.gpu()
    assert found.verdict == verdict
    assert told in found.message
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "2.13.0+cpu")
    assert host.gpu().verdict == "warn"
    monkeypatch.setattr(host, "has_gpu", lambda: False)
    assert host.gpu().verdict == "ok"


# A Triton that runs


@contextmanager
def running(*options: str, limit: int = host.MINIMUM_FILES) -> Iterator[host.Running]:
    """A process with a Triton's name and command line."""
    code = "print('up', flush=True); import sys; sys.stdin.read()"
    words = ["tritonserver", "-c", code, *options]
    with subprocess.Popen(words, executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (limit, limit))
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        try:
            (one,) = [host.Running(*found) for found in procfs.servers() if found[0] == process.pid]
            yield one
        finally:
            process.stdin.close()


def by_name(found: Any) -> dict[str, Any]:
    return {one.name: one for one in found}


def test_a_triton_that_was_started_well(config: Config, tmp_path: Path) -> None:
    for name in ("qwen3_vl_reranker", "splitter"):
        (tmp_path / "backends" / name).mkdir(parents=True)
    with running(
        f"--model-repository={config.repository}", f"--backend-directory={tmp_path / 'backends'}",
        "--model-control-mode", "explicit", "--load-model=reranker", "--load-model", "qwen3_vl_reranker",
    ) as server:  # fmt: skip
        assert server in host.servers_of(config)
        found = by_name(host.running(config, server))
    assert {name: one.verdict for name, one in found.items()} == {
        "control mode": "ok", "served folder": "ok", "models at start": "ok", "rights of Triton": "ok",
        "open files": "ok", "backends": "ok", "engine packages": "skipped", "its shared memory": "ok",
    }  # fmt: skip


def test_a_triton_that_was_started_wrongly(config: Config, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with running("--model-repository", str(tmp_path / "other"), "--model-control-mode=poll", limit=512) as server:
        assert server not in host.servers_of(config)
        found = by_name(host.running(config, server))
        assert any("(" in name for name in by_name(host.running(config, server, several=True)))
    assert {name: one.verdict for name, one in found.items() if name not in {"backends", "engine packages"}} == {
        "control mode": "fail", "served folder": "fail", "models at start": "warn", "rights of Triton": "ok",
        "open files": "warn", "its shared memory": "ok",
    }  # fmt: skip
    assert "before any gate" in found["control mode"].message
    assert str(tmp_path / "other") in found["served folder"].message
    assert "--load-model=reranker --load-model=qwen3_vl_reranker" in found["models at start"].mend


def test_a_repository_that_is_named_from_where_triton_was_started(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with running("--model-repository=models", "--backend-directory=backends") as server:
        monkeypatch.chdir("/")
        assert server in host.servers_of(config)
        assert host.repository(config, server).verdict == "ok"


def test_no_program_of_another_users_is_run(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """He chose his Triton's PATH, and root asks this command."""
    program, trace = tmp_path / "bin" / "python3", tmp_path / "trace"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {trace}\n")
    program.chmod(0o755)
    (tmp_path / "backends" / "python").mkdir(parents=True)
    stub_for(tmp_path / "backends" / "python", "3.11")
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    with running(f"--model-repository={config.repository}", f"--backend-directory={tmp_path / 'backends'}") as server:
        list(host.running(config, server))
        assert trace.exists(), "of this user's own it is"
        trace.unlink()
        monkeypatch.setattr(host, "_ids", lambda _: (54321, frozenset()))
        found = by_name(host.running(config, server))
    assert not trace.exists()
    assert found["engine packages"].verdict == "skipped"
    assert "Triton is another user's" in found["engine packages"].message


def test_without_a_mode_triton_takes_no_load_calls(config: Config) -> None:
    with running() as server:
        found = host.mode(server)
    assert found.verdict == "fail"
    assert "in the mode none" in found.message


def test_one_that_baton_started_is_given_its_models(config: Config) -> None:
    with running("--backend-config=python,shm-region-prefix-name=baton-1-2-") as server:
        assert host.loads(config, server).verdict == "ok"
        assert "backends" not in by_name(host.running(config, server))


def test_one_that_has_ended(config: Config) -> None:
    with running() as server:
        pass
    found = by_name(host.running(config, server))
    assert found["rights of Triton"].verdict == "skipped"
    assert found["open files"].verdict == "skipped"


@TWO_USERS
def test_a_version_that_tritons_user_may_not_read(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    version = config.repository / "qwen3_vl_reranker" / "1"
    version.mkdir(parents=True)
    (version / "model.safetensors").touch(mode=0o644)
    for place in (version, *version.parents):
        if place.is_relative_to("/tmp") and place != Path("/tmp"):
            place.chmod(0o755)
    monkeypatch.setattr(host, "_ids", lambda _: (65534, frozenset({65534})))
    server = host.Running(1, ("tritonserver",))
    assert host.reads(config, server).verdict == "ok"
    (version / "model.safetensors").chmod(0o600)
    found = host.reads(config, server)
    assert found.verdict == "fail"
    assert "nobody, as whom Triton runs, may not read" in found.message
    assert str(version / "model.safetensors") in (found.mend or "")
    (version / "model.safetensors").chmod(0o640)
    os.chown(version / "model.safetensors", 0, 65534)
    assert host.reads(config, server).verdict == "ok"
    config.repository.chmod(0o700)
    assert str(config.repository) in host.reads(config, server).message
    config.repository.chmod(0o755)
    config.repository.parent.chmod(0o700)
    found = host.reads(config, server)
    assert (found.verdict, found.mend) == (
        "fail", f"chmod a+x {config.repository.parent}  (others may pass through it then, and not list it)",
    ), "what else lies in there is nobody's business"  # fmt: skip
    monkeypatch.setattr(host.Running, "in_container", property(lambda _: True))
    assert host.reads(config, server).verdict == "ok", "what lies above a volume is not in its container"
    config.repository.parent.chmod(0o755)


def test_who_runs_a_process_is_read_of_the_kernel() -> None:
    uid, groups = host._ids(os.getpid())
    assert (uid, os.getegid() in groups) == (os.geteuid(), True)
    assert host._ids(2**22 + 1) == (None, frozenset())


def test_all_of_a_machine(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procfs, "servers", lambda: iter(()))
    for starts in (True, False):
        found = list(host.findings(Setup(config, starts=starts, backends=OWN)))
        assert len({one.name for one in found}) >= len(found) - 1  # tritonserver is found, and then run
        assert all(one.mend for one in found if one.verdict in {"warn", "fail"})


def test_another_users_triton_is_not_looked_into(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    with running("--model-repository=/elsewhere") as server:
        assert host.repository(config, server).verdict == "fail"
        monkeypatch.setattr(os, "access", lambda *_: False)
        monkeypatch.setattr(host, "_same", lambda *_: False)
        assert host.repository(config, server).verdict == "skipped"
        assert host.shared_memory_of(server).verdict == "skipped"
    gone = replace(config, repository=config.repository / "none")
    assert host.repository(gone, server).verdict == "skipped"


def test_a_triton_in_a_container_has_shared_memory_of_its_own(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_same", lambda *_: False)
    monkeypatch.setattr(os, "statvfs", space(64 << 20))
    with running() as server:
        found = by_name(host.running(config, server))
    assert found["its shared memory"].verdict == "fail"
    assert found["engine packages"].verdict == "skipped"
    assert "in another container" in found["engine packages"].message
