"""Makes the images and videos of ``media_files.py``.

A film's frames grow brighter, so that a frame tells its number, and have a red, a green and a blue corner (top left,
top right, bottom left), so that they tell how they are turned.
"""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.stream import Disposition
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

RATE = 30
STEP = 2
"""How much brighter each frame is."""
SIZE = (96, 64)
CORNER = 20
KEY = 15
"""Every such frame can be decoded without others."""
EXACT = {"qp": "4", "g": str(KEY), "keyint_min": str(KEY), "sc_threshold": "0", "bf": "2", "threads": "1"}
AUDIO_S = 2
ONE = 1 << 16
"""1.0 in a display matrix."""


def picture(level: int, size: tuple[int, int] = SIZE) -> Image.Image:
    image = Image.new("RGB", size, (level,) * 3)
    image.paste((220, 20, 20), (0, 0, CORNER, CORNER))
    image.paste((20, 200, 20), (size[0] - CORNER, 0, size[0], CORNER))
    image.paste((20, 20, 220), (0, size[1] - CORNER, CORNER, size[1]))
    return image


def encode(
    times: Iterable[int] = range(60),
    *,
    form: str = "mp4",
    codec: str = "libx264",
    pixels: str = "yuv420p",
    size: tuple[int, int] = SIZE,
    options: dict[str, str] = EXACT,
    mux: dict[str, str] | None = None,
    prepare: Callable[[Any], None] = lambda stream: None,
) -> bytes:
    """A film with a frame at each of ``times`` (in 1/30 s); frame k has the level 40 + STEP * k."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form, options=mux or {}) as container:
        stream = container.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        stream.codec_context.time_base = Fraction(1, RATE)
        prepare(stream)
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_image(picture(40 + STEP * index, size))
            frame.pts, frame.time_base = time, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def copied(
    data: bytes,
    *,
    form: str = "mp4",
    first: int = 0,
    end: int = 10**6,
    shift: int = 0,
    mux: dict[str, str] | None = None,
    sound: bool = False,
    prepare: Callable[[Any], None] = lambda stream: None,
) -> bytes:
    """The packets ``first`` to ``end`` of a film as they are (``-c copy``), ``shift`` frames later."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(buffer, "w", format=form, options=mux or {}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        prepare(stream)
        noise = target.add_stream("libopus" if form == "webm" else "aac", rate=48000) if sound else None
        step = None
        packets = [packet for packet in source.demux(video=0) if packet.size][first:end]
        for packet in packets:
            step = step or int(Fraction(1, RATE) / packet.time_base)
            packet.pts, packet.dts, packet.stream = packet.pts + shift * step, packet.dts + shift * step, stream
            target.mux(packet)
        if noise:
            for start in range(0, 48000 * AUDIO_S, 960):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.float32), format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 48000, start
                target.mux(noise.encode(frame))
            target.mux(noise.encode(None))
    return buffer.getvalue()


@cache
def film() -> bytes:
    return encode()


def trimmed(**more: Any) -> bytes:
    """``ffmpeg -ss`` with ``-c copy``: from frame 27 on; 15 to 26, which it needs, an edit list hides."""
    return copied(film(), first=KEY, shift=-27, **more)


def fragmented() -> bytes:
    """As cameras, screen recorders and streaming tools write MP4, so that a crash costs the end alone."""
    return copied(film(), mux={"movflags": "frag_keyframe+empty_moov"})


def coloured(transfer: int) -> Callable[[Any], None]:
    """Marks a film as HDR: BT.2020 with this transfer (16 PQ, 18 HLG)."""

    def mark(stream: Any) -> None:
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace = 9, transfer, 9

    return mark


def of_two_sizes() -> bytes:
    """As browsers record calls, whose resolution follows the line."""
    buffer = io.BytesIO()
    with (
        av.open(io.BytesIO(encode(range(10), **VP8))) as one,
        av.open(io.BytesIO(encode(range(10), **VP8, size=(48, 32)))) as other,
        av.open(buffer, "w", format="webm", options={"live": "1"}) as target,
    ):
        stream = target.add_stream_from_template(one.streams.video[0])
        for source, start in ((one, 0), (other, 334)):
            for packet in source.demux(video=0):
                if packet.size:
                    packet.pts, packet.dts, packet.stream = packet.pts + start, packet.dts + start, stream
                    target.mux(packet)
    return buffer.getvalue()


def deep_colour() -> bytes:
    """A PNG of 16 bits a channel, which Pillow reads and does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = np.asarray(picture(120)).astype(">u2") * 257
    body = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", *SIZE, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def motion_photo() -> bytes:
    """A photo with the seconds around it, as phones write: a film behind the JPEG's end."""
    return jpeg() + film() + np.random.default_rng(0).bytes(2**22)


