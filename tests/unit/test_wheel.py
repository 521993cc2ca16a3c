"""The wheel holds all that an installation needs: the backends, their configuration, and the demo."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from harness.places import ROOT
from tests.support.source import clone

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git knows, so that nothing of a checkout's own gets in or stays behind."""
    place = tmp_path_factory.mktemp("wheel")
    source = clone(place / "source")
    words = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", place, source]
    subprocess.run([sys.executable, "-m", *words], check=True)
    (built,) = place.glob("triton_baton-*.whl")
    return built


def test_it_holds_the_shared_files_and_no_other_of_the_checkout(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert all(name.startswith("baton/") for name in held)
    for folder in ("python_backend", "model_repository", "demo/checkpoints", "demo/golden"):
        expected = {
            str(path.relative_to(ROOT))
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
        }
        assert expected
        assert {name for name in held if name.startswith(f"baton/data/{folder}/")} == {
            f"baton/data/{name}" for name in expected
        }
    assert {"baton/init.toml", "baton/py.typed"} <= held


def test_what_was_unpacked_uses_its_own_files(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = "import baton.cli.local as local; print(*local.own_backends()); from baton.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "init", "--demo", "here"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(tmp_path / "site" / "baton" / "data" / "python_backend")
    assert (tmp_path / "here" / "model_repository" / "qwen3_vl_reranker" / "1" / "config.json").is_file()
