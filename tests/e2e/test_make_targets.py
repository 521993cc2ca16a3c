"""What `make` offers is run, as a user runs it, in its short form."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.triton, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
RUN = {
    "help": "make demo",
    "size": "in all",
    "demo": "requests failed",
    "bench": "(e) Baton",
    "bench-engine": "pairs/s",
    "chaos": "old",
}
"""By target: what its page holds."""
ELSEWHERE = {
    "setup": "made what runs this test",
    "test": "is this",
    "test-fast": "is a part of this",
    "schema": "tests/unit/docs/test_schema.py has the file",
    "test-full": "is this, and the tests marked full",
    "tools": "installs programs as root",
    "lint": ".ci/run calls it",
    "docs": ".ci/run calls it",
    "lock": "asks the package index",
    "up": "stays in the foreground: tests/e2e/test_readme.py",
}


def test_every_target_is_run() -> None:
    assert set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE)) | {"help"} == {*RUN, *ELSEWHERE}


def test_the_memory_of_each_version_is_measured() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.memory"], cwd=ROOT, env={**os.environ, "SHORT": "1", "COLUMNS": "160"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    assert "Memory as a multiple" in done.stdout


@pytest.mark.skipif(not (ROOT / ".venv" / ".ready").exists(), reason="make uses the .venv of `make setup`")
@pytest.mark.parametrize("target", RUN)
def test_its_short_form_ends_well(target: str) -> None:
    env = {**os.environ, "COLUMNS": "160"}
    # --old-file: what is installed is not this test's business, and the network may be away.
    made = subprocess.run(
        ["make", "--no-print-directory", "--old-file=setup", "--old-file=.venv/.ready", target, "SHORT=1"],
        cwd=ROOT, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout[-8000:] + made.stderr[-4000:]
    assert RUN[target] in made.stdout
    assert "Traceback" not in made.stderr


def test_the_tests_for_every_change_can_be_collected() -> None:
    """None of them loads torch where it is imported."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--fast", "--collect-only", "-q", "-p", "no:cacheprovider"],
        cwd=ROOT, env={**os.environ, "PYTEST_ADDOPTS": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
