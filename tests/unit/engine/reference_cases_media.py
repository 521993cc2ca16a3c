"""What the recorded requests are made of: texts, pictures and films, drawn from a seed.

Each case has a generator of random numbers of its own, named after it, so that a new case changes no other. Media are
made by code and, but for two videos, without loss, so that neither an encoder's version nor the machine's processor
decides what is in them; a digest of the decoded content, recorded beside the logits, tells whether they are the same.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from shapes import COLOURS, COMBINATIONS, SHAPES, draw, film, tell

if TYPE_CHECKING:
    from collections.abc import Iterator

Content = dict[str, Any]
Reference = dict[str, int]
Codec = tuple[str, str, str, dict[str, str]]

FILLER = (*COLOURS, *SHAPES, "a", "the", "small", "large", "of", "and", "not", "picture", "drawing")
SIGNS = ("", "", "", ",", ".", "?", ":", "!", ">", ")", " -", "...", "\n", "\n\n", "\t", "é", "赤", "🔴", "12")
SIZES = ((64, 64), (100, 70), (31, 200), (16, 16), (97, 97), (7, 5), (150, 149), (48, 33), (1, 90), (224, 160))
FORMATS = {"PNG": {"compress_level": 1}, "BMP": {}, "TIFF": {}, "WEBP": {"lossless": True}}
CODECS: tuple[Codec, ...] = (
    ("libx264", "mp4", "yuv420p", {"qp": "0", "threads": "1"}),
    ("libvpx-vp9", "webm", "yuv420p", {"lossless": "1", "auto-alt-ref": "0", "lag-in-frames": "0", "cpu-used": "8"}),
    ("ffv1", "matroska", "yuv420p", {}),
    ("libx264", "matroska", "yuv444p", {"qp": "0", "threads": "1"}),
    ("huffyuv", "avi", "yuv422p", {}),
)
"""(codec, container, pixel format, options), all of them lossless. That of VP9 has no hidden frames, which decord, the
official code's reader, cannot decode."""
REORDERED = ("libx264", "mp4", "yuv420p", {"x264-params": "qp=16:bframes=2:b-adapt=0:threads=1"})
"""Stores its frames in another order than they are shown in. It loses a little, always the same."""


@dataclass(frozen=True)
class Case:
    """One request.

    Attributes:
        id: ``family/number-or-name``.
        query: In the request's JSON form; media are ``{"media": k}``.
        documents: The same, at least one.
        instruction: None for the default one.
        options: ``fps`` and ``max_frames``, both optional.
        media: Encoded images and videos.
    """

    id: str
    query: Content
    documents: list[Content]
    instruction: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    media: tuple[bytes, ...] = ()

    @property
    def family(self) -> str:
        return self.id.partition("/")[0]

    def digest(self) -> str:
        """Names the decoded content: texts, pixels, and the planes of encoded videos' frames with their rate."""
        told = hashlib.blake2b(digest_size=12)
        told.update(json.dumps([self.query, self.documents, self.instruction, self.options]).encode())
        for data in self.media:
            for part in _decoded(data):
                told.update(part)
        return told.hexdigest()


def is_video(data: bytes) -> bool:
    """Whether encoded media of these cases is a video: none of their images are."""
    try:
        Image.open(io.BytesIO(data)).close()
    except OSError:
        return True
    return False


def _decoded(data: bytes) -> Iterator[bytes]:
    if not is_video(data):
        with Image.open(io.BytesIO(data)) as image:
            yield repr((image.mode, image.size)).encode()
            yield image.tobytes()
        return
    import av

    with av.open(io.BytesIO(data)) as container:
        yield str(container.streams.video[0].average_rate).encode()
        for frame in container.decode(video=0):
            yield repr((frame.format.name, frame.width, frame.height)).encode()
            yield frame.to_ndarray().tobytes()


