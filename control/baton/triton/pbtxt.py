"""Parses ``config.pbtxt`` and edits its version policy. Every other byte stays as the operator wrote it.

It refuses what Triton's own parser refuses (seen on 24.10). Not covered: whether the values make sense to Triton.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from baton.errors import RepositoryError

_TOKEN = re.compile(
    r"""(?P<comment>\#[^\n]*)|(?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|(?P<open>[{<\[])|(?P<close>[}>\]])"""
    r"""|(?P<word>[A-Za-z0-9_.+-]+)|(?P<space>\s+)|(?P<other>.)""",
    re.DOTALL | re.ASCII,
)


def parse(text: str, path: Path) -> model_config_pb2.ModelConfig:
    """The configuration as Triton's own message. Fields that only a newer Triton knows are passed over.

    Raises:
        RepositoryError: naming file, line and cause.
    """
    _refuse_what_triton_refuses(text, path)
    config = model_config_pb2.ModelConfig()
    try:
        config.CopyFrom(_parsed(text))  # the caller's own, to change as it likes
    except text_format.ParseError as error:
        mend = "Mend that line; what Triton has loaded serves on meanwhile."
        raise RepositoryError(f"{path} can't be parsed: {str(error).rstrip('.')}.", mend=mend) from None
    except RecursionError:
        raise RepositoryError(f"{path} can't be parsed: its blocks are nested too deeply.") from None
    return config


@functools.lru_cache(maxsize=16)
def _parsed(text: str) -> model_config_pb2.ModelConfig:
    """Cached: the controller reads the same few files in every turn, and one takes milliseconds to parse."""
    return text_format.Parse(_without_surrogates(text), model_config_pb2.ModelConfig(), allow_unknown_field=True)


