"""Recognises files by their first bytes: names one that cannot be decoded, and estimates the work of JPEG and TIFF.

The names only make error messages better. The decoders decide what is decoded.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .errors import InputError
from .streams import index_end

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Literal

STILL = (
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (8, b"WEBP", "WebP"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"GIF8", "GIF"),
)
"""(offset, signature, name) of the image formats that are decoded."""
EXOTIC = (
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"JXL \r\n", "JPEG XL"),
    (4, b"jP  \r\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (4, b"ftypcrx ", "a camera's raw picture"),
    (0, b"\0\0\1\0", "an icon (ICO)"),
    (0, b"\0\0\2\0", "a cursor (CUR)"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript"),
    (0, b"%PDF-", "a PDF document"),
    (0, b"qoif", "QOI"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"DDS ", "DDS"),
    (0, b"gimp xcf", "a GIMP file"),
)
"""Image and document formats that are not decoded."""
MOVING = (
    (0, b"\x1a\x45\xdf\xa3", "Matroska or WebM"),
    (8, b"AVI ", "AVI"),
    (0, b"FLV\1", "FLV"),
    (0, b"\0\0\1\xba", "MPEG"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media"),
)
SOUND = ((0, b"ID3", "MP3"), (8, b"WAVE", "WAV"), (0, b"fLaC", "FLAC"), (4, b"ftypM4A", "M4A"), (0, b"#!AMR", "AMR"))
OTHER = (
    (0, b"version https://git-lfs", "a Git LFS pointer instead of the file; run `git lfs pull`"),
    (0, b"PK\3\4", "a ZIP archive; send what is in it"),
    (0, b"\x1f\x8b", "compressed by gzip; send what is in it"),
    (0, b"#EXTM3U", "a playlist; send the video itself"),
)
HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})
AVIF_BRANDS = frozenset({b"avif", b"avis"})
TEXT_HEAD = 1024
"""Bytes at the start of a file that are searched for HTML, XML and SVG."""
CONVERT = "convert it to PNG, JPEG or WebP"
JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
"""A JPEG marker that begins a segment or a scan; stuffed bytes and restart markers are left out."""

TILE_TAGS = (322, 323)
OFFSET_TAGS = (273, 324)
"""TIFF tags: tile width and length; offsets of strips and of tiles."""
PLAIN_KINDS = frozenset({3, 4})
"""TIFF field types: unsigned integers of 16 and 32 bits."""


def not_an_image(data: bytes) -> str | None:
    """Why ``data`` is not an image, and what to do; None if the bytes are not recognised."""
    if known := _common(data):
        return known
    if name := _undecoded(data):
        return f"it is {name}, which is not decoded here; {CONVERT}"
    if name := _match(MOVING, data) or ("MP4 or QuickTime" if _brands(data) else None):
        return f'it is a video ({name}); send it as "video"'
    return None


def not_a_video(data: bytes) -> str | None:
    """Why ``data`` is not a video, and what to do; None if the bytes are not recognised."""
    if known := _common(data):
        return known
    if name := _undecoded(data):
        return f'it is {name}, and neither decoded here nor a video; {CONVERT}, and send it as "image"'
    if name := _match(SOUND, data):
        return f"it is sound alone ({name})"
    if name := _match(STILL, data):
        if _animated(data):
            return f"it is an animated {name}, which is not decoded here; save it as MP4, WebM or GIF"
        return f'it is a picture ({name}); send it as "image", or in a list of frames'
    if _match(MOVING[-1:], data):
        return "it is Windows Media, which is not decoded here; save it as MP4 or WebM"
    if data[4:8] in {b"styp", b"moof", b"sidx"}:
        return "it is a piece of a stream without its beginning; join the initialization segment and all pieces"
    if _brands(data) and (b"moov" not in data or index_end(data) > len(data)):
        return "it has no whole index (moov): it is cut off, or its recording never ended; send the whole file"
    return None


def jpeg_scans(data: bytes, most: int) -> int:
    """Number of scans in a JPEG's first image: the decoder passes over all pixels once per scan.

    At most ``most`` segments are read. Data after the end of that image does not count: a second image, a gain map, the
    video of a motion photo.
    """
    at, scans = 2, 0
    for _ in range(most):
        found = JPEG_MARKER.search(data, at)
        if found is None or found[0] == b"\xff\xd9":
            return scans
        scans += found[0] == b"\xff\xda"
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return data.count(b"\xff\xda")


def tiff_work(tags: Mapping[int, Any], size: tuple[int, int], data: bytes) -> tuple[tuple[int, int], int]:
    """((width, height) of a TIFF's tiles, pixels of all tiles). Tiles are decoded whole, also beyond the image's edge.

    Without tiles, both are those of the image.

    Raises:
        InputError: The tile size has a field type that Pillow and libtiff read differently.
    """
    given = [kind for tag, kind in _tiff_entries(data) if tag in TILE_TAGS]
    if len(given) not in {0, 2} or not PLAIN_KINDS.issuperset(given):
        # Pillow ignores a tag of an unknown field type; libtiff reads it.
        raise InputError("cannot be decoded as an image (its tile size is stored in an invalid way)")
    width, height = (tags.get(tag, side) for tag, side in zip(TILE_TAGS, size, strict=True))
    return (width, height), -(-size[0] // max(width, 1)) * -(-size[1] // max(height, 1)) * width * height


def tiff_scans(tags: Mapping[int, Any], data: bytes) -> int:
    """Upper bound for the number of scans of a TIFF that contains JPEG data.

    Each strip or tile is a JPEG with one scan, or several if it is progressive. Several tiles may share one JPEG.
    """
    offsets = next((tags[tag] for tag in OFFSET_TAGS if tag in tags), ())
    return max(1, data.count(b"\xff\xda") - len(set(offsets)) + 1)


def _tiff_entries(data: bytes) -> Iterator[tuple[int, int]]:
    """(tag, field type) of each entry in a TIFF's first directory, in file order."""
    order: Literal["big", "little"] = "big" if data[:2] == b"MM" else "little"
    is_big = int.from_bytes(data[2:4], order) == 43  # noqa: PLR2004 - BigTIFF; else 42
    at = int.from_bytes(data[8:16] if is_big else data[4:8], order)
    head, step = (8, 20) if is_big else (2, 12)
    count = int.from_bytes(data[at : at + head], order)
    for one in range(at + head, min(at + head + step * count, len(data)), step):
        yield int.from_bytes(data[one : one + 2], order), int.from_bytes(data[one + 2 : one + 4], order)


def _common(data: bytes) -> str | None:
    if name := _match(OTHER, data):
        return f"it is {name}"
    head = _head(data).removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith((b"<!doctype html", b"<html")):
        return "it is a web page instead of the file; look at what the address answers"
    if head.startswith((b"<?xml", b"{")) and b"<svg" not in head:
        return "it is text (XML or JSON) instead of the file, perhaps an error of the store it came from"
    return None


def _undecoded(data: bytes) -> str | None:
    brands = _brands(data)
    if brands & AVIF_BRANDS:
        return "AVIF"
    if brands & HEIF_BRANDS:
        return "HEIC, as phones save photos"
    return _match(EXOTIC, data) or ("an SVG drawing" if b"<svg" in _head(data) else None)


def _head(data: bytes) -> bytes:
    return data[:TEXT_HEAD].lower()


def _match(table: tuple[tuple[int, bytes, str], ...], data: bytes) -> str | None:
    return next((name for at, sign, name in table if data[at : at + len(sign)] == sign), None)


def _animated(data: bytes) -> bool:
    is_webp = data[8:16] == b"WEBPVP8X" and len(data) > 20 and bool(data[20] & 2)  # noqa: PLR2004 - its flags
    return is_webp or (data[:4] == b"\x89PNG" and b"acTL" in data[:TEXT_HEAD])


def _brands(data: bytes) -> frozenset[bytes]:
    """The brands in the first box of an MP4, HEIC or AVIF file."""
    if data[4:8] != b"ftyp":
        return frozenset()
    box = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
    return frozenset(box[at : at + 4] for at in range(0, len(box), 4) if at != 4)  # noqa: PLR2004 - a version number
