"""The pages are followed as written from three starting points, each to a version that is live, and back."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e.guides import EVERY_DAY, GUIDES, Guide, followed, table

pytestmark = [pytest.mark.triton, pytest.mark.slow]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.name)
def test_a_version_is_live_and_rolled_back(guide: Guide, tmp_path: Path) -> None:
    found = followed(guide, tmp_path, quick=True)
    print(table([found]))  # noqa: T201 - shown where the test fails, and with -s
    assert (found.live, found.serves) == (2, 1)
    assert found.commands == sum(bool(step.command) and not step.not_run for step in guide.steps())


def test_the_pages_for_every_day(tmp_path: Path) -> None:
    found = followed(EVERY_DAY, tmp_path, quick=True)
    assert found.commands > 20
