"""Runs a command that ends when its parent dies, and one whose command line hides a secret; or both.

``tether.py PARENT_PID TRACED COMMAND...``: PARENT_PID 0 for a command that may outlive its parent, TRACED 1 for one
that stops at its first instruction, so that :func:`baton.local.hidden.reveal` can put in what its command line leaves
out. Exits with :data:`UNTRACEABLE` where that is not allowed. Run as a file of its own (``python -I -S``), so it
imports nothing of Baton. Both wishes survive ``exec``.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
PTRACE_TRACEME = 0
UNTRACEABLE = 126


def main() -> None:
    parent, traced, command = int(sys.argv[1]), sys.argv[2] == "1", sys.argv[3:]
    libc = ctypes.CDLL(None, use_errno=True)
    if parent:
        # SIGKILL, because a server with a model that hangs while it loads ignores SIGTERM for ever (seen on 2.51). Its
        # stubs notice within two seconds, end, and remove their shared memory.
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
        if os.getppid() != parent:  # it died before the wish was known
            sys.exit(1)
    if traced and libc.ptrace(PTRACE_TRACEME, 0, None, None) != 0:
        sys.exit(UNTRACEABLE)
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main()
