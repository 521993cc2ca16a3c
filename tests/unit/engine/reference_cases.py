"""The requests whose official scores are recorded: all kinds of content, their mixtures, and what breaks parity.

``record_reference.py`` gives them to the official implementation, the parity tests to the engine.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from PIL import Image
from tests.unit.engine.reference_cases_media import CODECS, REORDERED, Case, Maker

if TYPE_CHECKING:
    from collections.abc import Iterator

RED = {"text": "a red circle"}
FILLING = 10240 - 61
"""The tokens that ``max_length`` leaves for a document behind the query ``RED``, in the demo's tokenizer."""
NTSC = Fraction(30000, 1001)


def make_cases() -> list[Case]:
    """All cases, always the same."""
    families = (_edges, _texts, _lengths, _images, _large, _modes, _sets, _frames, _videos, _mixtures)
    return [case for family in families for case in family()]


def _edges() -> Iterator[Case]:
    """Signs that the tokenizer joins across the prompt's parts, and one of each kind of content."""

    def at(name: str) -> Maker:
        return Maker(f"edge/{name}")

    yield at("punctuation").case(
        {"text": "Which one? (a red circle...)"}, {"text": "(this)?"}, {"text": "!?\n\n  x"}, {"text": ":"}
    )
    yield at("leading-space").case({"text": "  red  "}, {"text": "\n\nred circle"}, {"text": " . "}, {"text": "\t\t"})
    yield at("unicode").case(
        {"text": "красный круг 赤い丸 🔴"},
        {"text": "e\u0301toile noire ≠ ﬁ"},
        {"text": "عربي 12345"},
        {"text": "\u200b"},
    )
    yield at("list").case(
        {"text": ["a red", " circle"]}, {"text": ["one ", "two", "three?"]}, {"text": ["", "blue star"]}
    )
    yield at("empty").case(RED, {"text": ""}, {"text": "a blue star"})
    yield at("newline-end").case({"text": "red circle.\n"}, {"text": "red circle.\n"}, {"text": "star:\n\n"})
    yield at("instruction").case(RED, {"text": "a blue circle"}, instruction="Find a document of the same colour!")
    yield at("instruction-colon").case(RED, {"text": "a red star"}, instruction="Rank: by shape:")
    yield at("instruction-newline").case(RED, {"text": "a red star"}, instruction="Rank\nby shape.\n")
    make = at("text-first-sign")
    yield make.case(
        {"image": make.picture(), "text": "?!"},
        {"image": make.picture(), "text": ">: a star"},
        {"video": make.frames(2), "text": "..."},
        {"image": [make.picture(), make.picture()], "text": ["\n", "\n"]},
    )
    make = at("one-of-each")
    yield make.case(
        RED,
        {"text": make.text()},
        {"image": make.picture()},
        {"video": make.frames(2)},
        {"video": make.encoded(12)},
        {"video": [make.frames(2), make.encoded(6)], "image": [make.picture()], "text": "all"},
    )
    make = at("queries-video")
    yield make.case({"video": make.frames(2)}, {"text": make.text()}, {"image": make.picture()})
    make = at("same-picture-everywhere")
    one = make.picture(80, 60)
    yield make.case({"image": one}, {"image": one}, {"image": [one, one]}, {"video": [one, one]})


def _texts() -> Iterator[Case]:
    for number in range(32):
        make = Maker(f"text/{number}")
        query = make.text() if number % 3 else make.words(1 + number)
        documents = [make.text(), make.words(make.rng.randint(1, 12)), make.words(make.rng.randint(20, 120))]
        instruction = make.words(make.rng.randint(1, 40)) if number % 4 == 0 else None
        yield make.case({"text": query}, *({"text": text} for text in documents), instruction=instruction)


def _lengths() -> Iterator[Case]:
    """Up to the limit on a pair's tokens, to the token, and over it."""
    for over in (-1, 0, 1, 2, 700):
        # Each " red" is a token; the last ones differ, so that it shows which of them is cut off.
        yield Maker(f"length/limit{over:+}").case(RED, {"text": " red" * (FILLING + over - 8) + " star blue" * 4})
    for count in (250, 500, 1000, 2000, 2900, 4500):
        make = Maker(f"length/document-{count}")
        yield make.case(RED, {"text": make.words(count)})
    for count in (300, 1200, 2000, 3100):
        make = Maker(f"length/query-{count}")
        yield make.case({"text": make.words(count)}, {"text": make.text()}, {"text": make.words(40)})
    make = Maker("length/query-and-document")
    yield make.case({"text": make.words(400)}, {"text": make.words(4500)})
    make = Maker("length/instruction")
    yield make.case(RED, {"text": make.text()}, instruction=make.words(500))
    make = Maker("length/image-cut")
    yield make.case(RED, {"image": make.picture(300, 200), "text": make.words(4500)})
    make = Maker("length/video-cut")
    yield make.case(RED, {"video": make.frames(4), "text": make.words(4500)})
    make = Maker("length/image-query-cut")
    yield make.case({"image": make.picture(), "text": "this"}, {"text": make.words(4500)})
    make = Maker("length/list-cut")
    yield make.case(RED, {"text": [make.words(2000), make.words(3000)]})


def _images() -> Iterator[Case]:
    """Odd sizes, drawn and of noise, on either side."""
    for number in range(36):
        make = Maker(f"image/{number}")
        rng = make.rng
        width, height = (rng.choice((rng.randint(1, 40), rng.randint(20, 300), rng.randint(200, 500))) for _ in "wh")
        odd = make.put(make.noise(width, height) if number % 4 == 0 else make.drawn(width, height))
        if number % 3:
            yield make.case({"text": make.text()}, {"image": odd}, {"image": make.some_picture()})
        else:
            yield make.case({"image": odd}, {"text": make.text()}, {"image": make.some_picture()})


