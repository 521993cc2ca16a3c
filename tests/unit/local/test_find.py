"""Finding a server in made-up installations."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest

from baton.errors import ConfigError
from baton.local import find

OWN = f"{sys.version_info.major}.{sys.version_info.minor}"


def install(root: Path, *, python: str | None = OWN, backend: bool = True) -> Path:
    """An installation as in NVIDIA's images; its files are empty but for the library name in the stub."""
    binary = root / "bin" / "tritonserver"
    binary.parent.mkdir(parents=True)
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    (root / "TRITON_VERSION").write_text("2.60.0\n")
    if backend:
        folder = root / "backends" / "python"
        folder.mkdir(parents=True)
        (folder / find.LIBRARY).write_bytes(b"ELF")
        (folder / find.UTILITIES).write_text("")
        if python is not None:
            (folder / find.STUB).write_bytes(b"\x7fELF\0libpython%s.so.1.0\0" % python.encode())
    return binary


@pytest.fixture
def with_libpython(monkeypatch, tmp_path):
    """Whatever Python runs these tests: its shared library is in ``tmp_path/libdir``."""
    directory = tmp_path / "libdir"
    directory.mkdir()
    (directory / f"libpython{OWN}.so.1.0").touch()
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: str(directory))
    return directory


@pytest.mark.parametrize("named", ["bin/tritonserver", "bin", "."])
def test_an_explicit_place(tmp_path, with_libpython, named):
    install(tmp_path / "server")
    found = find.find_triton(tmp_path / "server" / named)
    assert found.binary == tmp_path / "server" / "bin" / "tritonserver"
    assert (found.source, found.version) == ("installed", "2.60.0")
    assert found.libraries == (with_libpython,)


def test_the_one_in_path_comes_before_the_package(tmp_path, with_libpython, monkeypatch):
    binary = install(tmp_path / "server")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tritonserver").symlink_to(binary)
    monkeypatch.setattr(find, "DEFAULT_BINARY", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find.find_binary() == binary


def test_nothing_there(tmp_path, monkeypatch):
    monkeypatch.setattr(find, "DEFAULT_BINARY", tmp_path / "none")
    monkeypatch.setattr(find, "_wheel_root", lambda: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="pip install nvidia-pytriton"):
        find.find_triton()
    with pytest.raises(ConfigError, match="no tritonserver at"):
        find.find_triton(tmp_path)


def test_not_executable(tmp_path):
    install(tmp_path).chmod(0o644)
    with pytest.raises(ConfigError, match=r"chmod \+x"):
        find.find_binary(tmp_path)


def test_no_python_backend(tmp_path):
    install(tmp_path, backend=False)
    with pytest.raises(ConfigError, match="has no python backend"):
        find.find_triton(tmp_path)


def test_a_stub_of_another_python(tmp_path):
    install(tmp_path, python="3.2")
    with pytest.raises(ConfigError, match=r"built for Python 3\.2, and Baton runs on") as error:
        find.find_triton(tmp_path)
    assert "Run Baton with Python 3.2" in error.value.mend


def test_no_stub_for_this_python_in_a_package(tmp_path):
    install(tmp_path, python=None)
    for version in ("3.2", "3.10", "3.9"):
        (tmp_path / "python_backend_stubs" / version).mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"only for 3\.2, 3\.9, 3\.10"):
        find.find_triton(tmp_path)


def test_a_python_without_a_shared_library(tmp_path, monkeypatch):
    install(tmp_path)
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: str(tmp_path))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    monkeypatch.setattr(find, "_loader_cache", lambda: "libc.so.6\n")
    with pytest.raises(ConfigError, match="built without a shared library") as error:
        find.find_triton(tmp_path)
    assert "--enable-shared" in error.value.mend


def test_a_library_that_the_loader_knows_needs_no_directory(tmp_path, monkeypatch):
    install(tmp_path)
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: None)
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    monkeypatch.setattr(find, "_loader_cache", lambda: f"\tlibpython{OWN}.so.1.0 => /usr/lib/libpython.so\n")
    assert find.find_triton(tmp_path).libraries == ()


def test_the_name_of_a_library_that_a_wheel_carries(tmp_path):
    (tmp_path / "stub").write_bytes(b"\0libpython3-419a3a08.13.so.1.0\0")
    assert find.stub_python(tmp_path / "stub") == "3.13"
    (tmp_path / "libpython3-419a3a08.13.so.1.0").touch()
    assert find.find_libpython(tmp_path / "stub", (tmp_path,)) == tmp_path
