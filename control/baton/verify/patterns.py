"""Refuses tokenizer settings by which a short request would occupy the engine for hours or fill its memory.

The tokenizers library runs its patterns with Oniguruma, which backtracks: ``(a+)+b`` takes hours for thirty letters, or
the library panics. And thirty replacements of one letter by two make a gigabyte of one letter. Python's ``re`` can't
judge these patterns: Oniguruma has another syntax. Not covered: what a pattern's form does not show, such as two sets
that overlap; the engine tries each tokenizer in a child process with limits before it loads a version.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from baton.verify.files import pairs

PIPELINE: Final = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
"""The parts of ``tokenizer.json`` that work on text."""
LENGTH_LIMIT: Final = 2_000
"""Characters of a pattern; the longest in use (o200k) has some 300."""
GROWTH_LIMIT: Final = 16
"""Times that replacements may lengthen a text, all of them together."""
_MANY: Final = 1_000
"""A repeat up to so often counts as unbounded; so does a choice among so many ways."""

_TOKEN: Final = re.compile(
    r"""(?P<back>\\(?:[1-9]|k[<'{]|g[<'{])|\(\?(?:R|[0-9]|&|P>|P=))"""
    r"""|(?P<hidden>\(\?(?:\#|\{|[a-wyzA-Z]*x)|\(\*|\\(?:c|C-|M-))"""
    r"""|(?P<escape>\\[pPxo]\{[^}]*\}|\\.)|(?P<set>\[)|(?P<open>\()|(?P<close>\))|(?P<or>\|)"""
    r"""|(?P<repeat>[*+?]|\{(?P<low>\d*)(?P<comma>,?)(?P<high>\d*)\})|(?P<other>.)""",
    re.DOTALL,
)
_REFUSED: Final[Mapping[str | None, str]] = {
    "back": "refers to what it matched before, or to itself",
    "hidden": "has a comment, a callout, a control character or the extended form, which can hide what it repeats",
}
_POSIX: Final = re.compile(r"\[:\^?\w+:\]")
"""A named set within a set."""


@dataclass(slots=True)
class _Part:
    """How a part of a pattern can match one text.

    Attributes:
        ways: In how many ways it matches the same text, at most; ``_MANY`` stands for any larger number.
        open: Whether it holds alternatives, or a repeat that may go on for longer or for shorter.
        reach: How often its bounded repeats, one in the other, go over what they repeat.
    """

    ways: float = 1.0
    open: bool = False
    reach: float = 1.0

    def take(self, other: _Part) -> None:
        """``other`` follows."""
        self.ways = min(self.ways * other.ways, _MANY)
        self.open |= other.open
        self.reach = max(self.reach, other.reach)


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
        for key, value in pairs(part):
            if key == "Regex" and isinstance(value, str) and (problem := pattern_problem(value)):
                yield f"the {name} has the pattern {value[:60]!r}, which {problem}"
            elif key in {"content", "prepend"} and isinstance(value, str):
                growth *= max(1, len(value.encode("utf-8", "replace")))
    if growth > GROWTH_LIMIT:
        yield f"its replacements may make a text {growth:,.0f} times as long; at most {GROWTH_LIMIT} is allowed"


def pattern_problem(pattern: str) -> str | None:
    """Why a pattern may take exponential time, or ``None``. No pattern of a published tokenizer is refused.

    Refused by form: an unbounded repeat of a group that itself repeats or has alternatives; a bounded one where the
    ways multiply to a thousand; nested repeats that come to a thousand; back-references and recursion; and syntax that
    could hide any of these.
    """
    if len(pattern) > LENGTH_LIMIT:
        return f"is {len(pattern):,} characters long; at most {LENGTH_LIMIT:,} are allowed"
    groups = [[_Part()]]  # for each open group its alternatives
    last = _Part()  # what a repeat would repeat
    before = ""  # the repeat just before; "?" and "+" after it only say how eager it is
    at = 0
    while found := _TOKEN.match(pattern, at):
        at = found.end()
        kind = found.lastgroup if found["repeat"] is None else "repeat"
        if kind in _REFUSED:
            return _REFUSED[kind]
        if kind == "repeat":
            eager = bool(before) and (found[0] == "?" or (found[0] == "+" and before in "*+?"))
            if not eager and (problem := _repeat(last, *_bounds(found))):
                return problem
            before = "{}" if eager else found[0]
            continue
        before = ""
        groups[-1][-1].take(last)
        last = _Part()
        if kind == "set" and (at := _set_end(pattern, at)) < 0:
            return "has a set of characters that is not written in the usual way"
        if kind == "open":
            groups.append([_Part()])
        elif kind == "or":
            groups[-1].append(_Part())
        elif kind == "close" and len(groups) > 1:
            last = _joined(groups.pop())
    return None


def _joined(alternatives: list[_Part]) -> _Part:
    """A group of these."""
    return _Part(
        min(sum(part.ways for part in alternatives), _MANY),
        len(alternatives) > 1 or alternatives[0].open,
        max(part.reach for part in alternatives),
    )


def _repeat(part: _Part, low: float, high: float) -> str | None:
    """Make ``part`` one that is repeated; what is wrong with that, or ``None``."""
    endless = high >= _MANY
    if endless and part.open:
        return "repeats without end what can match in many ways: its time may double with each letter of a text"
    if high > 1:
        if not endless and high * math.log(part.ways) >= math.log(_MANY):
            return f"repeats up to {high:.0f} times what can match in many ways: its time multiplies with each of them"
        if not endless and part.reach > 1 and part.reach * high >= _MANY:
            return f"repeats a repeat, which comes to {part.reach * high:,.0f} times; less than {_MANY:,} are allowed"
        part.ways = _MANY if endless else min(part.ways**high, _MANY)
        part.reach *= 1 if endless else high
    part.ways = min(part.ways * (min(high, _MANY) - low + 1), _MANY) if low < high else part.ways
    part.open |= endless or (low != high and high > 1)
    return None


def _bounds(found: re.Match[str]) -> tuple[float, float]:
    """(lowest, highest) number of times; ``_MANY`` for more than that."""
    if found[0] in "*+?":
        return (1.0 if found[0] == "+" else 0.0), (1.0 if found[0] == "?" else _MANY)
    low, high = (_number(found[name]) for name in ("low", "high"))
    return (low or 0.0), ((_MANY if high is None else high) if found["comma"] else (_MANY if low is None else low))


def _number(digits: str) -> float | None:
    return (float(digits) if len(digits) <= len(str(_MANY)) else float(_MANY)) if digits else None


def _set_end(pattern: str, at: int) -> int:
    """Where the set of characters ends that began before ``at``; sets may hold sets. -1: that is not sure."""
    depth = 1
    if pattern[at : at + 1] == "^":
        at += 1
    if pattern[at : at + 1] == "]":  # first of all it is a character
        at += 1
    while at < len(pattern) and depth:
        one = pattern[at]
        if one == "[" and (named := _POSIX.match(pattern, at)):
            at = named.end()
            continue
        if pattern[at : at + 2] == "[:":  # Oniguruma takes the bracket for a character
            return -1
        depth += (one == "[") - (one == "]")
        at += 2 if one == "\\" else 1
    return -1 if depth else at
