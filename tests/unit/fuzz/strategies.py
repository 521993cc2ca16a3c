"""What the fuzz tests feed to parsers: valid input with small wounds, nasty JSON, and noise."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

bounded = settings(
    max_examples=min(120, settings.default.max_examples),  # fewer with --fast
    derandomize=True,  # the same inputs each time: a failure is found where it was made
    deadline=timedelta(seconds=30),  # of one input: a parser that hangs, not a machine that is slow
    suppress_health_check=list(HealthCheck),
)

NASTY_TEXTS = (
    "",
    "\0",
    "\x1b[2J",
    "\u202e",
    "\ud800",
    "\U0010ffff",
    "../..",
    "/etc/passwd",
    "a" * 5000,
    "NaN",
    "1e999",
    "٣",
    "²",
)
NASTY_NUMBERS = (
    0,
    -1,
    2**31,
    2**63,
    2**64,
    -(2**63) - 1,
    10**400,
    1e308,
    -0.0,
    1e-320,
    float("inf"),
    float("-inf"),
    float("nan"),
)
NASTY_JSON = (
    b"[" * 50_000, b'{"a":' * 50_000, b"9" * 50_000, b"1e999999999", b"-", b'{"a":1,"a":2}', b'"\\ud800"', b"\xff", b"NaN",
    b"\xef\xbb\xbf{}", b"{} {}", b"[1,]", b"null", b"", b"\0" * 100,
)  # fmt: skip

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(NASTY_TEXTS),
    st.sampled_from(NASTY_NUMBERS),
)


def values(keys: tuple[str, ...] = ()) -> st.SearchStrategy[Any]:
    """JSON-like values; objects often have the keys that the parser looks for."""
    names = st.one_of(st.sampled_from(keys), st.text(max_size=8)) if keys else st.text(max_size=8)
    return st.recursive(
        scalars,
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=5)),
        max_leaves=12,
    )


@st.composite
def wounded(draw: st.DrawFn, *valid: bytes) -> bytes:
    """Valid bytes with some of them replaced, removed, doubled or followed by noise."""
    data = bytearray(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 12))
        kind = draw(st.sampled_from(("replace", "remove", "double", "insert", "cut", "nasty")))
        if kind == "replace":
            data[at : at + length] = draw(st.binary(min_size=length, max_size=length))
        elif kind == "remove":
            del data[at : at + length]
        elif kind == "double":
            data[at:at] = data[at : at + length] * draw(st.integers(1, 50))
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=12))
        elif kind == "cut":
            del data[at:]
        else:
            data[at : at + length] = draw(st.sampled_from(NASTY_JSON))
    return bytes(data)


def raw(*valid: bytes) -> st.SearchStrategy[bytes]:
    """Bytes for a parser of text."""
    return st.one_of(wounded(*valid), st.binary(max_size=200), st.sampled_from(NASTY_JSON))
