"""Puts a backend directory together: Triton's python backend, its stub, and Baton's python-based backends.

Everything is copied: Triton refuses a library that a symbolic link leads out of the backend directory ("escapes
backend directory", seen on 2.51), and Python writes ``__pycache__`` beside the files that it imports, which has
no place in a source checkout or in an installation.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from baton.durable import make_private
from baton.errors import ConfigError
from baton.local.find import LIBRARY, STUB, UTILITIES

if TYPE_CHECKING:
    from baton.local.find import Installation

_SKIPPED = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "tests")


def assemble(installation: Installation, backends: Sequence[Path], state: Path) -> Path:
    """The backend directory for ``--backend-directory``, made under ``state`` if it is not there yet.

    ``backends`` are directories whose folders are python-based backends (each with a ``model.py``), such as a
    checkout's ``python_backend/``. The result's name is a hash of all contents: two starts with the same files
    share it, and a start with newer files never changes code under a server that still runs.

    Raises ``ConfigError`` when a source is missing or two of them hold a backend of the same name.
    """
    sources = dict(find_backends(backends))
    home = state / "backends"
    make_private(state)
    make_private(home)
    target = home / _digest(installation, sources)
    if target.is_dir():
        return target
    staging = Path(tempfile.mkdtemp(prefix=".new-", dir=home))
    try:
        python = staging / "python"
        python.mkdir()
        for file, name in _python_files(installation):
            shutil.copy2(file, python / name)
        for name, folder in sources.items():
            shutil.copytree(folder, staging / name, ignore=_SKIPPED)
        staging.chmod(0o755)
        try:
            staging.rename(target)
        except OSError:
            # Another start was faster with the same files. Anything else is worth telling.
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def find_backends(directories: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Names and folders of the python-based backends in ``directories``. Raises as :func:`assemble` does."""
    seen: dict[str, Path] = {"python": Path("Triton itself")}
    for directory in directories:
        if not directory.is_dir():
            raise ConfigError(f"{directory} is not there.", mend="Name a directory of python-based backends.")
        for folder in sorted(directory.iterdir()):
            if not (folder / "model.py").is_file():
                continue
            if folder.name in seen:
                raise ConfigError(
                    f"{folder} and {seen[folder.name]} are backends of the same name.", mend="Rename one of them."
                )
            seen[folder.name] = folder
            yield folder.name, folder


def _python_files(installation: Installation) -> Iterator[tuple[Path, str]]:
    for name in (LIBRARY, UTILITIES):
        yield installation.backends / "python" / name, name
    yield installation.stub, STUB


def _digest(installation: Installation, sources: dict[str, Path]) -> str:
    """16 hex digits that change with any file's name or content."""
    digest = hashlib.sha256()

    def add(name: str, file: Path) -> None:
        digest.update(name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())

    for file, name in _python_files(installation):
        add(f"python/{name}", file)
    for backend, folder in sorted(sources.items()):
        for place, folders, files in os.walk(folder):
            ignored = _SKIPPED(place, [*folders, *files])
            folders[:] = sorted(set(folders) - ignored)
            for name in sorted(set(files) - ignored):
                file = Path(place, name)
                add(f"{backend}/{file.relative_to(folder)}", file)
    return digest.hexdigest()[:16]
