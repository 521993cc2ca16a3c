"""Decoding and resizing: what the vision tower gets to see."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.unit.engine.support import BASE, data_uri, png, score

from reranker_engine.inference import media
from reranker_engine.inference.errors import InputError
from reranker_engine.inference.media import MediaReader, sampled_frames
from reranker_engine.inference.pixels import PixelPipeline, token_aligned_size
from reranker_engine.inference.sources import MediaPolicy
from reranker_engine.model.config import read_config

READER = MediaReader()
PIXELS = PixelPipeline(read_config(BASE).vision, (0.5,) * 3, (0.5,) * 3)
RED = {"text": "a red circle"}


def encode(count, *, rate=10, size=(96, 64), form="mp4"):
    """A video whose frames grow brighter."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream("mpeg4", rate=Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for index in range(count):
            level = 20 + index * 200 // max(count - 1, 1)
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), level, np.uint8), format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["mp4", "matroska", "avi"])
def test_a_video_is_sampled_from_its_first_to_its_last_frame(form):
    video = READER.video(encode(31, form=form), fps=2.0, max_frames=64)
    assert video.fps == pytest.approx(10.0)
    assert video.indices == (0, 6, 12, 18, 24, 30)
    frames = np.stack(list(video.frames))
    assert frames.shape == (6, video.height, video.width, 3) == (6, 64, 96, 3)
    brightness = frames.mean((1, 2, 3))
    assert (np.diff(brightness) > 20).all()


def test_a_video_too_large_to_keep_is_decoded_again_to_the_same_frames(monkeypatch):
    film = encode(31)
    kept = READER.video(film, 2.0, 64)
    frames = np.stack(list(kept.frames))
    for pixels in (0, 10 * 96 * 64):
        monkeypatch.setattr(media, "KEPT_PIXELS", pixels)
        again = READER.video(film, 2.0, 64)
        assert again.indices == kept.indices
        assert np.array_equal(np.stack(list(again.frames)), frames)


def test_options_choose_the_frames(base):
    document = {"video": {"media": 0}}
    film = [encode(40)]
    few = score(base, RED, [document], media=film, options={"max_frames": 2})
    more = score(base, RED, [document], media=film, options={"fps": 2, "max_frames": 6})
    assert few != more
    assert score(base, RED, [document], media=film, options={"fps": 2, "max_frames": 7}) == more


@pytest.mark.parametrize("form", ["mp4", "matroska", "avi"])
def test_a_cut_off_video_is_refused(form):
    whole = encode(60, size=(320, 240), form=form)
    for length in (100, len(whole) // 4, len(whole) // 2):
        with pytest.raises(InputError, match="cannot be decoded as a video"):
            READER.video(whole[:length], 1.0, 64)


def test_a_video_of_one_frame_is_seen(base):
    assert np.isfinite(score(base, RED, [{"video": {"media": 0}}], media=[encode(1)])).all()


def test_limits_on_videos():
    with pytest.raises(InputError, match="has more than 5 frames"):
        MediaReader(MediaPolicy(max_video_frames=5)).video(encode(9), 1.0, 64)
    with pytest.raises(InputError, match="has 96x64 pixels; at most 100 are allowed"):
        MediaReader(MediaPolicy(max_pixels=100)).video(encode(9), 1.0, 64)


def test_a_list_of_media_that_are_images_is_one_video(base):
    frames = [Image.new("RGB", (64, 64), (200, shade, 30)) for shade in (10, 60)]
    by_index = score(base, RED, [{"video": [{"media": 0}, {"media": 1}]}], media=[png(frame) for frame in frames])
    assert by_index == score(base, RED, [{"video": [data_uri(frame) for frame in frames]}])
    assert by_index == score(base, RED, [{"video": [[data_uri(frame) for frame in frames]]}])
    two = score(base, RED, [{"video": [{"media": 0}, {"media": 0}]}], media=[encode(12)])
    assert two != score(base, RED, [{"video": {"media": 0}}], media=[encode(12)])


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "1", "CMYK", "I;16"])
def test_images_of_every_mode_become_rgb(mode):
    buffer = io.BytesIO()
    form = "TIFF" if mode == "CMYK" else "PNG"
    Image.new(mode, (40, 50)).save(buffer, format=form)
    image = READER.image(buffer.getvalue())
    assert (image.mode, image.size) == ("RGB", (40, 50))


def test_transparency_is_laid_on_white():
    assert READER.image(png(Image.new("RGBA", (8, 8), (0, 0, 0, 0)))).getpixel((0, 0)) == (255, 255, 255)


def test_patches_of_an_image():
    """A 64x64 picture: 4 x 4 patches, those of a token side by side, each value from -1 to 1."""
    pixels = np.arange(64 * 64 * 3, dtype=np.uint32).reshape(64, 64, 3) % 256
    visual = PIXELS.image(Image.fromarray(pixels.astype(np.uint8)))
    assert (visual.grid, visual.tokens_per_group, visual.is_video) == ((1, 4, 4), 4, False)
    assert tuple(visual.patches.shape) == (16, 3 * 2 * 16 * 16)
    fourth = visual.patches[3].view(3, 2, 16, 16).numpy()  # second row, second column of the first token
    expected = (pixels[16:32, 16:32].transpose(2, 0, 1) / 127.5 - 1).astype(np.float32)
    assert np.abs(fourth[:, 0] - expected).max() < 1e-6
    assert (fourth[:, 0] == fourth[:, 1]).all()


def test_timestamps_are_the_middle_of_each_pair_of_frames():
    frames = [Image.new("RGB", (64, 64))] * 5
    assert PIXELS.frames(frames, len(frames), 64).timestamps == (0.25, 1.25, 2.25)
    assert PIXELS.frames(frames * 20, 100, 4).timestamps == (0.25, 1.25)


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_sizes_are_whole_tokens_within_bounds(height, width):
    low, high = 4 * 1024, 1800 * 1024
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(InputError):
            token_aligned_size(height, width, 32, low, high)
        return
    tall, wide = token_aligned_size(height, width, 32, low, high)
    assert tall % 32 == wide % 32 == 0
    assert low <= tall * wide <= high


@given(st.integers(1, 5000), st.floats(1, 120), st.floats(0.01, 1000), st.integers(2, 768))
def test_sampled_frames(total, rate, fps, max_frames):
    found = sampled_frames(total, rate, fps, max_frames)
    assert found[0] == 0
    assert len(found) <= max_frames
    assert list(found) == sorted(found)
    if total > 1:
        assert len(found) % 2 == 0
        assert found[-1] == total - 1
