"""An encoded video as files have it: which stream it is, how it is turned, its rate, and whether it is all there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# Only containers that hold their own pictures. FFmpeg takes playlists and session descriptions for videos as well (HLS,
# DASH, ffconcat, SDP): those name files and addresses, which it would open.
MOV = "mov"
VIDEO_FORMATS = (MOV, "matroska", "avi", "mpegts", "mpeg", "ogg", "flv", "gif")
MOV_BEGINS = frozenset(
    (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"udta", b"uuid", b"styp", b"moof", b"sidx")
)
"""What the first box of an MP4 or QuickTime file may be. FFmpeg would look for one further on as well."""
COUNTED = re.compile(rb"stsz|stz2|stsc|stco|co64|trun|iinf|iloc|cmov")
"""Boxes whose few bytes make FFmpeg take memory for as many samples, chunks or items as they name."""
FEW_SAMPLES = 2**20
"""25 MB of FFmpeg's entries. Old sound was counted as it was before it was packed: 24 s of it, however small."""
LEAST_FRAME = 160
"""Of the samples of sound that have no box of their own, FFmpeg keeps an entry for at least so many."""
DECODERS = (
    "h264", "hevc", "vp8", "vp9", "libdav1d", "libaom-av1", "av1",  # phones, browsers, screen recorders, the web
    "prores", "dnxhd", "dvvideo", "ffv1", "huffyuv",  # cameras, editors, archives
    "mjpeg", "mpeg4", "h263", "flv", "mpeg1video", "mpeg2video", "theora", "gif",  # older cameras, phones, sites, discs
)  # fmt: skip
"""FFmpeg's names of the decoders that a stranger's bytes may reach. It has some 300 for pictures; most others are for
games and for formats that nobody writes any more, where errors are found by those who look for them only."""
MIN_SHARE = 0.9
"""A video with fewer of the frames (AVI) or of the seconds (FLV) that its header promises is cut off."""
RATE_DOUBT = 1.25
"""A file's own frame rate is not believed where the times of its frames tell of one so many times as high or low."""
MOST_BOXES = 10_000
"""Of a file's outermost ones, which are walked through in Python: a day in fragments of 9 seconds."""
BOX_HEAD = 8
"""Bytes of a box's size and name."""
MICROSECONDS = 1_000_000
"""FFmpeg's unit of a file's duration."""
WHOLE = "send the whole file"
SAVE = "save it with H.264, H.265, VP9 or AV1"


