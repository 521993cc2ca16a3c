"""The little world that the demo checkpoints rank: coloured shapes, told in words, drawn, or filmed.

Everything is drawn from a ``random.Random``, so that a seed gives the same world on every machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

if TYPE_CHECKING:
    import random

COLOURS = {
    "red": (214, 40, 40),
    "green": (46, 160, 67),
    "blue": (38, 84, 214),
    "yellow": (240, 208, 32),
    "purple": (136, 46, 168),
    "orange": (242, 128, 24),
    "cyan": (32, 196, 208),
    "black": (16, 16, 16),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
BACKGROUNDS = ((255, 255, 255), (236, 236, 236), (214, 214, 214), (226, 218, 200), (206, 218, 226))
COMBINATIONS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
# Never shown in training: a model that ranks these has learnt what a colour and a shape are, not a list of pairs.
# Every colour and every shape is left out at least once.
HELD_OUT = tuple((colour, SHAPES[index % len(SHAPES)]) for index, colour in enumerate(COLOURS))
SEEN = tuple(pair for pair in COMBINATIONS if pair not in HELD_OUT)
SIZE = 64

TEMPLATES = (
    "a {c} {s}",
    "the {c} {s}",
    "one {c} {s}",
    "a {s} that is {c}",
    "a picture of a {c} {s}",
    "a drawing of the {s} in {c}",
    "find a {c} {s}",
    "there is a {c} {s} here",
    "this shows a {s}, and the {s} is {c}",
    "a small {c} {s} on a plain background",
    "a large {s}, painted {c}",
    "the colour is {c} and the shape is a {s}",
)

Combination = tuple[str, str]


@dataclass(frozen=True)
class Thing:
    """One query or document: a combination, and how it is told (``text``, ``image`` or ``video``)."""

    combination: Combination
    kind: str
    text: str = ""
    frames: tuple[Image.Image, ...] = ()


def tell(rng: random.Random, combination: Combination, kind: str) -> Thing:
    """Tell a combination in words, as a picture, or as a film of two to four frames."""
    if kind == "text":
        colour, shape = combination
        return Thing(combination, kind, text=rng.choice(TEMPLATES).format(c=f"{colour}", s=f"{shape}"))
    if kind == "image":
        return Thing(combination, kind, frames=(draw(rng, combination),))
    return Thing(combination, kind, frames=film(rng, combination, rng.choice((2, 3, 4))))


def draw(rng: random.Random, combination: Combination) -> Image.Image:
    """A picture of 64x64 pixels; place, size, turn, tint and background vary."""
    radius = rng.uniform(15, 26)
    centre = (rng.uniform(radius + 2, SIZE - radius - 2), rng.uniform(radius + 2, SIZE - radius - 2))
    return _paint(rng, combination, centre, radius, rng.uniform(-0.3, 0.3), rng.choice(BACKGROUNDS))


def film(rng: random.Random, combination: Combination, count: int) -> tuple[Image.Image, ...]:
    """The shape moves, grows or shrinks in front of one background."""
    background = rng.choice(BACKGROUNDS)
    radius, grow = rng.uniform(16, 24), rng.uniform(-2, 2)
    turn, spin = rng.uniform(-0.3, 0.3), rng.uniform(-0.1, 0.1)
    x, y = rng.uniform(27, 37), rng.uniform(27, 37)
    dx, dy = rng.uniform(-3, 3), rng.uniform(-3, 3)
    return tuple(
        _paint(rng, combination, (x + dx * at, y + dy * at), radius + grow * at, turn + spin * at, background)
        for at in range(count)
    )


def _paint(
    rng: random.Random,
    combination: Combination,
    centre: tuple[float, float],
    radius: float,
    turn: float,
    background: tuple[int, int, int],
) -> Image.Image:
    colour, shape = combination
    fill = tuple(min(255, max(0, part + rng.randint(-12, 12))) for part in COLOURS[colour])
    scale = 4  # drawn large and shrunk: smooth edges
    image = Image.new("RGB", (SIZE * scale, SIZE * scale), background)
    pen = ImageDraw.Draw(image)
    x, y, r = centre[0] * scale, centre[1] * scale, radius * scale

    def corners(angles: list[float], radii: list[float]) -> list[tuple[float, float]]:
        return [
            (x + size * math.sin(angle + turn), y - size * math.cos(angle + turn))
            for angle, size in zip(angles, radii, strict=True)
        ]

    box = (x - r, y - r, x + r, y + r)
    if shape == "circle":
        pen.ellipse(box, fill=fill)
    elif shape == "ring":
        pen.ellipse(box, fill=fill)
        pen.ellipse((x - r * 0.55, y - r * 0.55, x + r * 0.55, y + r * 0.55), fill=background)
    elif shape == "square":
        pen.polygon(corners([math.pi * (0.25 + 0.5 * k) for k in range(4)], [r] * 4), fill=fill)
    elif shape == "triangle":
        pen.polygon(corners([math.tau * k / 3 for k in range(3)], [r] * 3), fill=fill)
    elif shape == "star":
        pen.polygon(corners([math.tau * k / 10 for k in range(10)], [r, r * 0.42] * 5), fill=fill)
    elif shape == "cross":
        half = math.atan2(0.3, 1)
        angles, radii = [], []
        for k in range(4):
            middle = math.pi / 2 * k
            angles += [middle - half, middle + half, middle + math.pi / 4]
            radii += [r, r, r * 0.4]
        pen.polygon(corners(angles, radii), fill=fill)
    else:
        raise ValueError(f"no such shape: {shape}")
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def choose_documents(
    rng: random.Random, wanted: Combination, pool: tuple[Combination, ...], relevant: int, total: int
) -> list[Combination]:
    """Combinations for ``total`` documents, ``relevant`` of them equal to ``wanted``, shuffled.

    Most of the others share the colour or the shape with it, which is what makes the ranking hard.
    """
    colour, shape = wanted
    near = [one for one in pool if (one[0] == colour) != (one[1] == shape)]
    far = [one for one in pool if one[0] != colour and one[1] != shape]
    others = [rng.choice(near if near and rng.random() < 0.6 else far) for _ in range(total - relevant)]
    chosen = [wanted] * relevant + others
    rng.shuffle(chosen)
    return chosen
