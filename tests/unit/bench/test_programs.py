"""Every program that is run with ``python -m``, and what it makes of words on its command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROGRAMS = [
    *("bench.compare", "bench.compare.death", "bench.engine", "bench.frozen", "bench.half_precision", "bench.journal"),
    *("bench.memory", "bench.rollouts", "bench.speed", "bench.speed.gave_up", "demo.story", "demo.up"),
    *("tests.chaos", "tests.chaos.hostile", "tests.e2e.guides", "tests.unit.engine.hostile", "tests.simulation"),
]
"""What has a command line and is run with ``python -m``."""
REFUSED = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    print("torch" in sys.modules)
"""
LOADS_TORCH = {"bench.engine", "bench.half_precision", "bench.speed", "bench.speed.gave_up"}


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
    recorders.add("tests.unit.cli.test_pages")
    assert found - set(PROGRAMS) == inner | recorders
    assert set(PROGRAMS) <= found


def test_every_program_that_a_page_names_is_there() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "Makefile"]
    pages.remove(ROOT / "CHANGELOG.md")  # it tells of former names, too
    text = "\n".join(page.read_text() for page in pages)
    named = set(re.findall(r"python -m ((?:bench|demo|tests)[\w.]*\w)", text))
    assert named <= set(PROGRAMS)
    files = set(re.findall(r"\b(?:bench|demo|harness|tests|tools)/[\w./]*\.(?:py|toml)\b", text))
    assert [file for file in files if not (ROOT / file).is_file()] == []


@pytest.mark.parametrize(
    "program", [pytest.param(one, marks=pytest.mark.slow if one in LOADS_TORCH else ()) for one in PROGRAMS]
)
def test_a_word_that_a_program_does_not_know_starts_nothing(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, program, "--no-such-option"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("usage: ")
    assert done.stdout == f"{program in LOADS_TORCH}\n", "whether torch was loaded for that"


@pytest.mark.parametrize(
    ("words", "page"),
    [
        (["bench.journal", "--rollouts", "20", "--keep", "5"], "transactions"),
        pytest.param(["bench.speed"], "published shapes", marks=pytest.mark.slow),
        (["tests.simulation", "--stories", "1", "--seed", "1"], "1 stories"),
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


def run(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *words], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize("module", ["bench.rollouts", pytest.param("bench.engine", marks=pytest.mark.slow)])
def test_help_is_help_and_what_is_unknown_is_an_error(module):
    done = run(module, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: python -m {module} [-h]")
    assert "exit code 1" in done.stdout
    done = run(module, "--rounds", "3")
    assert (done.returncode, done.stdout) == (2, "")
    assert "unrecognized arguments: --rounds 3" in done.stderr
