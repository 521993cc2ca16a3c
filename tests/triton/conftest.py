from __future__ import annotations

import pytest
from tests.support.toy import make_repository
from tests.support.triton import running_triton


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("triton")


@pytest.fixture(scope="module")
def repository(place):
    """Engine ``toy`` with versions 1 and 2, the alias ``public`` pointing at 1; loads are counted in ``loads``."""
    return make_repository(place / "repository", {"toy": [1, 2]}, alias="public", load_log=place / "loads")


@pytest.fixture(scope="module")
def server(place, repository):
    """One server for all tests of a module that change nothing in it."""
    with running_triton(place, repository, load=["public"]) as running:
        yield running
