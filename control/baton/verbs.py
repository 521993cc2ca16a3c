"""What may be asked of the control plane: one class for each verb.

The name of the class is the path in the API and the command of ``ctl``. Its fields are the parameters of both. Its
docstring is the command's help, and the type in its brackets is the answer. ``baton.api.wire`` carries every verb,
``baton.cli.settings`` makes options of the fields, and ``baton.app`` has one function for each.
"""

from __future__ import annotations

import os
import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from types import NoneType
from typing import Any, ClassVar, Concatenate, Generic, ParamSpec, TypeVar, get_args, get_type_hints

from baton import facts
from baton.domain import Release
from baton.facts import Paused, Ticket

T = TypeVar("T")
P = ParamSpec("P")

_ANSWER_S = 60.0
_HASHING_S = 3600.0


def caller() -> str:
    """Who calls, for the journal: ``user@host via ctl``."""
    user = os.environ.get("USER") or os.environ.get("LOGNAME") or f"uid {os.getuid()}"
    return f"{user}@{platform.node() or 'localhost'} via ctl"


@dataclass(frozen=True, slots=True)
class Verb(Generic[T]):
    """A call. ``T`` is what the control plane answers; every call may raise a ``BatonError`` instead."""

    http: ClassVar[str] = "GET"

    def answer_s(self) -> float:
        """Seconds in which the control plane answers."""
        return _ANSWER_S


@dataclass(frozen=True, slots=True)
class Change(Verb[T]):
    """A call that changes something. The journal keeps who asked for it."""

    http: ClassVar[str] = "POST"
    who: str = field(default_factory=caller, kw_only=True)


def _help(text: str, short: str = "", least: int = 1) -> Mapping[str, Any]:
    """The help of a field's option, its short form, and the least that a number may be."""
    return {"help": text, "short": short, "least": least}


@dataclass(frozen=True, slots=True)
class Status(Verb[facts.Status]):
    """What is live, what is rolling out, which gate is where.

    With --watch and --output json, each change is printed as one JSON object on one line.
    """

    service: str | None = None


@dataclass(frozen=True, slots=True)
class Versions(Verb[tuple[facts.VersionOnDisk, ...]]):
    """Versions on disk and their labels, metadata and state."""

    service: str | None = None


@dataclass(frozen=True, slots=True)
class History(Verb[tuple[facts.RolloutFacts, ...]]):
    """Every rollout, newest first: who, when, why, verdicts, duration."""

    service: str | None = None
    limit: int = field(default=50, metadata=_help("At most this many.", short="-n"))


@dataclass(frozen=True, slots=True)
class Rollout(Verb[facts.RolloutStory]):
    """One rollout with its events."""

    id: int


@dataclass(frozen=True, slots=True)
class Health(Verb[facts.ControlHealth]):
    """Whether the control plane can do its work, and what it runs with."""


@dataclass(frozen=True, slots=True)
class Promote(Change[Ticket]):
    """Start version N's rollout, or let one that waits go on.

    Without N it is the version that waits, else the newest on disk. Done when all traffic is on it.
    """

    service: str | None = None
    version: int | None = None
    full: bool = field(default=False, metadata=_help("Skip the traffic steps that remain, but never a gate."))


@dataclass(frozen=True, slots=True)
class Rollback(Change[Ticket]):
    """Back to the previous (or named) version at once.

    One whose folder was changed since it served is refused.
    """

    service: str | None = None
    to: int | None = field(default=None, metadata=_help("Back to this version.  [default: the previous one]"))
    changed: bool = field(default=False, metadata=_help("With --to: also where its folder was changed since then."))

    def answer_s(self) -> float:
        """Where its folder looks otherwise than when it served, the whole folder is hashed first."""
        return _HASHING_S


@dataclass(frozen=True, slots=True)
class Abort(Change[Ticket]):
    """Stop the running rollout and return to the stable version."""

    service: str | None = None


