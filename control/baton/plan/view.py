"""What the plan sees: one service at one moment. Snapshots only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from baton.domain import (
    Folder,
    GateResult,
    Model,
    ModelState,
    ModelVersion,
    ReleaseStatus,
    Rollout,
    Step,
    VersionRecord,
)
from baton.plan.effects import Effect, Reload, Sync, Upkeep
from baton.reasons import Reason, Why, because


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """What the operator configured for the service. Durations in seconds."""

    keep_previous: float = 600.0
    """How long the old version stays loaded after traffic moved (``baking``)."""
    automatic: bool = True
    """False: a version that passed its gates waits for ``ctl promote``."""
    supersede: bool = False
    """True: a newer version ends the rollout of an older one; False: it queues."""
    settle: float = 2.0
    """A folder counts as complete only after nothing in it changed for this long."""
    cut_after: float = 15.0
    """A folder that lacks nothing but the end of a file counts as cut off for good after this long."""
    load_timeout: float = 900.0
    drain_timeout: float = 120.0
    """How long a dropped version may stay UNLOADING before the rollout ends without waiting for it."""
    stuck_after: float = 1800.0
    """An incoming folder in which nothing changed for this long is reported as stuck."""
    hold_retry: float = 15.0
    """A gate that said ``hold`` is asked again after this long."""
    hold_attempts: int = 5
    """A gate that held this often in a row is left to a person: what can't be shown is not promoted."""
    steps: tuple[Step, ...] = ()
    """How traffic moves; without steps all at once."""
    shadow_share: float = 0.0
    """Percent of live requests that the candidate answers as well, unseen, before and while traffic is split."""
    shadow_for: float = 0.0
    """How long it does so before it gets traffic."""
    interval: float = 5.0
    """How often the live analysis decides whether to go on."""
    lease: float = 15.0
    """How long a splitter follows its route without hearing from the control plane."""
    resume: bool = True
    """After a lease ended by itself: True goes on, False rolls back."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The last failed attempt at an effect. ``refused``: Triton answered no; otherwise it did not answer."""

    at: float
    count: int
    message: str
    refused: bool
    words: str = ""
    """All that Triton said of it; the message holds the cause."""
    since: float = math.inf
    """When the first of the failures in a row was."""
    machine: str = ""
    """What to mend on the server where that, and not the version, is at fault; empty where it is not, or not known."""


@dataclass(frozen=True, slots=True)
class Unhealthy:
    """A version does not answer on a server although Triton calls it READY. ``reason``: the words it failed with."""

    since: float
    reason: str


@dataclass(frozen=True, slots=True)
class BrokenConfig:
    """A ``config.pbtxt`` that can't be used, and of which the journal has the last usable text."""

    model: Model
    problem: str
    """In a sentence."""
    since: float
    """When it was first seen so. ``-inf``: nobody is at work on it."""


