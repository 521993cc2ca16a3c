"""What is left of a server's session is ended, and waited for no longer than it takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from baton.local import procfs

FAMILY = """
import subprocess, sys
children = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) for _ in range(5)]
print("there", flush=True)
children[0].wait()
"""


def test_a_whole_session_that_ends_at_once(monkeypatch):
    monkeypatch.setattr(procfs, "_GONE_WITHIN_S", 600.0)  # the test would hang if any of them were waited for twice
    with subprocess.Popen([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, start_new_session=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"there\n"
        members = procfs.session_members(parent.pid)
        assert len(members) == 6
        assert sorted(procfs.kill_session(parent.pid)) == sorted(members)
        assert procfs.session_members(parent.pid) == []
    assert not any(Path(f"/proc/{pid}/exe").exists() for pid in members)
    assert procfs.kill_session(parent.pid) == []
