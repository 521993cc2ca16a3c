"""Requests that mean harm, each with the error that must answer it; run against the real server by ``run_hostile``.

``python -m tests.unit.engine.hostile --rounds 1000`` starts a Triton with the base checkpoint, sends them one after the
other, a good request after each, and prints a table: case, answer, seconds; and the memory before and after.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.unit.engine import hostile_media as m

GOOD = b'{"text": "a red circle"}'


@dataclass(frozen=True)
class Sent:
    """The tensors of one request, as bytes."""

    query: bytes = GOOD
    documents: tuple[bytes, ...] = (GOOD,)
    instruction: bytes | None = None
    options: bytes | None = None
    media: tuple[bytes, ...] = ()

    @property
    def size(self) -> int:
        return sum(map(len, (self.query, *self.documents, self.instruction or b"", self.options or b"", *self.media)))


@dataclass(frozen=True)
class Case:
    """One request and the pattern of its error; no pattern for what must be answered with scores."""

    name: str
    build: Callable[[], Sent] = field(repr=False)
    error: str | None
    slow: bool = False
    """It costs the engine seconds or many megabytes, by right or until it reaches a limit: sent once a run."""


def document(value: Any, **more: Any) -> Callable[[], Sent]:
    """The second of two documents is the one at fault."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return lambda: Sent(documents=(GOOD, raw), **more)


def image(data: Callable[[], bytes]) -> Callable[[], Sent]:
    return lambda: Sent(documents=(GOOD, b'{"image": {"media": 0}}'), media=(data(),))


def video(data: Callable[[], bytes]) -> Callable[[], Sent]:
    return lambda: Sent(documents=(GOOD, b'{"video": {"media": 0}}'), media=(data(),))


