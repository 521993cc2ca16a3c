"""Reads an encoded video: chooses the stream, finds rotation and frame rate, and checks that the file is complete."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# Only containers that hold their own frames. FFmpeg also accepts playlists and session descriptions (HLS, DASH,
# ffconcat, SDP). They name files and addresses, and FFmpeg would open those.
MOV = "mov"
VIDEO_FORMATS = (MOV, "matroska", "avi", "mpegts", "mpeg", "ogg", "flv", "gif")
MOV_BEGINS = frozenset(
    (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"udta", b"uuid", b"styp", b"moof", b"sidx")
)
"""Allowed types of the first box of an MP4 or QuickTime file. FFmpeg alone would also search for one further on."""
COUNTED = re.compile(rb"stsz|stz2|stsc|stco|co64|trun|iinf|iloc|cmov")
"""Boxes that hold a count. FFmpeg allocates memory for that many samples, chunks or items before it reads them."""
FEW_SAMPLES = 2**20
"""Always allowed: 25 MB of FFmpeg's entries. Old audio codecs count uncompressed samples: 24 s of them."""
LEAST_FRAME = 160
"""FFmpeg keeps one entry for at least this many audio samples that share a chunk."""
DECODERS = (
    "h264", "hevc", "vp8", "vp9", "libdav1d", "libaom-av1", "av1",  # phones, browsers, screen recorders, the web
    "prores", "dnxhd", "dvvideo", "ffv1", "huffyuv",  # cameras, editors, archives
    "mjpeg", "mpeg4", "h263", "flv", "mpeg1video", "mpeg2video", "theora", "gif",  # older cameras, phones, sites, discs
)  # fmt: skip
"""The FFmpeg decoders that a client's bytes may reach, by FFmpeg's names. FFmpeg has some 300 video decoders. Most of
the others are for games and dead formats, and few people look for defects in them."""
MIN_SHARE = 0.9
"""A video is truncated when it has less than this share of the frames (AVI) or seconds (FLV) in its header."""
RATE_DOUBT = 1.25
"""The frame rate in the header is ignored when the timestamps give a rate that differs by more than this factor."""
MOST_BOXES = 10_000
"""At most this many top-level boxes are read: enough for one day in fragments of 9 seconds."""
BOX_HEAD = 8
"""Bytes of a box's size and name."""
MICROSECONDS = 1_000_000
"""FFmpeg's unit of a file's duration."""
WHOLE = "send the whole file"
SAVE = "save it with H.264, H.265, VP9 or AV1"


class VideoFile:
    """The video stream of an open container. Its frames are decoded once, in order.

    Raises:
        InputError: The container has no video stream that can be decoded.
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
        """Number of encoded frames according to the file's index; None without a reliable index."""
        return len(self.stream.index_entries) if "mov" in self._names else None

    @property
    def frame_parts(self) -> int:
        """Encoded frames per displayed frame: MPEG streams may store the two fields of a frame separately."""
        return 2 if self._is_mpeg else 1

    def encoded_frames(self, most: int) -> int:
        """Number of encoded frames in the file, without decoding. Counting stops above ``most`` displayed frames."""
        count = 0
        for packet in self._container.demux(self.stream):
            count += bool(packet.size)
            if count > most * self.frame_parts:
                break
        return count

    def frames(self) -> Iterator[VideoFrame]:
        """Each frame that a player would show. Frames before the start of an edit list are decoded and dropped."""
        for packet in self._container.demux(self.stream):
            if packet.is_corrupt and "mov" in self._names:
                continue  # the file ends within this frame
            if packet.dts is not None or packet.size:
                self._packets += 1
                if not packet.size:
                    continue  # "repeat the last frame" (Theora, AVI); the decoder would take it for the end
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
        """Frames per second, valid once all frames are decoded; 0 if unknown.

        This is the container's average rate, as in the reference (decord), unless the timestamps contradict it. A
        browser's recording without a rate reports 1000, and an AVI with dropped frames reports its nominal rate. MPEG
        streams keep their rate in any case: their timestamps jump where recordings were joined.
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
        """Check that the file is complete. Call this once all frames are decoded.

        The frame count and duration in a header are often wrong in complete files (edit lists, dropped frames, a still
        last frame). So the structure of the file decides where there is one: the index of MP4 and QuickTime, and the
        sizes of the top-level elements of Matroska and AVI. MPEG, Ogg, GIF and live recordings (WebM of browsers) have
        no such structure, and truncation of those is not found.

        Raises:
            InputError: The file is truncated.
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
    """The container formats that FFmpeg may try for these bytes.

    Raises:
        InputError: An MP4 or QuickTime file has an index with more samples than the file has bytes.
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
    """Most samples that the index of this file may announce."""
    return max(len(data), FEW_SAMPLES)


def promised_samples(data: bytes) -> int:
    """Number of index entries that FFmpeg would allocate, 24 bytes each, before it checks that they exist.

    Every byte sequence outside of the media data that could be such a box counts, because FFmpeg accepts boxes in
    places where no other program does. A complete file has at least about one byte for each sample.
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
                if entries > _most_samples(data):  # stop early: overlapping tables would be read again and again
                    return entries
                table = range(at + 12, min(at + 8 + 12 * count, end), 12)
                most_in_chunk += max((int.from_bytes(data[one : one + 4]) for one in table), default=0)
            elif kind in {b"stco", b"co64"}:
                chunks += count
            else:
                samples += _counted(kind, data, at)
    return samples + chunks * most_in_chunk // LEAST_FRAME


