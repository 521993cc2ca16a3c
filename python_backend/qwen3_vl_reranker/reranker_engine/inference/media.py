"""Encoded media to pixels in memory, with Pillow and PyAV, within bounds that do not believe what a header says."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .errors import InputError
from .sources import MediaPolicy, Sources

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from .request import Reference

# Only formats that Pillow decodes itself (JPEG covers MPO). Others (EPS) would start a program on a stranger's bytes.
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Only containers that hold their own pictures. FFmpeg takes playlists and session descriptions for videos as well (HLS,
# DASH, ffconcat, SDP): those name files and addresses, which it would open.
VIDEO_FORMATS = ("mov", "matroska", "avi", "mpegts", "mpeg", "ogg", "flv", "gif")
DECODER_THREADS = 4
"""Of one video. Each holds frames of its own, so that their number multiplies the memory of a large video."""
KEPT_PIXELS = 64 * 2**20
"""A video of no more pixels in all its frames (about 100 MB as they are decoded) is decoded once instead of twice."""
MIN_SHARE = 0.9
"""A video with fewer of the frames that its header promises is cut off. Some may be missing: edit lists hide a few."""
LEAST_PIXELS = 2**15
"""What the smallest picture counts against ``max_request_pixels``: a frame of 2x2 costs time, too."""
HEADER_READS, DATA_READS = 20_000, 1_000_000
"""Reads that Pillow may take for an image's header and for its pixels. Pictures made of chunks or runs of a few bytes,
which it walks through in Python, would otherwise take minutes; real ones need some tens, and one for each 2 kB."""
PLAIN_PPM_BYTES = 4 * 2**20
"""The largest PPM in digits, which Pillow reads in Python."""
MICROSECONDS = 1_000_000
"""FFmpeg's unit of a file's duration."""
PROGRESSIVE_SCAN = b"\xff\xda"

Image.MAX_IMAGE_PIXELS = None  # the policy's limit holds, which is checked at the same moment


@dataclass(frozen=True)
class DecodedVideo:
    """Some frames of a video.

    Attributes:
        frames: Each [height, width, 3] of uint8, once: together they may be larger than memory.
        indices: The number of each frame in the whole video.
        fps: Frames a second of the whole video.
        height: Of each frame, in pixels.
        width: Of each frame, in pixels.
    """

    frames: Iterator[NDArray[np.uint8]]
    indices: tuple[int, ...]
    fps: float
    height: int
    width: int


@dataclass
class MediaReader:
    """Reads and decodes the media of one request, whose pixels it counts."""

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

    def is_image(self, reference: Reference) -> bool:
        """Whether a reference holds an image, judged by its label or, without one, by its first bytes."""
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

    def _open(self, data: bytes) -> Image.Image:
        if canvas := _webp_canvas(data):
            self._check_size(*canvas)  # Pillow makes room for it before it tells its size
        return Image.open(_Metered(data), formats=IMAGE_FORMATS)

    def image(self, data: bytes) -> Image.Image:
        """Decode an image to RGB; transparency is laid on white, as the reference implementation does.

        Raises:
            InputError: It cannot be decoded, or is too large.
        """
        try:
            with self._open(data) as image:
                self._admit(image, data)
                image.load()
                if image.mode == "RGBA":
                    white = Image.new("RGB", image.size, (255, 255, 255))
                    white.paste(image, mask=image.getchannel("A"))
                    return white
                return image.convert("RGB")
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"cannot be decoded as an image ({_cause(error)})") from error

    def _admit(self, image: Image.Image, data: bytes) -> None:
        """Refuse, before its pixels are decoded, what would take too much memory or time."""
        self._check_size(image.width, image.height)
        if image.format == "PPM" and image.tile[0][0] == "ppm_plain" and len(data) > PLAIN_PPM_BYTES:
            raise InputError(f"is a PPM in digits of {len(data)} bytes; at most {PLAIN_PPM_BYTES} are allowed")
        # Each scan of a progressive JPEG goes over all pixels; there may be thousands.
        scans = data.count(PROGRESSIVE_SCAN) if image.format in {"JPEG", "MPO"} else 1
        self._count(image.width * image.height * max(scans, 1))
        if isinstance(image.fp, _Metered):
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
        try:
            probed = self._probe(data)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"cannot be decoded as a video ({_cause(error)})") from error
        total, rate, decoded, (width, height) = probed
        wanted = sampled_frames(total, rate, fps, max_frames)
        return DecodedVideo(self._pick(data, wanted, decoded, (width, height)), wanted, rate, height, width)

    def _probe(self, data: bytes) -> tuple[int, float, list[Any], tuple[int, int]]:
        """(number of frames, frames a second, the frames, their size); counted by decoding, as headers often lie.

        Which are wanted is known only at the end. Those of a short video are kept, so that it is decoded once; of
        a longer one none are.
        """
        with _container(data) as container:
            stream = self._stream(container)
            total, seconds, room = 0, 0.0, KEPT_PIXELS
            decoded: list[Any] = []
            size = (0, 0)
            for frame in container.decode(stream):
                if total == 0:
                    size = (frame.width, frame.height)
                self._check_size(frame.width, frame.height)
                self._count(frame.width * frame.height)
                total += 1
                seconds = frame.time or seconds
                room -= frame.width * frame.height
                if room >= 0:
                    decoded.append(frame)
                else:
                    decoded.clear()
                if total > self.policy.max_video_frames:
                    raise InputError(f"has more than {self.policy.max_video_frames} frames")
            rate = stream.average_rate or stream.guessed_rate
            if total == 0 or not rate or rate < 0:
                raise InputError(f"cannot be decoded as a video ({total} frames, frame rate {rate})")
            promised = stream.frames or _promised_seconds(container, stream) * rate
            there = total if stream.frames else max(total, seconds * rate)
            if there < MIN_SHARE * promised - 1:
                raise InputError(
                    f"cannot be decoded as a video (it is cut off: {total} of about {float(promised):.0f} frames)"
                )
            return total, float(rate), decoded, size

    def _stream(self, container: Any) -> Any:
        if not container.streams.video:
            raise InputError("cannot be decoded as a video (it has no video stream)")
        stream = container.streams.video[0]
        # Checked before the first frame, whose memory the decoder takes at the header's word.
        self._check_size(stream.codec_context.width, stream.codec_context.height)
        stream.codec_context.options = {"max_pixels": str(self.policy.max_pixels)}
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = DECODER_THREADS
        return stream

    def _pick(
        self, data: bytes, wanted: Sequence[int], decoded: list[Any], size: tuple[int, int]
    ) -> Iterator[NDArray[np.uint8]]:
        left = list(reversed(wanted))
        try:
            with _container(data) as container:
                for index, frame in enumerate(decoded or container.decode(self._stream(container))):
                    while left and left[-1] == index:
                        yield _of_size(frame, size).to_ndarray(format="rgb24")
                        left.pop()
                    if not left:
                        return
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"cannot be decoded as a video ({_cause(error)})") from error
        raise InputError("cannot be decoded as a video (decoded again, it has fewer frames)")

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self.policy.max_pixels:
            raise InputError(f"has {width}x{height} pixels; at most {self.policy.max_pixels} are allowed")

    def _count(self, pixels: int) -> None:
        self._pixels_left -= max(pixels, LEAST_PIXELS)
        if self._pixels_left < 0:
            raise InputError(
                f"makes more than {self.policy.max_request_pixels} pixels to decode for one request; "
                "send smaller media, or fewer"
            )


def _of_size(frame: Any, size: tuple[int, int]) -> Any:
    if (frame.width, frame.height) != size:
        raise InputError("cannot be decoded as a video (its frames change size)")
    return frame


class _Metered(io.BytesIO):
    """Bytes that may be read so many times."""

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


def _container(data: bytes) -> Any:
    import av

    options = {"format_whitelist": ",".join(VIDEO_FORMATS), "protocol_whitelist": "none"}
    return av.open(io.BytesIO(data), options=options)


def _promised_seconds(container: Any, stream: Any) -> float:
    """How long the header says that the video is; 0 where it does not say.

    A whole file's duration is that of its longest stream, so it tells only where the video is alone.
    """
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return float(container.duration or 0) / MICROSECONDS if len(container.streams) == 1 else 0.0


def sampled_frames(total: int, rate: float, fps: float, max_frames: int) -> tuple[int, ...]:
    """The numbers of the frames to look at: an even count, at least 4 where there are so many, from first to last.

    The rule is qwen-vl-utils' (``smart_nframes``, frame factor 2). A video of a single frame, which that refuses, is
    kept whole.
    """
    count = min(max(total / rate * fps, 4), max_frames // 2 * 2, total)
    count = int(count // 2) * 2
    if count == 0:
        return (0,)
    return tuple(int(index) for index in np.linspace(0, total - 1, count).round())


def _cause(error: BaseException) -> str:
    """One line of what a decoder said, without memory addresses."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "<_io.BytesIO" in text:
        text = text.partition("<_io.BytesIO")[0].strip() + " the bytes"
    return text[:200]
