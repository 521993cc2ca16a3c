"""Runs a command that is asked to end when its parent dies: ``tether.py PARENT_PID COMMAND...``.

Run as a file of its own (``python -I -S``), so it imports nothing of Baton. The wish survives ``exec``.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    # SIGKILL, because a server with a model that hangs while it loads ignores SIGTERM for ever (seen on 2.51). Its
    # stubs notice within two seconds, end, and remove their shared memory.
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died before the wish was known
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main()
