"""Without live requests golden ones go the clients' way, so that a rollout does not wait for ever for evidence.

They are sent while a splitter stands behind the alias and no client has asked for a while, one at a time and at
most one a second, and end with the next live request. Each is announced to the splitter first, which tells it apart
from a client's and sends it where the control plane says: chance would hardly ever send one to a candidate with 5 % of
traffic. In shadow stable answers them all, and the candidate sees them too. While traffic is split each golden request
is asked of both versions, one right after the other, first of this one and next time first of that one: both get the
same questions at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from baton.config import ServiceConfig
from baton.controller.splitter_client import SplitterClient
from baton.controller.tasks import Tasks
from baton.domain import Gate, GateResult, Phase, Release, Rollout, Verdict
from baton.evidence import LiveEvidence
from baton.plan import RolloutSettings, SendGolden, View, route
from baton.plan.traffic import position_of, stepwise
from baton.plan.view import backoff
from baton.triton.port import Tensors, Triton, own_id

EVERY_S = 1.0
BOTH = ("stable", "candidate", "candidate", "stable")
"""Whom four turns ask: two golden requests of both versions, each version first once."""
TOLD_AFTER_S = 5.0
"""Clients pause. That none asks is told from here on."""


@dataclass(slots=True)
class Probing:
    """Of one service. ``golden``: its golden requests, as they are sent; none: nothing stands in for clients."""

    config: ServiceConfig
    servers: Mapping[str, Triton]
    golden: Sequence[Tensors]
    steering: SplitterClient
    settings: RolloutSettings
    tasks: Tasks
    clock: Callable[[], float]
    _turn: int = field(default=0, init=False)
    _sent_at: float = field(default=float("-inf"), init=False)
    _trouble: str = field(default="", init=False)
    """Why the last one got no answer."""

    def stands_in(self, now: float) -> bool:
        """Whether golden requests take the place of live ones now."""
        traffic = self.config.traffic
        wanted = bool(self.golden) and traffic.on_no_traffic == "probe"
        return wanted and self.steering.quiet_for(now) >= traffic.no_traffic_after

    def go_on(self, view: View) -> None:
        """Send the next one if it is due, in the background."""
        rollout, effect = view.rollout, SendGolden()
        if rollout is None or not self._meets(view, rollout) or not self.stands_in(view.now):
            return
        early = 0 <= view.now - self._sent_at < EVERY_S
        if early or effect in view.running or backoff(view.failed.get(effect), view.now):
            return
        self._sent_at = view.now
        split = position_of(rollout, self.settings).weight > 0
        turn, self._turn = self._turn, self._turn + 1
        asked, to = (turn // 2, BOTH[turn % len(BOTH)]) if split else (turn, "stable")
        names = [s.name for s in view.live()]
        name, case = names[asked % len(names)], asked % len(self.golden)
        self.tasks.start(effect, lambda _task: self._send(name, case, to))

    def _meets(self, view: View, rollout: Rollout) -> bool:
        """Whether its way goes on by what requests show, and they would pass a splitter on every server."""
        waits = view.paused and not rollout.promoted
        if rollout.phase not in (Phase.SHADOWING, Phase.SHIFTING) or waits or not stepwise(rollout, self.settings):
            return False
        on_its_way = route(view, self.settings) is not None and position_of(rollout, self.settings).left > 0
        return on_its_way and view.alias == rollout.previous and bool(view.live()) and all(s.split for s in view.live())

    def _send(self, server: str, case: int, to: str) -> None:
        # The id is known to nobody but the splitter until it is used, and counts once.
        request_id = own_id(f"{case}-")
        try:
            self.steering.announce(server, request_id, to)
            timeout_s = self.config.gates.request_timeout
            self.servers[server].infer(self.config.name, None, self.golden[case], timeout_s, request_id)
        except Exception as error:
            self._trouble = str(error)
            raise
        self._trouble = ""

    def judge(self, now: float, release: Release, *, shadow_only: bool) -> GateResult:
        """What requests say of the candidate so far: live ones, and where they hold for want of any, golden ones.

        The two are never mixed: a version's golden requests and its clients' are no sample of the same thing.
        """
        live = self.steering.judge(now, release, shadow_only=shadow_only)
        if live.verdict is not Verdict.HOLD:
            return live
        if not self.stands_in(now):
            return self._waits(now, live)
        if (failed := self.steering.failed_lately(now)) is not None:
            told = f"{live.message} Golden requests are not used, because the candidate failed live ones."
            return replace(live, message=f"{told} Its last error: {failed}")
        own, count = self.steering.judge_own(now, release, shadow_only=shadow_only, golden=len(self.golden))
        message = f"Synthetic: {count} golden requests, no live traffic. {own.message}"
        if own.verdict is Verdict.HOLD and self._trouble:
            message = f"{message} The last golden request got no answer: {self._trouble}"
        if isinstance(own.evidence, LiveEvidence):
            own = replace(own, evidence=replace(own.evidence, synthetic=count))
        return replace(own, message=message)

    def _waits(self, now: float, live: GateResult) -> GateResult:
        """A hold, with what is missing and what a person can do."""
        traffic, quiet = self.config.traffic, self.steering.quiet_for(now)
        if quiet < min(TOLD_AFTER_S, traffic.no_traffic_after):
            return live
        if self.golden and traffic.on_no_traffic == "probe":
            left = traffic.no_traffic_after - quiet
            told = f"No live request for {quiet:.0f} s; golden requests are used instead in {left:.0f} s."
        elif traffic.on_no_traffic == "probe":
            told = (
                f"No live request for {quiet:.0f} s, and the service has no golden set to use instead. Send requests, "
                f"set `golden`, or run `ctl promote --full` to skip the remaining traffic steps."
            )
        else:
            told = (
                f'No live request for {quiet:.0f} s, and `on_no_traffic = "hold"` waits for them. Send requests, or '
                f"run `ctl promote --full` to skip the remaining traffic steps."
            )
        return GateResult(Gate.LIVE, Verdict.HOLD, f"{live.message} {told}", evidence=live.evidence)
