"""The route says which requests go to the candidate, and holds only as long as its lease.

The control plane renews the lease. If it stops, the lease ends and the stable version serves alone: no split goes on
without a control plane that watches it.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

MAX_LEASE_S = 3600.0
MAX_DEADLINE_S = 600.0
_SALT_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Caps:
    """The most that a route may ask for, also with the right token. The splitter's own configuration sets them.

    Shares are in percent. By default nothing is allowed.
    """

    weight: float = 0.0
    shadow: float = 0.0
    lease_s: float = 0.0
    contents: bool = False


class InvalidControl(ValueError):
    """A control request is refused. The text names the key and what is allowed."""


@dataclass(frozen=True, slots=True)
class Tensors:
    """The engine's tensors that a route may name."""

    texts: frozenset[str]
    """Inputs of type BYTES."""
    scores: Mapping[str, tuple[int, ...]]
    """Outputs of type FP16, FP32 or FP64, each with its whole shape; -1 stands for any size."""


@dataclass(frozen=True, slots=True)
class Route:
    """One instruction of the control plane. Shares are in percent, times in seconds."""

    candidate: int | None
    weight: float
    shadow: float
    lease_s: float
    salt: str
    deadline_s: float
    compare: str | None
    kinds: tuple[str, ...]
    contents: bool

    @property
    def splits(self) -> bool:
        """Whether the candidate may answer clients."""
        return self.candidate is not None and self.weight > 0

    def picks_candidate(self, request_id: str, draw: Callable[[], float]) -> bool:
        """Whether the candidate gets this request.

        With an id, a hash decides: an id always goes to the same version, and one that went to the candidate stays
        there while the weight grows. Without an id, ``draw`` (0 <= x < 1) decides.
        """
        return self.splits and (percentile(self.salt, request_id) if request_id else 100 * draw()) < self.weight


STABLE_ALONE = Route(
    candidate=None, weight=0, shadow=0, lease_s=0, salt="", deadline_s=0, compare=None, kinds=(), contents=False
)
"""In place of a route where none is in force."""


def percentile(salt: str, request_id: str) -> float:
    """The position of an id in [0, 100): evenly distributed, and fixed for one salt."""
    digest = hashlib.blake2b(f"{salt}\0{request_id}".encode(errors="surrogatepass"), digest_size=6).digest()
    return 100 * int.from_bytes(digest) / 2**48  # 48 bits: the quotient stays below 1 as a float


def parse_caps(given: Mapping[str, str]) -> Caps:
    """Caps from the parameters of the splitter's configuration. A missing key allows nothing.

    Raises:
        ValueError: a parameter is wrong. The text names it.
    """
    contents = given.get("contents", "false")
    if contents not in {"true", "false"}:
        raise ValueError(f"parameters: contents must be true or false, not {contents!r}")
    return Caps(
        weight=_cap(given, "max_weight", 100),
        shadow=_cap(given, "max_shadow", 100),
        lease_s=_cap(given, "max_lease_s", MAX_LEASE_S),
        contents=contents == "true",
    )


def _cap(given: Mapping[str, str], key: str, high: float) -> float:
    text = given.get(key, "0")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= high:
        raise ValueError(f"parameters: {key} must be a number from 0 to {high:g}, not {text!r}")
    return value


def parse_route(given: Any, *, stable: int, tensors: Tensors, caps: Caps) -> Route:
    """A route from decoded JSON, with every key checked.

    Raises:
        InvalidControl: a key is missing, unknown or wrong.
    """
    _check_keys(given)
    candidate = given["candidate"]
    if candidate is not None and (type(candidate) is not int or not 0 < candidate < 2**63 or candidate == stable):
        raise InvalidControl(f"route.candidate must be null or a version above 0 other than the stable one, {stable}")
    salt, compare, kinds = given["salt"], given["compare"], given["kinds"]
    if not isinstance(salt, str) or len(salt) > _SALT_LENGTH:
        raise InvalidControl(f"route.salt must be a text of at most {_SALT_LENGTH} characters")
    if compare is not None and not (isinstance(compare, str) and compare in tensors.scores):
        raise InvalidControl(f"route.compare must be null or an FP16, FP32 or FP64 output: {_names(tensors.scores)}")
    if not isinstance(kinds, list) or not all(isinstance(kind, str) and kind in tensors.texts for kind in kinds):
        raise InvalidControl(f"route.kinds must be a list of BYTES inputs, which are: {_names(tensors.texts)}")
    if not isinstance(given["contents"], bool):
        raise InvalidControl("route.contents must be true or false")
    if given["contents"] and not caps.contents:
        raise InvalidControl("route.contents must be false: this service is not configured to keep documents")
    return Route(
        candidate=candidate,
        weight=_number(given, "weight", 0, 100, cap=caps.weight),
        shadow=_number(given, "shadow", 0, 100, cap=caps.shadow),
        lease_s=_number(given, "lease_s", 0, MAX_LEASE_S, above=True, cap=caps.lease_s),
        salt=salt,
        deadline_s=_number(given, "deadline_s", 0, MAX_DEADLINE_S, above=True),
        compare=compare,
        kinds=tuple(sorted(set(kinds))),
        contents=given["contents"],
    )


def _check_keys(given: Any) -> None:
    if not isinstance(given, dict):
        raise InvalidControl("route must be an object")
    known = tuple(Route.__slots__)
    for key in given:
        if key not in known:
            raise InvalidControl(f"route has an unknown key {str(key)[:40]!r}; it takes {', '.join(known)}")
    for key in known:
        if key not in given:
            raise InvalidControl(f"route.{key} is missing")


def _number(
    given: Mapping[str, Any], key: str, low: float, high: float, *, above: bool = False, cap: float | None = None
) -> float:
    value = given[key]
    good = type(value) in (int, float) and low <= value <= high and not (above and value == low)
    if not good or not math.isfinite(value):
        raise InvalidControl(f"route.{key} must be a number {'above' if above else 'from'} {low:g} to {high:g}")
    if cap is not None and value > cap:
        raise InvalidControl(f"route.{key} is {value:g}, and this service is configured for at most {cap:g}")
    return float(value)


def _names(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none of this engine"


class Lease:
    """The route in force, until its lease ends. Thread-safe."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._held: tuple[Route, float] | None = None
        self.lapses = 0
        """Leases that ended by themselves."""
        self.lapsed_route: Route | None = None
        """The route whose lease ended by itself, until another route is put in force."""

    def replace(self, route: Route) -> None:
        """Put a route in force for its ``lease_s`` from now."""
        self.current()  # counts a lease that has ended unnoticed
        with self._lock:
            self._held, self.lapsed_route = (route, self._clock() + route.lease_s), None

    def current(self) -> Route | None:
        """The route in force. None: there is none, or its lease has ended."""
        held = self._held  # one read: a route and its end belong together
        if held is None or self._clock() < held[1]:
            return held[0] if held else None
        with self._lock:
            if self._held is held:
                self._held, self.lapsed_route = None, held[0]
                self.lapses += 1
        return None

    def left_s(self) -> float:
        """Seconds until the lease in force ends; 0 without one."""
        held = self._held
        return max(0.0, held[1] - self._clock()) if held else 0.0
