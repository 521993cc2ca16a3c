"""The preparation pool: requests that take long to prepare do not delay the others."""

from __future__ import annotations

import json
import threading
import time

import pytest
from harness.waiting import until
from PIL import Image
from tests.unit.engine.hostile_media import film
from tests.unit.engine.support import BASE, png
from tests.unit.engine.test_scheduler import PATIENT_S, Passes, Pending

from reranker_engine.inference import media
from reranker_engine.inference.errors import InputError
from reranker_engine.inference.scorer import Scorer, ScorerSettings
from reranker_engine.inference.sources import MediaPolicy
from reranker_engine.inference.steps import StepKind
from reranker_engine.service import preparation
from reranker_engine.service.job import Job
from reranker_engine.service.scheduler import Scheduler

TEXT = {"text": "a red circle"}
VIDEO, PICTURE = {"video": {"media": 0}}, {"image": {"media": 0}}
HEAVY = film(2, (4096, 4096), repeat=126)
"""The most pixels that one video may have, in some kilobytes."""


@pytest.fixture(scope="module")
def scorer():
    return Scorer(BASE, ScorerSettings())


@pytest.fixture
def scheduler(scorer):
    found = Scheduler(scorer, Passes(), max_requests=100)
    yield found
    found.close()


class Gate:
    """A client, who may leave."""

    def __init__(self) -> None:
        self.left = threading.Event()


def put(scheduler, scorer, document, media=(), *, timeout_s=None, gate=None):
    asked = Pending()

    def steps():
        yield StepKind.LONG if media else StepKind.SHORT
        request = scorer.parse(json.dumps(TEXT).encode(), [json.dumps(document).encode()], media=media)
        return (yield from scorer.preparing(request))

    def finish(job, result):
        asked.result, asked.seconds = result, time.monotonic() - job.arrived
        asked.answered.set()

    job = Job(steps(), (gate or Gate()).left.is_set, finish, timeout_s)
    scheduler.run([job])
    return asked


def test_requests_of_others_go_on_beside_videos_that_take_long(scorer, scheduler):
    """14 of them, as many as once made the control plane end the engine: texts and pictures are answered meanwhile."""
    gate = Gate()
    videos = [put(scheduler, scorer, VIDEO, [HEAVY], gate=gate) for _ in range(14)]
    for _ in range(10):
        put(scheduler, scorer, TEXT).scores()
        put(scheduler, scorer, PICTURE, [png(shape())]).scores()
        put(scheduler, scorer, VIDEO, [film()]).scores()
    pending = [video for video in videos if not video.answered.is_set()]
    assert len(pending) > len(videos) / 2
    gate.left.set()
    for video in pending[-5:]:
        assert video.refused().cause == "cancelled"  # one of the last, which wait in the line
    for video in pending:
        assert video.answered.wait(PATIENT_S)
    put(scheduler, scorer, VIDEO, [film()]).scores()


def shape():
    return Image.new("RGB", (640, 480), (200, 30, 30))


def test_a_large_video_is_scored_all_the_same(scorer, scheduler, monkeypatch):
    monkeypatch.setattr(media, "LARGE_PIXELS", 10)
    wanted = scorer.score(
        [scorer.prepare(scorer.parse(b'{"text": "a red circle"}', [b'{"video": {"media": 0}}'], media=[film()]))]
    )
    asked = [put(scheduler, scorer, VIDEO, [film()]) for _ in range(9)]
    for one in asked:
        assert one.scores() == pytest.approx(wanted[0], abs=1e-5)


