"""What the plan may ask for. Every effect can be repeated without harm."""

from __future__ import annotations

from dataclasses import dataclass, field

from baton.domain import Gate, GateResult, Kind, Model, Outcome, Phase, Rollout, Stop
from baton.reasons import Why


@dataclass(frozen=True, slots=True)
class Begin:
    """Open a rollout in the journal."""

    kind: Kind
    candidate: int
    previous: int | None
    who: str
    why: Why


@dataclass(frozen=True, slots=True)
class Advance:
    """Move the rollout to its next phase."""

    phase: Phase
    why: Why


@dataclass(frozen=True, slots=True)
class End:
    """Close the rollout."""

    outcome: Outcome
    why: Why


@dataclass(frozen=True, slots=True)
class Halt:
    """Turn the rollout back: note why, and enter ``rolling_back``."""

    stop: Stop


@dataclass(frozen=True, slots=True)
class Record:
    """Write down a verdict that follows from the view alone."""

    result: GateResult


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask a gate about the candidate; the answer arrives in the journal."""

    gate: Gate


@dataclass(frozen=True, slots=True)
class SetPolicy:
    """Write the engine's version policy on disk. Empty: the engine serves nothing."""

    versions: frozenset[int]


@dataclass(frozen=True, slots=True)
class SetAlias:
    """Point the alias's files at an engine version, or remove the alias (None).

    ``split``: by way of the splitter, with ``version`` as the stable one.
    """

    version: int | None
    split: bool = False


@dataclass(frozen=True, slots=True)
class SetSplitter:
    """Write the splitter's files for a stable version, or remove them (None)."""

    stable: int | None


@dataclass(frozen=True, slots=True)
class Renew:
    """Note in the journal that the splitters may follow the route for one more lease. Only then it is sent."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The live analysis passed: go on by so many seconds. Zero begins the first step."""

    seconds: float
    result: GateResult | None = None


@dataclass(frozen=True, slots=True)
class TakeOver:
    """The stable version is dead: the candidate gets all traffic, without its remaining steps."""

    why: Why


@dataclass(frozen=True, slots=True)
class Steer:
    """Send the route to one server's splitter and take its report. Done all the time, without a decision."""

    server: str


@dataclass(frozen=True, slots=True)
class Sync:
    """Make one server do what the files say for one of the service's models."""

    server: str
    model: Model


@dataclass(frozen=True, slots=True)
class Reload:
    """Unload the engine on one server and load it again: its serving version does not answer."""

    server: str


@dataclass(frozen=True, slots=True)
class ProbeVersion:
    """Ask a version on one server a real request. Done all the time, without a decision."""

    server: str
    version: int


@dataclass(frozen=True, slots=True)
class SendGolden:
    """Send one golden request the clients' way. Done while no live ones come, without a decision."""


@dataclass(frozen=True, slots=True)
class VerifyContent:
    """Hash the folder of what serves: for the first time, or because it was changed. Done without a decision.

    ``fingerprint``: of the folder; when that changes, it is another try.
    """

    version: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Prune:
    """Take a version's folder out of the repository; its files are deleted later."""

    version: int


@dataclass(frozen=True, slots=True)
class EndPruning:
    """Nothing is left to be removed: take the note of it back."""


@dataclass(frozen=True, slots=True)
class DeleteRemoved:
    """Delete the files of the folders that were taken out. Done without a decision."""


@dataclass(frozen=True, slots=True)
class Judge:
    """Ask the live analysis about the traffic so far. Done at each interval, without a decision."""


@dataclass(frozen=True, slots=True)
class RepairConfig:
    """Put a ``config.pbtxt`` back that an edit made unusable, and the alias's version folder."""

    model: Model


@dataclass(frozen=True, slots=True)
class SetBackClock:
    """The clock was set back: no time of the open rollout may lie in the future."""


@dataclass(frozen=True, slots=True)
class AskAgain:
    """Forget the verdicts ``hold`` of an earlier control plane, so that their gates are asked again."""


@dataclass(frozen=True, slots=True)
class RecordLoaded:
    """Record what Triton had loaded before this journal began, and that versions below the alias's served before."""


@dataclass(frozen=True, slots=True)
class RecordConfig:
    """Record a file's text as the last one that could be used: it is what :class:`RepairConfig` puts back."""

    model: Model
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class AdoptVersion:
    """Record that the alias's version serves, which the journal does not call released."""


Upkeep = RepairConfig | SetBackClock | AskAgain | RecordLoaded | RecordConfig | AdoptVersion
"""What comes before every other effect; see ``baton.plan.upkeep``."""
Effect = (
    Begin
    | Advance
    | End
    | Halt
    | Record
    | Ask
    | SetPolicy
    | SetAlias
    | SetSplitter
    | Sync
    | Renew
    | Progress
    | TakeOver
    | Steer
    | Judge
    | VerifyContent
    | Reload
    | ProbeVersion
    | SendGolden
    | Prune
    | EndPruning
    | DeleteRemoved
    | Upkeep
)


@dataclass(frozen=True, slots=True)
class Decision:
    """The plan's answer: the phase to show, why, and at most one thing to do."""

    phase: Phase
    why: Why
    effect: Effect | None = None
    waits: Effect | None = None
    """What is waited for: it is under way, or backs off after a failure."""

    @property
    def message(self) -> str:
        """One sentence for a person."""
        return str(self.why)


def halt(rollout: Rollout, outcome: Outcome, who: str, why: Why, gate: Gate | None = None) -> Decision:
    """Turn the rollout back."""
    return Decision(rollout.phase, why, Halt(Stop(outcome, who, why, gate)))
