"""What `make` offers is run, as a user runs it, in its short form."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
RUN = {
    "help": "make demo",
    "demo": "requests failed",
    "bench": "(e) Baton",
    "bench-engine": "pairs/s",
    "chaos": "old",
}
"""By target: what its page holds."""
ELSEWHERE = {
    "setup": "made what runs this test",
    "test": "is this",
    "test-full": "is this, and tests/full",
    "tools": "installs programs as root",
    "lint": ".ci/run calls it",
    "lock": "asks the package index",
    "up": "stays in the foreground: tests/e2e/test_readme.py",
}


def test_every_target_is_run() -> None:
    assert set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE)) | {"help"} == {*RUN, *ELSEWHERE}


PROGRAMS = [
    *(
        "demo.bench",
        "demo.bench_engine",
        "demo.chaos",
        "demo.chaos.hostile",
        "demo.compare",
        "demo.compare.death",
        "demo.frozen",
    ),
    *(
        "demo.memory",
        "demo.speed",
        "demo.speed.gave_up",
        "demo.story",
        "demo.up",
        "tests.simulation",
        "tests.engine.hostile",
    ),
]
"""What has a command line and is run with ``python -m``."""


def test_no_program_is_left_out() -> None:
    files = [*(ROOT / "demo").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    found = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for path in files
        if "train" not in path.parts and 'if __name__ == "__main__":' in path.read_text().splitlines()
    }
    found |= {".".join(path.parent.relative_to(ROOT).parts) for path in files if path.name == "__main__.py"}
    # They are started by others, or print what others have measured; recorders want the official implementation.
    inner = {"demo.compare.apiserver", "demo.memory.version", "demo.chaos.page", "tests.support.stranger"}
    recorders = {"tests.engine.record_reference", "tests.engine.record_media"}
    assert found - set(PROGRAMS) == inner | recorders
    assert set(PROGRAMS) <= found


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_word_that_a_program_does_not_know_starts_nothing(program: str) -> None:
    words = [sys.executable, "-m", program, "--no-such-option"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("usage: ")


@pytest.mark.parametrize(
    ("words", "page"),
    [
        (["demo.speed"], "published shapes"),
        (["tests.simulation", "--stories", "1", "--seed", "1"], "1 stories"),
        pytest.param(["demo.memory"], "Memory as a multiple", marks=[pytest.mark.triton, pytest.mark.slow]),
    ],
    ids=lambda given: given[0] if isinstance(given, list) else "",
)
def test_a_program_that_no_target_runs_ends_well(words: list[str], page: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, env={**os.environ, "SHORT": "1", "COLUMNS": "160"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    assert page in done.stdout


@pytest.mark.triton
@pytest.mark.slow
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
