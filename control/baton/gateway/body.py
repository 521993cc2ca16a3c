"""A request's body: read up to a limit and within a time, then JSON, alone or with files in ``multipart/form-data``."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, Self

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from baton.gateway.problems import BAD, TOO_LARGE, TOO_LATE, Problem, busy
from baton.gateway.shapes import Object, an_object

REQUEST_PART = "request"
_MULTIPART = "multipart/form-data"
_MOST_PARTS = 4096


@dataclass
class Room:
    """How many bytes of bodies may be in memory at once, over all requests: back-pressure, in the place of a queue."""

    most: int
    taken: int = 0

    def take(self, count: int) -> None:
        if self.taken + count > self.most:
            raise busy("The gateway has as much of other requests in memory as it takes")
        self.taken += count

    def give_back(self, count: int) -> None:
        self.taken -= count


@dataclass
class Body:
    """One request's body. Used as a context manager: what it holds of the room is given back at its end."""

    request: Request
    room: Room
    most: int
    within_s: float
    size: int = 0
    files: dict[str, bytes] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.room.give_back(self.size)

    async def read(self) -> Object:
        """The JSON object; ``files`` then holds what came along.

        Raises:
            Problem: too large, too slow, or nothing that can be read.
            ClientDisconnect: the client went away.
        """
        self._declared()
        kind = self.request.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            async with asyncio.timeout(self.within_s):
                if kind == _MULTIPART:
                    return an_object(parse_json(await self._multipart()))
                return an_object(parse_json(b"".join([chunk async for chunk in self._chunks()])))
        except TimeoutError:
            raise Problem(TOO_LATE, f"The request did not arrive within {self.within_s:g} s.") from None

    def _declared(self) -> None:
        """Refuse before anything is read what says itself that it is too large."""
        length = self.request.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self.most:
            self._too_large()

    def _too_large(self) -> NoReturn:
        raise Problem(
            TOO_LARGE, f"The request is larger than {self.most} bytes.", mend="Send fewer documents at a time."
        )

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        async for chunk in self.request.stream():
            if self.size + len(chunk) > self.most:
                self._too_large()
            self.room.take(len(chunk))
            self.size += len(chunk)
            if chunk:
                yield chunk

    async def _multipart(self) -> bytes:
        """The part ``request``; the files go to ``files`` by their names."""
        most = {"max_files": _MOST_PARTS, "max_fields": _MOST_PARTS, "max_part_size": self.most}
        parser = _InMemory(self.request.headers, self._chunks(), **most)
        try:
            form = await parser.parse()
        except (MultiPartException, HTTPException, KeyError, ValueError) as error:
            said = error.message if isinstance(error, MultiPartException) else "it has no boundary"
            raise Problem(BAD, f"The multipart body can't be read: {said}.") from None
        try:
            described: bytes | None = None
            for name, part in form.multi_items():
                data = await part.read() if isinstance(part, UploadFile) else part.encode()
                if name == REQUEST_PART and described is None:
                    described = data
                elif name in {REQUEST_PART, *self.files}:
                    raise Problem(BAD, f"Two parts have the name {name[:80]!r}.", mend="Give each its own.")
                else:
                    self.files[name] = data
        finally:
            await form.close()
        if described is None:
            raise Problem(BAD, f"The multipart body has no part {REQUEST_PART!r}.", mend="Put the JSON there.")
        return described


class _InMemory(MultiPartParser):
    """Uploads never touch the disk: their size has a limit already."""

    spool_max_size = 2**62


def parse_json(raw: bytes) -> Any:
    """JSON as the standard has it: UTF-8, no NaN, no key twice in one object.

    Raises:
        Problem: it is not.
    """
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise Problem(BAD, f"The body is not UTF-8 ({error.reason} at byte {error.start}).") from None
    except RecursionError:
        raise Problem(BAD, "The body has too many objects and lists in each other.") from None
    except ValueError as error:
        raise Problem(BAD, f"The body is not JSON: {error}.") from None


def _once(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    """A key that stands twice would be content that is ignored."""
    table = dict(pairs)
    if len(table) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise Problem(BAD, f"The body has the key {twice[:80]!r} twice in one object.")
    return table


def _no_constant(name: str) -> NoReturn:
    raise Problem(BAD, f"The body holds {name}, which is no JSON.")
