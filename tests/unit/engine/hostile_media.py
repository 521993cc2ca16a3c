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


def jpeg_of_scans(side: int, count: int, mode: str = "RGB") -> bytes:
    """A progressive JPEG that goes over all its pixels again and again."""
    buffer = io.BytesIO()
    Image.new(mode, (side, side)).save(buffer, "JPEG", progressive=True)
    whole = buffer.getvalue()
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


def bmp_of_runs(side: int, runs: bytes = b"") -> bytes:
    """Run-length encoded, each run a single pixel where none are given: Pillow reads it in Python."""
    palette = bytes(1024)
    head = struct.pack("<IHHI", 0, 0, 0, 54 + len(palette))
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, 0, 0, 0, 256, 0)
    return b"BM" + head + info + palette + (runs or b"\x01\x07" * (side * side))


def tiff(width: int, height: int, tile: int = 0, *, kind: int = 4, packing: int = 8, data: bytes = b"") -> bytes:
    """A TIFF, uncompressed; with ``tile``, compressed and in tiles of that side, which is told as a value of ``kind``;
    with ``data``, those bytes in the ``packing`` given."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, packing if tile or data else 1), (262, 3, 1)]
    tags += [(277, 3, 1)]
    tags += [(322, kind, tile), (323, kind, tile), (324, 4, 8), (325, 4, 200)] if tile else []
    tags += [] if tile else [(273, 4, 122 if data else 8), (278, 4, height)]
    tags += [] if tile else [(279, 4, len(data) or min(width * height, 2**32 - 1))]
    entries = b"".join(
        struct.pack("<HHI", tag, kind, 1) + (struct.pack("<HH", value, 0) if kind == 3 else struct.pack("<I", value))
        for tag, kind, value in tags
    )
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + (bytes(4) + data if data else bytes(204))


def tiff_of_scans(side: int, count: int) -> bytes:
    """A TIFF whose pixels are a progressive JPEG of that many scans."""
    return tiff(side, side, packing=7, data=jpeg_of_scans(side, count, "L"))


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


def film_of_streams(count: int) -> bytes:
    """A Matroska file of that many streams of pictures."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(film())) as source, av.open(buffer, "w", format="matroska") as container:
        stream = source.streams.video[0]
        first = next(packet for packet in source.demux(stream) if packet.size)
        for copy in [container.add_stream_from_template(stream) for _ in range(count)]:
            packet = av.Packet(bytes(first))
            packet.stream, packet.time_base, packet.pts, packet.dts = copy, first.time_base, first.pts, first.dts
            packet.is_keyframe = True
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


def box(kind: bytes, *parts: bytes) -> bytes:
    return struct.pack(">I", 8 + sum(map(len, parts))) + kind + b"".join(parts)


def numbers(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def film_with(*, instead_of: bytes, boxes: bytes, before: bytes = b"") -> bytes:
    """A film whose first such box is another one; what lies around it is told of the new size."""
    data = film()
    at = data.index(instead_of) - 4
    size = int.from_bytes(data[at : at + 4])
    data = data[:at] + boxes + data[at + size :]
    for around in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        place = data.index(around) - 4
        grown = int.from_bytes(data[place : place + 4]) + len(boxes) - size
        data = data[:place] + numbers(grown) + data[place + 4 :]
    return before + data


MANY = 80_000_000
"""Of FFmpeg's entries: two gigabytes."""
PROMISING = {
    "80 million samples": film_with(instead_of=b"stsz", boxes=box(b"stsz", numbers(0, 1, MANY))),
    "80 million samples in a box of 64 bits": film_with(
        instead_of=b"stsz", boxes=numbers(1) + b"stsz" + numbers(0, 28) + numbers(0, 1, MANY)
    ),
    "80 million chunks": film_with(
        instead_of=b"stsc",
        boxes=box(b"stsc", numbers(0, 1, 1, 2**32 - 1, 1)) + box(b"stco", numbers(0, 18, *range(18))),
    ),
    "80 million samples in a fragment": film()
    + box(b"moof", box(b"traf", box(b"tfhd", numbers(0x20000, 1)), box(b"trun", numbers(0, MANY)))),
    "250 million pictures": film() + box(b"meta", numbers(0), box(b"iinf", numbers(2**24, 0x0F000000))),
    "250 million places of pictures": film()
    + box(b"meta", numbers(0), box(b"iloc", numbers(2**25), bytes(2), numbers(0x0F000000))),
    "an index of its own within": film() + box(b"moov", box(b"cmov", bytes(40))),
    "tables over tables": film() + box(b"moov", *[box(b"stsc", numbers(0, 10**6))] * 10),
}
"""Films of some kilobytes whose index FFmpeg makes room for before it looks whether it is there."""
