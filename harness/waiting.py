"""The one way to wait for something."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 600.0
"""Nothing here asks how fast the machine is. What never comes fails after this long."""


class Failed(Exception):
    """What was waited for did not come, or what was started did not start."""


def until(
    condition: Callable[[], Any],
    what: str,
    timeout_s: float = PATIENCE_S,
    *,
    instead: Callable[[], object] | None = None,
    every_s: float = 0.02,
) -> Any:
    """Wait until the condition gives something true, and return that.

    ``instead`` tells what there is otherwise, for the message of ``Failed``.
    """
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            found = "" if instead is None else f" There is: {instead()}"
            raise Failed(f"Waited {timeout_s:.0f} s for {what}.{found}")
        time.sleep(every_s)
    return value
