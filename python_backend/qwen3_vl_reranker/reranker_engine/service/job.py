"""One request as the scheduler sees it, and the reasons to refuse one."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from reranker_engine.inference.scoring import PreparedRequest, Scoring
    from reranker_engine.inference.steps import Steps

SLICE_S = 0.05
"""Time slice of decoding and tokenizing: after this the next request gets its slice."""


class Refused(Exception):
    """A request that is not computed, or not to its end.

    Attributes:
        cause: ``cancelled``, ``deadline`` or ``busy``.
    """

    def __init__(self, cause: str, text: str) -> None:
        super().__init__(text)
        self.cause = cause


@dataclass(eq=False)
class Job:
    """One request.

    Attributes:
        steps: Decodes and tokenizes the request.
        cancelled: Whether the client has cancelled the request.
        finish: Called once, with the job and either the logits or the error. Must not raise.
        timeout_s: Seconds from ``arrived`` that the client waits; None: no limit.
        prepared: The result of ``steps``.
        error: What ``steps`` raised in another thread, until the scheduler has handled it.
        scoring: Progress through the model; None before preparation has ended and after the job is done.
        offloaded: The preparation pool has the job; the scheduler must not touch ``steps``.
        slices: How many time slices of preparation the job had on the computing thread.
        due_iteration: The first scheduler iteration that includes the job.
    """

    steps: Steps[PreparedRequest]
    cancelled: Callable[[], bool]
    finish: Callable[[Job, NDArray[np.float32] | Exception], None]
    timeout_s: float | None = None
    arrived: float = field(default_factory=time.monotonic)
    prepared: PreparedRequest | None = None
    error: BaseException | None = None
    scoring: Scoring | None = None
    offloaded: bool = False
    slices: int = 0
    due_iteration: int = 0
    done: bool = False
    _polled_at: float = 0.0

    @property
    def started(self) -> bool:
        """Whether a pass has computed some of its documents."""
        return self.scoring is not None and self.scoring.work.scheduled > 0

    def overdue(self, now: float, more_s: float = 0.0) -> bool:
        """Whether the deadline is less than ``more_s`` after ``now``."""
        return self.timeout_s is not None and now - self.arrived + more_s > self.timeout_s

    def refusal(self, poll_s: float = 0.0) -> Refused | None:
        """Why nothing more is to be done for the job: its deadline has passed, or its client has cancelled; else None.

        Args:
            poll_s: Ask for cancellation only if the last time was so long ago. Asking is a call into Triton's process.
        """
        now = time.monotonic()
        if self.overdue(now):
            return Refused("deadline", f"deadline: the request's timeout of {self.timeout_s:g} s is over")
        if now - self._polled_at >= poll_s:
            self._polled_at = now
            if self.cancelled():
                return Refused("cancelled", "the client cancelled the request")
        return None
