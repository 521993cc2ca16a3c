"""How a request names an image or a video."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MediaIndex:
    """``{"media": k}``: element ``k`` of the request's ``media`` tensor."""

    index: int


Reference = MediaIndex | str
"""One encoded image or video: an element of ``media``, a data URI, or a path or address (refused unless allowed)."""
Video = Reference | tuple[Reference, ...]
"""An encoded video, or its frames as images."""
