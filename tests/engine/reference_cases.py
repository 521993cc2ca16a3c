"""The pairs whose official scores are recorded: all kinds of content, and the odd sizes and signs that break parity.

Used by ``record_reference.py`` only; tests read what it wrote.
"""

from __future__ import annotations

import io
import random
from base64 import b64encode
from typing import Any

from PIL import Image
from shapes import COMBINATIONS, draw, film, tell


def _uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + b64encode(buffer.getvalue()).decode()


def make_cases(seed: int = 11) -> list[dict[str, Any]]:
    """Cases of ``{"id", "query", "documents", "instruction"?}``; every reference is a data URI."""
    rng = random.Random(seed)

    def text() -> dict[str, Any]:
        return {"text": tell(rng, rng.choice(COMBINATIONS), "text").text}

    def picture(width: int = 64, height: int = 64) -> str:
        image = draw(rng, rng.choice(COMBINATIONS))
        return _uri(image if (width, height) == image.size else image.resize((width, height)))

    def frames(count: int) -> list[str]:
        return [_uri(frame) for frame in film(rng, rng.choice(COMBINATIONS), count)]

    def see_through() -> str:
        image = draw(rng, rng.choice(COMBINATIONS)).convert("RGBA")
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        return _uri(image)

    cases = [
        ("text", text(), [text() for _ in range(4)]),
        (
            "text-punctuation",
            {"text": "Which one? (a red circle...)"},
            [{"text": "(this)?"}, {"text": "!?\n\n  x"}, text()],
        ),
        ("text-leading-space", {"text": "  red  "}, [{"text": "\n\nred circle"}, {"text": " . "}, {"text": "\t\t"}]),
        (
            "text-unicode",
            {"text": "красный круг 赤い丸 🔴"},
            [{"text": "e\u0301toile noire ≠ ﬁ"}, {"text": "عربي 12345"}, text()],
        ),
        (
            "text-list",
            {"text": ["a red", " circle"]},
            [{"text": ["one ", "two", "three?"]}, {"text": ["", "blue star"]}],
        ),
        ("text-empty", text(), [{"text": ""}, text()]),
        ("text-newline-end", {"text": "red circle.\n"}, [{"text": "red circle.\n"}, text()]),
        ("text-long", text(), [{"text": "A red circle, then a blue one. " * 20}, {"text": "no " * 150}]),
        ("instruction", text(), [text(), text()], "Find a document of the same colour!"),
        ("instruction-colon", text(), [text()], "Rank: by shape:"),
        ("image-document", text(), [{"image": picture()} for _ in range(4)]),
        ("image-query", {"image": picture()}, [text(), text(), {"image": picture()}]),
        ("image-sizes", text(), [{"image": picture(100, 70)}, {"image": picture(31, 200)}, {"image": picture(16, 16)}]),
        ("image-large", text(), [{"image": picture(330, 250)}]),
        ("image-strip", text(), [{"image": picture(640, 9)}, {"image": picture(5, 300)}]),
        (
            "image-and-text",
            {"image": picture(), "text": "this, please"},
            [{"image": picture(), "text": "?! a star"}, text()],
        ),
        ("image-see-through", text(), [{"image": see_through()}, {"image": picture()}]),
        (
            "images",
            text(),
            [{"image": [picture(), picture(96, 64)]}, {"image": [picture() for _ in range(3)], "text": "three"}],
        ),
        (
            "images-query",
            {"image": [picture(), picture()], "text": "both"},
            [{"image": [picture(), picture()]}, text()],
        ),
        ("video-document", text(), [{"video": frames(2)}, {"video": frames(4)}]),
        ("video-odd", text(), [{"video": frames(3)}, {"video": frames(1)}]),
        ("video-query", {"video": frames(2)}, [text(), {"image": picture()}]),
        ("video-wide", text(), [{"video": [picture(96, 48), picture(96, 48)]}]),
        ("video-and-text", text(), [{"video": frames(2), "text": "and a word."}]),
        ("videos", text(), [{"video": [frames(2), frames(2)]}]),
        (
            "mixed-all",
            {"image": picture(), "text": "x"},
            [{"video": frames(2), "image": picture(), "text": ": all of it"}],
        ),
        (
            "mixed-query",
            {"video": frames(2), "image": [picture(), picture()], "text": "q"},
            [{"image": picture()}, text()],
        ),
        (
            "mixed-documents",
            text(),
            [text(), {"image": picture()}, {"video": frames(2)}, {"image": [picture()], "text": "z"}],
        ),
    ]
    return [
        {"id": one[0], "query": one[1], "documents": one[2], **({"instruction": one[3]} if len(one) > 3 else {})}
        for one in cases
    ]