def test_the_queue_of_large_requests_is_bounded(scorer, scheduler, monkeypatch):
    monkeypatch.setattr(preparation, "MAX_WAITING_LARGE", 2)
    gate = Gate()
    asked = [put(scheduler, scorer, VIDEO, [HEAVY], gate=gate) for _ in range(preparation.SLOTS[StepKind.LARGE] + 3)]
    until(lambda: any(one.answered.is_set() for one in asked), "one is refused")
    (refused,) = [one for one in asked if one.answered.is_set()]
    assert refused.refused().cause == "busy"
    assert "4 requests with long videos or large images are under way here, and 2 more wait" in str(refused.result)
    gate.left.set()
    for one in asked:
        assert one.answered.wait(PATIENT_S)


def test_the_deadline_holds_while_a_video_is_decoded_and_while_it_waits(scorer, scheduler):
    asked = [put(scheduler, scorer, VIDEO, [HEAVY], timeout_s=0.5) for _ in range(6)]
    for one in asked:
        assert str(one.refused()) == "deadline: the request's timeout of 0.5 s is over"
    put(scheduler, scorer, VIDEO, [film()]).scores()


def test_a_long_text_does_not_hold_up_a_short_one(scorer, scheduler):
    """Tokenizing a million characters is one step, which lets other threads run."""
    gate = Gate()
    texts = [
        put(scheduler, scorer, {"text": f"{number} the quick brown fox " * 40_000}, gate=gate) for number in range(4)
    ]
    put(scheduler, scorer, TEXT).scores()
    assert not all(text.answered.is_set() for text in texts)
    gate.left.set()
    for text in texts:
        assert text.answered.wait(PATIENT_S)


def test_who_waits_for_another_host_holds_up_nobody(monkeypatch):
    far = threading.Event()

    def fetch(*_):
        assert far.wait(PATIENT_S)
        return png(shape())

    monkeypatch.setattr("reranker_engine.inference.sources.fetch", fetch)
    scorer = Scorer(BASE, ScorerSettings(media=MediaPolicy(allowed_hosts=("a.example",))))
    scheduler = Scheduler(scorer, Passes(), max_requests=100)
    try:
        asked = [put(scheduler, scorer, {"image": f"https://a.example/{number}"}) for number in range(12)]
        for _ in range(3):
            put(scheduler, scorer, TEXT).scores()
            put(scheduler, scorer, PICTURE, [png(shape())]).scores()
        assert not any(one.answered.is_set() for one in asked)
        far.set()
        for one in asked:
            one.scores()
    finally:
        far.set()
        scheduler.close()


@pytest.mark.parametrize("form", ["mp4", "matroska", "avi", "mpegts"])
def test_a_video_of_too_many_pixels_is_refused_before_it_is_decoded(form, monkeypatch):
    film_ = film(40, (320, 240), form)
    policy = MediaPolicy(max_video_pixels=320 * 240 * 10)

    def decode(_self):
        raise AssertionError("it is decoded")

    with monkeypatch.context() as never:
        never.setattr("reranker_engine.inference.streams.VideoFile.frames", decode)
        with pytest.raises(
            InputError, match=r"has (at least )?[0-9]+ frames of 320x240 pixels, and at most 768000 are decoded"
        ):
            media.MediaReader(policy).video(film_, 1.0, 64)
    exact = MediaPolicy(max_video_pixels=320 * 240 * 40)
    assert media.MediaReader(exact).video(film_, 1.0, 64).indices[-1] == 39


def test_one_pixel_too_many_is_refused_by_the_count():
    with pytest.raises(InputError, match=r"has at least 40 frames of 320x240 pixels.* for one video; send it shorter"):
        media.MediaReader(MediaPolicy(max_video_pixels=320 * 240 * 40 - 1)).video(film(40, (320, 240)), 1.0, 64)


def test_the_document_is_named(scorer):
    small = Scorer(BASE, ScorerSettings(media=MediaPolicy(max_video_pixels=10)))
    request = small.parse(b'{"text": "a"}', [b'{"text": "b"}', b'{"video": {"media": 0}}'], media=[film()])
    with pytest.raises(InputError, match=r"^document 1: video 0: has 20 frames of 96x64 pixels"):
        small.prepare(request)
