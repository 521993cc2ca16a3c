"""Commands as other users of the machine, which takes root."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.support.triton import ROOT

STRANGER, ORDINARY = 65534, 65533
"""Ids of users without any rights; what the second one runs is not for the first one's eyes."""
TWO_USERS = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
NO_RIGHTS = ["setpriv", "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--"]
"""Before a command: root with none of root's rights, which may make no namespaces either."""


def as_user(user: int, words: Sequence[str]) -> list[str]:
    """The words that run a command of this Python as that user, also where this Python lies in root's closed home.

    There the home is covered by an open folder, which holds nothing but what is needed, in a mount namespace.
    """
    script, covered = [], set()
    for handle, needed in enumerate(sorted({Path(path).resolve() for path in (sys.base_prefix, sys.prefix, ROOT)}), 3):
        home = next((folder for folder in reversed(needed.parents) if not folder.stat().st_mode & 0o001), None)
        if home is not None:
            script.insert(0, f"exec {handle}<'{needed}'")  # before it is covered
            script += [] if home in covered else [f"mount -t tmpfs -o mode=755 tmpfs '{home}'"]
            script += [f"mkdir -p '{needed}'", f"mount -c --bind /proc/self/fd/{handle} '{needed}'"]
            covered.add(home)
    if not script:
        return _as(user, words)
    return ["unshare", "--mount", "sh", "-e", "-c", "\n".join([*script, 'exec "$@"']), "sh", *_as(user, words)]


def _as(user: int, words: Sequence[str]) -> list[str]:
    become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--inh-caps=-all", "--"]
    return [*(become if user else []), *words]


def seen_by(user: int, *words: str) -> str:
    """What a program of the system's prints as that user, whatever it is refused on the way."""
    # Not by subprocess's own `user`, which forks: gRPC's threads in this process do not bear that.
    done = subprocess.run(
        _as(user, words), cwd="/", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
    )
    return done.stdout
