"""The ring, its pages, and what kinds and contents are told of requests."""

from __future__ import annotations

import json

import pytest
from tests.unit.splitter.fakes import Clock

from traffic_splitter import sample_buffer
from traffic_splitter.kinds import MAX_PARSED_BYTES, MAX_TEXT, MAX_TEXTS, contents_of, kind_of
from traffic_splitter.sample_buffer import CAPACITY, COUNTERS, REPORT_SAMPLES, SampleBuffer


def filled(count: int, clock: Clock | None = None) -> SampleBuffer:
    buffer = SampleBuffer(clock or Clock())
    for number in range(1, count + 1):
        buffer.add({"number": number})
    return buffer


def test_counts_begin_at_nought():
    buffer = filled(0)
    buffer.count("requests", "stable")
    buffer.count("requests")
    assert buffer.counts() == dict.fromkeys(COUNTERS, 0) | {"requests": 2, "stable": 1}


def test_a_sample_has_a_number_and_an_age():
    clock = Clock()
    buffer = filled(1, clock)
    clock.now += 2.5
    assert json.loads(buffer.since(0)[0]) == [{"seq": 1, "age_s": 2.5, "number": 1}]


def test_pages_give_every_sample_once():
    buffer = filled(2500)
    seen, after = [], 0
    while True:
        text, after, lost = buffer.since(after)
        page = json.loads(text)
        assert (len(page) <= REPORT_SAMPLES, lost) == (True, 0)
        if not page:
            break
        seen += [sample["number"] for sample in page]
    assert seen == list(range(1, 2501))
    assert after == 2500
    buffer.add({"number": "new"})
    assert [sample["number"] for sample in json.loads(buffer.since(after)[0])] == ["new"]


def test_what_was_overwritten_is_counted_as_lost():
    buffer = filled(CAPACITY + 100)
    text, after, lost = buffer.since(0)
    assert (json.loads(text)[0]["seq"], after, lost) == (101, 100 + REPORT_SAMPLES, 100)
    assert buffer.since(90)[2] == 10
    assert buffer.since(100)[2] == 0
    assert buffer.since(500)[2] == 0


def test_a_number_from_the_future_asks_for_all():
    assert len(json.loads(filled(5).since(6)[0])) == 5
    assert filled(5).since(5)[:2] == ("[]", 5)


def test_a_report_is_bounded_in_bytes_but_never_empty(monkeypatch):
    monkeypatch.setattr(sample_buffer, "REPORT_BYTES", 100)
    buffer = SampleBuffer(Clock())
    for size in (500, 10, 10, 80, 500):
        buffer.add({"text": "x" * size})
    pages, after = [], 0
    while True:
        text, after, _ = buffer.since(after)
        if text == "[]":
            break
        pages.append([sample["seq"] for sample in json.loads(text)])
    assert pages == [[1], [2, 3], [4], [5]]


def test_no_sample_can_break_the_report():
    with pytest.raises(ValueError, match="not JSON compliant"):
        filled(0).add({"score": float("nan")})


def test_kinds_are_the_keys_of_all_elements():
    texts = {
        "query": [b'{"text": "x"}'],
        "documents": [b'{"image": {"media": 0}, "text": "a"}', b'{"video": []}'],
        "media": [b"\x89PNG"],
    }
    assert kind_of(texts, ("documents", "query")) == "documents.image,documents.text,documents.video,query.text"
    assert kind_of(texts, ("query",)) == "query.text"
    assert kind_of(texts, ()) == ""
    assert kind_of(texts, ("options",)) == ""


def test_odd_inputs_have_kinds_of_their_own():
    odd = [b"not JSON", b"[1]", b"\xff", b'{"a,b": 1}', b'{"' + b"k" * 50 + b'": 1}', b"[" * 100000]
    for element in odd:
        assert kind_of({"query": [element]}, ("query",)) == "query.other"
    assert kind_of({"query": [b'{"text": "' + b"x" * MAX_PARSED_BYTES + b'"}']}, ("query",)) == "query.large"
    many = [json.dumps({f"key{number}": 1}).encode() for number in range(1000)]
    assert kind_of({"query": many}, ("query",)).count(",") == 15


def test_contents_are_bounded_and_readable():
    contents = contents_of({"query": [b"short"], "media": [b"\x89PNG\r\n" + b"\0" * 10**6]})
    assert contents == {"query": ["short"], "media": ["<1000006 bytes>"]}
    long = contents_of({"query": ["ä".encode() * 10**6]})["query"][0]
    assert long == "ä" * MAX_TEXT + "..."
    broken = contents_of({"query": [b"x" + "ä".encode() * 10**6]})["query"][0]  # the cut falls into a character
    assert broken == "x" + "ä" * (MAX_TEXT - 1) + "..."
    many = contents_of({"documents": [b"y" * 900] * 500})["documents"]
    assert many[-1] == f"... {500 - len(many) + 1} more"
    assert MAX_TEXTS <= sum(map(len, many)) < MAX_TEXTS + 100
