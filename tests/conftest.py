"""What holds for every test."""

from __future__ import annotations

import os
import sys

import pytest
from harness.places import BACKENDS, ENGINE, ROOT
from hypothesis import HealthCheck, settings

# Tests ask servers on this machine with clients that know of proxies. Those that are about proxies set them.
for _name in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[_name]

# As Triton and a person at the shell find them: a backend's package and the training code lie in folders of their own.
sys.path[:0] = [str(BACKENDS / "splitter"), str(BACKENDS / ENGINE), str(ROOT / "tools" / "make_checkpoints")]

# A shared machine may stand still for a moment: no test fails because it was slow.
settings.register_profile("baton", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("baton")

LONG = ("e2e", "triton", "engine", "simulation")
"""Folders whose files take minutes: they come first, so that no worker is left alone with one in the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {folder: place for place, folder in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.parent.name, len(LONG)))