class Maker:
    """Draws the content of one case."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rng = random.Random(name)
        self.subject = self.rng.choice(COMBINATIONS)
        self.media: list[bytes] = []

    def case(self, query: Content, *documents: Content, instruction: str | None = None, options: Any = None) -> Case:
        return Case(self.name, query, list(documents), instruction, options or {}, tuple(self.media))

    def thing(self) -> tuple[str, str]:
        """Every second one is the case's subject, so that queries have documents that answer them.

        A document far from its query scores near 0 whatever else is wrong with it.
        """
        return self.subject if self.rng.random() < 0.5 else self.rng.choice(COMBINATIONS)

    def text(self) -> str:
        return tell(self.rng, self.thing(), "text").text

    def words(self, count: int) -> str:
        """So many words of the little world, with signs between them that the tokenizer may join."""
        return " ".join(self.rng.choice(FILLER) + self.rng.choice(SIGNS) for _ in range(count))

    def drawn(self, width: int = 64, height: int = 64) -> Image.Image:
        image = draw(self.rng, self.thing())
        return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)

    def noise(self, width: int, height: int) -> Image.Image:
        """What shows best how pixels are resized."""
        return Image.frombytes("RGB", (width, height), self.rng.randbytes(width * height * 3))

    def keep(self, data: bytes) -> Reference:
        self.media.append(data)
        return {"media": len(self.media) - 1}

    def put(self, image: Image.Image, form: str = "PNG", **options: Any) -> Reference:
        buffer = io.BytesIO()
        image.save(buffer, format=form, **(options or FORMATS.get(form, {})))
        return self.keep(buffer.getvalue())

    def picture(self, width: int = 64, height: int = 64) -> Reference:
        return self.put(self.drawn(width, height))

    def some_picture(self) -> Reference:
        image = self.drawn(*self.rng.choice(SIZES))
        return self.put(image, self.rng.choice(tuple(FORMATS)))

    def film(self, count: int, size: tuple[int, int] = (64, 64)) -> list[Image.Image]:
        """A film of any length: what the shape does is repeated forwards and backwards, as it would leave the frame."""
        few = film(self.rng, self.thing(), 8)
        if size != (64, 64):
            few = tuple(frame.resize(size, Image.Resampling.BICUBIC) for frame in few)
        return [few[at % 14 if at % 14 < 8 else 14 - at % 14] for at in range(count)]

    def frames(self, count: int, size: tuple[int, int] = (64, 64)) -> list[Reference]:
        return [self.put(frame) for frame in self.film(count, size)]

    def encoded(
        self, count: int, rate: Fraction | int = 10, codec: Codec = CODECS[0], size: tuple[int, int] = (64, 64)
    ) -> Reference:
        return self.keep(encode(self.film(count, size), Fraction(rate), *codec))

    def some_content(self) -> Content:
        """Any mixture of texts, images, listed frames and encoded videos."""
        rng = self.rng
        kinds = rng.sample(("text", "image", "video"), rng.choice((1, 2, 2, 3)))
        content: Content = {}
        if "text" in kinds:
            texts = [rng.choice((self.text(), self.words(rng.randint(1, 30)))) for _ in range(rng.choice((1, 1, 2)))]
            content["text"] = texts[0] if len(texts) == 1 else texts
        if "image" in kinds:
            images = [self.some_picture() for _ in range(rng.choice((1, 1, 2, 3)))]
            content["image"] = images[0] if len(images) == 1 else images
        if "video" in kinds:
            videos = [
                self.encoded(rng.randint(2, 24), rng.choice((5, 10, 24)), rng.choice(CODECS))
                if rng.random() < 0.5
                else self.frames(rng.randint(1, 6))
                for _ in range(rng.choice((1, 1, 1, 2)))
            ]
            content["video"] = videos[0] if len(videos) == 1 else videos
        return content


def encode(
    frames: list[Image.Image], rate: Fraction, codec: str, form: str, pixels: str, options: dict[str, str]
) -> bytes:
    """A video of these frames; nothing is lost after colours were thinned to what ``pixels`` holds."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        (stream.width, stream.height), stream.pix_fmt = frames[0].size, pixels
        for image in frames:
            for packet in stream.encode(_planes(av, image, pixels)):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return buffer.getvalue()


def _planes(av: Any, image: Image.Image, pixels: str) -> Any:
    """A frame in YCbCr, made here: ffmpeg's own conversion is not the same on every processor."""
    full = np.asarray(image.convert("YCbCr")).astype(np.uint16)
    across, down = {"yuv444p": (1, 1), "yuv422p": (2, 1), "yuv420p": (2, 2)}[pixels]
    frame = av.VideoFrame(*image.size, pixels)
    for index, plane in enumerate(frame.planes):
        part = full[:, :, index] if index == 0 else full[::down, ::across, index]
        whole = np.zeros((plane.height, plane.line_size), np.uint8)
        # From 0..255 to the 16..235 and 16..240 that videos hold.
        whole[:, : plane.width] = 16 + part * (219 if index == 0 else 224) // 255
        plane.update(whole.tobytes())
    return frame
