"""The Triton of this environment is found, and ``ctl doctor`` is content with it."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from tests.support.triton import OUR_BACKENDS, TOY_BACKENDS

from baton.config import load
from baton.doctor import Setup, control, host
from baton.local import find

pytestmark = pytest.mark.triton


def test_this_environment_has_one():
    found = find.find_triton()
    assert found.binary.is_file()
    assert (found.backends / "python" / find.LIBRARY).is_file()
    assert find.stub_python(found.stub) == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert "pytriton" not in sys.modules


def test_this_machine(tmp_path):
    config = replace(load(None), repository=tmp_path, state=tmp_path / "state")
    setup = Setup(config, backends=(TOY_BACKENDS, OUR_BACKENDS))
    found = {one.name: one for one in (*control.findings(setup, tmp_path / "key"), *host.findings(setup))}
    for name in ("Python", "tritonserver", "python stub", "libpython", "backends", "repository writable"):
        assert found[name].ok, found[name]
    assert "toy_reranker" in found["backends"].message
    assert "will be made" in found["state writable"].message
    assert not (tmp_path / "state").exists()
