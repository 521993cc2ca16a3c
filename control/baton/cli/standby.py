"""A second ``ctl serve`` of a state directory: it is ready, touches nothing, and acts when the first is gone."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from baton.api import SOCKET, claim
from baton.config import Config
from baton.errors import Refused, Unreachable
from baton.facts import ControlHealth, RolloutFacts, Status
from baton.metrics import MetricsServer
from baton.state_lock import StateLock

_log = logging.getLogger("baton.standby")


@contextmanager
def standing_by(config: Config) -> Iterator[StateLock]:
    """Holds the state directory, as soon as nobody else does."""
    with ExitStack() as stack:
        standby = _Standby(config, stack)
        with claim(config.state / SOCKET, waits=standby.wait) as held:
            if standby.why:
                _log.info("process %d takes over", os.getpid())
                stack.close()  # the control plane's own metrics come to the same address
            yield held


class _Standby:
    """What a control plane that stands by tells of itself: live, not ready, and why."""

    def __init__(self, config: Config, stack: ExitStack) -> None:
        self.why = ""
        self._config, self._stack = config, stack

    def wait(self, holder: str) -> None:
        """Called when it turns out that another one acts."""
        first, self.why = not self.why, f"{holder} Process {os.getpid()} stands by, and acts when that one is gone."
        _log.info("%s", self.why)
        if first and self._config.control.metrics is not None:
            try:
                server = self._stack.enter_context(MetricsServer(self, self._config.control.metrics))
                _log.info("http://%s/healthz answers meanwhile", server.address)
            except Refused as error:
                # On the machine of the one that acts, with the same configuration, that one has the address.
                _log.info("No /healthz until then: %s", error.message)

    def acting(self) -> bool:
        return False

    def health(self) -> ControlHealth:
        return ControlHealth(live=True, ready=False, message=self.why)

    # The rest is asked of the one that acts.

    def status(self, _service: str | None, /) -> Status:
        raise Unreachable(self.why)

    def history(self, _service: str | None, _limit: int = 50, /) -> tuple[RolloutFacts, ...]:
        raise Unreachable(self.why)

    def counts(self) -> dict[tuple[str, str], int]:
        raise Unreachable(self.why)

    def loop_at(self) -> float:
        return 0.0
