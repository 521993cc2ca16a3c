"""Every parser of what comes over a wire raises the error that it documents, in time, and nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.engine import support  # noqa: F401 - makes the engine importable
from tests.unit.fuzz.strategies import bounded, raw, values
from tests.unit.splitter.fakes import UNCAPPED, Stage

from baton.api.wire import body, read, written
from baton.errors import UsageError
from baton.verbs import VERBS, parameters
from reranker_engine.inference.errors import InputError
from reranker_engine.inference.media import MediaReader
from reranker_engine.inference.request import RequestLimits, parse_request
from traffic_splitter.control import Control
from traffic_splitter.route import InvalidControl

OBJECT = b'{"text": ["a red circle", "b"], "image": {"media": 0}, "video": [{"media": 1}, {"media": 1}]}'
TOKEN = "sesame"
HASH = hashlib.sha256(TOKEN.encode()).hexdigest()
ROUTE = {"candidate": 2, "weight": 5.0, "shadow": 10.0, "lease_s": 15.0}


def parse(query=b'{"text": "q"}', document=b'{"text": "d"}', instruction=None, options=None):
    reader = MediaReader(media=(b"\x89PNG\r\n\x1a\n", b"GIF89a"))
    try:
        found = parse_request(query, [document], instruction, options, reader, RequestLimits())
    except InputError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 600
        return
    for content in (found.query, *found.documents):
        assert content.texts or content.images or content.videos
        "".join(content.texts).encode()
    chosen = found.options
    assert chosen.fps is None or 0 < chosen.fps <= 1000
    assert chosen.max_frames is None or 2 <= chosen.max_frames <= 768
    assert chosen.max_document_tokens is None or chosen.max_document_tokens >= 1


@bounded
@given(query=raw(OBJECT), document=raw(OBJECT))
def test_contents_as_bytes(query, document):
    parse(query)
    parse(document=document)


@bounded
@given(content=values(("text", "image", "video", "media")))
def test_contents(content):
    parse(document=json.dumps(content).encode())


@bounded
@given(options=st.one_of(raw(b'{"fps": 2, "max_frames": 8}'), values(("fps", "max_frames", "max_document_tokens")).map(lambda one: json.dumps(one).encode())),
       instruction=st.one_of(st.none(), st.binary(max_size=60)))  # fmt: skip
def test_options_and_instructions(options, instruction):
    parse(options=options, instruction=instruction)


@bounded
@given(
    name=st.sampled_from(sorted(VERBS)), given_=values((*sorted({k for v in VERBS.values() for k in parameters(v)}),))
)
def test_calls_of_the_local_api(name, given_):
    try:
        found = written(read(name, given_))
    except UsageError as error:
        assert len(str(error)) < 1000
    else:
        assert json.dumps(found, allow_nan=False)
        assert all(abs(one) < 2**63 for one in found.values() if isinstance(one, int))


@bounded
@given(data=raw(b'{"service": "reranker", "version": 3}'))
def test_bodies_of_the_local_api(data):
    with contextlib.suppress(UsageError):
        body(data)


@pytest.fixture(scope="module")
def control():
    return Control(Stage().splitter, HASH, UNCAPPED)


@bounded
@given(data=st.one_of(
    raw(json.dumps({"token": TOKEN, "after": 0, "route": ROUTE}).encode()),
    st.fixed_dictionaries({"token": st.just(TOKEN)}, optional={
        "route": st.one_of(values(tuple(ROUTE)), st.fixed_dictionaries({key: values() for key in ROUTE})),
        "after": values(), "boot": values(),
    }).map(lambda one: json.dumps(one).encode()),
))  # fmt: skip
def test_control_requests_of_the_splitter(control, data):
    try:
        assert json.loads(control.answer(data))["stable"] == 1
    except InvalidControl as error:
        assert TOKEN not in str(error)
        assert len(str(error)) < 1000
