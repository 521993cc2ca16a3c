"""What tests/conftest.py refuses: a test without a server that needs one, and torch with ``--fast``."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest
from tests.conftest import NoTorch, pytest_collection_modifyitems


def item(place: str, *marks: str) -> SimpleNamespace:
    return SimpleNamespace(nodeid=place, get_closest_marker=lambda name: name if name in marks else None)


@pytest.mark.parametrize("place", ["tests/unit/cli/test_x.py::test_y", "tests/simulation/test_x.py::test_y"])
def test_what_needs_triton_stands_where_triton_is(place: str) -> None:
    with pytest.raises(pytest.UsageError, match=place):
        pytest_collection_modifyitems(None, [item("tests/unit/test_z.py::test_z"), item(place, "triton")])


@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_with_fast_torch_is_not_loaded(name: str) -> None:
    spec = NoTorch.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match=f"without {name}: mark the test slow"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert NoTorch.find_spec("numpy") is None