@dataclass(frozen=True, slots=True)
class ServerView:
    """One Triton server as its repository index tells it; ``reason`` says why it is not ``live``.

    ``inflight`` are requests that wait in the queue, by engine version, where the server's metrics are known.
    """

    name: str
    live: bool
    engine: Mapping[int, ModelVersion] = field(default_factory=dict)
    alias: Mapping[int, ModelVersion] = field(default_factory=dict)
    split: bool = False
    """The alias leads to the splitter here."""
    splitter: ModelState | None = None
    """The splitter's own state; None when it is not loaded."""
    steered: float | None = None
    """When the splitter last answered to a route."""
    locked: bool = False
    """The splitter takes no route from this control plane, and was not loaded again since: it knows other files."""
    outstanding: Mapping[int, int] | None = None
    """The splitter's calls under way, by version, as of when stable alone was to answer; None when not known."""
    inflight: Mapping[int, int] | None = None
    leaving_since: Mapping[int, float] = field(default_factory=dict)
    """When each engine version that is UNLOADING was first seen so."""
    emptied: frozenset[int] = frozenset()
    """Those of them whose processes were seen, and have all ended: what they held is free."""
    reason: str = ""

    def ready(self) -> frozenset[int]:
        """Engine versions that are READY here."""
        return frozenset(v for v, m in self.engine.items() if m.state is ModelState.READY)

    def held(self) -> frozenset[int]:
        """Engine versions that take memory here: all but those that are gone."""
        return frozenset(v for v, m in self.engine.items() if m.state is not ModelState.UNAVAILABLE)

    def loading(self) -> bool:
        """True while an engine version is being loaded here."""
        return any(m.state is ModelState.LOADING for m in self.engine.values())

    def leaving(self, version: int) -> bool:
        """True while the version answers its last requests before it goes."""
        return self.engine[version].state is ModelState.UNLOADING

    def stays(self, version: int, now: float, drain_timeout: float) -> bool:
        """True when nothing is to be waited for any more, though the version is UNLOADING.

        Triton (seen on 24.10) keeps one so for ever whose process died before a request to it was answered: its
        processes have ended, or it has been leaving for longer than its last requests may take.
        """
        if version in self.emptied and self.leaving(version):
            return True
        since = self.leaving_since.get(version)
        return since is not None and self.leaving(version) and now - since > drain_timeout

    def serving(self) -> frozenset[int]:
        """Versions that the alias leads to here: one, or none. While traffic is split, the stable one."""
        return frozenset(v for v, m in self.alias.items() if m.state is ModelState.READY)


