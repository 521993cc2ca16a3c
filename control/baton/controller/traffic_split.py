"""Keeps a traffic split going while live requests reach a candidate: sends the routes, and has the traffic judged."""

from __future__ import annotations

from baton.controller.health import ProcessEnded
from baton.controller.live_evidence import LiveEvidenceCollector
from baton.controller.ports import Ports
from baton.controller.probing import Probing
from baton.controller.splitter_client import SplitterClient
from baton.controller.tasks import Task, Tasks
from baton.domain import MEETING, GateResult, ModelState, Phase, Rollout
from baton.plan import Judge, RolloutSettings, Steer, View, route
from baton.plan.view import backoff
from baton.triton.repository import SPLITTER_VERSION


class TrafficSplit:
    """Of one service. Called by its loop; what takes time runs in the background."""

    def __init__(
        self,
        ports: Ports,
        client: SplitterClient,
        evidence: LiveEvidenceCollector,
        probing: Probing,
        settings: RolloutSettings,
        tasks: Tasks,
    ) -> None:
        self._client = client
        self._evidence = evidence
        self._probing = probing
        self._processes = ports.splitters
        self._settings = settings
        self._tasks = tasks
        self._clock = ports.clock
        self._journal = ports.journal
        self._service = ports.files.alias_name
        self._judged_at = float("-inf")
        self.verdict: GateResult | None = None
        """The last verdict of the live analysis about the present stage of the rollout."""

    def verdict_on(self, rollout: Rollout | None) -> GateResult | None:
        """The last verdict of the live analysis, if it is about the rollout's present stage."""
        if rollout is None or not _is_judged(rollout):
            return None
        current = rollout.phase not in MEETING or self._evidence.collects_for(rollout.id, _stage(rollout))
        return self.verdict if current else None

    def judge(self, view: View) -> None:
        """Start the live analysis at each interval, and at once when a splitter keeps requests from the candidate.

        In the background: with much traffic it takes half a second, and an abort must not wait for that.
        """
        rollout, now = view.rollout, view.now
        if rollout is None or not _is_judged(rollout):
            self._drop_verdict()
        elif rollout.phase in MEETING:
            stage = _stage(rollout)
            if self._evidence.begin(rollout.id, stage, now, self._noise):
                self._client.begin_counts()
                self._drop_verdict()
            if now - self._judged_at >= self._settings.interval or self._client.tripped():
                self._judged_at = now
                self._tasks.start(Judge(), lambda _task: self._analyse(rollout, stage, now))

    def _analyse(self, rollout: Rollout, stage: str, now: float) -> None:
        result = self._probing.judge(now, rollout.release, shadow_only=stage == "shadow")
        if self._evidence.collects_for(rollout.id, stage):
            self.verdict = result

    def _noise(self) -> float | None:
        found = self._journal.notes.noise().get(self._service)
        return None if found is None else found.furthest

    def _drop_verdict(self) -> None:
        self.verdict, self._judged_at = None, float("-inf")

    def steer(self, view: View) -> None:
        """Send every splitter its route, for what is left of the lease that the journal has; and golden requests.

        Golden requests are sent only while no client sends any.
        """
        self._forget_unloaded(view)
        rollout, wanted, until = view.rollout, route(view, self._settings), view.now
        if rollout is not None and rollout.renewed_at is not None:
            # Never longer than one lease, also where the clock was set back since.
            until = min(rollout.renewed_at, view.now) + self._settings.lease
        if wanted is not None and until <= view.now:
            return  # the lease is over: nothing is sent, and the splitters act on that by their own clocks
        salt = "" if rollout is None else rollout.salt
        for server in view.live():
            effect = Steer(server.name)
            if server.splitter is not ModelState.READY or view.splitter is None:
                continue
            if server.locked or not view.keyed:
                continue  # it would refuse
            due = self._client.due(server.name, wanted, view.now) or self._ended(server.name)
            if due and not backoff(view.failed.get(effect), view.now):

                def exchange(_task: Task, name: str = server.name) -> None:
                    if self._ended(name):
                        raise ProcessEnded(f"{self._processes.why(name, SPLITTER_VERSION)}.")
                    # What is left when it is sent, not when it was decided: this process may have been stopped since.
                    now = self._clock()
                    if wanted is None or until > now:
                        self._client.exchange(name, wanted, until - now, salt, now)
                    self._processes.watch(name, SPLITTER_VERSION)

                self._tasks.start(effect, exchange)
        self._probing.go_on(view)

    def _forget_unloaded(self, view: View) -> None:
        for server in view.live():
            if server.splitter is None:
                self._client.forget(server.name)

    def _ended(self, server: str) -> bool:
        """Whether the splitter's process has ended. Triton shows that late: each request fails after a second."""
        lost = self._processes.lost(server, SPLITTER_VERSION)
        return lost and not self._processes.running(server, SPLITTER_VERSION)


def _is_judged(rollout: Rollout) -> bool:
    """Whether live traffic has a say: it has reached the candidate, and nothing else has stopped the rollout."""
    return rollout.progressed_at is not None and rollout.stop is None


def _stage(rollout: Rollout) -> str:
    return "shadow" if rollout.phase is Phase.SHADOWING else "split"
