"""Facts to JSON and back, by the types of their dataclasses: what the journal keeps and what travels over the API.

Every field is written under its name (or the one in its metadata). One whose default is None is left out while it is
None, unless it is marked ``ALWAYS``. On reading, a field that the class doesn't know is ignored, and a missing one gets
its default, or None where that is allowed. So an older and a newer Baton understand each other.

Dataclasses and not pydantic: that would slow the start of `ctl`, and these 100 lines are all that is needed.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from baton.domain import Evidence
from baton.evidence import CHECKS, EVIDENCE, LiveCheck
from baton.reasons import REASON, Why

T = TypeVar("T")
_PLAIN: Mapping[Any, tuple[type, ...]] = {str: (str,), bool: (bool,), int: (int,), float: (float, int)}
"""What JSON may hold for each; a bool is an int to Python alone."""
_SHOWN = 60


def encode(value: Any) -> Any:
    """The value as JSON's own types. Figures stay as they are."""
    if isinstance(value, Why):
        return value.data()
    if is_dataclass(value) and not isinstance(value, type):
        told = ((one, getattr(value, one.name)) for one in fields(value))
        return {json_name(one): encode(its) for one, its in told if its is not None or always(one)}
    if isinstance(value, Mapping):
        return {str(key): encode(its) for key, its in value.items()}
    if isinstance(value, list | tuple):
        return [encode(its) for its in value]
    return value.value if isinstance(value, Enum) else value


def decode(kind: type[T], data: Any, *, foreign: bool = False) -> T:
    """A value of ``kind`` (a dataclass, an enum, or a container of those), read from JSON's own types.

    ``foreign``: another Baton wrote it; a value that an enum doesn't know stays a text.

    Raises:
        ValueError: it is not of that kind.
    """
    read: T = _Reader(foreign).read(kind, data, {})
    return read


def as_text(value: Any) -> str:
    """The value as JSON text."""
    return json.dumps(encode(value))


def from_text(kind: Any, text: str) -> Any:
    """What :func:`as_text` gave; raises as :func:`decode` does."""
    return decode(kind, json.loads(text))


def json_name(one: Field[Any]) -> str:
    """What a field is called in JSON."""
    return str(one.metadata.get("json", one.name))


def always(one: Field[Any]) -> bool:
    """Whether JSON has the field also where it is None."""
    return one.default is not None or bool(one.metadata.get("always"))


@cache
def types_of(kind: type) -> Mapping[str, Any]:
    """The types of a dataclass's fields."""
    return get_type_hints(kind)


@dataclass(frozen=True, slots=True)
class _Reader:
    foreign: bool

    def read(self, kind: Any, data: Any, within: Mapping[str, Any]) -> Any:
        """``within`` is the object that ``data`` stands in."""
        if type(data) in _PLAIN.get(kind, ()):  # most are: a rollout is read at each step of the loop
            return data
        if kind is Why and isinstance(data, Mapping) and REASON in data:
            return Why.of(data)
        if is_dataclass(kind):
            return self._fact(kind, data, within)
        origin, inner = get_origin(kind), get_args(kind)
        if origin in (Union, types.UnionType):
            return self._one_of(inner, data, within)
        if origin is tuple and isinstance(data, list):
            return tuple(self.read(inner[0], one, within) for one in data)
        if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(data, dict):
            return {inner[0](key): self.read(inner[1], one, within) for key, one in data.items()}
        return self._plain(kind, data)

    def _plain(self, kind: Any, data: Any) -> Any:
        if kind is Any:
            return data
        words = get_args(kind) if get_origin(kind) is Literal else ()
        if isinstance(kind, type) and issubclass(kind, Enum):
            words = tuple(kind)
        if isinstance(data, str) and words and (data in words or self.foreign):
            return kind(data) if isinstance(kind, type) and data in words else data
        text = repr(data)
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
        raise ValueError(f"{shown} is no {getattr(kind, '__name__', kind)}")

    def _one_of(self, kinds: tuple[Any, ...], data: Any, within: Mapping[str, Any]) -> Any:
        if data is None and type(None) in kinds:
            return None
        wrong = ""
        for kind in kinds:
            try:
                return self.read(kind, data, within)
            except ValueError as error:
                wrong = wrong or str(error)
        raise ValueError(wrong)

    def _fact(self, kind: Any, data: Any, within: Mapping[str, Any]) -> Any:
        if not isinstance(data, dict):
            return self._plain(kind, data)
        chosen = kind
        if kind is Evidence and not data.keys() <= types_of(Evidence).keys():  # it is of the gate that it stands in
            chosen = EVIDENCE.get(str(within.get("name")), kind)
        elif kind is LiveCheck:
            chosen = CHECKS.get(str(data.get("name")), kind)
        try:
            return self._fields(chosen, data)
        except ValueError:
            if chosen is kind:
                raise
            return self._fields(kind, data)  # another Baton measured other figures: those of every gate are still read

    def _fields(self, kind: Any, data: Mapping[str, Any]) -> Any:
        given, hints = {}, types_of(kind)
        for one in fields(kind):
            if (name := json_name(one)) in data:
                try:
                    given[one.name] = self.read(hints[one.name], data[name], data)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from None
            elif one.default is MISSING and one.default_factory is MISSING:
                if type(None) not in get_args(hints[one.name]):
                    raise ValueError(f"{kind.__name__} without {name}")
                given[one.name] = None
        return kind(**given)
