"""Decodes images and videos with Pillow and PyAV, within limits that do not rely on what a header says."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from .errors import InputError
from .formats import jpeg_scans, not_a_video, not_an_image, tiff_scans, tiff_work
from .sources import MediaPolicy, Sources
from .steps import StepKind, Steps, run_steps
from .streams import DECODERS, WHOLE, VideoFile, formats_of, quarter_turns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from numpy.typing import NDArray
    from PIL.ImageFile import ImageFile

    from .references import Reference

# Only formats that Pillow decodes itself (JPEG covers MPO). Others start a program on a stranger's bytes (EPS), or take
# memory for a size that no header tells (AVIF: 550 MiB for 3 kB that claim 64x64 pixels, with Pillow 13).
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
DECODER_THREADS = 4
"""Threads that decode one video. Each holds frames of its own, which multiplies the memory of a large video."""
KEPT_PIXELS = 32 * 2**20
"""A video of no more pixels in all its frames (about 50 MB as they are decoded) is decoded once instead of twice."""
LARGE_PIXELS = 128 * 2**20
"""A request that decodes more pixels is large: it takes longer than a second."""
SLACK = 1.25
"""A file may hold this many times the encoded frames that a player shows: an edit list hides some, and some formats
hold the two fields of a picture apart. A file with more is refused before it is decoded."""
LEAST_PIXELS = 2**15
"""The least that an image or frame counts against ``max_request_pixels``: a frame of 2x2 costs time, too."""
HEADER_READS, DATA_READS = 20_000, 1_000_000
"""Read calls that Pillow may make for an image's header, and for its pixels. It walks through chunks and runs in
Python, so an image made of tiny ones would take minutes. Real images need some tens, and one for each 2 kB."""
MOST_STREAMS, PROBED_PIXELS = 32, 2**24
"""Opening a video decodes a frame of each of its streams, and holds all of them at once. It skips frames with more
pixels than this; the stream that is used has a limit of its own. Further streams (fonts, languages) are ignored; an MP4
with more is refused."""
PLAIN_PPM_BYTES = 4 * 2**20
"""The largest PPM in digits, which Pillow reads in Python."""
RLE_PIXELS = 4 * 2**20
"""The largest run-length encoded BMP, which Pillow reads in Python, some of it pixel by pixel: a second."""

Image.MAX_IMAGE_PIXELS = None  # the policy's own limit is checked at the same point


@dataclass(frozen=True)
class DecodedVideo:
    """Some frames of a video.

    Attributes:
        steps: The frames, [height, width, 3] of uint8; only once, since together they may be larger than memory. Before
            each are the ``StepKind`` of the steps that decode it.
        indices: The number of each frame in the whole video.
        fps: Frames a second of the whole video.
        height: Of each frame, in pixels.
        width: Of each frame, in pixels.
    """

    steps: Iterator[NDArray[np.uint8] | StepKind]
    indices: tuple[int, ...]
    fps: float
    height: int
    width: int

    @property
    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """The frames alone."""
        return (one for one in self.steps if not isinstance(one, StepKind))


@dataclass
class MediaReader:
    """Reads and decodes the media of one request, and counts the pixels."""

    policy: MediaPolicy = field(default_factory=MediaPolicy)
    media: Sequence[bytes] = ()

    def __post_init__(self) -> None:
        self._sources = Sources(self.policy, self.media)
        self._pixels_left = self.policy.max_request_pixels
        self._are_images: dict[Reference, bool] = {}

    def read(self, reference: Reference) -> bytes:
        """The encoded bytes behind a reference.

        Raises:
            InputError: They cannot or must not be read.
        """
        return self._sources.read(reference)

    def is_remote(self, reference: Reference) -> bool:
        """Whether ``read`` asks another host."""
        return self._sources.is_remote(reference)

    def is_image(self, reference: Reference) -> bool:
        """Whether a reference is an image, by its label or, without one, by its first bytes."""
        if isinstance(reference, str) and reference.startswith("data:"):
            return reference.startswith("data:image/")
        if reference not in self._are_images:
            self._are_images[reference] = self._opens(self.read(reference))
        return self._are_images[reference]

    def _opens(self, data: bytes) -> bool:
        try:
            with self._open(data):
                return True
        except InputError:
            return True  # one that is refused, which is told when it is decoded
        except Exception:  # noqa: BLE001 - decoders raise whatever they like on bytes that are not theirs
            return False

    def _open(self, data: bytes) -> ImageFile:
        if canvas := _webp_canvas(data):
            self._check_size(*canvas)  # Pillow makes room for it before it tells its size
        return Image.open(_ReadLimitedBytes(data), formats=IMAGE_FORMATS)

    def image(self, data: bytes) -> Image.Image:
        """Decode an image to RGB; transparency is laid on white, as the reference implementation does.

        Raises:
            InputError: It cannot be decoded, or is too large.
        """
        return run_steps(self.image_steps(data))

    def image_steps(self, data: bytes) -> Steps[Image.Image]:
        """As ``image``; the first step looks at its header."""
        try:
            with self._open(data) as image:
                self._check_cost(image, data)
                yield self._next_step()
                image.load()
                _check_depth(image)
                if image.mode == "RGBA":
                    white = Image.new("RGB", image.size, (255, 255, 255))
                    white.paste(image, mask=image.getchannel("A"))
                    return white
                return image.convert("RGB")
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"cannot be decoded as an image ({_image_cause(data, error)})") from error

    def _check_cost(self, image: ImageFile, data: bytes) -> None:
        """Refuse an image that would take too much memory or time, before its pixels are decoded."""
        self._check_size(image.width, image.height)
        if image.format == "PPM" and image.tile[0][0] == "ppm_plain" and len(data) > PLAIN_PPM_BYTES:
            raise InputError(f"is a PPM in digits of {len(data)} bytes; at most {PLAIN_PPM_BYTES} are allowed")
        pixels = image.width * image.height
        if image.format == "BMP" and image.tile[0][0] == "bmp_rle" and pixels > RLE_PIXELS:
            raise InputError(
                f"is a run-length encoded BMP of {pixels} pixels; at most {RLE_PIXELS} are allowed; save it as PNG"
            )
        if isinstance(image, TiffImageFile):
            tile, pixels = tiff_work(image.tag_v2, image.size, data)
            self._check_size(*tile)
            if image.info.get("compression") == "jpeg":
                pixels *= tiff_scans(image.tag_v2, data)
        elif image.format in {"JPEG", "MPO"}:
            # Each scan of a progressive JPEG goes over all pixels; there may be thousands.
            pixels *= max(jpeg_scans(data, HEADER_READS), 1)
        self._count(pixels)
        if isinstance(image.fp, _ReadLimitedBytes):
            image.fp.allow(DATA_READS + len(data) // 1024)

    def video(self, data: bytes, fps: float, max_frames: int) -> DecodedVideo:
        """The frames of a video that the model is to see, evenly spaced from the first to the last.

        Args:
            data: An encoded video.
            fps: Frames wanted a second.
            max_frames: At most so many.

        Raises:
            InputError: It cannot be decoded, or is too large or too long; also while its frames are taken.
        """
        return run_steps(self.video_steps(data, fps, max_frames))

    def video_steps(self, data: bytes, fps: float, max_frames: int) -> Steps[DecodedVideo]:
        """As ``video``; a step decodes a frame."""
        try:
            total, rate, decoded, size, turns = yield from self._probe(data)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"cannot be decoded as a video ({not_a_video(data) or _cause(error)})") from error
        wanted = sampled_frames(total, rate, fps, max_frames)
        width, height = size if turns % 2 == 0 else size[::-1]
        return DecodedVideo(self._selected_frames(data, wanted, decoded, size, turns), wanted, rate, height, width)

    def _probe(self, data: bytes) -> Steps[tuple[int, float, list[VideoFrame], tuple[int, int], int]]:
        """(number of frames, frames a second, the frames, their size, quarter turns that they need).

        Frames are counted by decoding, since headers are often wrong. Which ones are needed is known only at the end.
        The frames of a short video are kept, so that it is decoded once; those of a longer one are not.
        """
        with _container(data) as container:
            video = self._open_video(container, data)
            yield self._next_step(self._expected_pixels(video, data))
            total, pixels, turns = 0, 0, 0
            decoded: list[VideoFrame] = []
            size = (0, 0)
            for frame in video.frames():
                if total == 0:
                    size, turns = (frame.width, frame.height), quarter_turns(frame)
                self._check_size(frame.width, frame.height)
                self._count(frame.width * frame.height)
                total += 1
                pixels += max(frame.width * frame.height, LEAST_PIXELS)
                if pixels <= KEPT_PIXELS:
                    decoded.append(frame)
                else:
                    decoded.clear()
                if total > self.policy.max_video_frames:
                    raise InputError(f"has more than {self.policy.max_video_frames} frames")
                if pixels > self.policy.max_video_pixels:
                    raise self._too_many_pixels(f"at least {total}", *size)
                yield self._next_step()
            video.check_whole()
            rate = video.rate()
            if total == 0:
                raise InputError(
                    "cannot be decoded as a video (it holds no frames; send one whose recording ended well)"
                )
            if not rate:
                raise InputError("cannot be decoded as a video (it tells no frame rate, and its frames no times)")
            return total, rate, decoded, size, turns

    def _expected_pixels(self, video: VideoFile, data: bytes) -> int:
        """Pixels of all frames in the file, without decoding any.

        Raises:
            InputError: They are too many.
        """
        context = video.stream.codec_context
        pixels = max(context.width * context.height, LEAST_PIXELS)
        most = min(self.policy.max_video_pixels, self._pixels_left)
        limit = int(SLACK * min(most // pixels, self.policy.max_video_frames)) + 1
        bound, count = "", video.indexed_frames
        if count is None:
            with _container(data) as container:
                bound, count = "at least ", -(-VideoFile(container, data).encoded_frames(limit) // video.frame_parts)
        if count > self.policy.max_video_frames:
            raise InputError(f"has more than {self.policy.max_video_frames} frames")
        if count > limit and pixels * self.policy.max_video_frames > most:
            raise self._too_many_pixels(f"{bound}{count}", context.width, context.height)
        return count * pixels

    def _too_many_pixels(self, frames: str, width: int, height: int) -> InputError:
        limit, whose = min((self.policy.max_video_pixels, "video"), (self._pixels_left, "request"))
        return InputError(
            f"has {frames} frames of {width}x{height} pixels, and at most {limit} are decoded for one {whose}; "
            "send it shorter, or in smaller frames, such as 1280x720"
        )

    def _open_video(self, container: InputContainer, data: bytes) -> VideoFile:
        video = VideoFile(container, data)
        stream = video.stream
        # Checked before the first frame, whose memory the decoder takes at the header's word.
        self._check_size(stream.codec_context.width, stream.codec_context.height)
        stream.codec_context.options = {
            "max_pixels": str(self.policy.max_pixels),
            "codec_whitelist": ",".join(DECODERS),
        }
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = DECODER_THREADS
        return video

    def _selected_frames(
        self, data: bytes, wanted: Sequence[int], decoded: list[VideoFrame], size: tuple[int, int], turns: int
    ) -> Iterator[NDArray[np.uint8] | StepKind]:
        left = list(reversed(wanted))
        try:
            with _container(data) as container:
                for index, frame in enumerate(decoded or self._open_video(container, data).frames()):
                    while left and left[-1] == index:
                        yield np.rot90(_of_size(frame, size).to_ndarray(format="rgb24"), turns)
                        left.pop()
                    if not left:
                        return
                    yield self._next_step()
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"cannot be decoded as a video ({_cause(error)})") from error
        raise InputError("cannot be decoded as a video (decoded again, it has fewer frames)")

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self.policy.max_pixels:
            raise InputError(
                f"has {width}x{height} pixels; at most {self.policy.max_pixels} are allowed; send it smaller"
            )

    def _next_step(self, pixels: int = 0) -> StepKind:
        """The kind of the next step, with so many more ``pixels`` to decode."""
        spent = self.policy.max_request_pixels - self._pixels_left
        return StepKind.LARGE if spent + pixels > LARGE_PIXELS else StepKind.LONG

    def _count(self, pixels: int) -> None:
        self._pixels_left -= max(pixels, LEAST_PIXELS)
        if self._pixels_left < 0:
            raise InputError(
                f"makes more than {self.policy.max_request_pixels} pixels to decode for one request; "
                "send smaller media, or fewer"
            )


def _check_depth(image: Image.Image) -> None:
    """Refuse deep grey values that the conversion to RGB, here and in the reference, would all turn white."""
    if image.mode[0] not in "IF":
        return
    _, highest = cast("tuple[float, float]", image.getextrema())  # such modes have one band
    if highest > 255:  # noqa: PLR2004 - the highest of 8 bits
        raise InputError(
            f"cannot be decoded as an image (its grey values go up to {highest:.6g}, and all above 255 would turn "
            "white); save it with 8 bits a value"
        )


def _of_size(frame: VideoFrame, size: tuple[int, int]) -> VideoFrame:
    if (frame.width, frame.height) != size:
        raise InputError("cannot be decoded as a video (its frames change size; save it in one size)")
    return frame


class _ReadLimitedBytes(io.BytesIO):
    """Bytes with a limit on the number of reads."""

    reads_left = HEADER_READS

    def allow(self, reads: int) -> None:
        self.reads_left = reads

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads_left -= 1
        if self.reads_left < 0:
            raise InputError("cannot be decoded as an image (it is made of too many tiny pieces)")
        return super().read(size)


def _webp_canvas(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a WebP file with an extended header, the only kind that may be larger than what it holds."""
    if data[:4] != b"RIFF" or data[8:16] != b"WEBPVP8X" or len(data) < 30:  # noqa: PLR2004 - the header's length
        return None
    return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1


