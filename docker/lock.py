#!/usr/bin/env python3
"""Writes what the images install, each package by version and hash: ``make lock``.

``constraints.txt`` can't hold hashes: pip refuses an editable installation then, which `make setup` makes. So the
images have files of their own, made of the same ``pyproject.toml`` under the same constraints.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON, PLATFORM = "3.12", "x86_64-manylinux_2_28"
"""Of both images: Python's own, and NVIDIA's since 24.11."""


def wanted() -> dict[str, list[str]]:
    """The requirements of each lock file, as ``pyproject.toml`` has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return {
        # The wheel of Baton itself is built in the image, without a download.
        "control.lock": project["project"]["dependencies"] + project["build-system"]["requires"],
        "engine.lock": project["project"]["optional-dependencies"]["engine"],
    }


def main() -> None:
    uv = shutil.which("uv")
    if uv is None:
        sys.exit("uv, which resolves packages for another Python than this one, is not in PATH: pip install uv")
    options = ["--quiet", "--no-config", "--upgrade", "--generate-hashes", "--no-annotate"]
    options += ["--custom-compile-command", "make lock", "--constraints", str(ROOT / "constraints.txt")]
    options += ["--python-version", PYTHON, "--python-platform", PLATFORM]
    for name, requirements in wanted().items():
        subprocess.run(
            [uv, "pip", "compile", "-", *options, "--output-file", str(ROOT / "docker" / name)],
            input="\n".join(requirements),
            text=True,
            check=True,
            stdout=subprocess.DEVNULL,
        )


if __name__ == "__main__":
    main()
