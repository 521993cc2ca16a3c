"""A clone of the repository as it stands: what git knows or would take, and nothing that a checkout made besides."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from harness.places import ROOT


def clone(target: Path) -> Path:
    """Copy the sources to ``target``, which must not be there."""
    known = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, check=True, capture_output=True,
    ).stdout  # fmt: skip
    there = b"\0".join(name for name in known.split(b"\0") if name and (ROOT / os.fsdecode(name)).is_file())
    target.mkdir(parents=True)
    with subprocess.Popen(
        ["tar", "--null", "-T", "-", "-cf", "-"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as pack:
        assert pack.stdin is not None
        unpack = subprocess.Popen(["tar", "-xf", "-", "-C", target], stdin=pack.stdout)
        pack.stdin.write(there)
        pack.stdin.close()
        assert unpack.wait() == 0
    assert pack.returncode == 0
    return target
