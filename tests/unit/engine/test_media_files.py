"""Files as people have them: seen as the official code sees them, or refused with the cause and the mend."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
from tests.unit.engine.media_files import IMAGES, VIDEOS
from tests.unit.engine.media_makers import VP8, copied, encode, film, jpeg, motion_photo, picture, saved, seen, trimmed
from tests.unit.engine.support import score

from reranker_engine.inference.errors import InputError
from reranker_engine.inference.formats import jpeg_scans
from reranker_engine.inference.media import MediaReader
from reranker_engine.inference.sources import MediaPolicy

RECORDED = json.loads((Path(__file__).parent / "data" / "media.json").read_text(encoding="utf-8"))
LEVELS = 3.0
"""How far brightness may be off: decoders round, the corpus is 2 a frame, and a wrong frame is further away."""
RED = {"text": "a red circle"}


def names(files, *, accepted):
    return [pytest.param(file, id=file.name) for file in files if (file.error is None) == accepted]


def all_frames(data):
    """(the video, all its frames)."""
    video = MediaReader().video(data, fps=1000.0, max_frames=768)
    return video, list(video.frames)


def same(ours, theirs):
    found = seen(ours)
    return found | {"level": 0} == theirs | {"level": 0} and abs(found["level"] - theirs["level"]) <= LEVELS


@pytest.mark.parametrize("file", names(VIDEOS, accepted=True))
def test_a_video_is_seen_as_the_reference_sees_it(file):
    readers = RECORDED["videos"][file.name]
    official = readers[file.reader]
    video, frames = all_frames(file.build())
    assert video.indices[-1] + 1 == official["frames"]
    first = official["last"] | {"level": 40} if file.skips else official["first"]
    assert same(frames[0], first), (seen(frames[0]), first)
    assert same(frames[-1], official["last"]), (seen(frames[-1]), official["last"])
    assert [video.width, video.height] == official["first"]["size"]
    # The two readers of the reference tell different rates where a file's header and its frames' times differ.
    assert any(video.fps == pytest.approx(one["fps"], rel=0.02) for one in readers.values() if "fps" in one), video.fps


@pytest.mark.parametrize("file", names(IMAGES, accepted=True))
def test_an_image_is_seen_as_the_reference_sees_it(file):
    image = MediaReader().image(file.build())
    assert image.mode == "RGB"
    assert same(image, RECORDED["images"][file.name]), (seen(image), RECORDED["images"][file.name])


@pytest.mark.parametrize("file", names(VIDEOS, accepted=False))
def test_a_video_is_refused_with_the_cause(file):
    with pytest.raises(InputError, match=r"^cannot be decoded as a video") as caught:
        all_frames(file.build())
    assert re.search(file.error, str(caught.value)), str(caught.value)


@pytest.mark.parametrize("file", names(IMAGES, accepted=False))
def test_an_image_is_refused_with_the_cause(file):
    with pytest.raises(InputError, match=r"^cannot be decoded as an image") as caught:
        MediaReader().image(file.build())
    assert re.search(file.error, str(caught.value)), str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "trimmed, with sound",
        "two videos, the second one the default",
        "trimmed, as Matroska",
        "fragmented for streaming",
        "variable rate, the last frame stands",
    ],
)
def test_a_file_cut_anywhere_is_refused(name):
    whole = next(file for file in VIDEOS if file.name == name).build()
    for tenth in range(1, 10):
        with pytest.raises(InputError, match=r"^cannot be decoded as a video"):
            all_frames(whole[: len(whole) * tenth // 10])


def test_every_file_has_its_answer():
    for files, kind in ((VIDEOS, "videos"), (IMAGES, "images")):
        assert len({file.name for file in files}) == len(files)
        assert {file.name for file in files if file.error is None} == RECORDED[kind].keys()


def test_an_upright_video_and_a_turned_one_score_apart(base):
    """And a trimmed one is the same whichever way it is sent; the error names the document."""
    turned = next(file for file in VIDEOS if file.name == "turned by 90 degrees").build()
    scores = score(base, RED, [{"video": {"media": 0}}, {"video": {"media": 1}}], media=[film(), turned])
    assert scores[0] != scores[1]
    with pytest.raises(InputError, match=r"document 1: video 0: cannot be decoded as a video \(it has no whole index"):
        score(base, RED, [RED, {"video": {"media": 0}}], media=[film()[:300]])


def test_a_trimmed_video_too_large_to_keep_is_decoded_again_to_the_same_frames(monkeypatch):
    _, kept = all_frames(trimmed())
    monkeypatch.setattr("reranker_engine.inference.media.KEPT_PIXELS", 0)
    _, again = all_frames(trimmed())
    assert np.array_equal(np.stack(kept), np.stack(again))


def test_a_stream_joined_in_the_middle_begins_with_the_first_frame_that_can_be_decoded():
    """The official code's readers count the frames before it as well, and give others in their place."""
    whole = copied(film(), form="mpegts")
    _, frames = all_frames(whole[len(whole) // 3 // 188 * 188 :])
    assert len(frames) == 30
    assert abs(seen(frames[0])["level"] - 100) <= LEVELS


def test_no_end_in_a_comment_hides_a_jpegs_scans():
    whole = jpeg(progressive=True)
    scans = jpeg_scans(whole, 1000)
    assert scans == whole.count(b"\xff\xda") > 1
    last = whole.rindex(b"\xff\xda")
    assert jpeg_scans(whole[:last] + b"\xff\xfe\0\4\xff\xd9" + whole[last:], 1000) == scans
    assert jpeg_scans(whole[:last] + b"\xff\xfe\0\4\xff\xd9" * 1000 + whole[last:], 1000) == scans  # counted roughly
    assert jpeg_scans(whole + whole, 1000) == scans


def test_a_motion_photo_counts_once():
    """Its film is full of what looks like scans."""
    policy = MediaPolicy(max_request_pixels=2**15)
    assert MediaReader(policy).image(motion_photo()).size == (96, 64)


@pytest.mark.parametrize(
    ("head", "data", "key"),
    [
        ("data:video/webm;codecs=vp8,opus;base64,", encode(range(8), **VP8), "video"),
        ("data:image/png;base64,", jpeg(), "image"),
        ("data:image/jpeg;charset=utf-8;base64,", saved(picture(90), "WEBP"), "image"),
    ],
    ids=["a comma in the codecs", "another label than the bytes", "a parameter"],
)
def test_data_uris_as_browsers_write_them(base, head, data, key):
    plain = score(base, RED, [{key: {"media": 0}}], media=[data])
    assert score(base, RED, [{key: head + base64.b64encode(data).decode()}]) == plain
    assert score(base, RED, [{key: head + base64.encodebytes(data).decode()}]) == plain  # with line breaks


def test_a_data_uri_without_a_kind_is_refused_with_the_mend(base):
    with pytest.raises(
        InputError, match=r"document 0: image 0: is a data URI of the wrong kind.*begins with data:image/"
    ):
        score(base, RED, [{"image": "data:application/octet-stream;base64,aGVsbG8="}])
