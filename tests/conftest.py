"""What holds for every test, and ``--fast``: the tests of ``make test-fast``."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from harness.places import BACKENDS, ENGINE, ROOT
from hypothesis import HealthCheck, settings
from tests.lanes import Lanes, place

# Tests ask servers on this machine with clients that know of proxies. Those that are about proxies set them.
for _name in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[_name]

# As Triton and a person at the shell find them: a backend's package and the training code lie in folders of their own.
sys.path[:0] = [str(BACKENDS / "splitter"), str(BACKENDS / ENGINE), str(ROOT / "tools" / "make_checkpoints")]

# A shared machine may stand still for a moment: no test fails because it was slow.
quiet = settings(deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("baton", quiet, max_examples=200)
settings.register_profile("fast", quiet, max_examples=25)
settings.load_profile("baton")

NOT_FAST = {"triton", "slow", "full"}
"""Marks of tests that ``--fast`` leaves out."""
NO_TRITON = ("tests/unit/", "tests/simulation/")


class NoTorch(Loader):
    """A test that loads torch takes seconds and a gigabyte: with ``--fast`` it fails, and says why."""

    @classmethod
    def find_spec(cls, name: str, _path: Any = None, _target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, cls()) if name in {"torch", "transformers"} else None

    def exec_module(self, module: ModuleType) -> None:
        raise ImportError(f"make test-fast does without {module.__name__}: mark the test slow")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="leave out what needs Triton or torch, or takes long")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("fast"):
        settings.load_profile("fast")
        os.environ.setdefault("BATON_EXAMPLES", "100")
        sys.meta_path.insert(0, NoTorch)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The engine's tests load torch before they can be left out by their marks; whole rollouts need Triton."""
    about_engine = collection_path.match("tests/unit/engine") or collection_path.match("tests/triton/test_engine*")
    return True if config.getoption("fast") and (about_engine or collection_path.match("tests/e2e")) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    misplaced = [i.nodeid for i in items if i.nodeid.startswith(NO_TRITON) and i.get_closest_marker("triton")]
    if misplaced:
        raise pytest.UsageError(f"What needs Triton stands in tests/triton or tests/e2e: {', '.join(misplaced)}")
    if config.getoption("fast"):
        left_out = [i for i in items if NOT_FAST & {mark.name for mark in i.iter_markers()}]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [i for i in items if i not in set(left_out)]
    items.sort(key=lambda item: place(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Lanes | None:
    if config.getoption("dist") != "loadfile":
        return None
    return Lanes(config, log, most=sys.maxsize if config.getoption("fast") else None)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Thousands of tests stay until the end. To look for garbage among them took a third of their collection."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
