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


PROGRAMS = [
    *("bench.compare", "bench.compare.death", "bench.engine", "bench.frozen", "bench.journal", "bench.memory"),
    *("bench.rollouts", "bench.speed", "bench.speed.gave_up", "demo.story", "demo.up"),
    *("tests.chaos", "tests.chaos.hostile", "tests.unit.engine.hostile", "tests.simulation"),
]
"""What has a command line and is run with ``python -m``."""


def test_no_program_is_left_out() -> None:
    files = [path for folder in ("bench", "demo", "tests") for path in (ROOT / folder).rglob("*.py")]
    found = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for path in files
        if 'if __name__ == "__main__":' in path.read_text().splitlines()
    }
    found |= {".".join(path.parent.relative_to(ROOT).parts) for path in files if path.name == "__main__.py"}
    # They are started by others, or print what others have measured; recorders want the official implementation.
    inner = {"bench.compare.apiserver", "bench.memory.version", "tests.chaos.page", "tests.support.stranger"}
    recorders = {"tests.unit.engine.record_reference", "tests.unit.engine.record_media", "tests.unit.journal.recorded"}
    assert found - set(PROGRAMS) == inner | recorders
    assert set(PROGRAMS) <= found


def test_every_program_that_a_page_names_is_there() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "Makefile", *WORKFLOWS, ROOT / ".ci" / "run"]
    pages.remove(ROOT / "CHANGELOG.md")  # it tells of former names, too
    text = "\n".join(page.read_text() for page in pages)
    named = set(re.findall(r"python -m ((?:bench|demo|tests)[\w.]*\w)", text))
    assert named <= set(PROGRAMS)
    files = set(re.findall(r"\b(?:bench|demo|harness|tests|tools)/[\w./]*\.(?:py|toml)\b", text))
    assert [file for file in files if not (ROOT / file).is_file()] == []
    assert set(re.findall(r"(?:^|run: |`)make ([a-z-]+)", text, re.MULTILINE)) <= {*RUN, *ELSEWHERE}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_word_that_a_program_does_not_know_starts_nothing(program: str) -> None:
    words = [sys.executable, "-m", program, "--no-such-option"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("usage: ")


@pytest.mark.parametrize(
    ("words", "page"),
    [
        (["bench.journal", "--rollouts", "20", "--keep", "5"], "transactions"),
        (["bench.speed"], "published shapes"),
        (["tests.simulation", "--stories", "1", "--seed", "1"], "1 stories"),
        pytest.param(["bench.memory"], "Memory as a multiple", marks=[pytest.mark.triton, pytest.mark.slow]),
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
