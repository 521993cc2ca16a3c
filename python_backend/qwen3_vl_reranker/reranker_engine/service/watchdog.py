"""Ends the process when loading hangs.

Triton waits for ``initialize()`` without limit, and a load that hangs (a dead network mount, a wedged GPU driver)
blocks every later load of the model with it. Ending this process turns the hang into an ordinary failed load.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h
GRACE_S = 5.0


@contextmanager
def watchdog(seconds: float, what: str) -> Iterator[None]:
    """End this process if the block takes longer than ``seconds``.

    A thread says why on stderr and exits. Where the hang holds the interpreter lock no thread runs, so faulthandler's
    own timer, which needs no lock, follows ``GRACE_S`` later and prints where every thread stands.
    """
    done = threading.Event()

    def wait() -> None:
        if not done.wait(seconds):
            sys.stderr.write(f"qwen3_vl_reranker: {what} took longer than {seconds:g} s; this process ends itself\n")
            sys.stderr.flush()
            os._exit(EXIT_CODE)

    threading.Thread(target=wait, name="watchdog", daemon=True).start()
    faulthandler.dump_traceback_later(seconds + GRACE_S, exit=True)
    try:
        yield
    finally:
        done.set()
        faulthandler.cancel_dump_traceback_later()
