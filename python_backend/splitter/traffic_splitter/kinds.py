"""What kind a request is of, whether it is one that came before, and its contents for a person to look at."""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence

LARGE = 10**6
"""Bytes of JSON of one input that are still parsed."""
MOST_KINDS = 16
MOST_TEXT, MOST_TEXTS = 1000, 4000
"""Characters of one element and of all elements that a sample carries."""
_DECODER = codecs.getincrementaldecoder("utf-8")
_KEY = re.compile(r"[A-Za-z0-9_-]{1,32}")


def kind_of(texts: Mapping[str, Sequence[bytes]], names: Sequence[str]) -> str:
    """Such as ``documents.image,documents.text,query.text``: each input named and the keys its objects have.

    ``large`` stands for an input too large to be parsed, ``other`` for what is no JSON object or an odd key.
    """
    found = {f"{name}.{key}" for name in names if name in texts for key in _keys(texts[name])}
    return ",".join(sorted(found)[:MOST_KINDS])


def _keys(elements: Sequence[bytes]) -> Iterator[str]:
    if sum(map(len, elements)) > LARGE:
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
    """The same for the very same texts under one salt, and nothing to guess them from; empty where there are none."""
    if not texts:
        return ""
    digest = hashlib.blake2b(salt.encode(errors="surrogatepass"), digest_size=8)
    for name, elements in sorted(texts.items()):
        for part in (name.encode(), *elements, b""):
            digest.update(len(part).to_bytes(8))
            digest.update(part)
    return digest.hexdigest()


def contents_of(texts: Mapping[str, Sequence[bytes]]) -> dict[str, list[str]]:
    """The elements of all inputs as text, cut to :data:`MOST_TEXT` and :data:`MOST_TEXTS` characters."""
    left = MOST_TEXTS
    contents: dict[str, list[str]] = {}
    for name, elements in texts.items():
        shown = contents[name] = []
        for element in elements:
            if left <= 0:
                shown.append(f"... {len(elements) - len(shown)} more")
                break
            shown.append(_shown(element, min(left, MOST_TEXT)))
            left -= len(shown[-1])
    return contents


def _shown(element: bytes, most: int) -> str:
    head = element[: 4 * most]  # a character has four bytes at most
    whole = len(head) == len(element)
    try:
        text = _DECODER().decode(head, whole)  # a character that the cut broke does not make it binary
    except UnicodeDecodeError:
        return f"<{len(element)} bytes>"
    return text if whole and len(text) <= most else text[:most] + "..."
