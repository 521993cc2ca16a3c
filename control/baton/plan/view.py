"""What the plan sees: a snapshot of one service at one moment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from baton.domain import (
    Folder,
    GateResult,
    Kind,
    Model,
    ModelState,
    ModelVersion,
    Pruning,
    ReleaseStatus,
    Rollout,
    Step,
    VersionRecord,
)
from baton.plan.effects import Effect, Reload, Sync, Upkeep
from baton.reasons import Reason, Why, because


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSettings:
    """What the plan decides by of a service's configuration, which has the defaults. Durations in seconds."""

    keep_previous: float
    """How long the previous version stays loaded after all traffic moved (``baking``)."""
    automatic: bool
    """False: a version that passed its gates waits for ``ctl promote``."""
    supersede: bool
    """True: a newer version ends the rollout of an older one; False: it queues."""
    settle: float
    """A folder counts as complete only after nothing in it changed for this long."""
    cut_after: float
    """A folder that lacks only the end of a file counts as cut off for good after this long."""
    load_timeout: float
    drain_timeout: float
    """How long a dropped version may stay UNLOADING before the rollout ends without waiting for it."""
    stuck_after: float
    """An incoming folder in which nothing changed for this long is reported as stuck."""
    hold_retry: float
    """A gate that held is asked again after this long."""
    hold_attempts: int
    """A gate that held this often in a row is left to a person."""
    steps: tuple[Step, ...]
    """How traffic moves; without steps all at once."""
    shadow_share: float
    """Percent of live requests that are mirrored to the candidate, before and while traffic is split."""
    shadow_for: float
    """How long requests are mirrored before the candidate gets traffic."""
    interval: float
    """How often the live analysis decides whether traffic goes on."""
    lease: float
    """How long a splitter follows its route without hearing from the control plane."""
    keep_versions: int | None
    """Version folders kept beside the version that serves and the one that a rollback goes to; None: all."""
    resume: bool
    """After a lease ended by itself: True goes on, False rolls back."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The last failed attempt at an effect. ``refused``: Triton answered no; otherwise it did not answer."""

    at: float
    count: int
    message: str
    refused: bool
    words: str = ""
    """All that Triton said; the message holds the cause."""
    since: float = math.inf
    """When the first of these failures in a row was."""
    machine: str = ""
    """What to mend on the server where that is at fault, and not the version; else empty."""


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
    """The splitter knows another control plane's token: it takes no route until it is loaded again."""
    outstanding: Mapping[int, int] | None = None
    """The splitter's calls under way, by version, since stable alone is to answer; None when not known."""
    inflight: Mapping[int, int] | None = None
    leaving_since: Mapping[int, float] = field(default_factory=dict)
    """When each engine version that is UNLOADING was first seen so."""
    emptied: frozenset[int] = frozenset()
    """Those whose processes were seen and have all ended: their memory is free."""
    reason: str = ""

    def ready(self) -> frozenset[int]:
        """Engine versions that are READY here."""
        return frozenset(v for v, m in self.engine.items() if m.state is ModelState.READY)

    def in_memory(self) -> frozenset[int]:
        """Engine versions that take memory here: all but those that are gone."""
        return frozenset(v for v, m in self.engine.items() if m.state is not ModelState.UNAVAILABLE)

    def loading(self) -> bool:
        """Whether an engine version is being loaded here."""
        return any(m.state is ModelState.LOADING for m in self.engine.values())

    def unloading(self, version: int) -> bool:
        """Whether the version answers its last requests before it goes."""
        return self.engine[version].state is ModelState.UNLOADING

    def stuck_unloading(self, version: int, now: float, drain_timeout: float) -> bool:
        """Whether the version is UNLOADING, and waiting for its end is of no use any more.

        Its processes have ended, or it has been UNLOADING for longer than its last requests may take. Triton (seen on
        24.10) keeps a version so for ever whose process died before it answered a request.
        """
        if not self.unloading(version):
            return False
        since = self.leaving_since.get(version)
        return version in self.emptied or (since is not None and now - since > drain_timeout)

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
    """The alias leads to the splitter; ``alias`` is the stable version."""
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
    """Name and fingerprint of the unexpected entries at the last engine load: these cause no further reload."""
    rollout: Rollout | None = None
    running: frozenset[Effect] = frozenset()
    failed: Mapping[Effect, Failure] = field(default_factory=dict)
    paused: bool = False
    live_gate: GateResult | None = None
    """The live analysis of the traffic so far; None while there is nothing to analyse."""
    unhealthy: Mapping[tuple[str, int], Unhealthy] = field(default_factory=dict)
    """By server and version: those that do not answer the health probe."""
    answered: Mapping[tuple[str, int], float] | None = None
    """By server and version: when the last answered probe was sent. None: nothing can be probed."""
    just_started: bool = False
    """This control plane has decided nothing yet."""
    repairs: tuple[BrokenConfig, ...] = ()
    """Files that can't be used. Where there are some, only ``running``, ``failed`` and ``paused`` are known besides."""
    pruning: Pruning | None = None
    """Folders that are to be removed from disk."""
    way_back: int | None = None
    """Where a rollback goes that names no version. Known only while there is a ``pruning``."""
    unrecorded: tuple[Upkeep, ...] = ()
    """What was seen and the journal does not know yet, each by the effect that records it."""

    def live(self) -> tuple[ServerView, ...]:
        """The servers that answer."""
        return tuple(s for s in self.servers if s.live)

    def unreachable(self) -> tuple[tuple[str, str], ...]:
        """The servers that do not answer Baton, each with the cause (one that refuses Baton's key is not away)."""
        return tuple((s.name, s.reason) for s in self.servers if not s.live)

    def alias_matches(self, server: ServerView) -> bool:
        """Whether the alias on the server leads where the files say."""
        wanted = frozenset() if self.alias is None else frozenset({self.alias})
        return server.serving() == wanted and server.split == (self.split and self.alias is not None)

    def stable(self) -> int | None:
        """The version to compare a new one with, and to go back to.

        None without an alias, and where the alias's version is lost: every server answers, and on each of them Triton
        refused to load it, or the version policy gave it up for that reason, or it does not answer although it was
        loaded again. Nobody can ask such a version, and it must not be loaded together with a new one: Triton loads all
        that a policy newly names, or nothing (seen on 24.10).
        """
        if self.alias is None or self.unreachable():
            return self.alias
        dead = {s for s, v in self.unhealthy if v == self.alias and Reload(s) in self.failed}
        if any(self.alias in s.ready() and s.name not in dead for s in self.servers):
            return self.alias
        tries = [self.failed.get(Sync(s.name, Model.ENGINE)) for s in self.servers if s.name not in dead]
        lost = self.alias not in self.version_policy or all(f is not None and f.refused for f in tries)
        return None if lost else self.alias

    def ready_everywhere(self, version: int) -> bool:
        """Whether every server answers and has the version READY."""
        return bool(self.servers) and all(s.live and version in s.ready() for s in self.servers)

    def ready_where_live(self, version: int | None) -> bool:
        """Whether every server that answers has the version READY."""
        return all(version in s.ready() for s in self.live())

    def ready_anywhere(self, version: int | None) -> bool:
        """Whether a server that answers has the version READY."""
        return any(version in s.ready() for s in self.live())

    def load_refusal(self, server: ServerView, model: Model) -> Failure | None:
        """Triton's refusal of a load call in the rollout's present phase."""
        failure, rollout = self.failed.get(Sync(server.name, model)), self.rollout
        if failure is None or rollout is None or not failure.refused or failure.at < rollout.phase_since:
            return None
        return failure

    def frozen(self) -> bool:
        """Whether ``ctl pause`` stops the rollout. One that a person started or promoted goes on."""
        rollout = self.rollout
        return self.paused and rollout is not None and rollout.kind is Kind.ROLLOUT and not rollout.promoted

    def pending(self, settings: RolloutSettings) -> tuple[Folder, ...]:
        """Version folders above the stable version that wait for a rollout, lowest first.

        Nothing in them changes any more. They are complete, or cut off for good: then the gates refuse them.
        """
        floor = self.alias or 0
        found = []
        for version, folder in self.folders.items():
            quiet = self.now - folder.quiet_since
            settled = folder.complete and quiet >= settings.settle
            cut_off = folder.cut and quiet >= max(settings.settle, settings.cut_after)
            if version > floor and (settled or cut_off) and self.undecided(version):
                found.append(folder)
        return tuple(sorted(found, key=lambda f: f.version or 0))

    def refused(self, version: int) -> VersionRecord | None:
        """The refusal that still holds: of this very folder, or of a version that Triton has loaded before."""
        record, folder = self.records.get(version), self.folders.get(version)
        if record is None or folder is None or record.status is not ReleaseStatus.REJECTED:
            return None
        # A refused folder that never reached Triton may be mended in place (a copy that was cut short, say).
        return record if record.loaded or record.fingerprint == folder.fingerprint else None

    def undecided(self, version: int) -> bool:
        """Whether nothing that still holds was decided about the version."""
        record = self.records.get(version)
        return record is None or (record.status is ReleaseStatus.REJECTED and self.refused(version) is None)

    def there(self) -> frozenset[int] | None:
        """The versions on disk, named or loaded. None: that is not known, or the folder of what serves is away."""
        if self.unreachable() or (self.alias is not None and self.alias not in self.folders):
            return None
        return self.version_policy.union(self.folders, *(s.in_memory() for s in self.servers))

    def loads_blocked(self) -> Why | None:
        """Why no engine load call may be made now, or None.

        In the next load call Triton (seen on 24.10) reloads a serving version when anything in its folder has changed,
        drops it when the folder is gone, and reloads every version when an entry that is no version folder appeared
        beside them. Clients would notice, so nothing is loaded until a person mended it.
        """
        # Without an alias clients ask the engine directly.
        named = self.version_policy if self.alias is None else {self.alias}
        for version in sorted({v for s in self.live() for v in s.serving() | (s.ready() & named)}):
            folder = self.folders.get(version)
            if folder is None:
                return because(Reason.FOLDER_GONE, version=version)
            known = self.loaded.get(version)
            if known is not None and known != folder.fingerprint:
                return because(Reason.FOLDER_CHANGED, version=version)
        for entry in self.unexpected:
            if entry.deadly:
                return because(Reason.DEADLY_ENTRY, name=entry.name[:40], problem=entry.problem)
            if not entry.harmless and self.known_unexpected.get(entry.name) != entry.fingerprint:
                return because(Reason.UNEXPECTED_ENTRY, name=entry.name, problem=entry.problem)
        return None


def failure_text(failure: Failure) -> str:
    """What went wrong, and what to mend on the server where that is known, in sentences."""
    words = failure.message if failure.message.endswith((".", "!", "?")) else f"{failure.message}."
    return f"{words} {failure.machine}" if failure.machine else words


def backoff(
    failure: Failure | None, now: float, first_s: float = 1.0, factor: float = 2.0, max_s: float = 30.0
) -> bool:
    """Whether it is too early to try a failed effect again: 1, 2, 4 ... at most 30 seconds after its last failure."""
    if failure is None:
        return False
    tries = min(failure.count - 1, 20)  # after a thousand failures the power is no float any more
    return now - failure.at < min(max_s, first_s * factor**tries)
