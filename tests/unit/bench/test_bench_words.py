"""What the bench commands make of words on their command line: help, or an error. Nothing is measured here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def run(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *words], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize("module", ["bench.rollouts", "bench.engine"])
def test_help_is_help_and_what_is_unknown_is_an_error(module):
    done = run(module, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: python -m {module} [-h]")
    assert "exit code 1" in done.stdout
    done = run(module, "--rounds", "3")
    assert (done.returncode, done.stdout) == (2, "")
    assert "unrecognized arguments: --rounds 3" in done.stderr
