"""Another user of the machine, and a place where both can work."""

from __future__ import annotations

import os
import pickle
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NOBODY = 65534
takes_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes root, to become somebody else")


@contextmanager
def common_place() -> Iterator[Path]:
    """A directory of root's that everybody can go through: those of pytest are closed to others."""
    with tempfile.TemporaryDirectory(prefix="baton-others-") as name:
        place = Path(name).resolve()
        place.chmod(0o755)
        yield place


def as_nobody(act: Callable[[], Any]) -> Any:
    """What ``act`` returns or raises in a child process of the user nobody."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(out)
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            try:
                told: Any = (True, act())
            except Exception as error:  # noqa: BLE001 - raised again in the parent
                told = (False, error)
            os.write(into, pickle.dumps(told))
        finally:
            os._exit(0)
    os.close(into)
    with os.fdopen(out, "rb") as reader:
        worked, result = pickle.load(reader)
    os.waitpid(child, 0)
    if not worked:
        raise result
    return result


def give(path: Path, user: int = NOBODY) -> Path:
    """Make a file, a link, or a folder with all that is in it another user's."""
    os.chown(path, user, user, follow_symlinks=False)
    if stat.S_ISDIR(path.lstat().st_mode):
        for below in path.rglob("*"):
            os.chown(below, user, user, follow_symlinks=False)
    return path
