"""docs/explanation/security.md says who is kept out of what, and names tests that are there; it names all doors."""

from __future__ import annotations

import ast
import http.client
import re
from functools import cache
from pathlib import Path

import pytest
from tests.unit.facts.recorder import Recorder

from baton.api import SOCKET
from baton.cli.local import KEY
from baton.journal import JOURNAL
from baton.metrics import MetricsServer

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "security.md"
HEAD = "## Ports, files and processes"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def rows() -> list[list[str]]:
    """The cells of each line of the table."""
    _, _, rest = PAGE.read_text().partition(f"{HEAD}\n")
    section = re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines[2:]]


@cache
def collected(file: str) -> set[str]:
    """The tests that pytest takes from a file: functions of its own whose names say so."""
    return {node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)}


def test_the_table_is_whole() -> None:
    assert len(rows()) > 15
    assert {len(row) for row in rows()} == {4}
    first = " ".join(row[0] for row in rows())
    for door in ("8000", "8001", "8002", "9464", "9465", SOCKET, JOURNAL, KEY, "baton.toml", "the model repository"):
        assert door in first, door


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:40])
def test_each_line_that_keeps_somebody_out_names_its_tests(row: list[str]) -> None:
    _, trusted, kept_out, tests = row
    assert trusted
    if kept_out.startswith(("nobody", "see its ports")):
        assert tests == ""
        return
    named = NAMED.findall(tests)
    assert named, "no test is named"
    assert NAMED.sub("", tests).strip() == "", "something else than names of tests"
    for file, name in named:
        assert (ROOT / file).is_file(), file
        assert name in collected(file), f"{file} has no {name}"


def test_reports_have_a_way() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    assert "Report a\nvulnerability" in text
    assert "docs/explanation/security.md" in text
    assert not re.search(r"\S+@\S+\.\w", text), "no address that nobody reads"
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (ROOT / target).is_file(), target


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", ["/promote", "/api/promote", "/metrics", "/v1/rollback"])
def test_the_console_changes_nothing(method: str, path: str) -> None:
    app = Recorder()
    with MetricsServer(app, "127.0.0.1:0") as server:
        connection = http.client.HTTPConnection(server.address, timeout=60)
        connection.request(method, path, body=b'{"version": 2}', headers={"Content-Type": "application/json"})
        assert connection.getresponse().status in {404, 405, 501}
        connection.close()
    assert app.calls == []