def _counted(kind: bytes, data: bytes, at: int) -> int:
    """The count in the box whose content begins at offset ``at``."""
    if kind == b"cmov":  # a compressed index (QuickTime of the 1990s): its counts cannot be read
        return 2**32
    version = data[at] if at < len(data) else 0
    if kind == b"iinf":
        return int.from_bytes(data[at + 4 : at + (8 if version else 6)])
    if kind == b"iloc":
        return int.from_bytes(data[at + 6 : at + (10 if version > 1 else 8)])
    offset = 4 if kind == b"trun" else 8
    return int.from_bytes(data[at + offset : at + offset + 4])


def _outside_of_pixels(data: bytes) -> Iterator[tuple[int, int]]:
    """(begin, end) of each top-level box of an MP4 except ``mdat``. Bytes that cannot be parsed are included."""
    at = 0
    for _ in range(MOST_BOXES):
        head = 16 if data[at : at + 4] == b"\0\0\0\1" else BOX_HEAD
        size = int.from_bytes(data[at + 8 : at + 16] if head > BOX_HEAD else data[at : at + 4])
        if size < head or at + head > len(data):
            break
        if data[at + 4 : at + 8] != b"mdat":
            yield at, min(at + size, len(data))
        at += size
    is_pixels = data[at : at + 8] == b"\0\0\0\0mdat"  # size 0: up to the end of the file
    if at < len(data) and not is_pixels:
        yield at, len(data)


def quarter_turns(frame: VideoFrame) -> int:
    """How often to rotate a frame by 90 degrees counterclockwise, according to the file's display matrix.

    Other angles are rounded to the nearest of the four. A mirrored video is rotated only, as in the reference.
    """
    angle = frame.rotation
    return round(angle / 90) % 4 if abs(angle) <= 180 else 0  # noqa: PLR2004 - a matrix of zeros has no angle


def _video_stream(container: InputContainer) -> VideoStream:
    """The stream that FFmpeg prefers (default flag, then resolution), but never a cover picture."""
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
    """End offset of the last top-level box of an MP4 if that box is the index or the file is fragmented; else 0.

    The end of the media data does not matter: the index shows which samples are missing.
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
        if size < BOX_HEAD:  # 0 means "up to the end of the file"
            break
        at += size
    return at if fragmented or kind == b"moov" else 0


def _riff_end(data: bytes) -> int:
    """End offset of the last RIFF chunk of an AVI. Large files have several."""
    at = 0
    for _ in range(MOST_BOXES):
        if data[at : at + 4] != b"RIFF":
            break
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    return at - 1  # some programs omit the last padding byte


def _matroska_end(data: bytes) -> int:
    """End offset of the segment of a Matroska file; 0 if its size is unknown."""
    head, at = _element_size(data, 4)
    if head is None or data[at + head : at + head + 4] != b"\x18\x53\x80\x67":
        return 0
    size, at = _element_size(data, at + head + 4)
    return 0 if size is None else at + size


def _element_size(data: bytes, at: int) -> tuple[int | None, int]:
    """(size of the EBML element at ``at`` or None if unknown, offset of its content). EBML sizes have 1 to 8 bytes."""
    length = 9 - data[at].bit_length() if at < len(data) else 9
    if length > 8 or at + length > len(data):  # noqa: PLR2004 - there are no longer ones
        return None, at
    value = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
    return (None if value == (1 << 7 * length) - 1 else value), at + length