def turned(matrix: tuple[int, ...], **more: Any) -> bytes:
    return copied(film(), prepare=lambda stream: stream.set_display_matrix(matrix), **more)


QUARTER = (0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30)
HALF = (-ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30)
THREE_QUARTERS = (0, -ONE, 0, ONE, 0, 0, 0, 0, 1 << 30)
MIRRORED = (-ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30)


def sound() -> bytes:
    """An M4A file without pictures."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ipod") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def jpeg(image: Image.Image | None = None, **more: Any) -> bytes:
    return saved(image or picture(120), "JPEG", quality=95, subsampling=0, **more)


def saved(image: Image.Image, form: str, **more: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **more)
    return buffer.getvalue()


def two_streams(*, cover: bool) -> bytes:
    """A small film, or a cover picture, before the one that players show."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(film())) as source, av.open(buffer, "w", format="mp4") as target:
        other = target.add_stream("mjpeg" if cover else "libx264", rate=RATE)
        other.width, other.height, other.pix_fmt = 48, 48, "yuvj420p" if cover else "yuv420p"
        other.disposition = Disposition.attached_pic if cover else Disposition(0)
        stream = target.add_stream_from_template(source.streams.video[0])
        stream.disposition = Disposition.default
        for index in range(1 if cover else 40):
            frame = av.VideoFrame.from_image(Image.new("RGB", (48, 48), "purple"))
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            target.mux(other.encode(frame))
        target.mux(other.encode(None))
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    return buffer.getvalue()


def cover_alone() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as target:
        noise = target.add_stream("aac", rate=48000)
        other = target.add_stream("mjpeg", rate=RATE)
        other.width, other.height, other.pix_fmt, other.disposition = 48, 48, "yuvj420p", Disposition.attached_pic
        target.mux(other.encode(av.VideoFrame.from_image(Image.new("RGB", (48, 48), "purple"))))
        target.mux(other.encode(None))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        target.mux(noise.encode(frame))
        target.mux(noise.encode(None))
    return buffer.getvalue()


def patched(data: bytes, box: bytes, offset: int, value: bytes) -> bytes:
    """With other bytes at ``offset`` after the name of the first such box."""
    place = data.index(box) + len(box) + offset
    return data[:place] + value + data[place + len(value) :]


def matroska_duration(data: bytes, milliseconds: float) -> bytes:
    return patched(data, b"\x44\x89\x88", 0, struct.pack(">d", milliseconds))


def share(data: bytes, part: float = 0.6) -> bytes:
    return data[: int(len(data) * part)]


def moving(form: str, **more: Any) -> bytes:
    frames = [picture(40 + 8 * index) for index in range(12)]
    return saved(frames[0], form, save_all=True, append_images=frames[1:], **more)


VP8 = {
    "codec": "libvpx",
    "form": "webm",
    "options": {"crf": "4", "b": "4M", "g": "15", "cpu-used": "8", "threads": "1"},
}
MPEG4: dict[str, Any] = {
    "codec": "mpeg4",
    "form": "avi",
    "options": {"qmin": "2", "qmax": "2", "bf": "0", "threads": "1"},
}
UNEVEN = (*range(40), *range(42, 140, 7))
"""Times of a recording whose rate falls, as screen recorders, phones in the dark and calls write."""


def in_the_last_head(data: bytes) -> bytes:
    return data[: data.rindex(b"moof") + 20]


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x112] = orientation
    return tags


def deep(highest: int) -> Image.Image:
    return Image.fromarray(np.full((64, 96), highest, np.uint16))


def with_alpha(mode: str) -> Image.Image:
    image = picture(120).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(SIZE))
    return image.convert(mode)


def palette() -> Image.Image:
    return picture(120).quantize(8)


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))


def profile() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def seen(frame: Any) -> dict[str, Any]:
    """What a frame or picture shows: its size, the colours of its corners, the brightness of its middle."""
    pixels = np.asarray(frame).astype(int)
    height, width, _ = pixels.shape
    places = ((4, 4), (4, width - 5), (height - 5, 4), (height - 5, width - 5))
    middle = pixels[height // 2 - 3 : height // 2 + 3, width // 2 - 3 : width // 2 + 3]
    return {
        "size": [width, height],
        "corners": "".join(_colour(pixels[place]) for place in places),
        "level": round(float(middle.mean()), 1),
    }


def _colour(pixel: Any) -> str:
    return "RGB"[int(np.argmax(pixel))] if np.ptp(pixel) > 60 else "."
