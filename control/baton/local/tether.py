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
    # SIGTERM: the server then stops its models' processes and removes its shared memory, or gives up after its
    # own exit timeout (30 s).
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died before the wish was known
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main()
