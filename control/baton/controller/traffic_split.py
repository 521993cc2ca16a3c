"""Keeps a split going, and has it judged: what happens all the time while live traffic meets a candidate."""

from __future__ import annotations

from collections.abc import Callable

from baton.controller.health import ProcessEnded, Processes
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
        steering: SplitterClient,
        probing: Probing,
        processes: Processes,
        settings: RolloutSettings,
        tasks: Tasks,
        clock: Callable[[], float],
    ) -> None:
        self._steering = steering
        self._probing = probing
        self._processes = processes
        self._settings = settings
        self._tasks = tasks
        self._clock = clock
        self._judged_at = float("-inf")
        self.verdict: GateResult | None = None
        """The live analysis's last word about the present phase."""

    def judge(self, rollout: Rollout | None, now: float) -> GateResult | None:
        """Ask the live analysis at each interval, and at once when a splitter keeps requests from the candidate.

        In the background: with much traffic it takes half a second, and an abort must not wait for that.
        """
        if rollout is None or rollout.progressed_at is None or rollout.stop is not None:
            self._forget()
        elif rollout.phase in MEETING:
            stage = "shadow" if rollout.phase is Phase.SHADOWING else "split"
            if self._steering.begin(rollout.id, stage, now):
                self._forget()
            if now - self._judged_at >= self._settings.interval or self._steering.tripped():
                self._judged_at = now
                self._tasks.start(Judge(), lambda _task: self._ask(rollout, stage, now))
        return self.verdict

    def _ask(self, rollout: Rollout, stage: str, now: float) -> None:
        result = self._probing.judge(now, rollout.release, shadow_only=stage == "shadow")
        if self._steering.about(rollout.id, stage):
            self.verdict = result

    def _forget(self) -> None:
        self.verdict, self._judged_at = None, float("-inf")

    def steer(self, view: View) -> None:
        """Send every splitter its route, for what is left of the lease that the journal knows of.

        And where no clients ask, requests that stand in for theirs.
        """
        rollout, wanted, until = view.rollout, route(view, self._settings), view.now
        if rollout is not None and rollout.renewed_at is not None:
            # Never longer than one lease, also where the clock was set back since.
            until = min(rollout.renewed_at, view.now) + self._settings.lease
        if wanted is not None and until <= view.now:
            return  # the splitters know it by their own clocks, and what they do then: nothing is sent over its lease
        salt = "" if rollout is None else rollout.salt
        for server in view.live():
            effect = Steer(server.name)
            if server.splitter is not ModelState.READY or view.splitter is None:
                continue
            if server.locked or not view.keyed:
                continue  # it would refuse
            due = self._steering.due(server.name, wanted, view.now) or self._dead(server.name)
            if due and not backoff(view.failed.get(effect), view.now):

                def exchange(_task: Task, name: str = server.name) -> None:
                    if self._dead(name):
                        raise ProcessEnded(f"{self._processes.why(name, SPLITTER_VERSION)}.")
                    # What is left when it is sent, not when it was decided: this process may have been stopped since.
                    now = self._clock()
                    if wanted is None or until > now:
                        self._steering.exchange(name, wanted, until - now, salt, now)
                    self._processes.watch(name, SPLITTER_VERSION)

                self._tasks.start(effect, exchange)
        self._probing.go_on(view)

    def _dead(self, server: str) -> bool:
        """Whether the splitter's process has ended. Its queue tells that late: each request fails after a second."""
        lost = self._processes.lost(server, SPLITTER_VERSION)
        return lost and not self._processes.running(server, SPLITTER_VERSION)
