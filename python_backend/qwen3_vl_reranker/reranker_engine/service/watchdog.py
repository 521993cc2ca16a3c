"""Ends the process when loading hangs.

Triton waits for ``initialize()`` without limit. A load that hangs (a dead network mount, a wedged GPU driver) blocks
every later load of the model. Ending this process turns the hang into an ordinary failed load.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h
GRACE_S = 5.0
TIMEOUT_PARAMETER = "initialize_timeout_s"
DEFAULT_TIMEOUT_S = 840.0
"""A minute less than the 15 minutes after which the rollout gives up on a load."""


def initialize_timeout(config: Mapping[str, Any]) -> float:
    """The parameter ``initialize_timeout_s`` of a model configuration.

    Raises:
        ValueError: It is not a number of at least 1.
    """
    text = str(config.get("parameters", {}).get(TIMEOUT_PARAMETER, {}).get("string_value", "")).strip()
    try:
        seconds = float(text) if text else DEFAULT_TIMEOUT_S
    except ValueError:
        raise ValueError(f"parameter {TIMEOUT_PARAMETER} is {text!r}, which is no number") from None
    if not seconds >= 1:
        raise ValueError(f"parameter {TIMEOUT_PARAMETER} is {text!r}; it must be at least 1")
    return seconds


@contextmanager
def watchdog(seconds: float, what: str) -> Iterator[None]:
    """End this process if the block takes longer than ``seconds``.

    A thread writes the reason to stderr and exits. If the hang holds the interpreter lock, no thread runs; then
    faulthandler's own timer, which needs no lock, ends the process ``GRACE_S`` later and prints every thread's stack.
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
