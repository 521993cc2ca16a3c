"""Facts to JSON and back, by the types of their dataclasses: what the journal keeps and what travels over the API.

Every field is written under its name (or the one in its metadata). One whose default is None is left out while it is
None, unless it is marked ``ALWAYS``. On reading, a field that the class doesn't know is ignored, and a missing one gets
its default, or None where that is allowed. So an older and a newer Baton understand each other.

Dataclasses and not pydantic: that would slow the start of `ctl`, and these lines are all that is needed.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from functools import cache, partial
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

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
        told = ((name, getattr(value, field), kept) for field, name, kept in _names(type(value)))
        return {name: encode(its) for name, its, kept in told if kept or its is not None}
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
    hashable: Any = kind
    read: T = _reader(hashable)(data, _Within({}, foreign))
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
def _names(kind: type) -> tuple[tuple[str, str, bool], ...]:
    """Of each field its name, that in JSON, and whether JSON always has it."""
    return tuple((one.name, json_name(one), always(one)) for one in fields(kind))


@cache
def types_of(kind: type) -> Mapping[str, Any]:
    """The types of a dataclass's fields."""
    return get_type_hints(kind)


class _Within(NamedTuple):
    """The object that data stands in, and whether another Baton wrote it."""

    data: Mapping[str, Any]
    foreign: bool


_Read = Callable[[Any, _Within], Any]


@cache
def _reader(kind: Any) -> _Read:
    """What reads a value of ``kind``. Made once for each: a rollout is read at each step of the loop."""
    origin, inner = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return partial(_fact, kind)
    if origin in (Union, types.UnionType):
        readers = tuple(_reader(one) for one in inner if one is not type(None))
        return partial(_one_of if len(readers) == len(inner) else _one_or_none, readers)
    if origin is tuple:
        return partial(_tuple, kind, _reader(inner[0]))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return partial(_mapping, kind, inner[0], _reader(inner[1]))
    if kind in _PLAIN:
        return partial(_plain, kind, _PLAIN[kind])
    if kind is Any:
        return _anything
    words = inner if origin is Literal else tuple(kind) if isinstance(kind, type) and issubclass(kind, Enum) else ()
    return partial(_word, kind, words)


def _plain(kind: Any, types_: tuple[type, ...], data: Any, _within: _Within) -> Any:
    return data if type(data) in types_ else _refused(kind, data)


def _anything(data: Any, _within: _Within) -> Any:
    return data


def _word(kind: Any, words: tuple[Any, ...], data: Any, within: _Within) -> Any:
    if isinstance(data, str) and words and (data in words or within.foreign):
        return kind(data) if isinstance(kind, type) and data in words else data
    return _refused(kind, data)


def _refused(kind: Any, data: Any) -> Any:
    text = repr(data)
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    raise ValueError(f"{shown} is no {getattr(kind, '__name__', kind)}")


def _tuple(kind: Any, read: _Read, data: Any, within: _Within) -> Any:
    return tuple(read(one, within) for one in data) if isinstance(data, list) else _refused(kind, data)


def _mapping(kind: Any, key: Any, read: _Read, data: Any, within: _Within) -> Any:
    if not isinstance(data, dict):
        return _refused(kind, data)
    return {key(name): read(one, within) for name, one in data.items()}


def _one_of(readers: tuple[_Read, ...], data: Any, within: _Within) -> Any:
    wrong = ""
    for read in readers:
        try:
            return read(data, within)
        except ValueError as error:
            wrong = wrong or str(error)
    raise ValueError(wrong)


def _one_or_none(readers: tuple[_Read, ...], data: Any, within: _Within) -> Any:
    return None if data is None else _one_of(readers, data, within)


def _fact(kind: Any, data: Any, within: _Within) -> Any:
    if not isinstance(data, dict):
        return _refused(kind, data)
    if kind is Why and REASON in data:
        return Why.of(data)
    chosen = kind
    if kind is Evidence and not data.keys() <= types_of(Evidence).keys():  # it is of the gate that it stands in
        chosen = EVIDENCE.get(str(within.data.get("name")), kind)
    elif kind is LiveCheck:
        chosen = CHECKS.get(str(data.get("name")), kind)
    inside = _Within(data, within.foreign)
    try:
        return _filled(chosen, inside)
    except ValueError:
        if chosen is kind:
            raise
        return _filled(kind, inside)  # another Baton measured other figures: those of every gate are still read


@cache
def _parts(kind: type) -> tuple[tuple[str, str, _Read, bool, bool], ...]:
    """Of each field its name, that in JSON, what reads it, whether it must be given, and whether it may be None."""
    hints = types_of(kind)
    return tuple(
        (
            one.name, json_name(one), _reader(hints[one.name]),
            one.default is MISSING and one.default_factory is MISSING,
            type(None) in get_args(hints[one.name]),
        )
        for one in fields(kind)
    )  # fmt: skip


def _filled(kind: Any, within: _Within) -> Any:
    data, given = within.data, {}
    for field, name, read, needed, optional in _parts(kind):
        if name in data:
            try:
                given[field] = read(data[name], within)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        elif needed:
            if not optional:
                raise ValueError(f"{kind.__name__} without {name}")
            given[field] = None
    return kind(**given)
