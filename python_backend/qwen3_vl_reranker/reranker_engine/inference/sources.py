"""Reads the encoded bytes of images and videos: from the request, or from files and addresses that are allowed."""

from __future__ import annotations

import base64
import binascii
import os
import stat
import time
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InputError
from .fetch import fetch
from .references import MediaIndex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .references import Reference

DOWNLOAD_S = 10.0
"""Seconds for all downloads of one request together."""


@dataclass(frozen=True)
class MediaPolicy:
    """What media may be read, and how much of it."""

    allowed_roots: tuple[Path, ...] = ()
    """Local files may be read from below these folders."""
    allowed_hosts: tuple[str, ...] = ()
    """https addresses may be fetched from exactly these hosts (``host`` or ``host:port``)."""
    max_bytes: int = 256 * 2**20
    """The largest encoded image or video; also of all files and addresses of one request together."""
    max_pixels: int = 64 * 2**20
    """The largest decoded image or video frame: a file of a few kB can claim gigabytes of them."""
    max_request_pixels: int = 2**32
    """Pixels decoded for one request: 64 of the largest pictures, or two of the longest videos."""
    max_video_pixels: int = 2**31
    """Pixels of all frames of one video: 77 seconds in 1280x720, or 34 in 1920x1080, with 30 frames a second. It took
    20 seconds to decode on two cores."""
    max_video_frames: int = 100_000
    """The longest video, in frames, however few of them are used."""


@dataclass
class Sources:
    """Reads what one request refers to. A file or an address is read once, so that it cannot change meanwhile."""

    policy: MediaPolicy
    media: Sequence[bytes] = ()
    _known: dict[str, bytes] = field(default_factory=dict)
    _external_bytes: int = 0
    _download_s: float = 0.0

    def read(self, reference: Reference) -> bytes:
        """The encoded bytes behind a reference.

        Raises:
            InputError: They cannot or must not be read.
        """
        if isinstance(reference, MediaIndex):
            data = self.media[reference.index]
        elif reference.startswith("data:"):
            data = _data_uri(reference, self.policy.max_bytes)
        elif reference in self._known:
            return self._known[reference]
        else:
            data = self._known[reference] = self._read_external(reference)
        if len(data) > self.policy.max_bytes:
            raise _too_long(len(data), self.policy.max_bytes)
        if not data:
            raise InputError("is empty (0 bytes)")
        return data

    def is_remote(self, reference: Reference) -> bool:
        """Whether ``read`` asks another host."""
        return (
            isinstance(reference, str)
            and bool(self.policy.allowed_hosts)
            and reference not in self._known
            and _is_address(reference)
        )

    def _read_external(self, reference: str) -> bytes:
        limit = self.policy.max_bytes
        if _is_address(reference):
            start = time.monotonic()
            try:
                data = fetch(reference, self.policy.allowed_hosts, limit, DOWNLOAD_S - self._download_s)
            finally:
                self._download_s += time.monotonic() - start
        else:
            data = _local(reference, self.policy.allowed_roots, limit)
        if len(data) > limit:
            raise InputError(f"is more than {limit} bytes long; at most {limit} are allowed")
        self._external_bytes += len(data)
        if self._external_bytes > limit:
            raise InputError(f"makes the files and addresses of the request longer than {limit} bytes together")
        return data


def _is_address(reference: str) -> bool:
    return reference[:8].lower().startswith(("http://", "https://"))


def _too_long(size: int, limit: int) -> InputError:
    return InputError(f"is {size} bytes long; at most {limit} are allowed")


def _local(reference: str, roots: Sequence[Path], limit: int) -> bytes:
    if not roots:
        raise InputError("refers to a local file, and this server allows none; send the bytes instead")
    path = urllib.parse.unquote(reference.removeprefix("file://"))
    try:
        real = os.path.realpath(path)
        # Before the file is touched: the error must not tell what exists outside of the allowed folders.
        _must_be_inside(real, roots)
        # A fifo would block, and a device never end. What is there by now may be a link that was not there before.
        descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - an open descriptor
            _must_be_inside(os.path.realpath(f"/proc/self/fd/{descriptor}"), roots)
            _must_be_a_file(os.fstat(descriptor), limit)
            return file.read(limit + 1)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"cannot be read ({cause})") from error


def _must_be_inside(real: str, roots: Sequence[Path]) -> None:
    """After resolving: neither ".." nor a symbolic link leads out of an allowed folder."""
    if not any(Path(real).is_relative_to(root.resolve()) for root in roots):
        raise InputError("refers to a local file outside the folders that this server allows")


def _must_be_a_file(status: os.stat_result, limit: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise InputError("refers to what is not a plain file")
    if status.st_size > limit:
        raise _too_long(status.st_size, limit)


def _data_uri(reference: str, limit: int) -> bytes:
    # The head is looked for in the first characters only: the body may be hundreds of megabytes. It may hold commas:
    # "data:video/webm;codecs=vp8,opus;base64,", as browsers write.
    header, mark, _ = reference[:200].partition(";base64,")
    if not mark:
        raise InputError("is a data URI without ;base64,")
    if not header.startswith(("data:image/", "data:video/")):
        raise InputError(f"is a data URI of the wrong kind ({header[:40]}); it begins with data:image/ or data:video/")
    header += mark
    size = (len(reference) - len(header)) * 3 // 4
    if size > limit + 2:
        raise _too_long(size, limit)
    try:
        return base64.b64decode(_joined(reference[len(header) :]), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"holds broken base64 ({error})") from error


def _joined(text: str) -> str:
    """Base64 without line breaks, which mail tools and ``base64`` write."""
    return "".join(text.split()) if "\n" in text else text
