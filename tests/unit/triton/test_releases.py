"""The page of Triton's releases and the code say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from baton.local.find import _WHEEL_SERVERS
from baton.triton.releases import RELEASES, Known, known, said

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/reference/triton-releases.md").read_text()
SOURCE = (
    r"\]\(https://(github\.com/triton-inference-server/\w+/(pull/\d+|(blob|tree)/r\d\d\.\d\d/?)|pypi\.org/project/)"
)
NOTHING = "nothing that concerns Baton was found"


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading."""
    text = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_the_table_is_the_list_in_the_code() -> None:
    told = [tuple(row[:3]) for row in rows("Release by release")]
    assert told == [(r.container, r.server, r.known.value) for r in RELEASES]


@pytest.mark.parametrize("heading", ["Release by release", "The same from 24.10 on"])
def test_each_claim_has_its_source(heading: str) -> None:
    found = rows(heading)
    assert len(found) > 5
    for row in found:
        claims = [claim for claim in row[-1].split("; ") if claim != NOTHING]
        assert claims or row[-1] == NOTHING, row
        for claim in claims:
            assert re.search(SOURCE, claim), claim


def test_the_releases_are_in_order_and_told_once() -> None:
    numbers = [tuple(map(int, r.server.split("."))) for r in RELEASES]
    assert numbers == sorted(set(numbers))
    months = [r.container for r in RELEASES]
    assert months == sorted(set(months))


def test_what_is_run_is_what_the_tests_start() -> None:
    run = {r.server for r in RELEASES if r.known is Known.RUN}
    assert run == set(_WHEEL_SERVERS.values())
    (container,) = {r.container for r in RELEASES if r.known is Known.RUN}
    assert f"Tested with Triton {container}" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("server", "how"),
    [
        ("2.51.0", Known.RUN), ("2.64.0", Known.READ), ("2.71.0", Known.PARTLY), ("2.74.0", Known.UNKNOWN),
        ("2.51.1", Known.UNKNOWN), ("3.0.0", Known.UNKNOWN), ("", Known.UNKNOWN), ("2.73.0dev", Known.UNKNOWN),
        ("2.48.0", Known.REFUSED), ("1.13.0", Known.REFUSED), ("9" * 400, Known.UNKNOWN),
    ],
)  # fmt: skip
def test_how_a_server_is_known(server: str, how: Known) -> None:
    assert known(server) is how
    assert server in said(server)
