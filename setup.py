"""Puts backends, templates and the demo into the wheel, for ``baton.share``. All else is in pyproject.toml."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHARED = ("python_backend", "model_repository", "demo/checkpoints", "demo/golden")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


class BuildWithShared(build_py):
    """Copies the shared folders to ``baton/data``. An editable installation reads them from the checkout."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for name in SHARED:
            shutil.copytree(name, Path(self.build_lib, "baton", "data", name), dirs_exist_ok=True, ignore=LEFT_OUT)


setup(cmdclass={"build_py": BuildWithShared})
