"""What means harm is answered with its error, costs no more than a large honest request, and leaves nothing behind."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from tests.unit.engine import hostile_media
from tests.unit.engine.hostile import cases
from tests.unit.engine.support import BACKEND, BASE, png, score

from reranker_engine.inference import media
from reranker_engine.inference.errors import InputError
from reranker_engine.inference.media import MediaReader
from reranker_engine.inference.request import RequestLimits
from reranker_engine.inference.scorer import Scorer, ScorerSettings
from reranker_engine.inference.sources import MediaPolicy
from reranker_engine.inference.streams import formats_of, promised_samples

QUICK = {case.name: case for case in cases() if not case.slow}
GOOD = {"text": "a red circle"}


def test_names_are_unique():
    assert len({case.name for case in cases()}) == len(cases())


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of what Pillow passes over
@pytest.mark.parametrize("name", QUICK)
def test_a_case_gets_its_answer(base, name):
    case = QUICK[name]
    sent = case.build()

    def answer():
        found = base.parse(sent.query, sent.documents, sent.instruction, sent.options, sent.media)
        return base.score([base.prepare(found)])[0]

    if case.error is None:
        assert np.isfinite(answer()).all()
        return
    with pytest.raises(InputError) as caught:
        answer()
    assert re.search(case.error, str(caught.value)), str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def limited(**limits):
    media = {name: limits.pop(name) for name in ("max_request_pixels", "max_video_frames") if name in limits}
    return Scorer(BASE, ScorerSettings(limits=RequestLimits(**limits), media=MediaPolicy(**media)))


PICTURES = [png(Image.new("RGB", (256, 256), (200, shade, 30))) for shade in range(4)]
SHOWN = [{"image": {"media": index}} for index in range(4)]


@pytest.mark.parametrize(
    ("limits", "documents", "error"),
    [
        ({"max_request_chars": 30}, [GOOD, GOOD], "document 1: makes more than 30 characters in one request"),
        ({"max_request_tokens": 200}, [GOOD] * 20, r"document \d+: makes more than 200 tokens in one request"),
        ({"max_visual_tokens": 200}, SHOWN, "document 3: image 0: makes more than 200 tokens of images and videos"),
        ({"max_visual_tokens": 200}, SHOWN[:1] * 9, None),
        ({"max_media": 3}, SHOWN, "document 3: makes more than 3 images, videos and frames in one request"),
        ({"max_media": 3}, [{"video": SHOWN[0]["image"]}] + [GOOD] * 9 + SHOWN[:3], "document 12: makes more than 3"),
        ({"max_request_pixels": 3 * 2**16}, SHOWN, "document 3: image 0: makes more than 196608 pixels to decode"),
        ({"max_request_pixels": 3 * 2**16}, SHOWN[:1] * 9, None),
        ({"max_video_frames": 9}, [{"video": {"media": 4}}], "document 0: video 0: has more than 9 frames"),
    ],
)
def test_what_a_request_may_hold_in_all(limits, documents, error):
    scorer = limited(**limits)
    media = [*PICTURES, hostile_media.film(20)]
    if error is None:
        assert len(score(scorer, GOOD, documents, media=media)) == len(documents)
        return
    with pytest.raises(InputError, match=error):
        score(scorer, GOOD, documents, media=media)


def test_limits_are_counted_anew_for_each_request():
    scorer = limited(max_request_pixels=5 * 2**16, max_visual_tokens=300, max_request_chars=400)
    for _ in range(3):
        assert len(score(scorer, GOOD, SHOWN, media=PICTURES)) == 4


def test_a_list_that_leads_to_files_is_no_video(tmp_path, monkeypatch):
    """FFmpeg would open the file that the list names; here it is a film, which would be scored."""
    (tmp_path / "film.mp4").write_bytes(hostile_media.film())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="cannot be decoded as a video"):
        MediaReader().video(b"ffconcat version 1.0\nfile film.mp4\n", 1.0, 64)


def test_opening_a_video_decodes_few_streams_and_no_large_frames(monkeypatch):
    """It holds one frame of each stream together. What is looked at afterwards is decoded all the same."""
    data, opened, as_it_is = hostile_media.film_of_streams(40), [], av.open

    def kept(*args, **options):
        container = as_it_is(*args, **options)
        opened.append((len(container.streams), options["options"]["max_pixels"]))
        return container

    monkeypatch.setattr(av, "open", kept)
    monkeypatch.setattr(media, "PROBED_PIXELS", 1000)
    assert len(list(MediaReader().video(data, 10.0, 64).frames)) == 1
    assert set(opened) == {(32, "1000")}


@pytest.mark.parametrize("form", ["mp4", "matroska"])
def test_an_index_of_a_whole_film_promises_less_than_there_is(form):
    data = hostile_media.film(60, (320, 240), form)
    assert ("mov" in formats_of(data)) == (form == "mp4")
    assert form != "mp4" or 60 <= promised_samples(data) < 100


def test_frames_of_a_large_video_are_not_held_together():
    """30 frames of 2048x2048 are 380 MB as pixels and 1.5 GB as numbers; the process may grow by far less."""
    code = f"""
import sys
sys.path[:0] = [{str(BACKEND)!r}, {str(Path(__file__).parents[3])!r}]
sys.modules["triton"] = None
import resource
from tests.unit.engine.hostile_media import film
from reranker_engine.inference.media import MediaReader
from reranker_engine.inference.pixels import PixelPipeline
from reranker_engine.model.config import read_config
from pathlib import Path
pixels = PixelPipeline(read_config(Path({str(BASE)!r})).vision, (0.5,) * 3, (0.5,) * 3)
data = film(2, (2048, 2048), repeat=29)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert pixels.video(MediaReader().video(data, 10.0, 64)).tokens > 1000
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    grown = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert grown < 600


def test_errors_can_be_sent_and_shown():
    error = InputError("a\x1b[31m\n\ud800\u202e" + "x" * 10_000).at("document 0")
    assert str(error).startswith("document 0: a\\x1b[31m\\n\\ud800\\u202exxx")
    assert str(error).isprintable()
    assert len(str(error)) < 600


def test_memory_of_a_giant_request_is_given_back():
    code = f"""
import sys
sys.path[:0] = [{str(BACKEND)!r}]
from reranker_engine.service.allocator import MemoryTrimmer, keep_freed_memory, resident_bytes
import numpy as np
assert keep_freed_memory()
now = 0.0
trimmer = MemoryTrimmer(lambda: now)
usual = resident_bytes()
blocks = [np.ones(2**20) for _ in range(90)]
kept = np.ones(3)
del blocks
held = resident_bytes()
assert held > usual + 2**29, "the setting keeps it"
assert not trimmer.trim(), "not twice a minute"
now = 61.0
assert trimmer.trim()
assert resident_bytes() < usual + 2**28
assert not trimmer.trim()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_defaults_stand_in_the_configuration_that_is_delivered():
    text = (BACKEND.parents[1] / "model_repository" / "qwen3_vl_reranker" / "config.pbtxt").read_text("utf-8")
    given = dict(re.findall(r'key: "(\w+)"\s+value: { string_value: "(\d+)" }', text))
    limits, media = RequestLimits(), MediaPolicy()
    wanted = {name: getattr(limits, name) for name in RequestLimits.__dataclass_fields__} | {
        "max_media_bytes": media.max_bytes, "max_media_pixels": media.max_pixels,
        "max_request_pixels": media.max_request_pixels, "max_video_frames": media.max_video_frames,
    }  # fmt: skip
    assert given.items() >= {name: str(value) for name, value in wanted.items()}.items()
