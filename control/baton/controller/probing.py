"""Golden requests in place of live ones: without clients a rollout would wait for evidence for ever.

They are sent along the path of client requests while a splitter stands behind the alias and no client has sent one for
a while: one at a time, at most one a second, and none after the next live request. Each is announced to the splitter
first, so that the splitter does not count it as a client's and sends it to the version that is named: by chance a
candidate with 5 % of traffic would hardly ever get one. In shadow stable answers them all, and the candidate gets
copies. While traffic is split each golden request is sent to both versions, one right after the other, in turn to the
one first and to the other first: both get the same requests at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from baton.config import ServiceConfig
from baton.controller.live_evidence import LiveEvidenceCollector
from baton.controller.ports import Ports
from baton.controller.splitter_client import SplitterClient
from baton.controller.tasks import Tasks
from baton.domain import Gate, GateResult, Phase, Release, Rollout, Verdict
from baton.evidence import LiveEvidence
from baton.plan import RolloutSettings, SendGolden, View, route
from baton.plan.traffic import position_of, stepwise
from baton.plan.view import backoff
from baton.triton.port import Tensors, own_id

EVERY_S = 1.0
BOTH = ("stable", "candidate", "candidate", "stable")
"""Where four requests in a row go: two golden requests to both versions, each version first once."""
QUIET_AFTER_S = 5.0
"""Clients pause for moments. That none sends requests is reported after this long."""


@dataclass(slots=True)
class Probing:
    """Of one service. ``golden``: its golden requests, as they are sent; without any, none are sent."""

    config: ServiceConfig
    ports: Ports
    golden: Sequence[Tensors]
    client: SplitterClient
    evidence: LiveEvidenceCollector
    settings: RolloutSettings
    tasks: Tasks
    _turn: int = field(default=0, init=False)
    _sent_at: float = field(default=float("-inf"), init=False)
    _trouble: str = field(default="", init=False)
    """Why the last request got no answer."""

    def replaces_live(self, now: float) -> bool:
        """Whether golden requests are sent in place of live ones now."""
        traffic = self.config.traffic
        wanted = bool(self.golden) and traffic.on_no_traffic == "probe"
        return wanted and self.evidence.quiet_for(now) >= traffic.no_traffic_after

    def go_on(self, view: View) -> None:
        """Send the next golden request if it is due, in the background."""
        rollout, effect = view.rollout, SendGolden()
        if rollout is None or not self._reaches_candidate(view, rollout) or not self.replaces_live(view.now):
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

    def _reaches_candidate(self, view: View, rollout: Rollout) -> bool:
        """Whether the rollout waits for evidence from requests, and they would pass a splitter on every server."""
        frozen = view.paused and not rollout.promoted
        if rollout.phase not in (Phase.SHADOWING, Phase.SHIFTING) or frozen or not stepwise(rollout, self.settings):
            return False
        goes_on = route(view, self.settings) is not None and position_of(rollout, self.settings).left > 0
        return goes_on and view.alias == rollout.previous and bool(view.live()) and all(s.split for s in view.live())

    def _send(self, server: str, case: int, to: str) -> None:
        # Only the splitter knows the id until it is used, and it counts once.
        request_id = own_id(f"{case}-")
        try:
            self.client.announce(server, request_id, to)
            timeout_s = self.config.gates.request_timeout
            self.ports.servers[server].infer(self.config.name, None, self.golden[case], timeout_s, request_id)
        except Exception as error:
            self._trouble = str(error)
            raise
        self._trouble = ""

    def judge(self, now: float, release: Release, *, shadow_only: bool) -> GateResult:
        """The verdict on the candidate so far: of live requests, or of golden ones where there are too few live ones.

        The two are never mixed: golden requests and those of clients are not samples of the same thing.
        """
        live = self.evidence.judge(now, release, shadow_only=shadow_only)
        if live.verdict is not Verdict.HOLD:
            return live
        if not self.replaces_live(now):
            return self._waits(now, live)
        if (failed := self.evidence.failed_lately(now)) is not None:
            message = f"{live.message} Golden requests are not used, because the candidate failed live ones."
            return replace(live, message=f"{message} Its last error: {failed}")
        own, count = self.evidence.judge_own(now, release, shadow_only=shadow_only, golden=len(self.golden))
        message = f"Synthetic: {count} golden requests, no live traffic. {own.message}"
        if own.verdict is Verdict.HOLD and self._trouble:
            message = f"{message} The last golden request got no answer: {self._trouble}"
        if isinstance(own.evidence, LiveEvidence):
            own = replace(own, evidence=replace(own.evidence, synthetic=count))
        return replace(own, message=message)

    def _waits(self, now: float, live: GateResult) -> GateResult:
        """A hold, with what is missing and what to do."""
        traffic, quiet = self.config.traffic, self.evidence.quiet_for(now)
        if quiet < min(QUIET_AFTER_S, traffic.no_traffic_after):
            return live
        if self.golden and traffic.on_no_traffic == "probe":
            left = traffic.no_traffic_after - quiet
            reason = f"No live request for {quiet:.0f} s; golden requests are used instead in {left:.0f} s."
        elif traffic.on_no_traffic == "probe":
            reason = (
                f"No live request for {quiet:.0f} s, and the service has no golden set to use instead. Send requests, "
                f"set `golden`, or run `ctl promote --full` to skip the remaining traffic steps."
            )
        else:
            reason = (
                f'No live request for {quiet:.0f} s, and `on_no_traffic = "hold"` waits for them. Send requests, or '
                f"run `ctl promote --full` to skip the remaining traffic steps."
            )
        return GateResult(Gate.LIVE, Verdict.HOLD, f"{live.message} {reason}", evidence=live.evidence)
