"""The backend directory: complete, shared by equal starts, never changed under a running server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from baton.errors import ConfigError
from baton.local import Installation, assemble


@pytest.fixture
def installation(tmp_path):
    python = tmp_path / "triton" / "python"
    python.mkdir(parents=True)
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        (python / name).write_text(name)
    stub = tmp_path / "stub"
    stub.write_text("stub")
    stub.chmod(0o755)
    return Installation(
        binary=tmp_path, backends=tmp_path / "triton", libraries=(), stub=stub, source="wheel", version=None
    )


@pytest.fixture
def source(tmp_path):
    """A checkout's directory of backends, with things that no backend needs."""
    backend = tmp_path / "checkout" / "echo"
    (backend / "parts").mkdir(parents=True)
    (backend / "__pycache__").mkdir()
    (backend / "model.py").write_text("one")
    (backend / "parts" / "deep.py").write_text("deep")
    (tmp_path / "checkout" / "notes").mkdir()
    (tmp_path / "checkout" / "README.md").touch()
    return tmp_path / "checkout"


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_holds_what_is_needed_and_no_more(installation, source, tmp_path):
    folder = assemble(installation, [source], tmp_path / "state")
    assert files(folder) == [
        "echo/model.py",
        "echo/parts/deep.py",
        "python/libtriton_python.so",
        "python/triton_python_backend_stub",
        "python/triton_python_backend_utils.py",
    ]
    # Triton refuses links that lead out of the directory.
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    assert os.access(folder / "python" / "triton_python_backend_stub", os.X_OK)
    assert list((tmp_path / "state" / "backends").iterdir()) == [folder]


def test_equal_starts_share_it(installation, source, tmp_path):
    first = assemble(installation, [source], tmp_path / "state")
    (first / "echo" / "__pycache__").mkdir()
    (source / "echo" / "__pycache__" / "model.pyc").touch()
    assert assemble(installation, [source], tmp_path / "state") == first
    assert (first / "echo" / "__pycache__").is_dir()


def test_newer_files_go_to_a_new_one(installation, source, tmp_path):
    first = assemble(installation, [source], tmp_path / "state")
    (source / "echo" / "parts" / "deep.py").write_text("deeper")
    second = assemble(installation, [source], tmp_path / "state")
    assert second != first
    assert (first / "echo" / "parts" / "deep.py").read_text() == "deep"
    assert (second / "echo" / "parts" / "deep.py").read_text() == "deeper"


def test_refuses_what_can_not_be_meant(installation, source, tmp_path):
    with pytest.raises(ConfigError, match="is not there"):
        assemble(installation, [tmp_path / "none"], tmp_path / "state")
    with pytest.raises(ConfigError, match="of the same name"):
        assemble(installation, [source, source], tmp_path / "state")
