"""The layers of ``.importlinter`` hold, and every module of Baton has its place in them."""

from __future__ import annotations

import configparser
import pkgutil
import subprocess
import sys
from pathlib import Path

import baton

ROOT = Path(__file__).parents[2]


def test_layers():
    # In a process of its own: it would take the loggers of this one.
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_has_its_place():
    config = configparser.ConfigParser()
    config.read(ROOT / ".importlinter")
    rows = config["importlinter:contract:layers"]["layers"].split("\n")
    placed = {name.strip() for row in rows for name in row.split("|") if name.strip()}
    assert placed == {f"baton.{module.name}" for module in pkgutil.iter_modules(baton.__path__)}