@dataclass(frozen=True, slots=True)
class Retry(Change[Ticket]):
    """Try a failed version again.

    Without N it is the one that failed last. For the version that serves: prove that its changed folder still holds
    what serves.
    """

    service: str | None = None
    version: int | None = None
    release: Release | None = field(default=None, metadata=_help("Declare what it is, where that was missing."))

    def answer_s(self) -> float:
        """Of the version that serves, the whole folder is hashed first."""
        return _HASHING_S


@dataclass(frozen=True, slots=True)
class Verify(Change[Ticket]):
    """Run every gate on version N, with no traffic and no promotion."""

    service: str | None
    version: int


@dataclass(frozen=True, slots=True)
class Prune(Change[facts.Pruned]):
    """Remove the oldest versions from disk.

    Never one that serves, is loaded, waits for its rollout, still arrives, or that a rollback goes to.
    """

    service: str | None = None
    keep: int | None = field(
        default=None,
        metadata=_help(
            "Keep so many of the others, the newest.  [default: keep_versions of [services.rollout]]", least=0
        ),
    )
    dry_run: bool = field(default=False, metadata=_help("Only show what would be removed, and why the rest stays."))


@dataclass(frozen=True, slots=True)
class Pause(Change[Paused]):
    """Freeze automatic steps, of all services. What a person starts still works."""


@dataclass(frozen=True, slots=True)
class Resume(Change[Paused]):
    """Let automatic steps go on."""


@dataclass(frozen=True, slots=True)
class Expect(Verb[Ticket]):
    """Wait until the rollout of a pushed version has begun; the ticket's ``rollout`` is null when it has not."""

    http: ClassVar[str] = "POST"
    service: str | None
    version: int
    timeout_s: float

    def answer_s(self) -> float:
        return self.timeout_s + _ANSWER_S


def name_of(kind: type[Verb[Any]]) -> str:
    """In the path of the API, and as a command."""
    return kind.__name__.lower()


def answer_of(kind: type[Verb[T]]) -> type[T]:
    """The type of what is answered."""
    (verb,) = kind.__orig_bases__  # type: ignore[attr-defined]
    answer: type[T] = get_args(verb)[0]
    return answer


@dataclass(frozen=True, slots=True)
class Parameter:
    """A field of a verb, as the API and the command line need it. ``type`` is without the None that leaves it out."""

    type: Any
    needed: bool
    default: Any
    help: str
    short: str
    least: int


def parameters(kind: type[Verb[Any]]) -> dict[str, Parameter]:
    """The fields of a verb by name; last who asks."""
    found = {}
    for one, hint in ((one, get_type_hints(kind)[one.name]) for one in fields(kind)):
        types = [t for t in get_args(hint) if t is not NoneType] or [hint]
        default = None if one.default is MISSING else one.default
        needed = one.default is one.default_factory is MISSING and NoneType not in get_args(hint)
        about = one.metadata
        found[one.name] = Parameter(
            types[0], needed, default, about.get("help", ""), about.get("short", ""), about.get("least", 1)
        )
    return dict(sorted(found.items(), key=lambda item: item[0] == "who"))


VERBS: Mapping[str, type[Verb[Any]]] = {
    name_of(kind): kind
    for kind in (
        *(Status, Versions, History, Rollout, Health),
        *(Promote, Rollback, Abort, Retry, Verify, Prune, Pause, Resume, Expect),
    )
}


def _method(kind: Callable[P, Verb[T]]) -> Callable[Concatenate[Facade, P], T]:
    """A method that takes the verb's fields and asks it."""

    def ask(facade: Facade, /, *args: P.args, **fields: P.kwargs) -> T:
        return facade.ask(kind(*args, **fields))

    return ask


class Facade(ABC):
    """Whatever answers verbs: the control plane itself, and its client."""

    @abstractmethod
    def ask(self, verb: Verb[T]) -> T:
        """The answer. Raises what the control plane raises, a ``BatonError``."""

    status = _method(Status)
    versions = _method(Versions)
    history = _method(History)
    rollout = _method(Rollout)
    health = _method(Health)
    promote = _method(Promote)
    rollback = _method(Rollback)
    abort = _method(Abort)
    retry = _method(Retry)
    verify = _method(Verify)
    prune = _method(Prune)
    pause = _method(Pause)
    resume = _method(Resume)
    expect = _method(Expect)