class VideoFile:
    """The video in an open container; its frames are decoded once, in order.

    Raises:
        InputError: There is none.
    """

    def __init__(self, container: InputContainer, data: bytes) -> None:
        self.stream = _video_stream(container)
        self._container = container
        self._data = data
        self._names = frozenset(container.format.name.split(","))
        self._packets = 0
        self._shown = 0
        self._begin: float | None = None
        self._last = 0.0
        self._length = 0.0

    @property
    def indexed_frames(self) -> int | None:
        """How many encoded frames the file's index promises; None where nothing reliable tells."""
        return len(self.stream.index_entries) if "mov" in self._names else None

    @property
    def frame_parts(self) -> int:
        """How many encoded frames may make one: MPEG streams may hold the two fields of a picture apart."""
        return 2 if self._is_mpeg else 1

    def encoded_frames(self, most: int) -> int:
        """How many encoded frames the file holds; counting ends above ``most`` pictures. Nothing is decoded."""
        count = 0
        for packet in self._container.demux(self.stream):
            count += bool(packet.size)
            if count > most * self.frame_parts:
                break
        return count

    def frames(self) -> Iterator[VideoFrame]:
        """Every frame that a player would show: those before the start of an edit list are decoded and dropped."""
        for packet in self._container.demux(self.stream):
            if packet.is_corrupt and "mov" in self._names:
                continue  # the file ends in it
            if packet.dts is not None or packet.size:
                self._packets += 1
                if not packet.size:
                    continue  # "the same again" (Theora, AVI), which the decoder would take for the end
            for frame in packet.decode():
                self._see(frame)
                yield frame

    def _see(self, frame: VideoFrame) -> None:
        self._shown += 1
        if frame.time is not None:
            self._begin = frame.time if self._begin is None else min(self._begin, frame.time)
            if frame.time >= self._last:
                self._last = frame.time
                self._length = float((frame.duration or 0) * (frame.time_base or 0))

    def rate(self) -> float:
        """Frames a second, known when all frames were decoded; 0 where nothing tells it.

        It is the container's average, as in the reference (decord), unless that contradicts the times of the frames:
        recordings of browsers without a rate are taken for 1000 a second, and an AVI with dropped frames for its full
        rate. MPEG streams are believed: their times jump where recordings were joined.
        """
        told = float(self.stream.average_rate or 0)
        seconds = self._last + self._length - (self._begin or 0.0)
        measured = (self._shown - (0 if self._length else 1)) / seconds if seconds > 0 else 0.0
        if told <= 0 or (measured > 0 and max(told / measured, measured / told) > RATE_DOUBT and not self._is_mpeg):
            told = measured or told
        return told if told > 0 else max(float(self.stream.guessed_rate or 0), 0.0)

    @property
    def _is_mpeg(self) -> bool:
        return not self._names.isdisjoint(("mpegts", "mpeg"))

    def check_whole(self) -> None:
        """Call when all frames were decoded.

        What a header says of frames and seconds is often wrong in files that are whole (edit lists, dropped frames, a
        last picture that stands), so that the file's own structure decides where it has one: the samples in the index
        of MP4 and QuickTime, the sizes of the outermost elements of Matroska and AVI. MPEG, Ogg and GIF, and recordings
        without an end (WebM of browsers), tell nothing.

        Raises:
            InputError: The file ends before its end.
        """
        if "mov" in self._names:
            if self._packets < (promised := len(self.stream.index_entries)):
                raise _cut(f"{self._packets} of {promised} frames are there")
            self._check_end(index_end(self._data))
        elif "matroska" in self._names:
            self._check_end(_matroska_end(self._data))
        elif "avi" in self._names and self._shown < MIN_SHARE * self.stream.frames - 1:
            if _riff_end(self._data) > len(self._data):
                raise _cut(f"{self._shown} of about {self.stream.frames} frames are there")
        elif "flv" in self._names and len(self._container.streams) == 1:
            seconds = (self._container.duration or 0) / MICROSECONDS
            if self._last + self._length < MIN_SHARE * seconds - 1 / (self.rate() or 1):
                raise _cut(f"{self._last:.1f} of {seconds:.1f} seconds are there")

    def _check_end(self, end: int) -> None:
        if end > len(self._data):
            raise _cut(f"{len(self._data)} of {end} bytes are there")


def formats_of(data: bytes) -> tuple[str, ...]:
    """The containers that FFmpeg may take these bytes for.

    Raises:
        InputError: It is an MP4 or QuickTime file whose index promises many more samples than it has bytes.
    """
    if data[4:8] not in MOV_BEGINS:
        return tuple(name for name in VIDEO_FORMATS if name != MOV)
    if (promised := promised_samples(data)) > _most_samples(data):
        raise InputError(
            f"cannot be decoded as a video (its index promises {promised} samples, more than the {len(data)} bytes "
            f"that the file has; {WHOLE})"
        )
    return (MOV,)


def _most_samples(data: bytes) -> int:
    """How many samples the index of a file of these bytes may promise."""
    return max(len(data), FEW_SAMPLES)


def promised_samples(data: bytes) -> int:
    """How many entries FFmpeg would make room for, at 24 bytes each, before it looks whether they are there.

    Every place outside of the pixels that may be such a box counts, wherever it lies: a box is a box for FFmpeg in
    places where no other program looks for it. A whole file has about a byte for each sample at the least.
    """
    samples, chunks, most_in_chunk, entries = 0, 0, 0, 0
    for begin, end in _outside_of_pixels(data):
        for found in COUNTED.finditer(data, begin, end):
            kind, at = found[0], found.end()
            if data[at - 8 : at - 4] == b"\0\0\0\1":
                at += 8  # its size, in 64 bits
            count = int.from_bytes(data[at + 4 : at + 8])
            if kind == b"stsc":
                entries += count
                if entries > _most_samples(data):  # also so that tables over tables are not read again and again
                    return entries
                table = range(at + 12, min(at + 8 + 12 * count, end), 12)
                most_in_chunk += max((int.from_bytes(data[one : one + 4]) for one in table), default=0)
            elif kind in {b"stco", b"co64"}:
                chunks += count
            else:
                samples += _counted(kind, data, at)
    return samples + chunks * most_in_chunk // LEAST_FRAME


