"""Every failure names the query or the document, and the cause; nothing broken is ever scored."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest
from PIL import Image
from tests.unit.engine.support import BASE, data_uri, png, score

from reranker_engine.inference.errors import InputError
from reranker_engine.inference.media import MediaReader
from reranker_engine.inference.prompt import Budgets
from reranker_engine.inference.request import RequestLimits
from reranker_engine.inference.scorer import Scorer, ScorerSettings
from reranker_engine.inference.sources import MediaPolicy

SQUARE = Image.new("RGB", (64, 64), (200, 30, 30))
GOOD = {"text": "a red circle"}


def broken_png() -> str:
    return "data:image/png;base64," + base64.b64encode(png(SQUARE)[:-30]).decode()


DOCUMENTS = {
    "empty object": ({}, "is empty: it needs a text, an image or a video"),
    "only nulls": ({"text": None}, "is empty"),
    "empty lists": ({"text": [], "image": []}, "is empty"),
    "unknown key": ({"txt": "a"}, "has the unknown key 'txt'"),
    "number as text": ({"text": 5}, "text is a JSON number, not a string"),
    "list of numbers": ({"text": ["a", 5]}, "text is a JSON number"),
    "object as text": ({"text": {"a": 1}}, "text is a JSON object"),
    "half a surrogate": ({"text": "\ud800"}, "text holds half of a surrogate pair at character 0"),
    "number as image": ({"image": 7}, "image is a JSON number"),
    "image object": ({"image": {"url": "x"}}, "image is a JSON object"),
    "media out of range": ({"image": {"media": 1}}, "media 1 does not exist; the request carries 1"),
    "negative media": ({"image": {"media": -1}}, "media -1 does not exist"),
    "media is true": ({"image": {"media": True}}, '"media" is a JSON boolean'),
    "media is not an image": ({"image": {"media": 0}}, "image 0: cannot be decoded as an image"),
    "truncated image": ({"image": broken_png()}, "image 0: cannot be decoded as an image"),
    "second image broken": ({"image": [data_uri(SQUARE), broken_png()]}, "image 1: cannot be decoded as an image"),
    "not base64": ({"image": "data:image/png;base64,@@@"}, "image 0: holds broken base64"),
    "no base64": ({"image": "data:image/png,abc"}, "image 0: is a data URI without ;base64,"),
    "text as image": ({"image": "data:text/plain;base64,YQ=="}, "image 0: is a data URI of the wrong kind"),
    "no bytes": ({"image": "data:image/png;base64,"}, "image 0: is empty (0 bytes)"),
    "long strip": ({"image": data_uri(Image.new("RGB", (600, 2)))}, "one side may be at most 200 times the other"),
    "path": ({"image": "/etc/hostname"}, "image 0: refers to a local file, and this server allows none"),
    "file address": ({"image": "file:///etc/hostname"}, "image 0: refers to a local file"),
    "address": ({"image": "http://169.254.169.254/x.png"}, "image 0: refers to an address that this server does not"),
    "secure address": ({"video": "https://example.com/x.mp4"}, "address that this server does not allow"),
    "no frames": ({"video": []}, "video has no frames"),
    "no frames in second": ({"video": [[data_uri(SQUARE)], []]}, "video has no frames"),
    "frames of two sizes": (
        {"video": [data_uri(SQUARE), data_uri(Image.new("RGB", (256, 64)))]},
        "video 0: has frames of different sizes (256x64, 64x64)",
    ),
    "broken frame": ({"video": [data_uri(SQUARE), broken_png()]}, "video 0: frame 1: cannot be decoded as an image"),
    "not a video": ({"video": {"media": 0}}, "video 0: cannot be decoded as a video"),
    "text as video": ({"video": "data:video/mp4;base64,YWJj"}, "video 0: cannot be decoded as a video"),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_bad_document_is_named_with_its_cause(base, name):
    document, cause = DOCUMENTS[name]
    with pytest.raises(InputError) as caught:
        score(base, GOOD, [GOOD, GOOD, document], media=[b"these bytes are no picture"])
    assert str(caught.value).startswith("document 2: ")
    assert cause in str(caught.value)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_bad_query_is_named_with_its_cause(base, name):
    query, cause = DOCUMENTS[name]
    with pytest.raises(InputError) as caught:
        score(base, query, [GOOD], media=[b"these bytes are no picture"])
    assert str(caught.value).startswith("query: ")
    assert cause in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b"\xff", "is not UTF-8"),
        (b"[]", "is a JSON array, not an object"),
        (b"null", "is a JSON null"),
        (b'"text"', "is a JSON string"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"9" * 10_000, "is not valid JSON"),
    ],
)
def test_json_that_is_none(base, raw, cause):
    with pytest.raises(InputError, match="document 1: " + cause):
        base.parse(b'{"text": "a"}', [b'{"text": "a"}', raw])


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"fps": 0}, "options: fps is 0;"),
        ({"fps": "2"}, 'options: fps is "2";'),
        ({"fps": True}, "options: fps is true;"),
        ({"max_frames": 1}, "options: max_frames is 1;"),
        ({"max_frames": 2.5}, "options: max_frames is 2.5;"),
        ({"truncation": True}, 'options: truncation is true; it must be "cut" or "refuse"'),
        ({"max_document_tokens": 0}, "options: max_document_tokens is 0; it must be a whole number of at least 1"),
        ({"max_document_tokens": 2.5}, "options: max_document_tokens is 2.5;"),
        ({"max_document_tokens": True}, "options: max_document_tokens is true;"),
        ({"frames": 2}, "options: has the unknown key 'frames'"),
        ([], "options: is a JSON array"),
    ],
)
def test_bad_options(base, options, cause):
    with pytest.raises(InputError, match=cause.replace(".", r"\.")):
        score(base, GOOD, [GOOD], options=options)


def test_a_text_that_would_be_cut_is_refused_on_request(base):
    tight = Scorer(BASE, ScorerSettings(budgets=Budgets(256, 256, 64)))
    long = {"text": "red circle " * 500}
    assert score(tight, GOOD, [GOOD], options={"truncation": "refuse"}) == score(tight, GOOD, [GOOD])
    assert np.isfinite(score(tight, long, [GOOD], options={"truncation": "cut"})).all()
    for query, documents, place in ((long, [GOOD], "query"), (GOOD, [GOOD, long], "document 1")):
        with pytest.raises(InputError, match=rf"^{place}: its text is \d+ tokens too long; .*options\.truncation"):
            score(tight, query, documents, options={"truncation": "refuse"})


def test_no_documents(base):
    with pytest.raises(InputError, match="documents: there are none"):
        score(base, GOOD, [])


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded():
    reader = MediaReader(MediaPolicy(max_pixels=1000))
    with pytest.raises(InputError, match="has 64x64 pixels; at most 1000 are allowed"):
        reader.image(png(SQUARE))


def test_media_of_too_many_bytes_is_refused():
    reader = MediaReader(MediaPolicy(max_bytes=10))
    with pytest.raises(InputError, match="is 11 bytes long; at most 10 are allowed"):
        reader.read("data:image/png;base64," + base64.b64encode(b"x" * 11).decode())


class TestAllowedRoots:
    def reader(self, root):
        return MediaReader(MediaPolicy(allowed_roots=(root,)))

    def test_a_file_below_the_root_is_read(self, tmp_path):
        (tmp_path / "a b.png").write_bytes(b"bytes")
        for reference in (str(tmp_path / "a b.png"), f"file://{tmp_path}/a%20b.png"):
            assert self.reader(tmp_path).read(reference) == b"bytes"

    @pytest.mark.parametrize("way", ["..", "link", "absolute"])
    def test_no_way_leads_out_of_the_root(self, tmp_path, way):
        root = tmp_path / "root"
        root.mkdir()
        secret = tmp_path / "secret.png"
        secret.write_bytes(b"secret")
        (root / "link").symlink_to(secret)
        reference = {"..": f"{root}/../secret.png", "link": f"{root}/link", "absolute": str(secret)}[way]
        with pytest.raises(InputError, match="outside the folders"):
            self.reader(root).read(reference)

    def test_a_missing_file_is_an_error_of_the_request(self, tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            self.reader(tmp_path).read(f"{tmp_path}/none.png")


def test_only_named_hosts_are_asked_and_only_by_https():
    reader = MediaReader(MediaPolicy(allowed_hosts=("pictures.example",)))
    for reference in (
        "http://pictures.example/a.png",
        "https://other.example/a.png",
        "https://pictures.example@other.example/a.png",
        "https://pictures.example.other.example/a.png",
    ):
        with pytest.raises(InputError, match="does not allow"):
            reader.read(reference)


@pytest.fixture(scope="module")
def tight():
    """A scorer with small budgets."""
    budgets = Budgets(max_length=256, max_query_tokens=256, min_document_tokens=64)
    return Scorer(BASE, ScorerSettings(budgets=budgets))


class TestBudgets:
    def lengths(self, scorer, query, documents, **more):
        raw = [json.dumps(document).encode() for document in documents]
        prepared = scorer.prepare(scorer.parse(json.dumps(query).encode(), raw, **more))
        return len(prepared.query.tokens), [len(document.tokens) for document in prepared.documents]

    def test_a_long_query_does_not_eat_the_documents(self, tight):
        query, documents = self.lengths(tight, {"text": "red circle " * 500}, [GOOD, {"text": "blue"}])
        assert query == 256
        assert documents == self.lengths(tight, GOOD, [GOOD, {"text": "blue"}])[1]
        scores = score(tight, {"text": "red circle " * 500}, [GOOD, {"text": "a blue star"}])
        assert scores[0] != scores[1]

    def test_a_long_document_loses_its_end_and_keeps_the_closing_tokens(self, tight):
        query, (long, short) = self.lengths(tight, GOOD, [{"text": "red circle " * 500}, GOOD])
        assert query + long == 256 + 5
        assert short < long
        kept = score(tight, GOOD, [{"text": "red circle " * 500 + end} for end in ("", "blue star")])
        assert kept[0] == kept[1]

    def test_a_request_may_want_less_of_each_document(self, base):
        def tokens(**options):
            raw = [json.dumps({"text": text}).encode() for text in ("red circle " * 500, "blue")]
            chosen = json.dumps(options).encode()
            return [
                one.tokens.tolist() for one in base.prepare(base.parse(b'{"text": "red"}', raw, None, chosen)).documents
            ]

        (whole, short), lead = tokens(), len(base._prompts._lead)
        for most in (2, 3, 40):
            assert tokens(max_document_tokens=most) == [whole[: lead + most] + whole[-5:], short]
        assert tokens(max_document_tokens=10**9) == [whole, short]

    def test_a_request_may_refuse_what_that_would_cut(self, base):
        options = {"max_document_tokens": 3, "truncation": "refuse"}
        score(base, {"text": "red circle " * 50}, [{"text": "blue"}], options=options)
        with pytest.raises(InputError, match=r"^document 1: its text is \d+ tokens too long"):
            score(base, GOOD, [{"text": "blue"}, {"text": "red circle " * 50}], options=options)

    def test_a_request_that_wants_less_of_a_picture_is_refused(self, base):
        picture = {"image": data_uri(Image.new("RGB", (640, 640)))}
        score(base, picture, [GOOD], options={"max_document_tokens": 3})
        with pytest.raises(InputError, match=r"document 0: its images and videos take \d+ tokens; at most"):
            score(base, GOOD, [picture], options={"max_document_tokens": 3})

    def test_media_over_the_budget_are_refused(self, tight):
        large = data_uri(Image.new("RGB", (640, 640)))
        with pytest.raises(InputError, match=r"document 0: its images and videos take \d+ tokens; at most"):
            score(tight, GOOD, [{"image": large}])
        with pytest.raises(InputError, match=r"query: its images and videos take \d+ tokens; at most"):
            score(tight, {"image": large}, [GOOD])

    def test_an_instruction_over_half_of_the_query_is_refused(self, tight):
        with pytest.raises(InputError, match=r"instruction: is \d+ tokens long"):
            score(tight, GOOD, [GOOD], instruction="find " * 300)


@pytest.fixture(scope="module")
def small():
    """A scorer that takes 3 documents of 10 characters."""
    return Scorer(BASE, ScorerSettings(limits=RequestLimits(max_documents=3, max_text_chars=10)))


@pytest.mark.parametrize(
    ("query", "documents", "instruction", "cause"),
    [
        ("a" * 10, ["b" * 10] * 3, "c" * 10, None),
        ("a", ["b"] * 4, None, "documents: there are 4; at most 3 are allowed in one request"),
        ("a", ["b", "c" * 11], None, "document 1: text is 11 characters long; at most 10 are allowed"),
        ("a", [["b" * 6, "c" * 6]], None, "document 0: text is 12 characters long; at most 10 are allowed"),
        ("é" * 11, ["b"], None, "query: text is 11 characters long; at most 10 are allowed"),
        ("a", ["b"], "c" * 11, "instruction: is 11 characters long; at most 10 are allowed"),
    ],
)
def test_a_request_over_the_limits_is_refused_before_anything_is_computed(small, query, documents, instruction, cause):
    raw = [json.dumps({"text": text}).encode() for text in documents]
    given = (json.dumps({"text": query}).encode(), raw, instruction and instruction.encode())
    if cause is None:
        assert len(small.parse(*given).documents) == 3
        return
    with pytest.raises(InputError, match=f"^{re.escape(cause)}$"):
        small.parse(*given)