@dataclass(frozen=True, slots=True)
class View:
    """One service at one moment.

    ``version_policy``, ``alias``, ``split`` and ``splitter`` are what the files say; servers say what is.
    """

    service: str
    now: float
    version_policy: frozenset[int]
    alias: int | None
    servers: tuple[ServerView, ...]
    split: bool = False
    """The alias is to lead to the splitter, for which ``alias`` is the stable version."""
    splitter: int | None = None
    """The stable version of the splitter's files; None when there are none."""
    keyed: bool = True
    """The splitter's files take this control plane's token, and allow what is configured now."""
    folders: Mapping[int, Folder] = field(default_factory=dict)
    unexpected: tuple[Folder, ...] = ()
    """Entries beside the version folders that can never be versions."""
    records: Mapping[int, VersionRecord] = field(default_factory=dict)
    loaded: Mapping[int, str] = field(default_factory=dict)
    """Fingerprints of the folders as Triton last loaded them."""
    known_unexpected: Mapping[str, str] = field(default_factory=dict)
    """Name and fingerprint of the unexpected entries at the last engine load: those do no more harm."""
    rollout: Rollout | None = None
    running: frozenset[Effect] = frozenset()
    failed: Mapping[Effect, Failure] = field(default_factory=dict)
    paused: bool = False
    live_gate: GateResult | None = None
    """What the live analysis says of the traffic so far; None while there is nothing to analyse."""
    unhealthy: Mapping[tuple[str, int], Unhealthy] = field(default_factory=dict)
    """By server and version: those that were asked and do not answer."""
    answered: Mapping[tuple[str, int], float] | None = None
    """By server and version: when the last question that was answered was put. None: nobody can be asked."""
    just_started: bool = False
    """This control plane has decided nothing yet."""
    repairs: tuple[BrokenConfig, ...] = ()
    """Files that can't be used. Where there are some, only ``running``, ``failed`` and ``paused`` are known besides."""
    unrecorded: tuple[Upkeep, ...] = ()
    """What was seen and the journal does not know yet, each by the effect that records it."""

    def live(self) -> tuple[ServerView, ...]:
        return tuple(s for s in self.servers if s.live)

    def silent(self) -> tuple[str, ...]:
        """Names of the servers that do not answer."""
        return tuple(s.name for s in self.servers if not s.live)

    def silence(self) -> tuple[tuple[str, str], ...]:
        """The servers that do not answer Baton, each with the cause: one that refuses its key is none that is away."""
        return tuple((s.name, s.reason) for s in self.servers if not s.live)

    def leads(self, server: ServerView) -> bool:
        """True when the alias on the server is what the files say."""
        wanted = frozenset() if self.alias is None else frozenset({self.alias})
        return server.serving() == wanted and server.split == (self.split and self.alias is not None)

    def stable(self) -> int | None:
        """The version to compare with and to go back to.

        None also when the alias's version is lost: every server answers, has it READY nowhere, and refused to
        load it (or the policy on disk gave it up for that reason), or it does not answer there although it was
        loaded again. A new version must then not be held to one that
        nobody can ask, nor be loaded together with it: Triton loads all that a policy newly names, or nothing (seen
        on 24.10).
        """
        if self.alias is None or self.silent():
            return self.alias
        dead = {s for s, v in self.unhealthy if v == self.alias and Reload(s) in self.failed}
        if any(self.alias in s.ready() and s.name not in dead for s in self.servers):
            return self.alias
        tries = [self.failed.get(Sync(s.name, Model.ENGINE)) for s in self.servers if s.name not in dead]
        lost = self.alias not in self.version_policy or all(f is not None and f.refused for f in tries)
        return None if lost else self.alias

    def ready_everywhere(self, version: int) -> bool:
        """True when every server answers and has the version READY."""
        return bool(self.servers) and all(s.live and version in s.ready() for s in self.servers)

    def pending(self, settings: RolloutSettings) -> tuple[Folder, ...]:
        """Quiet folders above the stable version that nobody has decided about yet, lowest first.

        They are complete, or so cut off that no waiting helps: then the gates refuse them, and say why.
        """
        floor = self.alias or 0
        found = []
        for version, folder in self.folders.items():
            quiet = self.now - folder.quiet_since
            settled = folder.complete and quiet >= settings.settle
            cut_off = folder.cut and quiet >= max(settings.settle, settings.cut_after)
            if version > floor and (settled or cut_off) and self._undecided(version):
                found.append(folder)
        return tuple(sorted(found, key=lambda f: f.version or 0))

    def refused(self, version: int) -> VersionRecord | None:
        """The refusal that stands: of this very folder, or of a version that Triton has loaded before."""
        record, folder = self.records.get(version), self.folders.get(version)
        if record is None or folder is None or record.status is not ReleaseStatus.REJECTED:
            return None
        # A refused folder that never reached Triton may be mended in place (a copy that was cut short, say).
        return record if record.loaded or record.fingerprint == folder.fingerprint else None

    def _undecided(self, version: int) -> bool:
        record = self.records.get(version)
        return record is None or (record.status is ReleaseStatus.REJECTED and self.refused(version) is None)

    def hold_reason(self) -> Why | None:
        """Why no engine load call may be made now, or None.

        Triton (seen on 24.10) reloads a live version in the next load call when anything under its folder has
        changed, drops it when the folder is gone, and reloads every version when an entry that is not a version
        folder appeared beside them. Live traffic comes first: then nothing is loaded until a person mended it.
        """
        serving = {v for s in self.live() for v in s.serving()}
        # Without an alias clients ask the engine directly.
        named = self.version_policy if self.alias is None else {self.alias}
        serving |= {v for s in self.live() for v in s.ready() & named}
        for version in sorted(serving):
            folder = self.folders.get(version)
            if folder is None:
                return because(Reason.FOLDER_GONE, version=version)
            known = self.loaded.get(version)
            if known is not None and known != folder.fingerprint:
                return because(Reason.FOLDER_CHANGED, version=version)
        for entry in self.unexpected:
            if not entry.harmless and self.known_unexpected.get(entry.name) != entry.fingerprint:
                return because(Reason.UNEXPECTED_ENTRY, name=entry.name, problem=entry.problem)
        return None


def failure_text(failure: Failure) -> str:
    """What went wrong, and what to mend on the server where that is known, in sentences."""
    words = failure.message if failure.message.endswith((".", "!", "?")) else f"{failure.message}."
    return f"{words} {failure.machine}" if failure.machine else words


def backoff(failure: Failure | None, now: float) -> bool:
    """True while a failed effect must rest: 1, 2, 4 ... at most 30 seconds after its last failure."""
    if failure is None:
        return False
    return now - failure.at < min(30.0, 2.0 ** (failure.count - 1))
