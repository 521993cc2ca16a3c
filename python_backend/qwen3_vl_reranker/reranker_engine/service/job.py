"""One request on its way, and why one is refused."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from reranker_engine.inference.scoring import Prepared, Scoring
    from reranker_engine.inference.steps import Steps

SLICE_S = 0.05
"""How long decoding and tokenizing of one request goes on before the others have their turn."""


class Refused(Exception):
    """A request that is not computed, or not to its end, and why.

    Attributes:
        cause: ``cancelled``, ``deadline`` or ``busy``.
    """

    def __init__(self, cause: str, text: str) -> None:
        super().__init__(text)
        self.cause = cause


@dataclass(eq=False)
class Job:
    """One request on its way.

    Attributes:
        steps: Decodes and tokenizes it.
        cancelled: Whether its client went away.
        finish: Called once with the job, and with the logits or what went wrong. Must not raise.
        timeout_s: How long its client waits from ``arrived`` on; None: for ever.
        prepared: What ``steps`` gave.
        failed: What ``steps`` raised, while nobody was told.
        scoring: How far it is, while it is neither being prepared nor done.
        apart: Other threads than the computing one have it.
        slices: How often its preparation was gone on with on the computing thread.
        turn: The number of the round that does something for it.
    """

    steps: Steps[Prepared]
    cancelled: Callable[[], bool]
    finish: Callable[[Job, NDArray[np.float32] | Exception], None]
    timeout_s: float | None = None
    arrived: float = field(default_factory=time.monotonic)
    prepared: Prepared | None = None
    failed: BaseException | None = None
    scoring: Scoring | None = None
    apart: bool = False
    slices: int = 0
    turn: int = 0
    done: bool = False
    _asked_at: float = 0.0

    @property
    def begun(self) -> bool:
        return self.scoring is not None and self.scoring.work.done > 0

    def overdue(self, now: float, more_s: float = 0.0) -> bool:
        """Whether ``more_s`` from ``now`` on are more than its client waits."""
        return self.timeout_s is not None and now - self.arrived + more_s > self.timeout_s

    def refused(self, every_s: float = 0.0) -> Refused | None:
        """Why nothing more is to be done for it, if its client is gone or its time is over.

        Args:
            every_s: So often at most it is asked whether the client is gone: that is a call into Triton's process.
        """
        now = time.monotonic()
        if self.overdue(now):
            return Refused("deadline", f"deadline: the request's timeout of {self.timeout_s:g} s is over")
        if now - self._asked_at >= every_s:
            self._asked_at = now
            if self.cancelled():
                return Refused("cancelled", "the client cancelled the request")
        return None
