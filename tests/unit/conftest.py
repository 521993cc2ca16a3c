"""What holds for the tests that need no Triton."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def _moments_are_shared(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Workers share what tests/unit/facts/moments.py makes: only under xdist does the folder belong to one run."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = tmp_path_factory.getbasetemp().parent / "moments"
        shared.mkdir(exist_ok=True)
        os.environ["SHARED_MOMENTS"] = str(shared)
