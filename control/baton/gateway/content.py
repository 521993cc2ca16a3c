"""Queries and documents as clients write them, made into the content that ``baton.client`` sends.

A document is a text; ``{text, image, video}``; ``{content: [parts]}`` with parts of chat messages; or an object whose
``rank_fields`` are ranked. An image or a video is a ``data:`` URI, which is decoded here, ``attachment:NAME`` for a
file of the same upload, or an address. Addresses are passed on: the engine has lists of what it may fetch, the gateway
fetches nothing.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from baton.gateway.problems import invalid

Files: TypeAlias = Mapping[str, bytes]
Content: TypeAlias = dict[str, Any]

ATTACHMENT = "attachment:"
_DATA, _BASE64 = ("data:image/", "data:video/"), ";base64,"
_LONGEST_HEAD = 200
"""Characters of a ``data:`` URI before its base64, as the engine has it."""
_KEYS = ("text", "image", "video")
_PARTS = {"text": "text", "image_url": "image", "video_url": "video", "image": "image", "video": "video"}
"""By the type of a part: what it is. The last two are how Qwen's own examples write them."""


def content(place: str, value: Any, files: Files, fields: Sequence[str] | None = None) -> Content:
    """One query or document.

    Args:
        place: Its name for errors, as in ``documents[3]``.
        value: What the client sent.
        files: The named files of a multipart request.
        fields: The client's ``rank_fields``: what of an object is ranked.

    Raises:
        Problem: it can't be scored; the text names it.
    """
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, Mapping):
        raise invalid(place, f"is {_kind(value)}", "Give text or an object.")
    if fields and set(fields) & value.keys():
        return {"text": _ranked(place, value, fields)}
    if value.get("content") is not None:
        return _parts(f"{place}.content", value["content"], files)
    found = {key: value[key] for key in _KEYS if value.get(key) is not None}
    if not found:
        raise invalid(place, "has no text, image, video or content", "Give at least one of them, or name rank_fields.")
    return {
        key: _texts(f"{place}.{key}", one) if key == "text" else _media(f"{place}.{key}", one, files)
        for key, one in found.items()
    }


def text_of(one: Content) -> str:
    """The text of a content, for who wants documents back; empty where it has none."""
    text = one.get("text", "")
    return text if isinstance(text, str) else "\n".join(text)


def _ranked(place: str, value: Mapping[str, Any], fields: Sequence[str]) -> str:
    """The named fields as lines ``name: value``; one alone as it is."""
    found = {name: value[name] for name in fields if value.get(name) is not None}
    for name, one in found.items():
        if isinstance(one, Mapping | list):
            raise invalid(f"{place}.{name}", f"is {_kind(one)}", "rank_fields name texts and numbers.")
    if list(fields) == list(found) and len(found) == 1:
        return str(next(iter(found.values())))
    return "\n".join(f"{name}: {one}" for name, one in found.items())


def _parts(place: str, value: Any, files: Files) -> Content:
    """Parts of a chat message. The engine has an order of its own for texts, images and videos."""
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, list) or not value:
        raise invalid(place, "is no list of parts", 'Give [{"type": "text", "text": "..."}, ...].')
    found: dict[str, list[Any]] = {}
    for number, part in enumerate(value):
        where = f"{place}[{number}]"
        kind = part.get("type") if isinstance(part, Mapping) else None
        if not isinstance(kind, str) or kind not in _PARTS:
            raise invalid(where, "is no part that is known", f"Its type is one of {', '.join(_PARTS)}.")
        if part.get(kind) is None:
            raise invalid(where, f"has no {kind}")
        key = _PARTS[kind]
        one = part[kind]
        read = _texts(f"{where}.{kind}", one) if key == "text" else _media(f"{where}.{kind}", one, files)
        # A list is one video, given by its frames.
        found.setdefault(key, []).extend(read if isinstance(read, list) and key != "video" else [read])
    return {key: values[0] if len(values) == 1 else values for key, values in found.items()}


def _texts(place: str, value: Any) -> str | list[str]:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return value
    raise invalid(place, f"is {_kind(value)}", "Give text, or a list of texts.")


def _media(place: str, value: Any, files: Files) -> Any:
    """One image or video, or a list: bytes that came with the request, or an address as it is."""
    if isinstance(value, list):
        if not value:
            raise invalid(place, "is an empty list", "Leave it out.")
        return [_media(f"{place}[{number}]", one, files) for number, one in enumerate(value)]
    if isinstance(value, Mapping) and isinstance(value.get("url"), str):
        value = value["url"]
    if not isinstance(value, str):
        raise invalid(place, f"is {_kind(value)}", "Give a data: URI, an address, or attachment:NAME.")
    if value.startswith("data:"):
        return _decoded(place, value)
    if value.startswith(ATTACHMENT):
        name = value.removeprefix(ATTACHMENT)
        if name not in files:
            known = ", ".join(sorted(files)) or "none"
            raise invalid(place, f"names the file {name[:80]!r}, which did not come along", f"There came: {known}.")
        return files[name]
    return value


def _decoded(place: str, uri: str) -> bytes:
    """The bytes of a ``data:`` URI, by the engine's rules: an error here names the document as the engine would."""
    head, mark, _ = uri[:_LONGEST_HEAD].partition(_BASE64)
    if not mark:
        raise invalid(place, "is a data URI without ;base64,")
    if not head.startswith(_DATA):
        raise invalid(place, f"is a data URI of the wrong kind ({head[:40]})", f"It begins with {' or '.join(_DATA)}.")
    body = uri[len(head) + len(mark) :]
    try:
        data = base64.b64decode("".join(body.split()) if "\n" in body else body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(place, f"holds broken base64 ({error})") from None
    if not data:
        raise invalid(place, "is empty (0 bytes)")
    return data


def _kind(value: Any) -> str:
    """What JSON calls it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    return "a text" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"