def uri(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def cases() -> list[Case]:
    """Every case; names are unique."""
    return [*_json(), *_numbers(), *_sizes(), *_references(), *_images(), *_videos(), *_totals()]


def _json() -> Iterator[Case]:
    def bad(name: str, raw: Any, error: str) -> Case:
        return Case(name, document(raw), f"document 1: {error}")

    yield bad("no bytes", b"", "is not valid JSON")
    yield bad("half an object", b'{"text": "a', "is not valid JSON")
    yield bad("not UTF-8", b'{"text": "\xff\xfe"}', "is not UTF-8")
    yield bad("overlong UTF-8", b'{"text": "\xc0\xaf"}', "is not UTF-8")
    yield bad("half a surrogate pair", b'{"text": "\\ud800"}', "text holds half of a surrogate pair at character 0")
    yield bad("half a surrogate pair in a reference", b'{"image": "data:\\ud800"}', "image 0: is a data URI without")
    yield bad(
        "half a surrogate pair in a kind",
        b'{"image": "data:\\ud800;base64,YQ=="}',
        r"image 0: .*wrong kind \(data:\\ud800",
    )
    yield bad("half a surrogate pair in a key", b'{"\\udfff": 1}', r"has the unknown key '\\udfff'")
    yield bad("a long key", {"k" * 10**6: 1}, "has the unknown key 'kkk")
    yield bad("a terminal's escapes", {"\x1b]0;x\x07": 1}, r"has the unknown key '\\x1b\]0;x\\x07'")
    yield bad("an escape in a kind", {"image": "data:\x1b[2J;base64,YQ=="}, r"image 0: .*wrong kind \(data:\\x1b\[2J")
    yield bad("the same key twice", b'{"text": "a", "text": "b"}', "has the key 'text' twice in one object")
    yield bad("nested 100,000 deep", b"[" * 10**5, "is not valid JSON")
    yield bad("objects 100,000 deep", b'{"text":' * 10**5, "is not valid JSON")
    yield bad("nested deep and closed", b'{"text": ' + b"[" * 10**5 + b"]" * 10**5 + b"}", "is not valid JSON")
    yield bad("an array", b"[1]", "is a JSON array, not an object")
    yield bad("a number", b"1e400", "is a JSON number, not an object")
    yield bad("not a number", b"NaN", "is a JSON number, not an object")
    yield bad("a list of lists", {"text": [["a"]]}, "text is a JSON array, not a string")
    yield bad("a number as text", b'{"text": 1e400}', "text is a JSON number")
    yield bad("an empty object", {}, "is empty: it needs a text, an image or a video")
    yield bad("an object as video", {"video": {"media": 0, "fps": 1}}, "video is a JSON object")
    yield Case("a list as query", lambda: Sent(query=b'["a"]'), "query: is a JSON array, not an object")
    yield Case("an instruction that is no text", lambda: Sent(instruction=b"\xed\xa0\x80"), "instruction: is not UTF-8")
    yield Case("an empty instruction", lambda: Sent(instruction=b""), None)
    yield Case("zeros as text", document({"text": "\0" * 1000}), None)
    yield Case("marks of direction", document({"text": "\u202e\u2066abc" * 100}), None)


def _numbers() -> Iterator[Case]:
    def options(name: str, raw: bytes, error: str) -> Case:
        return Case(f"options: {name}", lambda: Sent(options=raw), f"options: {error}")

    yield options("NaN", b'{"fps": NaN}', "fps is NaN; it must be")
    yield options("infinity", b'{"fps": 1e400}', "fps is Infinity; it must be")
    yield options("nothing below zero", b'{"fps": -Infinity}', "fps is -Infinity")
    yield options("zero", b'{"fps": -0.0}', r"fps is -0\.0")
    yield options("negative frames", b'{"max_frames": -5}', "max_frames is -5")
    yield options("huge frames", b'{"max_frames": 1000000000000}', "max_frames is 1000000000000")
    yield options("a number of 100,000 digits", b'{"max_frames": ' + b"9" * 10**5 + b"}", "is not valid JSON")
    yield options("a number of 4,000 digits", b'{"max_frames": ' + b"9" * 4000 + b"}", "max_frames is 9999")
    yield options("twice", b'{"fps": 1, "fps": 2}', "has the key 'fps' twice")
    yield options("a list", b"[]", "is a JSON array")
    yield options("deep", b"[" * 10**5, "is not valid JSON")
    for name, index, error in (
        ("beyond", 7, "media 7 does not exist; the request carries 0"),
        ("negative", -1, "media -1 does not exist"),
        ("a boolean", True, '"media" is a JSON boolean'),
        ("a fraction", 0.0, '"media" is a JSON number, not a number|"media" is 0.0'),
        ("a text", "0", '"media" is a JSON string'),
        ("4,000 digits", 10**3999, "media 1000000"),
    ):
        yield Case(f"media: {name}", document({"image": {"media": index}}), f"document 1: image: {error}")


def _sizes() -> Iterator[Case]:
    yield Case("no documents", lambda: Sent(documents=()), "documents: there are none|shape")
    yield Case(
        "100,000 documents", lambda: Sent(documents=(GOOD,) * 10**5), "documents: there are 100000; at most 4096"
    )
    yield Case("a text of a million characters", document({"text": "red " * 250_000}), None, slow=True)
    yield Case("a million joiners", document({"text": "\u200d" * 10**6}), None, slow=True)
    yield Case("a text too long", document({"text": "a" * (10**6 + 1)}), "document 1: text is 1000001 characters long")
    long = json.dumps({"text": ["a" * 10] * 100_001}).encode()
    yield Case("texts too long together", document(long), "document 1: text is 1000010 characters long")
    yield Case("an instruction too long", lambda: Sent(instruction=b"a" * 2 * 10**6), "instruction: is 2000000 char")
    yield Case("10,000 unused media", lambda: Sent(media=(b"x",) * 10**4), None)
    most = json.dumps({"image": [{"media": 0}] * 16_385}).encode()
    yield Case(
        "16,385 images", lambda: Sent(documents=(most,), media=(m.png(9, 9),)), "document 0: makes more than 16384 im"
    )
    many = json.dumps({"image": [{"media": 0}] * 9_000}).encode()
    yield Case(
        "9,000 images",
        lambda: Sent(documents=(many,), media=(m.png(9, 9),)),
        r"document 0: its images and videos take \d+ t",
    )
    frames = json.dumps({"video": [{"media": 0}] * 16_385}).encode()
    yield Case(
        "16,385 frames", lambda: Sent(documents=(frames,), media=(m.png(9, 9),)), "document 0: makes more than 16384 im"
    )
    yield Case("many broken media", lambda: Sent(
        documents=(b'{"image": {"media": 9999}}',), media=(b"x",) * 10**4), "document 0: image 0: cannot be decoded")  # fmt: skip


def _references() -> Iterator[Case]:
    paths = ("/etc/passwd", "../../etc/passwd", "file:///etc/passwd", "file://localhost/etc/passwd", "/proc/self/environ",
             "/dev/zero", "~/.ssh/id_rsa", "\\\\host\\share", "/etc/passwd\0.png", "config.pbtxt", "ftp://host/a.png",
             "gopher://127.0.0.1:6379/_x", "concat:/etc/passwd", "FILE:///etc/passwd", "", "\ud800")  # fmt: skip
    for path in paths:
        yield Case(f"path {path!a}", document({"image": path}), "document 1: image 0: refers to a local file, and this")
    addresses = ("http://169.254.169.254/latest/meta-data/", "https://169.254.169.254/", "https://[::ffff:169.254.169.254]/",
                 "https://2852039166/", "https://0xa9fea9fe/", "http://localhost:8000/v2", "https://user:pass@example.com/",
                 "https://example.com:8000/", "HTTPS://EXAMPLE.COM/", "https://127.1/", "https://example.com@127.0.0.1/")  # fmt: skip
    for address in addresses:
        yield Case(f"address {address}", document({"video": address}), "document 1: video 0: refers to an address that")
    yield Case("broken address", document({"image": "https://[::1"}), "document 1: image 0: is no address")
    yield Case("impossible port", document({"image": "https://a:99999999/"}), "document 1: image 0: is no address")
    yield Case(
        "frames by address", document({"video": ["https://[", "https://["]}), "document 1: video 0: is no address"
    )
    yield Case(
        "wrong base64", document({"image": "data:image/png;base64,@@@@"}), "document 1: image 0: holds broken base64"
    )
    yield Case(
        "cut base64", document({"image": "data:image/png;base64,YWJ"}), "document 1: image 0: holds broken base64"
    )
    yield Case("no base64", document({"image": "data:image/png,abc"}), "document 1: image 0: is a data URI without")
    yield Case(
        "a data URI without end",
        document({"image": "data:" + "a" * 10**6}),
        "document 1: image 0: is a data URI without",
    )
    yield Case(
        "a page as image", document({"image": uri(b"<html>", "text/html")}), "document 1: image 0: .* wrong kind"
    )
    yield Case(
        "a video as image",
        document({"image": uri(m.film(), "video/mp4")}),
        "document 1: image 0: cannot be decoded as an im",
    )
    yield Case(
        "an image as video",
        document({"video": uri(m.png(64, 64))}),
        "document 1: video 0: cannot be decoded as a video",
    )


def _images() -> Iterator[Case]:
    none = "document 1: image 0: cannot be decoded as an image"
    pixels = r"document 1: image 0: has \d+x\d+ pixels; at most 67108864 are allowed"
    broken: dict[str, Callable[[], bytes]] = {
        "SVG": lambda: m.SVG, "EPS": lambda: m.EPS, "ICO": lambda: m.saved("ICO"), "PDF": lambda: b"%PDF-1.7\n",
        "zip": lambda: b"PK\3\4" + bytes(99), "gzip": lambda: b"\x1f\x8b\x08" + bytes(99), "zeros": lambda: bytes(10**6),
        "half a PNG": lambda: m.saved("PNG", (300, 300))[:-40], "half a JPEG": lambda: m.saved("JPEG", (300, 300))[:700],
        "half a WebP": lambda: m.saved("WEBP", (300, 300))[:-20], "half a GIF": lambda: m.saved("GIF", (300, 300))[:90],
        "half a TIFF": lambda: m.saved("TIFF", (300, 300))[:-99], "half a BMP": lambda: m.saved("BMP", (300, 300))[:-99],
        "a head alone": lambda: m.PNG_HEAD,
        "no width": lambda: m.png(0, 9), "a TIFF's tile of another kind": lambda: m.tiff(8, 8, 8192, kind=17),
        "100,000 chunks": lambda: m.png_of_chunks(10**5), "100,000 markers": lambda: m.jpeg_of_markers(10**5),
        "runs of one pixel": lambda: m.bmp_of_runs(800),
    }  # fmt: skip
    for name, data in broken.items():
        yield Case(f"image: {name}", image(data), none)
    large: dict[str, Callable[[], bytes]] = {
        "100 megapixels": lambda: m.png(10_000, 10_000), "a PNG of 2^31": lambda: m.png(2**31 - 1, 1, rows=0),
        "a GIF of 65535": lambda: m.gif(65535, 65535), "a WebP of 16 million": lambda: m.webp(2**24, 2**24),
        "a BMP of negative width": lambda: m.bmp(-9, 9), "a BMP of 2^31": lambda: m.bmp(2**31 - 1, 2**31 - 1), "a TIFF of 2^32": lambda: m.tiff(2**32 - 1, 2**32 - 1),
        "a TIFF's tile": lambda: m.tiff(8, 8, 65536),
        "a PPM of 2^31": lambda: b"P6 2147483647 2147483647 255\n",
    }  # fmt: skip
    for name, data in large.items():
        yield Case(f"image: {name}", image(data), pixels)
    yield Case(
        "image: a strip", image(lambda: m.png(2001, 10)), "document 1: image 0: is 2001x10 pixels; one side may be"
    )
    yield Case("image: digits", image(lambda: m.ppm_in_digits(1000)), "document 1: image 0: is a PPM in digits of 6000")
    yield Case(
        "image: scan after scan", image(lambda: m.jpeg_of_scans(4000, 600)), "document 1: image 0: makes more than 42"
    )
    yield Case(
        "image: scan after scan in a TIFF", image(lambda: m.tiff_of_scans(4096, 300)),
        "document 1: image 0: makes more than 42",
    )  # fmt: skip
    yield Case(
        "image: tile after tile",
        image(lambda: m.tiff(2**20, 64, 8192)),
        "document 1: image 0: makes more than 42",
    )
    yield Case(
        "image: empty lines of runs",
        image(lambda: m.bmp_of_runs(8192, b"\x01\x05\0\0" * 8192)),
        "document 1: image 0: is a run-length encoded BMP of 67108864 pixels",
    )
    yield Case("image: EXIF in a ring", image(lambda: m.jpeg_with_exif(m.EXIF_RING)), None)
    yield Case("image: EXIF of gigabytes", image(lambda: m.jpeg_with_exif(m.EXIF_SIZES)), None)
    for form in ("GIF", "PNG", "WEBP"):
        yield Case(f"image: a moving {form}", image(lambda form=form: m.saved(form, frames=9)), None)
    yield Case("image: 64 megapixels", image(lambda: m.png(8192, 8192)), None, slow=True)


def _videos() -> Iterator[Case]:
    none = "document 1: video 0: cannot be decoded as a video"
    broken: dict[str, Callable[[], bytes]] = {
        "ffconcat": lambda: m.FFCONCAT, "SDP": lambda: m.SDP, "HLS": lambda: m.HLS, "SVG": lambda: m.SVG,
        "a PNG": lambda: m.png(64, 64), "half": lambda: m.film(60, (320, 240))[:9000], "a tail": lambda: m.film()[99:],
        "half a Matroska": lambda: m.film(60, (320, 240), "matroska")[:4000],
        "no header": lambda: m.film_claiming("nothing"), "sound alone": m.sound,
        "2^31 frames": lambda: m.film_claiming("frames"),
    }  # fmt: skip
    for name, data in broken.items():
        yield Case(f"video: {name}", video(data), none)
    for name, what in {"a duration of years": "duration", "no clock": "clock"}.items():  # every frame is there
        yield Case(f"video: {name}", video(lambda what=what: m.film_claiming(what)), None)
    yield Case("video: 65 streams", video(lambda: m.film_of_streams(65)), None)
    yield Case("video: 65535x65535 by its container alone", video(lambda: m.film_claiming("pixels")), None)
    for name, data in m.PROMISING.items():
        yield Case(f"video: {name}", video(lambda data=data: data), f"{none}.*its index promises")
    yield Case("video: too many frames", video(lambda: m.film(2, (16, 16), repeat=100_001)),
               "document 1: video 0: has more than 100000 frames", slow=True)  # fmt: skip
    yield Case("video: 4.5 gigapixels", video(lambda: m.film(2, (4096, 4096), repeat=270)),
               "document 1: video 0: has 271 frames of 4096x4096 pixels, and at most 2147483648")  # fmt: skip
    yield Case("video: frames of 16 megapixels", video(lambda: m.film(2, (4096, 4096), repeat=63)), None, slow=True)


def _totals() -> Iterator[Case]:
    """Each part within its limit, all together not."""
    text = json.dumps({"text": "x" * 999_999}).encode()
    yield Case(
        "characters in all", lambda: Sent(documents=(text,) * 5), "document 4: makes more than 4194304 characters"
    )
    values = b'{"text": [' + b"[]," * 4_200_000 + b"[]]}"
    yield Case(
        "values in all", lambda: Sent(documents=(values,)), "document 0: makes more than 4194304 JSON values", slow=True
    )
    words = json.dumps({"text": "a b " * 200}).encode()
    yield Case(
        "tokens in all",
        lambda: Sent(documents=(words,) * 4096),
        r"document \d+: makes more than 1048576 tokens",
        slow=True,
    )
    pictures = tuple(m.png(1200 + index, 1600) for index in range(80))
    shown = tuple(json.dumps({"image": {"media": index}}).encode() for index in range(80))
    yield Case("tokens of images in all", lambda: Sent(documents=shown, media=pictures),
               r"document \d+: image 0: makes more than 131072 tokens of images", slow=True)  # fmt: skip


if __name__ == "__main__":
    from tests.unit.engine.run_hostile import main

    raise SystemExit(main())
