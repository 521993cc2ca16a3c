"""``ctl doctor`` changes nothing unless it is told to mend: no file, no process, no mode."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.unit.controller.test_observing import CHANGES, WRITING

from baton.cli import main
from baton.doctor import control
from baton.journal import JOURNAL, Journal

ASKED = {"nvidia-smi", "tritonserver", Path(sys.executable).name, "python3"}
"""Programs that tell something: what Triton would find, and what the kernel would give it."""


class Changed(BaseException):
    """Something was changed. No ``except Exception`` hides it."""


class _Looking:
    on = False


looking = _Looking()


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not looking.on:
        return
    if event == "subprocess.Popen":
        changed = Path(args[0] or args[1][0]).name not in ASKED
    elif event == "open":
        path, _, flags = args
        changed = isinstance(flags, int) and bool(flags & WRITING) and path != os.devnull
        # A file without a name ends with its descriptor. Python opens one by its folder, twice.
        changed = changed and flags & os.O_TMPFILE != os.O_TMPFILE and not Path(path).is_dir()
    else:
        changed = event in CHANGES
    if changed:
        raise Changed(event, *args)


@pytest.fixture(scope="module", autouse=True)
def _hook() -> None:
    sys.addaudithook(_audit)  # for as long as this process lives; it is idle but while the doctor looks


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs it in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def run(*words: str) -> Result:
        looking.on = True
        try:
            return CliRunner().invoke(main, ["doctor", *words])
        finally:
            looking.on = False

    return run


def files(place: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_mode, path.lstat().st_mtime_ns) for path in place.rglob("*")}


def test_in_an_empty_folder(doctor: Callable[..., Result], tmp_path: Path) -> None:
    done = doctor()
    assert "Control plane" in done.stdout
    assert "Triton's machine" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert "Client" in doctor("127.0.0.1:1", "http://127.0.0.1:1").stdout
    assert list(tmp_path.iterdir()) == []


def test_beside_a_repository_and_a_journal(doctor: Callable[..., Result], tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["init", "--demo"]).exit_code == 0
    Journal(tmp_path / "state" / JOURNAL).close()
    (tmp_path / "model_repository" / "qwen3_vl_reranker" / "config.pbtxt").unlink()  # there is something to mend
    before = files(tmp_path)
    done = doctor("--role", "control", "--role", "triton", "--role", "client")
    assert "`ctl doctor --fix` mends" in done.stderr
    assert files(tmp_path) == before


PLANTED: dict[str, Callable[[Path], object]] = {
    "a file": lambda place: (place / "x").write_text(""),
    "a folder": lambda place: (place / "x").mkdir(),
    "a mode": lambda place: place.chmod(0o700),
    "a program": lambda _: os.posix_spawn("/bin/true", ["true"], {}),
}


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_change_is_found(
    what: str, doctor: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "python", lambda: PLANTED[what](tmp_path))
    with pytest.raises(Changed):
        doctor()
