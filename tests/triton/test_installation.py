"""The Triton of this environment is found, and ``ctl doctor`` is content with it."""

from __future__ import annotations

import sys

import pytest
from tests.support.triton import TOY_BACKENDS

from baton import doctor
from baton.local import find

pytestmark = pytest.mark.triton


def test_this_environment_has_one():
    found = find.find_triton()
    assert found.binary.is_file()
    assert (found.backends / "python" / find.LIBRARY).is_file()
    assert find.stub_python(found.stub) == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert "pytriton" not in sys.modules


def test_this_machine(tmp_path):
    found = {
        check.name: check
        for check in doctor.checks(
            repository=tmp_path, state=tmp_path / "state", backends=[TOY_BACKENDS], engine_packages=["numpy"]
        )
    }
    for name in ("Python", "tritonserver", "python stub", "libpython", "backends", "repository writable"):
        assert found[name].ok, found[name]
    assert "toy_reranker" in found["backends"].message
    assert "will be made" in found["state writable"].message
    assert not (tmp_path / "state").exists()
