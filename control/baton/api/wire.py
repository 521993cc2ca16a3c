"""How a call and its answer travel: names, parameters, errors, and the socket's path."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from baton import errors
from baton.codec import encode
from baton.domain import Release
from baton.errors import BatonError, UsageError
from baton.verbs import VERBS, Verb, parameters
from baton.verify.names import is_number

SOCKET = "baton.sock"
"""The socket's name in the state directory."""
PREFIX = "/v1/"
Data = dict[str, Any]
"""A JSON object."""
MAX_BODY = 64 * 1024
"""Bytes of a request; the largest real one is far below 1 KiB."""
MAX_PATH = 107
"""Bytes of a unix socket's path on Linux (``sun_path`` less its closing zero)."""
_DIGITS = 20
_LONGEST_S = 1e9
_QUOTED = 100
STATUS = {2: 400, 3: 409, 4: 422, 5: 503, 6: 504}
"""The HTTP status of an error, by its exit code."""


_EXPECTED = {
    str: "a text", bool: "true or false", int: "a whole number", float: "a number of seconds",
    Release: " or ".join(Release),
}  # fmt: skip
"""By the type of a verb's field."""


def _check(kind: Any, value: Any) -> Any:
    """The value as one of that type. Raises ``TypeError`` with what is expected."""
    if kind is int and isinstance(value, str) and is_number(value) and len(value) < _DIGITS:  # from a query string
        value = int(value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = {
        str: isinstance(value, str),
        bool: isinstance(value, bool),
        int: number and isinstance(value, int) and abs(value) < 1 << 63,
        # Compared before it is converted: a whole number may be larger than any float, and NaN is neither.
        float: number and abs(value) < _LONGEST_S,
        Release: value in tuple(Release),
    }
    if not fits[kind]:
        raise TypeError(_EXPECTED[kind])
    return kind(value)


SOMEBODY = "somebody via the local API"
"""Who asked, where the request does not tell."""


def body(raw: bytes) -> Any:
    """The JSON of a request; nothing at all is an empty object. Raises ``UsageError``."""
    try:
        return json.loads(raw or b"{}")
    except (ValueError, RecursionError):
        raise UsageError("The request is not JSON.") from None


def shortened(value: Any) -> str:
    """A value as an error quotes it."""
    text = repr(value)
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}..."


def read(name: str, given: Any) -> Verb[Any]:
    """The verb that a request asks for; what may be left out gets its default.

    Raises ``UsageError``, which names the parameter that is wrong.
    """
    known = parameters(VERBS[name])
    if not isinstance(given, dict):
        raise UsageError(f"The request to {name} is not a JSON object.")
    for key in given:
        if key not in known:
            raise UsageError(f"{name} knows no parameter {shortened(key)}.", mend=f"It knows: {', '.join(known)}.")
    checked: Data = {}
    for key, one in known.items():
        value = given.get(key)
        if value is None:
            if one.needed:
                raise UsageError(f"{name} needs the parameter {key!r}.")
            checked[key] = SOMEBODY if key == "who" else one.default
            continue
        try:
            checked[key] = _check(one.type, value)
        except TypeError as error:
            raise UsageError(f"{name}: {key} = {shortened(value)}: expected {error}.") from None
    return VERBS[name](**checked)


def written(verb: Verb[Any]) -> Data:
    """The parameters of a verb as they travel; one that is None is left out."""
    return {key: value for key, value in encode(verb).items() if value is not None}


_CLASSES: Mapping[str, type[BatonError]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, BatonError)
}


def error_data(error: BatonError) -> Data:
    """An error as it travels, and as ``ctl --output json`` users see it in answers."""
    return {
        "error": type(error).__name__,
        "code": error.reason,
        "message": error.message,
        "mend": error.mend,
        "exit_code": error.exit_code,
    }


def rebuild(data: Data) -> BatonError:
    """The error again. One of a class that this side does not know becomes one with the same exit code."""
    kind = _CLASSES.get(str(data.get("error")))
    if kind is None:
        code = data.get("exit_code")
        kind = next((k for k in _CLASSES.values() if k.exit_code == code), BatonError)
    return kind(str(data.get("message")), mend=data.get("mend"))


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[str]:
    """A name for the socket that fits into ``sun_path``, valid inside the block.

    A long one is reached through its directory's file descriptor, which needs neither a change of the working
    directory (it belongs to all threads) nor a second place for the socket.
    """
    full = os.fsencode(path.absolute())
    if len(full) <= MAX_PATH:
        yield os.fsdecode(full)
        return
    if not Path("/proc/self/fd").is_dir():
        raise UsageError(
            f"{path} is too long for a unix socket: {len(full)} bytes, {MAX_PATH} are allowed.",
            mend="Give a shorter --state directory.",
        )
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
