"""Encoded media to pixels in memory: where the bytes come from, and decoding them with Pillow and PyAV."""

from __future__ import annotations

import base64
import binascii
import io
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .errors import InputError
from .request import MediaIndex

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray

    from .request import Reference

# Only formats that Pillow decodes itself (JPEG covers MPO). Others (EPS) would start a program on a stranger's bytes.
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
FETCH_TIMEOUT_S = 10.0
KEPT_PIXELS = 64 * 2**20
"""A video of no more pixels in all its frames (about 100 MB as they are decoded) is decoded once instead of twice."""
MIN_SHARE = 0.9
"""A video with fewer of the frames that its header promises is cut off. Some may be missing: edit lists hide a few."""


@dataclass(frozen=True)
class MediaPolicy:
    """What may be read, and how much of it."""

    allowed_roots: tuple[Path, ...] = ()
    """Local files may be read from below these folders."""
    allowed_hosts: tuple[str, ...] = ()
    """https addresses may be fetched from exactly these hosts."""
    max_bytes: int = 256 * 2**20
    """The largest encoded image or video."""
    max_pixels: int = 64 * 2**20
    """The largest decoded image or video frame: a file of a few kB can claim gigabytes of them."""
    max_video_frames: int = 100_000
    """The longest video, in frames, however few of them are used."""


@dataclass(frozen=True)
class DecodedVideo:
    """Some frames of a video.

    Attributes:
        frames: [frames, height, width, 3] of uint8.
        indices: The number of each frame in the whole video.
        fps: Frames a second of the whole video.
    """

    frames: NDArray[np.uint8]
    indices: tuple[int, ...]
    fps: float