def _container(data: bytes) -> InputContainer:
    import av

    options = {
        "max_streams": str(MOST_STREAMS),
        "max_pixels": str(PROBED_PIXELS),
        "format_whitelist": ",".join(formats_of(data)),
        "codec_whitelist": ",".join(DECODERS),  # of all streams, sound among them: opening a file decodes some of each
        "protocol_whitelist": "none",
    }
    return av.open(io.BytesIO(data), mode="r", options=options)


def sampled_frames(total: int, rate: float, fps: float, max_frames: int) -> tuple[int, ...]:
    """The numbers of the frames to use: an even count, at least 4 if there are so many, from first to last.

    The rule is qwen-vl-utils' (``smart_nframes``, frame factor 2). A video of a single frame, which that refuses, is
    kept whole.
    """
    count = min(max(total / rate * fps, 4), max_frames // 2 * 2, total)
    count = int(count // 2) * 2
    if count == 0:
        return (0,)
    return tuple(int(index) for index in np.linspace(0, total - 1, count).round())


def _image_cause(data: bytes, error: BaseException) -> str:
    cause = _cause(error)
    return f"{cause}; {WHOLE}" if "truncated" in cause else not_an_image(data) or cause


def _cause(error: BaseException) -> str:
    """One line of what a decoder said, without memory addresses."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "<_io.BytesIO" in text:
        text = text.partition("<_io.BytesIO")[0].strip() + " the bytes"
    return text[:200]
