"""What a tokenizer's settings would do to users' text: patterns that never end, replacements that never stop growing.

The tokenizers library runs its patterns with Oniguruma, which backtracks: ``(a+)+b`` takes a user's text of thirty
letters for hours. And replacements one after the other, each a letter by two, make a gigabyte of thirty of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

PIPELINE: Final = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
"""The parts of ``tokenizer.json`` that work on text."""
LENGTH_LIMIT: Final = 2_000
"""Characters of a pattern; the longest in use (o200k) has some 300."""
GROWTH_LIMIT: Final = 16
"""Times that replacements may lengthen a text, all of them together."""
_MANY: Final = 1_000
"""A repeat up to so often counts as unbounded."""

_TOKEN: Final = re.compile(
    r"""(?P<back>\\(?:[1-9]|k[<'{]|g[<'{])|\(\?(?:R|[0-9]|&|P>|P=))"""
    r"""|(?P<escape>\\[pPx]\{[^}]*\}|\\.)|(?P<set>\[)|(?P<open>\()|(?P<close>\))|(?P<or>\|)"""
    r"""|(?P<repeat>[*+]|\{(?P<low>\d*)(?P<comma>,?)(?P<high>\d*)\})|(?P<other>.)""",
    re.DOTALL,
)


def pipeline_problems(settings: Mapping[str, Any], trusted: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each part of a tokenizer that could keep the engine from ever answering.

    ``settings`` and ``trusted`` hold the parts named in ``PIPELINE``; a part equal to that of ``trusted``, the version
    that serves, is taken as it is.
    """
    growth = 1.0
    for name in PIPELINE:
        part = settings.get(name)
        if part is None or part == trusted.get(name):
            continue
        for key, value in _pairs(part):
            if key == "Regex" and isinstance(value, str) and (problem := pattern_problem(value)):
                yield f"the {name} has the pattern {value[:60]!r}, which {problem}"
            elif key in {"content", "prepend"} and isinstance(value, str):
                growth *= max(1, len(value.encode("utf-8", "replace")))
    if growth > GROWTH_LIMIT:
        yield f"its replacements may make a text {growth:,.0f} times as long; at most {GROWTH_LIMIT} is allowed"


def pattern_problem(pattern: str) -> str | None:
    """What makes a pattern's time explode, or ``None``; patterns of published tokenizers have none of it.

    Told from the pattern's form: a repeat without end over a group that itself repeats without end, or that offers
    alternatives; references to what was matched before, and recursion.
    """
    if len(pattern) > LENGTH_LIMIT:
        return f"is {len(pattern):,} characters long; at most {LENGTH_LIMIT:,} are allowed"
    groups = [False]  # for each open group, whether it can match the same text in several ways
    closed = False  # the same of the group that ended just before
    at = 0
    while found := _TOKEN.match(pattern, at):
        at = found.end()
        kind = found.lastgroup if found["repeat"] is None else "repeat"
        ambiguous, closed = closed, False
        if kind == "back":
            return "refers to what it matched before, or to itself"
        if kind == "set":
            at = _set_end(pattern, at)
        elif kind == "open":
            groups.append(False)
        elif kind == "close" and len(groups) > 1:
            closed = groups.pop()
            groups[-1] |= closed
        elif kind == "or" and len(groups) > 1:
            groups[-1] = True
        elif kind == "repeat" and _unbounded(found):
            if ambiguous:
                return "repeats without end what can match in many ways: its time may double with each letter of a text"
            groups[-1] = True
    return None


def _unbounded(found: re.Match[str]) -> bool:
    if found[0] in "*+":
        return True
    high = found["high"] if found["comma"] else found["low"]
    return high == "" or len(high) > len(str(_MANY)) or int(high) >= _MANY


def _set_end(pattern: str, at: int) -> int:
    """Where the set of characters ends that began before ``at``; sets may hold sets."""
    depth = 1
    if pattern[at : at + 1] == "^":
        at += 1
    if pattern[at : at + 1] == "]":  # first of all it is a character
        at += 1
    while at < len(pattern) and depth:
        one = pattern[at]
        depth += (one == "[") - (one == "]")
        at += 2 if one == "\\" else 1
    return at


def _pairs(part: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth: JSON that was parsed is never deeper than the stack."""
    if isinstance(part, dict):
        for key, value in part.items():
            yield key, value
            yield from _pairs(value)
    elif isinstance(part, list):
        for value in part:
            yield from _pairs(value)
