"""Reads ``config.pbtxt`` and edits its version policy, leaving every other byte as the operator wrote it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from baton.errors import RepositoryError

_TOKEN = re.compile(
    r"""(?P<comment>\#[^\n]*)|(?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|(?P<open>[{<\[])|(?P<close>[}>\]])"""
    r"""|(?P<word>[A-Za-z0-9_.+-]+)|(?P<space>\s+)|(?P<other>.)""",
    re.DOTALL,
)


def parse(text: str, path: Path) -> model_config_pb2.ModelConfig:
    """The configuration as Triton's own message.

    Raises:
        RepositoryError: naming file, line and cause.
    """
    try:
        return text_format.Parse(text, model_config_pb2.ModelConfig(), allow_unknown_field=True)
    except text_format.ParseError as error:
        raise RepositoryError(f"{path} can't be parsed: {error}.") from None
    except RecursionError:
        raise RepositoryError(f"{path} can't be parsed: its blocks are nested too deeply.") from None


def parse_engine(text: str, path: Path) -> model_config_pb2.ModelConfig:
    """An engine's configuration. A file that was cut between two fields can be parsed, too, so it is looked at.

    Raises:
        RepositoryError: it can't be parsed, or names no tensors, which the public name needs to lead to it.
    """
    config = parse(text, path)
    lacking = [field for field in ("input", "output") if not getattr(config, field)]
    if lacking:
        raise RepositoryError(
            f"{path} names no {' and no '.join(lacking)}.",
            mend="Write down each tensor that clients send and get: the public name is made from them.",
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
    """The text with another version policy, and nothing else changed.

    Raises:
        RepositoryError: the text can't be parsed, before or after.
    """
    before = parse(text, path)
    listed = ", ".join(str(v) for v in sorted(versions))
    policy = (
        f"version_policy {{ specific {{ versions: [ {listed} ] }} }}" if versions else "version_policy { specific { } }"
    )
    spans = list(_fields(text, "version_policy"))
    if spans:
        start, end = spans[0]
        edited = text[:start] + policy + text[end:]
    else:
        edited = text + ("" if text.endswith("\n") or not text else "\n") + policy + "\n"
    after = parse(edited, path)
    before.version_policy.CopyFrom(after.version_policy)
    if len(spans) > 1 or before != after or specific_versions(edited, path) != versions:
        raise RepositoryError(
            f"{path} holds a version policy that Baton can't edit without changing more than that.",
            mend="Write it as one top-level block: `version_policy { specific { versions: [ N ] } }`.",
        )
    return edited


def _fields(text: str, name: str) -> Iterator[tuple[int, int]]:
    """Start and end of each top-level message field called ``name``, braces included."""
    depth, start = 0, None
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        if depth == 0 and kind == "word":
            start = token.start() if token.group() == name else None
        elif kind == "open":
            depth += 1
        elif kind == "close":
            depth -= 1
            if depth == 0 and start is not None:
                yield start, token.end()
                start = None
