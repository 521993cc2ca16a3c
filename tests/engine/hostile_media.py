"""Bytes of images and videos that mean harm, made small: nothing here is large before it is decoded."""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction
from functools import cache

import av
import numpy as np
from PIL import Image

PNG_HEAD = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *, rows: int | None = None, before: bytes = b"") -> bytes:
    """A black grey-scale PNG; ``rows`` fewer than its header says, and ``before`` its pixels other chunks."""
    deflate = zlib.compressobj(9)
    pixels = [deflate.compress(bytes(width + 1)) for _ in range(height if rows is None else rows)]
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + before + chunk(b"IDAT", b"".join([*pixels, deflate.flush()])) + chunk(b"IEND", b"")
    return PNG_HEAD + body


def saved(form: str, size: tuple[int, int] = (64, 64), frames: int = 1, **more: object) -> bytes:
    """A picture as Pillow saves it; several frames make it an animation."""
    pictures = [Image.new("RGB", size, (200, 20 + 9 * index, 30)) for index in range(frames)]
    buffer = io.BytesIO()
    if frames > 1:
        more |= {"save_all": True, "append_images": pictures[1:]}
    pictures[0].save(buffer, format=form, **more)
    return buffer.getvalue()


def png_of_chunks(count: int) -> bytes:
    """Pillow walks through the chunks before the pixels one by one."""
    return png(8, 8, before=chunk(b"prVt", b"") * count)


def jpeg_of_scans(side: int, count: int) -> bytes:
    """A progressive JPEG that goes over all its pixels again and again."""
    whole = saved("JPEG", (side, side), progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * count + whole[-2:]


def jpeg_of_markers(count: int) -> bytes:
    return b"\xff\xd8" + b"\xff\xfe\x00\x02" * count + saved("JPEG")[2:]


def jpeg_with_exif(exif: bytes) -> bytes:
    return saved("JPEG", exif=b"Exif\0\0" + exif)


EXIF_RING = b"MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x08\0\0\0\x08"
"""A directory whose sub-directory and whose successor are itself."""
EXIF_SIZES = b"MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03\xff\xff\xff\xff\xff\xff\xff\xff" * 20


def gif(width: int, height: int) -> bytes:
    """A GIF whose header claims that size."""
    whole = bytearray(saved("GIF"))
    whole[6:10] = struct.pack("<HH", width, height)
    place = whole.index(b",\0\0\0\0", 13)
    whole[place + 5 : place + 9] = struct.pack("<HH", width, height)
    return bytes(whole)


def bmp(width: int, height: int, bits: int = 24) -> bytes:
    return (
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 154, 0, 0, 54, 40, width, height, 1, bits, 0, 0, 0, 0, 0, 0) + bytes(99)
    )


def bmp_of_runs(side: int) -> bytes:
    """Run-length encoded, each run a single pixel: Pillow reads it in Python."""
    palette = bytes(1024)
    head = struct.pack("<IHHI", 0, 0, 0, 54 + len(palette))
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, 0, 0, 0, 256, 0)
    return b"BM" + head + info + palette + b"\x01\x07" * (side * side)


def tiff(width: int, height: int, tile: int = 0) -> bytes:
    """An uncompressed TIFF; with ``tile``, compressed and in tiles of that side."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 8 if tile else 1), (262, 3, 1), (277, 3, 1)]
    tags += [(322, 4, tile), (323, 4, tile), (324, 4, 8), (325, 4, 200)] if tile else [(273, 4, 8), (278, 4, height)]
    tags += [] if tile else [(279, 4, min(width * height, 2**32 - 1))]
    entries = b"".join(
        struct.pack("<HHI", tag, kind, 1) + (struct.pack("<HH", value, 0) if kind == 3 else struct.pack("<I", value))
        for tag, kind, value in tags
    )
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(204)


def webp(width: int, height: int) -> bytes:
    """A WebP whose canvas is that large and whose picture is small."""
    small = saved("WEBP", lossless=True)[12:]
    canvas = struct.pack("<I", 0)[:4] + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + small
    return b"RIFF" + struct.pack("<I", len(body)) + body


def ppm_in_digits(side: int) -> bytes:
    return f"P3 {side} {side} 255\n".encode() + b"7 " * (3 * side * side)


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n(/etc/passwd) run\n"
FFCONCAT = b"ffconcat version 1.0\nfile config.pbtxt\n"
SDP = (
    b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
)
HLS = (
    b"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://169.254.169.254/latest/meta-data/\n"
    b"#EXT-X-ENDLIST\n"
)


@cache
def film(count: int = 20, size: tuple[int, int] = (96, 64), form: str = "mp4", repeat: int = 1) -> bytes:
    """A film; each of its encoded frames but the first is written ``repeat`` times."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream("mpeg4", rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        frames = (
            av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), 20 + index % 200, np.uint8), format="rgb24")
            for index in range(count)
        )
        packets = [packet for frame in frames for packet in stream.encode(frame)] + list(stream.encode(None))
        at = 0
        for number, packet in enumerate(packet for packet in packets if packet.size):
            step, data, time_base = packet.duration or 1, bytes(packet), packet.time_base
            for _ in range(repeat if number else 1):
                copy = av.Packet(data)
                copy.stream, copy.time_base, copy.pts, copy.dts, copy.duration = stream, time_base, at, at, step
                copy.is_keyframe = packet.is_keyframe
                container.mux(copy)
                at += step
    return buffer.getvalue()


def sound() -> bytes:
    """An MP4 without pictures."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return buffer.getvalue()


def patched(data: bytes, box: bytes, offset: int, value: bytes) -> bytes:
    """A film with other bytes at ``offset`` after the name of its first such box."""
    place = data.index(box) + 4 + offset
    return data[:place] + value + data[place + len(value) :]


def film_claiming(what: str) -> bytes:
    """A film of 20 frames with a header that lies."""
    data = film()
    if what == "pixels":
        return patched(data, b"mp4v", 24, struct.pack(">HH", 65535, 65535))
    if what == "duration":
        return patched(patched(data, b"mdhd", 16, b"\x7f\xff\xff\xff"), b"stts", 12, b"\x00\xff\xff\xff")
    if what == "frames":
        return patched(data, b"stsz", 8, b"\x7f\xff\xff\xff")
    if what == "clock":
        return patched(data, b"mdhd", 12, b"\x00\x00\x00\x00")
    return data[: data.index(b"moov") - 4]  # nothing but the pixels