def _without_surrogates(text: str) -> str:
    """The text without lone surrogates, which stand for bytes that are no UTF-8: Triton takes those."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="surrogateescape").decode("latin-1")
    return text


def _refuse_what_triton_refuses(text: str, path: Path) -> None:
    """Refuses what Python's parser of this format accepts and Triton's does not (seen on 24.10).

    Raises:
        RepositoryError: naming the line.
    """
    mend = "Save it as UTF-8 without a byte order mark (in Notepad: `UTF-8`, in vim: `:set nobomb`)."
    if text.startswith("\ufeff"):
        raise RepositoryError(f"{path} begins with a byte order mark, and Triton does not take one.", mend=mend)
    if (at := text.find("\0")) >= 0:
        raise RepositoryError(f"{path} has a zero byte in line {_line(text, at)}, as UTF-16 text has.", mend=mend)
    if text.isascii():
        return
    for token in _TOKEN.finditer(text):
        if token.lastgroup == "other" and token.group().isspace():
            raise RepositoryError(
                f"{path} has a space that is none to Triton (U+{ord(token.group()):04X}) in line "
                f"{_line(text, token.start())}; text that was copied from a web page often has.",
                mend="Type it anew as an ordinary space.",
            )


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def doubts(text: str, path: Path) -> str:
    """Why Triton may not take a configuration that :func:`parse` takes, in a sentence; empty when nothing is known."""
    config = parse(text, path)
    if config.name not in ("", path.parent.name):
        return f"{path} calls the model {config.name!r}; Triton wants the name of its folder, {path.parent.name!r}."
    try:
        text_format.Parse(_without_surrogates(text), model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        return f"{path} may hold a field that this Triton does not know: {error}."
    return ""


def parse_engine(text: str, path: Path) -> model_config_pb2.ModelConfig:
    """An engine's configuration. A file that was cut between two fields can be parsed, too, so it is looked at.

    Raises:
        RepositoryError: it can't be parsed, or names no tensors, which the alias needs to lead to it.
    """
    config = parse(text, path)
    lacking = [field for field in ("input", "output") if not getattr(config, field)]
    if lacking:
        raise RepositoryError(
            f"{path} names no {' and no '.join(lacking)}.",
            mend="Write down each tensor that clients send and get: the alias is made from them.",
        )
    return config


def specific_versions(text: str, path: Path) -> frozenset[int]:
    """The versions named by ``version_policy { specific { versions: [...] } }``.

    Raises:
        RepositoryError: another policy, or none: then an unversioned request would go to whatever loads last.
    """
    return versions_of(parse(text, path), path)


def versions_of(config: model_config_pb2.ModelConfig, path: Path) -> frozenset[int]:
    """:func:`specific_versions` of what is parsed already."""
    if config.version_policy.WhichOneof("policy_choice") != "specific":
        raise RepositoryError(
            f"{path} has no explicit version policy.",
            mend="Write `version_policy { specific { versions: [ N ] } }` with the version that serves.",
        )
    return frozenset(config.version_policy.specific.versions)


def with_specific_versions(text: str, versions: frozenset[int], path: Path) -> str:
    """The text with another version policy, and nothing else changed: line endings and comments stay, also within.

    Raises:
        RepositoryError: the text can't be parsed, before or after.
    """
    before = parse(text, path)
    listed = f"versions: [ {', '.join(str(v) for v in sorted(versions))} ]" if versions else "versions: [ ]"
    whole = f"version_policy {{ specific {{ {listed} }} }}"
    policies = list(_fields(text, "version_policy", 0, len(text)))
    if not policies:
        end = "\r\n" if "\r\n" in text else "\n"
        edited = text + ("" if text.endswith("\n") or not text else end) + whole + end
    else:
        first = policies[0]
        specific = list(_fields(text, "specific", first.inner, first.close))
        if len(specific) == 1:
            inner, close = specific[0].inner, specific[0].close
            edited = text[:inner] + _listing(text[inner:close], listed) + text[close:]
        else:
            edited = text[: first.start] + whole + text[first.end :]
    after = parse(edited, path)
    before.version_policy.CopyFrom(after.version_policy)
    if len(policies) > 1 or before != after or specific_versions(edited, path) != versions:
        raise RepositoryError(
            f"{path} holds a version policy that Baton can't edit without changing more than that.",
            mend="Write it as one top-level block: `version_policy { specific { versions: [ N ] } }`.",
        )
    return edited


def with_name(text: str, name: str, path: Path) -> str:
    """The text with another name of the model, and nothing else changed. A file without a name stays as it is.

    Raises:
        RepositoryError: the text can't be parsed, before or after.
    """
    before = parse(text, path)
    if not before.name:
        return text
    depth, last, edited = 0, "", text
    for token in _TOKEN.finditer(text):
        if token.lastgroup in ("comment", "space"):
            continue
        if depth == 0 and last == "name:" and token.lastgroup == "string":
            edited = f'{text[: token.start()]}"{name}"{text[token.end() :]}'
            break
        depth += {"open": 1, "close": -1}.get(token.lastgroup or "", 0)
        last = last + ":" if token.group() == ":" else token.group()
    before.name = name
    if before != parse(edited, path):
        raise RepositoryError(
            f"{path} has a name that Baton can't edit.", mend=f'Write it as `name: "{path.parent.name}"`.'
        )
    return edited


def _listing(block: str, listed: str) -> str:
    """What stands within ``specific``, with another list of versions. Comments stay, each on a line of its own end."""
    tokens = list(_TOKEN.finditer(block))
    meant = [t for t in tokens if t.lastgroup not in ("comment", "space")]
    if not meant:
        return f"{block or ' '}{listed} "
    begin, end = meant[0].start(), meant[-1].end()
    line_end = "\r\n" if "\r\n" in block else "\n"
    within = [t.group().rstrip("\r") for t in tokens if t.lastgroup == "comment" and begin < t.start() < end]
    return block[:begin] + listed + "".join(f" {comment}{line_end}" for comment in within) + block[end:]


class _Field(NamedTuple):
    """A message field in a text: where it starts and ends, and what its braces enclose."""

    start: int
    inner: int
    close: int
    end: int


def _fields(text: str, name: str, begin: int, end: int) -> Iterator[_Field]:
    """Each message field called ``name`` that is not within another one, between two places."""
    depth, start, inner = 0, None, 0
    for token in _TOKEN.finditer(text, begin, end):
        kind = token.lastgroup
        if depth == 0 and kind == "word":
            start = token.start() if token.group() == name else None
        elif kind == "open":
            inner = token.end() if depth == 0 else inner
            depth += 1
        elif kind == "close":
            depth -= 1
            if depth == 0 and start is not None:
                yield _Field(start, inner, token.start(), token.end())
                start = None
