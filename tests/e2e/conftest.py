"""What holds for every test on a stage."""

from __future__ import annotations

import pytest
from tests.support.stage import Stage


@pytest.fixture(autouse=True)
def _whole_stage(request: pytest.FixtureRequest) -> None:
    """A stage that a module shares is whole again where Triton ended by itself in the test before."""
    st = request.getfixturevalue("st") if "st" in request.fixturenames else None
    if isinstance(st, Stage):
        st.revive()
