"""From pixels to the vision tower's patches: resizing to whole tokens, normalising, dividing into patches.

The sizes and filters are those of the reference pipeline (qwen-vl-utils, then the Qwen3-VL processor), so that the
same file gives the same patches: an image is resized by Pillow (bicubic), a video's frames by torch (bicubic,
antialiased, rounded to whole values), both to multiples of 32 pixels.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F  # noqa: N812 - the name it has everywhere

from .errors import InputError
from .steps import StepKind, Steps, run_steps

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from reranker_engine.model.config import VisionConfig
    from reranker_engine.model.vision import Grid

    from .media import DecodedVideo

MAX_RATIO = 200
FRAME_LIST_FPS = 2.0
"""A video given as a list of frames carries no clock; the reference takes two frames a second."""
IMAGE_MIN_TOKENS, IMAGE_MAX_TOKENS = 4, 1800
VIDEO_FRAME_MIN_TOKENS, VIDEO_FRAME_MAX_TOKENS, VIDEO_MAX_TOKENS = 128, 768, 7680
FRAME_MAX_TOKENS = 16384
FRAME_FACTOR = 2
"""A listed frame is resized on its own before it is resized as part of its video: by Pillow, to multiples of
``FRAME_FACTOR`` tokens' edges and an area counted in such larger tokens. That is what qwen-vl-utils 0.0.14, its latest
release, does (it hands the edge of a token on as that of a patch); leaving it out moves pixels by up to 7 of 255."""


@dataclass(frozen=True, eq=False)
class Visual:
    """One image or video, resized for the vision tower.

    Attributes:
        frames: [t * temporal, height, width, channels] of uint8.
        grid: (t, h, w) in patches.
        tokens_per_group: Decoder tokens of each of the ``t`` frame groups.
        pipeline: Cuts ``frames`` into patches.
        timestamps: Seconds of each frame group; empty for an image.
    """

    frames: NDArray[np.uint8]
    grid: Grid
    tokens_per_group: int
    pipeline: PixelPipeline
    timestamps: tuple[float, ...] = ()

    @property
    def is_video(self) -> bool:
        return bool(self.timestamps)

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.tokens_per_group

    @property
    def patches(self) -> torch.Tensor:
        """[t * h * w, channels * temporal * patch * patch] of fp32.

        Computed at each access: they take four times the bytes of ``frames``, and are not needed for cached features.
        """
        return self.pipeline.to_patches(self.frames, self.grid)

    @cached_property
    def digest(self) -> bytes:
        """A hash of the pixels and the grid, the vision tower's input; the file's encoding does not matter."""
        digest = hashlib.blake2b(repr(self.frames.shape).encode(), digest_size=32)
        digest.update(np.ascontiguousarray(self.frames).data)
        return digest.digest()


@dataclass(frozen=True)
class PixelPipeline:
    """The pixel pipeline of one checkpoint."""

    vision: VisionConfig
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def factor(self) -> int:
        """Edge of one token in pixels: 32."""
        return self.vision.patch_size * self.vision.spatial_merge_size

    def image(self, image: Image.Image) -> Visual:
        """Patches of an RGB image.

        Raises:
            InputError: It is more than 200 times as long as wide.
        """
        area = self.factor**2
        height, width = token_aligned_size(
            image.height, image.width, self.factor, IMAGE_MIN_TOKENS * area, IMAGE_MAX_TOKENS * area
        )
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
        return self._visual(np.repeat(pixels[None], self.vision.temporal_patch_size, axis=0))

    def frames(self, images: Iterable[Image.Image], count: int, max_frames: int) -> Visual:
        """Patches of a video given as ``count`` RGB frames; at most ``max_frames`` evenly spaced ones are used.

        Raises:
            InputError: The frames differ in size, or are too long and narrow.
        """
        return run_steps(self.frames_steps(images, count, max_frames))

    def frames_steps(self, images: Iterable[Image.Image | StepKind], count: int, max_frames: int) -> Steps[Visual]:
        """As ``frames``; between the images may be the steps that decode them."""
        used = range(count) if count <= max_frames else np.linspace(0, count - 1, max_frames, dtype=int).tolist()
        # Filled up before they are numbered, as in the reference: the copy of the last frame has a time of its own.
        indices = range(len(used) + -len(used) % self.vision.temporal_patch_size)
        kept = frozenset(used)
        listed = self._listed(images, kept)
        first = next(listed)
        while isinstance(first, StepKind):
            yield first
            first = next(listed)
        height, width, _ = first.shape
        return (yield from self._video(chain([first], listed), (height, width), indices, FRAME_LIST_FPS))

    def _listed(
        self, images: Iterable[Image.Image | StepKind], kept: frozenset[int]
    ) -> Iterator[NDArray[np.uint8] | StepKind]:
        """Each listed frame, resized on its own; see ``FRAME_FACTOR``. One at a time: all may be more than memory."""
        factor = self.factor * FRAME_FACTOR
        low, high = IMAGE_MIN_TOKENS * factor**2, FRAME_MAX_TOKENS * factor**2
        first: tuple[str, tuple[int, int]] | None = None
        index = -1
        for image in images:
            if isinstance(image, StepKind):
                yield image
                continue
            index += 1
            if index not in kept:
                continue
            name, size = (
                f"{image.width}x{image.height}",
                token_aligned_size(image.height, image.width, factor, low, high),
            )
            first = first or (name, size)
            if size != first[1]:
                raise InputError(f"has frames of different sizes ({', '.join(sorted((first[0], name)))})")
            yield np.array(image.resize((size[1], size[0]), Image.Resampling.BICUBIC))

    def video(self, video: DecodedVideo) -> Visual:
        """Patches of a decoded video.

        Raises:
            InputError: Its frames are too long and narrow, or cannot be decoded.
        """
        return run_steps(self.video_steps(video))

    def video_steps(self, video: DecodedVideo) -> Steps[Visual]:
        """As ``video``; a step decodes and resizes a frame."""
        return self._video(video.steps, (video.height, video.width), video.indices, video.fps)

    def _video(
        self, frames: Iterable[NDArray[np.uint8] | StepKind], size: tuple[int, int], indices: Sequence[int], fps: float
    ) -> Steps[Visual]:
        """Patches of frames of (height, width) ``size``, each resized as it comes.

        The last frame stands for those that ``indices`` or a whole group of frames lack.
        """
        group = self.vision.temporal_patch_size
        missing = -len(indices) % group
        count = len(indices) + missing
        area = self.factor**2
        low = VIDEO_FRAME_MIN_TOKENS * area
        high = max(min(VIDEO_FRAME_MAX_TOKENS * area, VIDEO_MAX_TOKENS * area / count * 2), int(low * 1.05))
        height, width = token_aligned_size(*size, self.factor, low, high)
        whole = []
        for frame in frames:
            if isinstance(frame, StepKind):
                yield frame
            else:
                whole.append(_shrunk(frame, height, width))
        whole += whole[-1:] * (count - len(whole))
        seconds = [index / fps for index in (*indices, *[indices[-1]] * missing)]
        # A group's time is the middle between its first and its last frame.
        timestamps = tuple((seconds[at] + seconds[at + group - 1]) / 2 for at in range(0, len(seconds), group))
        return self._visual(np.stack(whole), timestamps)

    def to_patches(self, frames: NDArray[np.uint8], grid: Grid) -> torch.Tensor:
        """Divide [frames, height, width, channels] into normalised patches, those of a merge block together."""
        patch, merge, group = self.vision.patch_size, self.vision.spatial_merge_size, self.vision.temporal_patch_size
        channels = frames.shape[-1]
        cut = torch.from_numpy(frames).view(
            grid[0], group, grid[1] // merge, merge, patch, grid[2] // merge, merge, patch, channels
        )
        # Reordered as bytes and normalised afterwards, which is six times as fast as the other way round.
        ordered = cut.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(-1, channels, group * patch**2)
        mean, std = (torch.tensor(part)[:, None] * 255 for part in (self.mean, self.std))
        return ordered.float().sub_(mean).div_(std).flatten(1)

    def _visual(self, frames: NDArray[np.uint8], timestamps: tuple[float, ...] = ()) -> Visual:
        count, height, width, _ = frames.shape
        patch = self.vision.patch_size
        grid = (count // self.vision.temporal_patch_size, height // patch, width // patch)
        return Visual(frames, grid, grid[1] * grid[2] // self.vision.spatial_merge_size**2, self, timestamps)


def _shrunk(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """A frame resized as the reference does it: bicubic, antialiased, rounded to whole values."""
    tensor = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float()
    tensor = F.interpolate(tensor, size=(height, width), mode="bicubic", antialias=True, align_corners=False)
    return tensor[0].clamp(0, 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def token_aligned_size(height: int, width: int, factor: int, low: float, high: float) -> tuple[int, int]:
    """(height, width) in multiples of ``factor``, of an area from ``low`` to ``high`` pixels, near the old proportions.

    The rule is qwen-vl-utils' ``smart_resize``; unlike there, a side is never rounded down to nothing.

    Raises:
        InputError: One side is more than 200 times the other.
    """
    ratio = max(height, width) / min(height, width)
    if ratio > MAX_RATIO:
        raise InputError(f"is {width}x{height} pixels; one side may be at most {MAX_RATIO} times the other")
    new_height = max(factor, round(height / factor) * factor)
    new_width = max(factor, round(width / factor) * factor)
    if new_height * new_width > high:
        scale = math.sqrt(height * width / high)
        new_height = max(factor, math.floor(height / scale / factor) * factor)
        new_width = max(factor, math.floor(width / scale / factor) * factor)
    elif new_height * new_width < low:
        scale = math.sqrt(low / (height * width))
        new_height = math.ceil(height * scale / factor) * factor
        new_width = math.ceil(width * scale / factor) * factor
    return new_height, new_width
