"""Images and videos as phones, browsers, editors, cameras and download tools write them, each with its right answer.

What is accepted is held to what the official code's readers give (``data/media.json``, made by ``record_media.py``);
what is refused, to a sentence with the cause and the mend. Where a public report is the source, it is named.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.unit.engine.media_makers import (
    EXACT,
    HALF,
    KEY,
    MIRRORED,
    MPEG4,
    QUARTER,
    THREE_QUARTERS,
    UNEVEN,
    VP8,
    coloured,
    copied,
    cover_alone,
    deep,
    deep_colour,
    encode,
    exif,
    film,
    fragmented,
    in_the_last_head,
    jpeg,
    matroska_duration,
    motion_photo,
    moving,
    noise,
    of_two_sizes,
    palette,
    patched,
    picture,
    profile,
    saved,
    share,
    sound,
    trimmed,
    turned,
    two_streams,
    with_alpha,
)

if TYPE_CHECKING:
    from collections.abc import Callable

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class File:
    """One file.

    Attributes:
        name: Unique among videos, and among images.
        build: Gives its bytes.
        error: What the sentence must hold, as a regular expression; None for a file that is accepted.
        reader: The reader of the reference whose answer is right, where the two of them differ; the other one fails or
            takes hidden frames for shown ones.
        skips: The reference cannot go back to this file's beginning, and begins with its second key frame.
    """

    name: str
    build: Callable[[], bytes]
    error: str | None = None
    reader: str = "torchcodec"
    skips: bool = False


VIDEOS = (
    # Edit lists: vllm-project/vllm#48608, NVIDIA/cosmos-framework#201
    File("trimmed without encoding", trimmed),
    File("trimmed to a few frames", lambda: copied(film(), first=KEY, end=KEY + 14, shift=-27)),
    File("trimmed, with sound", partial(trimmed, sound=True)),
    File("trimmed, as QuickTime", partial(trimmed, form="mov")),
    File("trimmed and turned", partial(trimmed, prepare=lambda stream: stream.set_display_matrix(QUARTER))),
    File("trimmed, as Matroska", partial(trimmed, form="matroska")),
    File("a video that begins after its sound", lambda: copied(film(), shift=15, sound=True)),
    File("sound with priming", lambda: copied(film(), sound=True)),
    # Turned: dmlc/decord#24, meta-pytorch/torchcodec#1084, bytedeco/javacv#1823
    File("turned by 90 degrees", partial(turned, QUARTER)),
    File("turned by 180 degrees", partial(turned, HALF)),
    File("turned by 270 degrees", partial(turned, THREE_QUARTERS, form="mov")),
    File("turned, as Matroska", partial(turned, QUARTER, form="matroska")),
    File("mirrored", partial(turned, MIRRORED)),
    File("turned by 30 degrees", partial(turned, (56756, 32768, 0, -32768, 56756, 0, 0, 0, 1 << 30))),
    File("a matrix of zeros", partial(turned, (0,) * 9)),
    # Headers that tell too much or nothing: dmlc/decord#88 and #124, meta-pytorch/torchcodec#1363
    File("variable rate", partial(encode, UNEVEN)),
    File("variable rate, the last frame stands", partial(encode, (*range(30), 300), form="matroska")),
    File("a recording of a browser", partial(encode, UNEVEN, **VP8, mux={"live": "1"})),
    File(
        "a recording of a browser, with sound",
        lambda: copied(encode(**VP8), form="webm", mux={"live": "1"}, sound=True),
    ),
    File("an AVI with dropped frames", partial(encode, UNEVEN, **MPEG4)),
    File("a Theora file with repeated frames", (DATA / "repeated.ogv").read_bytes),
    File("a Matroska file that claims ten times its length", lambda: matroska_duration(encode(form="matroska"), 20000)),
    File(
        "an MP4 that claims ten times its length", lambda: patched(film(), b"mdhd", 16, struct.pack(">I", 20 * 15360))
    ),
    File("fragmented", fragmented),
    File("fragmented for streaming", lambda: copied(film(), mux={"movflags": "cmaf+dash+frag_every_frame"})),
    File("a GIF of uneven delays", lambda: moving("GIF", duration=[100] * 8 + [900] * 4)),
    File("one frame", partial(encode, range(1))),
    # Streams: opencast/opencast#3694, UltraStar-Deluxe/USDX#902, GoPro's time codes
    File("a cover picture beside the video", partial(two_streams, cover=True)),
    File("two videos, the second one the default", partial(two_streams, cover=False)),
    File(
        "a time code",
        lambda: copied(film(), form="mov", prepare=lambda one: one.metadata.update(timecode="01:00:00:00")),
    ),
    File("a transport stream", lambda: copied(film(), form="mpegts"), reader="decord", skips=True),
    # Pixels
    File(
        "pixels that are not square",
        partial(encode, prepare=lambda one: setattr(one, "sample_aspect_ratio", Fraction(2))),
    ),
    File("10 bits", partial(encode, pixels="yuv420p10le")),
    File(
        "H.265 in 10 bits",
        partial(
            encode, codec="libx265", pixels="yuv420p10le", options={"x265-params": "log-level=none:qp=8:pools=none"}
        ),
    ),
    File("4:4:4 of odd size", partial(encode, pixels="yuv444p", size=(95, 63))),
    File(
        "ProRes with alpha",
        partial(encode, range(20), form="mov", codec="prores_ks", pixels="yuva444p10le", options={}),
    ),
    File("full range, as phones record", partial(encode, pixels="yuvj420p")),
    File("HDR (HLG)", partial(encode, pixels="yuv420p10le", prepare=coloured(18))),
    File("HDR (PQ)", partial(encode, pixels="yuv420p10le", prepare=coloured(16))),
    File("AV1", partial(encode, codec="libsvtav1", options={"crf": "10", "preset": "10"})),
    File(
        "VP9 with frames that are not shown",
        partial(
            encode,
            codec="libvpx-vp9",
            form="webm",
            options={
                "crf": "10",
                "b": "0",
                "cpu-used": "8",
                "auto-alt-ref": "1",
                "lag-in-frames": "16",
                "threads": "1",
            },
        ),
    ),
    File(
        "a camera's motion JPEG",
        partial(encode, codec="mjpeg", form="avi", pixels="yuvj422p", options={"qmin": "2", "qmax": "2"}),
    ),
    File("interlaced", partial(encode, options=EXACT | {"x264-params": "tff=1:threads=1"})),
    # Refused
    File(
        "cut off, with sound",
        lambda: share(copied(film(), mux={"moov_size": "9000"}, sound=True)),
        r"cut off: \d+ of 60 frames",
    ),
    File("cut off and trimmed", lambda: share(trimmed(mux={"moov_size": "9000"})), r"cut off: \d+ of 45 frames"),
    File("cut off, fragmented", lambda: share(fragmented()), "cut off"),
    File("cut off in a fragment's head", lambda: in_the_last_head(fragmented()), "cut off"),
    File("cut off in its index", lambda: film()[:-300], r"no whole index \(moov\)"),
    File(
        "cut off, Matroska with sound",
        lambda: share(copied(film(), form="matroska", sound=True)),
        r"cut off: \d+ of \d+ bytes",
    ),
    File("cut off, AVI with dropped frames", lambda: share(encode(UNEVEN, **MPEG4), 0.4), "cut off"),
    File("cut off, FLV", lambda: share(copied(film(), form="flv"), 0.5), "cut off"),
    File(
        "a recording that never ended",
        lambda: film()[: film().index(b"moov") - 4],
        r"no whole index \(moov\).*send the whole file",
    ),
    File(
        "an initialization segment alone", lambda: fragmented()[: fragmented().index(b"moof") - 4], "it holds no frames"
    ),
    File("a piece of a stream", lambda: fragmented()[fragmented().index(b"moof") - 4 :], "without its beginning; join"),
    File("a recording of a call that changes size", of_two_sizes, "its frames change size; save it in one size"),
    File("sound alone", sound, "it has no video stream"),
    File("sound and a cover picture", cover_alone, "it has only a cover picture"),
    File("an unknown codec", lambda: patched(film(), b"stsd", 12, b"zzzz"), "codec is not known here.; save it with"),
    File("a moving WebP", lambda: moving("WEBP"), "an animated WebP.*save it as MP4, WebM or GIF"),
    File("a moving PNG", lambda: moving("PNG"), "an animated PNG.*save it as MP4, WebM or GIF"),
    File(
        "a phone's HEIC",
        lambda: struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + bytes(99),
        'HEIC.*convert it to PNG, JPEG or WebP, and send it as "image"',
    ),
    File("a video of Windows Media", lambda: b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + bytes(99), "save it as MP4 or WebM"),
    File("a photo", jpeg, r'a picture \(JPEG\); send it as "image"'),
    File("a web page", lambda: b"\n<!DOCTYPE html><html>Sign in</html>", "a web page"),
    File("a pointer", lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
)


IMAGES = (
    # What the official code does not turn is not turned here: vllm-project/vllm#44974, sgl-project/sglang#33449
    File("a phone's photo held upright", lambda: jpeg(exif=exif(6))),
    File(
        "a photo of two pictures (MPO)", lambda: saved(picture(120), "MPO", save_all=True, append_images=[picture(200)])
    ),
    File("progressive", lambda: jpeg(progressive=True)),
    File("CMYK for print", lambda: jpeg(picture(120).convert("CMYK"))),
    File("grey", lambda: saved(picture(120).convert("L"), "JPEG", quality=95)),
    File("a colour profile", lambda: jpeg(icc_profile=profile())),
    File("transparent", lambda: saved(with_alpha("RGBA"), "PNG")),
    File("grey and transparent", lambda: saved(with_alpha("LA"), "PNG")),
    # huggingface/transformers#49003
    File(
        "a palette with a transparent colour", lambda: saved(palette(), "PNG", transparency=palette().getpixel((2, 2)))
    ),
    File("a colour that is transparent", lambda: saved(picture(120), "PNG", transparency=(220, 20, 20))),
    File("one bit", lambda: saved(picture(120).convert("1"), "PNG")),
    File("16 bits that hold 8", lambda: saved(deep(200), "PNG")),
    File("a moving GIF", lambda: moving("GIF", duration=100)),
    File(
        "a moving GIF, transparent",
        lambda: saved(with_alpha("P"), "GIF", save_all=True, append_images=[with_alpha("P")], transparency=0),
    ),
    File("a moving WebP", lambda: moving("WEBP", lossless=True)),
    File("a moving PNG", lambda: moving("PNG")),
    File("a transparent WebP", lambda: saved(with_alpha("RGBA"), "WEBP", lossless=True, exact=True)),
    File("16 bits of colour", deep_colour),
    File("a motion photo", motion_photo),
    File("TIFF, compressed", lambda: saved(picture(120), "TIFF", compression="tiff_lzw")),
    File(
        "TIFF of several pages, CMYK",
        lambda: saved(picture(120).convert("CMYK"), "TIFF", save_all=True, append_images=[picture(9)]),
    ),
    File("a bitmap of 8 bits", lambda: saved(palette(), "BMP")),
    # Refused
    File(
        "a phone's HEIC",
        lambda: struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + bytes(99),
        "HEIC.*convert it to PNG",
    ),
    File("JPEG XL", lambda: b"\xff\x0a" + bytes(99), "JPEG XL.*convert it to PNG"),
    File("JPEG 2000", lambda: saved(picture(120), "JPEG2000"), "JPEG 2000.*convert it to PNG"),
    File("an icon", lambda: saved(picture(120), "ICO"), r"an icon \(ICO\).*convert it"),
    File(
        "a drawing",
        lambda: b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
        "an SVG drawing.*convert it",
    ),
    File("a document", lambda: b"%PDF-1.7\n" + bytes(99), "a PDF document.*convert it"),
    File("Photoshop", lambda: b"8BPS\0\1" + bytes(99), "a Photoshop file.*convert it"),
    File("16 bits of grey", lambda: saved(deep(40000), "PNG"), "grey values go up to 40000.*save it with 8 bits"),
    File("floats", lambda: saved(deep(40000).convert("F"), "TIFF"), "grey values go up to 40000"),
    File("a photo cut off", lambda: share(jpeg(noise())), "truncated.*; send the whole file"),
    File("a PNG cut off", lambda: share(saved(noise(), "PNG")), "truncated.*; send the whole file"),
    File("AVIF", lambda: saved(picture(120), "AVIF"), "AVIF.*convert it to PNG"),
    File("a video", film, r'a video \(MP4 or QuickTime\); send it as "video"'),
    File("a recording", lambda: encode(range(3), **VP8), r'a video \(Matroska or WebM\); send it as "video"'),
    File(
        "an error of a store",
        lambda: b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>',
        "an error of the store",
    ),
    File("a pointer", lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
)
