"""What a shadowed request holds: its kind, a digest that recognises the same request, and its contents for a person."""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence

MAX_PARSED_BYTES = 10**6
"""An input with more bytes of JSON is not parsed."""
MAX_KINDS = 16
MAX_TEXT, MAX_TEXTS = 1000, 4000
"""Characters of one element and of all elements that a sample carries."""
_DECODER = codecs.getincrementaldecoder("utf-8")
_KEY = re.compile(r"[A-Za-z0-9_-]{1,32}")


def kind_of(texts: Mapping[str, Sequence[bytes]], names: Sequence[str]) -> str:
    """Such as ``documents.image,documents.text,query.text``: each input in ``names``, with the keys of its objects.

    ``large`` stands for an input that is too large to parse, ``other`` for an element that is no JSON object, and for
    a key that is no short word.
    """
    found = {f"{name}.{key}" for name in names if name in texts for key in _keys(texts[name])}
    return ",".join(sorted(found)[:MAX_KINDS])


def _keys(elements: Sequence[bytes]) -> Iterator[str]:
    if sum(map(len, elements)) > MAX_PARSED_BYTES:
        yield "large"
        return
    for element in elements:
        try:
            item = json.loads(element)
        except (ValueError, RecursionError):
            item = None
        if not isinstance(item, dict):
            yield "other"
            continue
        for key in item:
            yield key if _KEY.fullmatch(key) else "other"


def digest_of(texts: Mapping[str, Sequence[bytes]], salt: str) -> str:
    """Equal for equal texts under one salt; reveals nothing else about them. Empty if there are no texts."""
    if not texts:
        return ""
    digest = hashlib.blake2b(salt.encode(errors="surrogatepass"), digest_size=8)
    for name, elements in sorted(texts.items()):
        for part in (name.encode(), *elements, b""):
            digest.update(len(part).to_bytes(8))
            digest.update(part)
    return digest.hexdigest()


def contents_of(texts: Mapping[str, Sequence[bytes]]) -> dict[str, list[str]]:
    """The elements of all inputs as text, at most :data:`MAX_TEXT` and :data:`MAX_TEXTS` characters."""
    left = MAX_TEXTS
    contents: dict[str, list[str]] = {}
    for name, elements in texts.items():
        shown = contents[name] = []
        for element in elements:
            if left <= 0:
                shown.append(f"... {len(elements) - len(shown)} more")
                break
            shown.append(_shown(element, min(left, MAX_TEXT)))
            left -= len(shown[-1])
    return contents


def _shown(element: bytes, most: int) -> str:
    head = element[: 4 * most]  # a character has four bytes at most
    whole = len(head) == len(element)
    try:
        text = _DECODER().decode(head, whole)  # not final: the cut may break a character
    except UnicodeDecodeError:
        return f"<{len(element)} bytes>"
    return text if whole and len(text) <= most else text[:most] + "..."
