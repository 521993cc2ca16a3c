"""The layers of ``.importlinter`` hold, and every module of Baton has its place in them."""

from __future__ import annotations

import configparser
import pkgutil
from pathlib import Path

from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

import baton

ROOT = Path(__file__).parents[1]


def test_layers(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    status = lint_imports(str(ROOT / ".importlinter"), no_cache=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_every_module_has_its_place():
    config = configparser.ConfigParser()
    config.read(ROOT / ".importlinter")
    rows = config["importlinter:contract:layers"]["layers"].split("\n")
    placed = {name.strip() for row in rows for name in row.split("|") if name.strip()}
    assert placed == {f"baton.{module.name}" for module in pkgutil.iter_modules(baton.__path__)}
