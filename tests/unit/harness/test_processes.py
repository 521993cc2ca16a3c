"""Of what the harness starts nothing stays, whatever happens to it or to who started it."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from harness.control_plane import ControlPlane
from harness.places import ROOT
from harness.processes import Child
from harness.waiting import Failed, until

from baton.local import procfs

FAMILY = """
import json, signal, subprocess, sys, time
{}
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(json.dumps({{"child": child.pid}}), flush=True)
time.sleep(600)
"""
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


def family(log, more=""):
    return Child([sys.executable, "-c", FAMILY.format(more)], log)


def gone(pid):
    return procfs.begun(pid) is None


@pytest.mark.parametrize("before", [None, signal.SIGSTOP, signal.SIGKILL], ids=["runs", "stands still", "was killed"])
def test_its_children_end_with_it(tmp_path, before):
    with family(tmp_path / "log") as one:
        child = one.first_line()["child"]
        assert set(one.processes()) == {one.pid, child}
        if before is not None:
            one.process.send_signal(before)
    assert one.process.returncode == (-signal.SIGKILL if before == signal.SIGKILL else -signal.SIGTERM)
    assert gone(child)


def test_one_that_does_not_end_is_killed_and_told_of(tmp_path):
    one = family(tmp_path / "log", STUBBORN)
    child = one.first_line()["child"]
    with pytest.raises(Failed, match=r"did not end within 0.1 s of SIGTERM"):
        one.stop(0.1)
    assert one.process.returncode == -signal.SIGKILL
    assert gone(child)


def test_it_ends_with_who_started_it(tmp_path):
    code = """
import sys
from pathlib import Path
from harness.processes import Child
one = Child(["sleep", "600"], Path(sys.argv[1]))
print(one.pid, flush=True)
sys.stdin.read()
"""
    words = [sys.executable, "-c", code, str(tmp_path / "log")]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        parent.kill()
    until(lambda: gone(pid), "it ends")


def test_one_that_does_not_start_says_why(tmp_path):
    broken = Child([sys.executable, "-c", "raise SystemExit('no such thing')"], tmp_path / "log")
    with broken, pytest.raises(Failed, match=r"ended with 1 before it was ready:\nno such thing"):
        broken.first_line()
    serve = ControlPlane("serve", options=("--config", str(tmp_path / "nowhere.toml")), log=tmp_path / "serve.log")
    with pytest.raises(Failed, match=r"nowhere\.toml"):
        serve.start()
    assert not serve.runs
