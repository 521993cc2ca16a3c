"""Waiting for what a verb began, and what its end means for the exit code."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import click

from baton.cli.output import can_ask, duration, percent, print_json, say
from baton.cli.progress import Display, Story
from baton.cli.settings import Settings, Waiting
from baton.domain import Gate, GateResult, Kind, Outcome, Phase, Verdict
from baton.errors import BatonError, GateFailed, Refused, TimedOut, Unreachable
from baton.evidence import synthetic
from baton.facts import Pruned, RolloutStory, Ticket
from baton.reasons import named

if TYPE_CHECKING:
    from baton.verbs import Facade, Prune

T = TypeVar("T")
POLL_S = 0.25
PATIENCE_S = 30.0
"""How long a control plane may be away while a verb waits: the rollout is in the journal and outlives a restart."""
DECLINED = 130


@dataclass(frozen=True)
class Goal:
    """What a verb waits for.

    ``outcomes``: the ends that count as done. ``live``: all traffic on the candidate is enough, the end is not waited
    for. ``rests``: a rollout that waits for a person, after its gates or in a pause step, is as far as this verb
    brings it.
    """

    outcomes: frozenset[Outcome]
    live: bool = False
    rests: bool = False


PROMOTED = Goal(frozenset({Outcome.LIVE}), live=True)
STARTED = Goal(frozenset({Outcome.LIVE}), live=True, rests=True)
VERIFIED = Goal(frozenset({Outcome.VERIFIED}))
BACK = Goal(frozenset({Outcome.ABORTED, Outcome.ROLLED_BACK, Outcome.REJECTED, Outcome.SUPERSEDED}))
"""The running rollout has given way to the stable version, whatever it is called in the history."""


def ask(question: str, *, yes: bool) -> None:
    """Go on only if the person at the terminal says so; without a terminal nobody is asked."""
    if yes or not can_ask() or click.confirm(question, err=True):
        return
    say("Nothing was done.")
    raise click.exceptions.Exit(DECLINED)


def follow(settings: Settings, facade: Facade, ticket: Ticket, waiting: Waiting, goal: Goal) -> None:
    """Wait for the end of what the ticket names, and print it.

    Raises ``GateFailed`` when it ended otherwise than asked for, ``TimedOut``, or ``Unreachable``.
    """
    if ticket.rollout is None or not waiting.wait:
        if settings.json:
            print_json(ticket)
        else:
            say(ticket.message, err=False)
        if ticket.rollout is not None:
            say(f"It is rollout {ticket.rollout}; `ctl status --watch` follows it.")
        return
    say(ticket.message)
    try:
        rollout = _wait(facade, ticket, ticket.rollout, waiting.timeout, goal)
    except KeyboardInterrupt:
        say("What was begun goes on; `ctl status --watch` follows it, `ctl abort` stops it.")
        raise
    if settings.json:
        print_json(rollout)
    failure = _failure(rollout, goal)
    if failure is not None:
        raise failure
    if not settings.json:
        say(_summary(rollout), err=False)


def await_removal(facade: Facade, verb: Prune, asked: Pruned, timeout: float | None) -> Pruned:
    """Wait until the versions that were to go are gone from disk, files included.

    Raises ``TimedOut``, or ``Refused`` where some of them stayed.
    """
    began, doing, told = time.monotonic(), "", ""
    with Display() as display:
        asking = _Patient(display)
        while (now := asking(lambda: facade.ask(replace(verb, dry_run=True)))) is None or now.under_way:
            if now is not None:
                if now.doing == doing != told:  # as at the last look: it takes a while
                    display.remark(told := doing)
                doing = now.doing
            if timeout is not None and time.monotonic() - began >= timeout:
                text = f"{asked.service}: not all of it was removed after {duration(timeout)}. {doing}"
                raise TimedOut(
                    text.rstrip(),
                    mend="It goes on, unless a rollout begins; `ctl prune --dry-run` shows what is left.",
                )
            time.sleep(POLL_S)
    there = {v.version for v in now.versions}
    left = [v.version for v in asked.versions if v.goes and v.version in there]
    if not left and now.problems:
        raise Refused(f"{asked.service}: {' '.join(now.problems)}", mend="Their room is free when that is done.")
    if left:
        why = " ".join(now.problems) or "A rollout began, which comes first, or the folder is another one by now."
        raise Refused(f"{asked.service}: {named(left)} stayed on disk. {why}", mend="Run `ctl prune` again after that.")
    return replace(asked, free=now.free, under_way=False)


class _Patient:
    """Asks while a verb waits. A control plane that is away is given some time, and that it is away is said once."""

    def __init__(self, display: Display) -> None:
        self._display, self._answered, self._away = display, time.monotonic(), False

    def __call__(self, ask: Callable[[], T]) -> T | None:
        """None while it is away. Raises ``Unreachable`` once it has been away for too long."""
        try:
            answer = ask()
        except Unreachable as error:
            if time.monotonic() - self._answered > PATIENCE_S:
                raise
            if not self._away:
                self._display.remark(f"{error.message} Trying again for {duration(PATIENCE_S)}.")
            self._away = True
            return None
        self._answered, self._away = time.monotonic(), False
        return answer


def _wait(facade: Facade, ticket: Ticket, number: int, timeout: float | None, goal: Goal) -> RolloutStory:
    """The rollout as it was when it was done."""
    began = time.monotonic()
    story = Story(from_halt=goal is BACK)
    phase, doing = "not known yet", ""
    with Display() as display:
        asking = _Patient(display)
        while True:
            now = time.monotonic()
            rollout = asking(lambda: facade.rollout(number))
            if rollout is None:
                phase = "silent"
            else:
                phase = rollout.phase
                display.tell(story.news(rollout, display.columns))
                display.now(rollout)
                if _done(rollout, ticket, goal):
                    return rollout
                doing = rollout.doing
            if timeout is not None and now - began >= timeout:
                text = f"{ticket.service}: not done after {duration(timeout)}; the rollout's phase is: {phase}."
                raise TimedOut(
                    f"{text} {doing}".rstrip(),
                    mend="It goes on; `ctl status --watch` follows it, `ctl abort` stops it.",
                )
            left = POLL_S if timeout is None else min(POLL_S, began + timeout - now)
            time.sleep(max(left, 0.0))


def _done(rollout: RolloutStory, ticket: Ticket, goal: Goal) -> bool:
    if rollout.ended:
        return True
    if goal is BACK:
        return False  # it may wait until the loop has seen that it was stopped
    if rollout.phase is Phase.WAITING:
        # Promoting brings nothing further that waits for evidence, and the gates behind one that holds stay pending.
        return _held(rollout) is not None or (goal.rests and not _asking(rollout))
    return bool(goal.live and ticket.until == "live" and rollout.moved and rollout.phase is not Phase.ROLLING_BACK)


def _asking(rollout: RolloutStory) -> bool:
    """Whether gates are still to be asked. After `ctl retry` on a rollout that waits, some are."""
    return any(g.verdict in {Verdict.PENDING, Verdict.RUNNING} and g.gate is not Gate.LIVE for g in rollout.gates)


def _held(rollout: RolloutStory) -> GateResult | None:
    """The gate that a rollout which waits does not have enough evidence for."""
    waits = rollout.phase is Phase.WAITING and not rollout.ended
    gates = rollout.gates if waits else ()
    return next((g for g in gates if g.verdict is Verdict.HOLD and g.gate not in {Gate.LIVE, Gate.MEMORY}), None)


def _failure(rollout: RolloutStory, goal: Goal) -> BatonError | None:
    what = f"Version {rollout.candidate} of {rollout.service}"
    if (held := _held(rollout)) is not None and not goal.rests:
        return Refused(
            f"{what} is not promoted: gate {held.gate} does not have enough evidence. {held.message}",
            mend=f"`ctl retry {rollout.candidate}` runs the gate again, `ctl abort` ends the rollout.",
        )
    if not rollout.ended or rollout.outcome in goal.outcomes:
        return None
    why = (rollout.message or rollout.why).rstrip(".")
    if goal is BACK:
        return Refused(f"{what} went live before it could be stopped.", mend="`ctl rollback` takes it back.")
    again = "verify" if rollout.kind is Kind.CHECK else "retry"
    word = _word(rollout)
    return GateFailed(
        f"{what} was {word}: {why}.",
        mend=f"`ctl history` keeps every figure; `ctl {again} {rollout.candidate}` tries again.",
    )


def _summary(rollout: RolloutStory) -> str:
    """One sentence for the person who waited."""
    version, service, previous = rollout.candidate, rollout.service, rollout.previous
    label = "" if rollout.label == str(version) else f" ({rollout.label})"
    what = f"version {version}{label}"
    if rollout.outcome is Outcome.VERIFIED:
        return f"{service}: {what} {_gates(rollout)}."
    if rollout.ended and rollout.outcome is not Outcome.LIVE:
        stable = f"version {previous} serves" if previous is not None else "nothing serves"
        return f"{service}: {what} was {_word(rollout)}; {stable}."
    if rollout.phase is Phase.WAITING and rollout.weight:
        return f"{service}: {what} has {percent(rollout.weight)} of the traffic and waits for `ctl promote`."
    if (held := _held(rollout)) is not None:
        text = f"{service}: {what} is not live: gate {held.gate} does not have enough evidence. {held.message}"
        return f"{text} `ctl retry {version}` runs the gate again, `ctl abort` ends the rollout."
    if rollout.phase is Phase.WAITING:
        return f"{service}: {what} {_gates(rollout)} and waits for `ctl promote`."
    after = f", {duration(rollout.time_to_live_s)} after it began" if rollout.time_to_live_s else ""
    return f"{service}: {what} is live{after}.{_no_traffic(rollout)}"


def _word(rollout: RolloutStory) -> str:
    """How it ended."""
    return str(rollout.outcome).replace("_", " ")


def _gates(rollout: RolloutStory) -> str:
    """What its gates said. Of one that was skipped it may not be said that it passed."""
    skipped = [str(g.gate) for g in rollout.gates if g.skipped]
    return f"passed every gate but those that were skipped ({', '.join(skipped)})" if skipped else "passed every gate"


def _no_traffic(rollout: RolloutStory) -> str:
    """What a rollout that no client met rests on."""
    if not any(synthetic(gate) for gate in rollout.gates):
        return ""
    return " No live traffic came: golden requests stood in for it."