def _large() -> Iterator[Case]:
    """Images at and over the limits on their tokens and on their proportions."""
    for width, height in ((1200, 1536), (1337, 1391), (2600, 900), (40, 8000), (3000, 15), (2, 400), (1023, 65)):
        make = Maker(f"large/{width}x{height}")
        yield make.case(RED, {"image": make.picture(width, height)})
    make = Maker("large/five")
    yield make.case(RED, {"image": [make.picture(900, 1000) for _ in range(5)], "text": make.words(4500)})
    make = Maker("large/query")
    yield make.case({"image": make.picture(1100, 1000)}, {"text": make.text()}, {"image": make.picture()})


def _modes() -> Iterator[Case]:
    for mode in ("L", "LA", "P", "1", "RGBA", "CMYK"):
        make = Maker(f"mode/{mode}")
        image = make.drawn(90, 70)
        if mode in ("LA", "RGBA"):
            image = image.convert("RGBA")
            image.putalpha(Image.linear_gradient("L").resize(image.size))
            image = image.convert(mode)
        else:
            image = image.convert(mode)
        yield make.case(RED, {"image": make.put(image, "TIFF")}, {"image": make.picture()})
    make = Maker("mode/turned")
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held upright; neither side turns the picture
    yield make.case(RED, {"image": make.put(make.drawn(96, 48), "PNG", exif=exif)})


def _sets() -> Iterator[Case]:
    """Several images, with and without text."""
    for number in range(22):
        make = Maker(f"images/{number}")
        several = [make.some_picture() for _ in range(2 + number % 5)]
        other = {"image": [make.some_picture() for _ in range(1 + number % 3)], "text": make.text()}
        if number % 3:
            yield make.case({"text": make.text()}, {"image": several}, other)
        else:
            yield make.case({"image": several, "text": make.words(number)}, {"text": make.text()}, other)


def _frames() -> Iterator[Case]:
    """Lists of 1 to 64 frames, and more than are used."""
    for count in (*range(1, 18), 20, 21, 23, 31, 32, 33, 47, 48, 63, 64, 65, 90):
        make = Maker(f"frames/{count}")
        if count % 4 == 2:
            yield make.case({"video": make.frames(count)}, {"text": make.text()}, {"text": make.text()})
        else:
            yield make.case({"text": make.text()}, {"video": make.frames(count)})
    for count, size in ((3, (320, 240)), (4, (100, 70)), (5, (33, 180)), (2, (7, 5)), (6, (500, 40)), (9, (1280, 720))):
        make = Maker(f"frames/{count}-of-{size[0]}x{size[1]}")
        yield make.case({"text": make.text()}, {"video": make.frames(count, size)})
    make = Maker("frames/noise")
    yield make.case(RED, {"video": [make.put(make.noise(150, 110)) for _ in range(3)]})
    make = Maker("frames/several")
    yield make.case(RED, {"video": [make.frames(3), make.frames(2), make.frames(5)], "text": "three"})


def _videos() -> Iterator[Case]:
    """Encoded videos: codecs, lengths, rates, and which frames are asked for."""
    for number, codec in enumerate(CODECS):
        for count, rate in ((2, 10), (7, 24), (30, NTSC), (61, 25)):
            make = Maker(f"video/codec{number}-{count}")
            yield make.case({"text": make.text()}, {"video": make.encoded(count, rate, codec)})
    for count in (9, 30):
        make = Maker(f"video/reordered-{count}")
        yield make.case({"text": make.text()}, {"video": make.encoded(count, 6, REORDERED)})
    asked = (
        (3, 5, {}), (4, 1, {}), (5, 2, {}), (31, 10, {"fps": 2}), (31, 10, {"fps": 0.5}), (90, 30, {"fps": 5}),
        (48, 12, {"max_frames": 4}), (50, 10, {"fps": 3, "max_frames": 9}), (25, NTSC, {"fps": 30, "max_frames": 10}),
        (130, 10, {"fps": 10}), (66, 1, {}), (40, 60, {"fps": 7.5}), (20, 10, {"max_frames": 2}),
        (12, 8, {"fps": 1000}),
    )  # fmt: skip
    for number, (count, rate, options) in enumerate(asked):
        make = Maker(f"video/asked{number}")
        yield make.case(
            {"text": make.text()}, {"video": make.encoded(count, rate, CODECS[number % 3])}, options=options
        )
    for number, size in enumerate(((320, 240), (98, 70), (34, 180), (500, 40), (1280, 720))):
        make = Maker(f"video/{size[0]}x{size[1]}")
        yield make.case({"text": make.text()}, {"video": make.encoded(16, 8, CODECS[number % 3], size)})
    make = Maker("video/query")
    yield make.case({"video": make.encoded(20, 5)}, {"text": make.text()}, {"video": make.encoded(9, 3)})
    make = Maker("video/several")
    yield make.case(RED, {"video": [make.encoded(20, 5), make.encoded(6, 24, CODECS[2])], "text": "two"})


def _mixtures() -> Iterator[Case]:
    for number in range(44):
        make = Maker(f"mixed/{number}")
        query = make.some_content()
        documents = [make.some_content() for _ in range(1 + number % 3)]
        instruction = make.words(12) if number % 5 == 0 else None
        yield make.case(query, *documents, instruction=instruction, options={"fps": 2} if number % 7 == 0 else None)
