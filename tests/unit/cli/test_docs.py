"""docs/reference/ctl.md is complete: every verb, option, variable, exit code, path and metric is in it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from tests.unit.facts.recorder import Recorder

from baton.cli import main
from baton.metrics import ControlCollector
from baton.verbs import VERBS, parameters

TEXT = (Path(__file__).parents[3] / "docs" / "reference" / "ctl.md").read_text()
COMMON = {"config", "state", "output", "service", "server", "token_file", "ca"}
WAITING = {"yes", "wait", "timeout"}


def _section(verb: str) -> str:
    heads = [m for m in re.finditer(r"^### (.*)$", TEXT, re.MULTILINE) if verb in re.findall(r"[a-z]+", m[1])]
    assert len(heads) == 1, f"docs/reference/ctl.md has no section of its own for {verb}"
    rest = TEXT[heads[0].end() :]
    return heads[0][1] + re.split(r"^##", rest, maxsplit=1, flags=re.MULTILINE)[0]


def _options(command: click.Command) -> list[click.Option]:
    return [p for p in command.params if isinstance(p, click.Option)]


@pytest.mark.parametrize("verb", list(main.commands))
def test_every_verb_and_its_options(verb: str) -> None:
    section = _section(verb)
    for option in _options(main.commands[verb]):
        place = TEXT if option.name in COMMON | WAITING else section
        for flag in (*option.opts, *option.secondary_opts):
            assert re.search(rf"`[^`]*{flag}\b", place), f"{verb} {flag}"
        if option.envvar is not None:
            assert f"`{option.envvar}`" in place
    for argument in command_arguments(verb):
        assert argument in section


def command_arguments(verb: str) -> list[str]:
    return [p.make_metavar(click.Context(main)) for p in main.commands[verb].params if isinstance(p, click.Argument)]


def test_the_common_options() -> None:
    for option in _options(main):
        for flag in option.opts:
            assert re.search(rf"`[^`]*{flag}\b", TEXT), flag
        assert option.envvar is None or f"`{option.envvar}`" in TEXT


def test_nothing_is_documented_that_is_not_there() -> None:
    known = {
        flag for c in (main, *main.commands.values()) for o in _options(c) for flag in (*o.opts, *o.secondary_opts)
    }
    # curl's own options, in the examples
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", TEXT)) - known == {"--unix-socket", "--help", "--cacert"}


def test_exit_codes() -> None:
    for code in (0, 1, 2, 3, 4, 5, 6, 130):
        assert re.search(rf"^\| {code} \|", TEXT, re.MULTILINE)


def test_every_path_of_the_socket() -> None:
    for name, kind in VERBS.items():
        (row,) = [line for line in TEXT.splitlines() if f"`{kind.http} /v1/{name}`" in line]
        for parameter in parameters(kind):
            assert f"`{parameter}`" in row


def test_every_metric() -> None:
    for family in ControlCollector(Recorder()).collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert f"`{name}`" in TEXT


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from baton.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'rich', 'tritonclient', 'numpy', 'http', 'prometheus_client', 'sqlite3'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.splitlines()[-1] == "[]"