def _counted(kind: bytes, data: bytes, at: int) -> int:
    """The count in a box whose content begins at ``at``."""
    if kind == b"cmov":  # an index that is compressed itself, of the nineties: what it promises can't be seen
        return 2**32
    version = data[at] if at < len(data) else 0
    if kind == b"iinf":
        return int.from_bytes(data[at + 4 : at + (8 if version else 6)])
    if kind == b"iloc":
        return int.from_bytes(data[at + 6 : at + (10 if version > 1 else 8)])
    offset = 4 if kind == b"trun" else 8
    return int.from_bytes(data[at + offset : at + offset + 4])


def _outside_of_pixels(data: bytes) -> Iterator[tuple[int, int]]:
    """Where an MP4's outermost boxes lie that are no ``mdat``; what can't be told apart is among them."""
    at = 0
    for _ in range(MOST_BOXES):
        head = 16 if data[at : at + 4] == b"\0\0\0\1" else BOX_HEAD
        size = int.from_bytes(data[at + 8 : at + 16] if head > BOX_HEAD else data[at : at + 4])
        if size < head or at + head > len(data):
            break
        if data[at + 4 : at + 8] != b"mdat":
            yield at, min(at + size, len(data))
        at += size
    is_pixels = data[at : at + 8] == b"\0\0\0\0mdat"  # to the end
    if at < len(data) and not is_pixels:
        yield at, len(data)


def quarter_turns(frame: VideoFrame) -> int:
    """How many times to turn a frame by 90 degrees, counterclockwise, to show it as the file says (display matrix).

    Other angles go to the nearest of the four, and a mirrored video is turned, not mirrored, as in the reference.
    """
    angle = frame.rotation
    return round(angle / 90) % 4 if abs(angle) <= 180 else 0  # noqa: PLR2004 - a matrix of zeros has no angle


def _video_stream(container: InputContainer) -> VideoStream:
    """FFmpeg's choice of several (the default one, then the richest); never a cover picture."""
    from av.stream import Disposition

    found = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
    if not found:
        cover = "only a cover picture" if container.streams.video else "no video stream"
        raise InputError(f"cannot be decoded as a video (it has {cover})")
    best = container.streams.best("video")
    stream = next((one for one in found if best is not None and one.index == best.index), found[0])
    if stream.codec_context is None:
        raise InputError(f"cannot be decoded as a video (its codec is not known here); {SAVE}")
    codec = stream.codec_context.codec
    if codec.name not in DECODERS:
        raise InputError(f"cannot be decoded as a video (its codec is {codec.name}, which is not decoded here); {SAVE}")
    return stream


def _cut(what: str) -> InputError:
    return InputError(f"cannot be decoded as a video (it is cut off: {what}; {WHOLE})")


def index_end(data: bytes) -> int:
    """Where the last of an MP4's outermost boxes ends, if it is the index or the file is in fragments; else 0.

    That of a whole file's pixels does not matter, since the index tells which of them are lacking.
    """
    at, kind, fragmented = 0, b"", False
    for _ in range(MOST_BOXES):
        if at >= len(data):
            break
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        fragmented = fragmented or kind == b"moof"
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        elif len(data) - at < BOX_HEAD:
            size = BOX_HEAD
        if size < BOX_HEAD:  # 0 is "to the end"
            break
        at += size
    return at if fragmented or kind == b"moov" else 0


def _riff_end(data: bytes) -> int:
    """Where the last RIFF of an AVI ends; large files have several in a row."""
    at = 0
    for _ in range(MOST_BOXES):
        if data[at : at + 4] != b"RIFF":
            break
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    return at - 1  # the last byte is sometimes left out that makes the size even


def _matroska_end(data: bytes) -> int:
    """Where the segment of a Matroska file ends; 0 where it does not say."""
    head, at = _element_size(data, 4)
    if head is None or data[at + head : at + head + 4] != b"\x18\x53\x80\x67":
        return 0
    size, at = _element_size(data, at + head + 4)
    return 0 if size is None else at + size


def _element_size(data: bytes, at: int) -> tuple[int | None, int]:
    """(the size that stands at ``at``, None for unknown, where the content begins); EBML's numbers of 1 to 8 bytes."""
    length = 9 - data[at].bit_length() if at < len(data) else 9
    if length > 8 or at + length > len(data):  # noqa: PLR2004 - there are no longer ones
        return None, at
    value = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
    return (None if value == (1 << 7 * length) - 1 else value), at + length