@dataclass(frozen=True)
class MediaReader:
    policy: MediaPolicy = field(default_factory=MediaPolicy)

    def read(self, reference: Reference, media: Sequence[bytes]) -> bytes:
        """The encoded bytes behind a reference.

        Raises:
            InputError: They cannot or must not be read.
        """
        if isinstance(reference, MediaIndex):
            data = media[reference.index]
        elif reference.startswith("data:"):
            data = _data_uri(reference)
        elif reference.startswith(("http://", "https://")):
            data = self._fetch(reference)
        else:
            data = self._local(reference)
        if len(data) > self.policy.max_bytes:
            raise InputError(f"is {len(data)} bytes long; at most {self.policy.max_bytes} are allowed")
        if not data:
            raise InputError("is empty (0 bytes)")
        return data

    def is_image(self, reference: Reference, media: Sequence[bytes]) -> bool:
        """Whether a reference holds an image, judged by its label or, without one, by its first bytes."""
        if isinstance(reference, str) and reference.startswith("data:"):
            return reference.startswith("data:image/")
        try:
            with Image.open(io.BytesIO(self.read(reference, media)), formats=IMAGE_FORMATS):
                return True
        except InputError:
            raise
        except Exception:  # noqa: BLE001 - decoders raise whatever they like on bytes that are not theirs
            return False

    def image(self, data: bytes) -> Image.Image:
        """Decode an image to RGB; transparency is laid on white, as the reference implementation does.

        Raises:
            InputError: It cannot be decoded, or is too large.
        """
        try:
            with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
                self._check_size(image.width, image.height)
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

    def video(self, data: bytes, fps: float, max_frames: int) -> DecodedVideo:
        """Decode the frames of a video that the model is to see, evenly spaced from the first to the last.

        Args:
            data: An encoded video.
            fps: Frames wanted a second.
            max_frames: At most so many.

        Raises:
            InputError: It cannot be decoded, or is too large or too long.
        """
        import av

        try:
            total, rate, decoded = self._probe(av, data)
            wanted = sampled_frames(total, rate, fps, max_frames)
            return DecodedVideo(self._pick(av, data, wanted, decoded), wanted, rate)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"cannot be decoded as a video ({_cause(error)})") from error

    def _probe(self, av: Any, data: bytes) -> tuple[int, float, list[Any]]:
        """(number of frames, frames a second, the frames); counted by decoding, as headers often lie or say nothing.

        Which are wanted is known only at the end. Those of a short video are kept, so that it is decoded once; of
        a longer one none are.
        """
        with av.open(io.BytesIO(data)) as container:
            if not container.streams.video:
                raise InputError("cannot be decoded as a video (it has no video stream)")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            total, seconds, room = 0, 0.0, KEPT_PIXELS
            decoded: list[Any] = []
            for frame in container.decode(stream):
                if total == 0:
                    self._check_size(frame.width, frame.height)
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
            if total == 0 or not rate:
                raise InputError(f"cannot be decoded as a video ({total} frames, frame rate {rate})")
            promised = stream.frames or _promised_seconds(av, container, stream) * rate
            there = total if stream.frames else max(total, seconds * rate)
            if there < MIN_SHARE * promised - 1:
                raise InputError(
                    f"cannot be decoded as a video (it is cut off: {total} of about {float(promised):.0f} frames)"
                )
            return total, float(rate), decoded

    def _pick(self, av: Any, data: bytes, wanted: Sequence[int], decoded: list[Any]) -> NDArray[np.uint8]:
        keep = set(wanted)
        found: dict[int, NDArray[np.uint8]] = {}
        with av.open(io.BytesIO(data)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for index, frame in enumerate(decoded or container.decode(stream)):
                if index in keep:
                    found[index] = frame.to_ndarray(format="rgb24")
                    if len(found) == len(keep):
                        break
        frames = [found[index] for index in wanted]
        if len({frame.shape for frame in frames}) > 1:
            raise InputError("cannot be decoded as a video (its frames change size)")
        return np.stack(frames)

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self.policy.max_pixels:
            raise InputError(f"has {width}x{height} pixels; at most {self.policy.max_pixels} are allowed")

    def _local(self, reference: str) -> bytes:
        if not self.policy.allowed_roots:
            raise InputError("refers to a local file, and this server allows none; send the bytes instead")
        path = Path(urllib.parse.unquote(reference.removeprefix("file://")))
        try:
            real = path.resolve(strict=True)
            # After resolving: neither ".." nor a symbolic link leads out of an allowed folder.
            if not any(real.is_relative_to(root.resolve()) for root in self.policy.allowed_roots):
                raise InputError("refers to a local file outside the folders that this server allows")
            with real.open("rb") as file:
                return file.read(self.policy.max_bytes + 1)
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"cannot be read ({_cause(error)})") from error

    def _fetch(self, reference: str) -> bytes:
        parts = urllib.parse.urlsplit(reference)
        if parts.scheme != "https" or parts.hostname not in self.policy.allowed_hosts:
            raise InputError("refers to an address that this server does not allow; send the bytes instead")
        try:
            with _NO_REDIRECTS.open(reference, timeout=FETCH_TIMEOUT_S) as response:
                data: bytes = response.read(self.policy.max_bytes + 1)
                return data
        except (OSError, ValueError, urllib.error.URLError) as error:
            raise InputError(f"cannot be fetched ({_cause(error)})") from error


def _promised_seconds(av: Any, container: Any, stream: Any) -> float:
    """How long the header says that the video is; 0 where it does not say.

    A whole file's duration is that of its longest stream, so it tells only where the video is alone.
    """
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return float(container.duration or 0) / av.time_base if len(container.streams) == 1 else 0.0


class _RefuseRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect could lead from an allowed host to any other."""

    def redirect_request(self, *_: Any) -> None:
        return None


_NO_REDIRECTS = urllib.request.build_opener(_RefuseRedirect())


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


def _data_uri(reference: str) -> bytes:
    header, comma, body = reference.partition(",")
    if not comma or not header.endswith(";base64"):
        raise InputError("is a data URI without ;base64,")
    if not header.startswith(("data:image/", "data:video/")):
        raise InputError(f"is a data URI of the wrong kind ({header[:40]})")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"holds broken base64 ({error})") from error


def _cause(error: BaseException) -> str:
    """One line of what a decoder said, without memory addresses."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "<_io.BytesIO" in text:
        text = text.partition("<_io.BytesIO")[0].strip() + " the bytes"
    return text[:200]
