"""What a command line hides is seen by the process it is for, and by nobody else, from its first moment on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from baton.local import argv_secret, exec_wrapper, procfs

SECRET = "planted-9d21"
TELL = """
import json, os, subprocess, sys
from pathlib import Path
children = subprocess.run(["env"], capture_output=True, text=True, check=True).stdout
told = {"words": sys.argv[1:], "listed": Path("/proc/self/cmdline").read_text(), "children": children}
print(json.dumps(told | {"variables": dict(os.environ)}))
"""


def run(command: list[str], **variables: str) -> tuple[bool, str, int]:
    words, named = argv_secret.masked(command, SECRET)
    with subprocess.Popen(
        exec_wrapper.wrapped_command(words, parent=os.getpid(), traced=True),
        env={**os.environ, **variables, **named},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        revealed = argv_secret.reveal(process.pid, named)
        assert process.stdout is not None
        return revealed, process.stdout.read(), process.wait()


@pytest.mark.parametrize("script", [False, True])
def test_only_the_process_itself_sees_it(tmp_path, script):
    file = tmp_path / "tell"
    file.write_text(f"#!{sys.executable}\n{TELL}")
    file.chmod(0o755)
    options = ["--first", "", f"--a=x:key={SECRET}", f"--b={SECRET},{SECRET}", "last"]
    begin = [str(file)] if script else [sys.executable, str(file)]
    revealed, printed, code = run([*begin, *options], KEPT="yes")
    assert (revealed, code) == (True, 0)
    told = json.loads(printed)
    assert told["words"] == options
    assert SECRET not in told["listed"]
    assert "--a=BATON_HIDDEN_0\0--b=BATON_HIDDEN_1\0last\0" in told["listed"]
    assert SECRET not in told["children"]
    assert SECRET not in json.dumps(told["variables"])
    assert told["variables"]["KEPT"] == "yes"
    assert "KEPT=yes" in told["children"]


def test_a_command_that_is_not_there():
    revealed, _, code = run(["/not/there", f"--a={SECRET}"])
    assert (revealed, code) == (False, 1)


def test_memory_that_is_not_as_it_must_be_is_left_alone(monkeypatch):
    monkeypatch.setattr(procfs, "ENV_START", procfs.ARG_START)
    revealed, printed, _ = run([sys.executable, "-c", "print('ran')", f"--a={SECRET}"])
    assert (revealed, printed) == (False, "")


def test_where_no_process_may_be_traced(tmp_path):
    """As in a sandbox: here the one that would be stopped has another that traces it already."""
    outer = tmp_path / "outer.py"
    outer.write_text(
        f"import ctypes, os, runpy, sys\n"
        f"ctypes.CDLL(None).ptrace(0, 0, None, None)\n"
        f"sys.argv = ['exec_wrapper', '0', '1', '', '/bin/true']\n"
        f"runpy.run_path({str(Path(exec_wrapper.__file__))!r}, run_name='__main__')\n"
    )
    assert subprocess.run([sys.executable, str(outer)], check=False).returncode == exec_wrapper.UNTRACEABLE


def test_nothing_to_hide():
    words = [sys.executable, "-c", "pass"]
    assert argv_secret.masked(words, SECRET) == (words, {})
    assert argv_secret.reveal(os.getpid(), {})
