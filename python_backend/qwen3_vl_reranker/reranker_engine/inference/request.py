"""Parses a request. All types are checked here, so that nothing fails deeper inside."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import InputError
from .references import MediaIndex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .media import MediaReader
    from .references import Reference, Video

DEFAULT_INSTRUCTION = "Given a search query, retrieve relevant candidates that answer the query."
MIN_FRAMES, MAX_FRAMES = 2, 768
"""How many frames an option may ask for; the reference's own bounds (qwen-vl-utils, FRAME_FACTOR, FPS_MAX_FRAMES)."""
MAX_FPS = 1000


@dataclass(frozen=True)
class Content:
    """What a query or a document is made of; never empty."""

    texts: tuple[str, ...]
    images: tuple[Reference, ...]
    videos: tuple[Video, ...]


@dataclass(frozen=True)
class Options:
    """What a request chooses; None leaves it to the engine."""

    fps: float | None = None
    max_frames: int | None = None
    refuse_truncation: bool = False
    """Whether a text that is too long is an error; else it loses its end."""
    max_document_tokens: int | None = None
    """Tokens of each document's own content, at most; fewer where the engine allows fewer."""


@dataclass(frozen=True)
class RerankRequest:
    query: Content
    documents: tuple[Content, ...]
    instruction: str
    options: Options
    reader: MediaReader
    """Holds the media that came along, and counts what is decoded of them."""


@dataclass(frozen=True)
class RequestLimits:
    """How large a request may be before anything of it is computed."""

    max_documents: int = 4096
    """Documents of one request."""
    max_text_chars: int = 1_000_000
    """Characters of the instruction, and of all texts of the query or of one document. All but some ten thousand tokens
    would be cut off anyway, after they had cost their tokenizing."""
    max_request_chars: int = 2**22
    """Characters of all texts of a request: four for each of its tokens. Tokenizing them takes seconds."""
    max_media: int = 2**14
    """Images, videos and frames that a request mentions, each as often as it does."""
    max_request_tokens: int = 2**20
    """Tokens of the query and of all documents: 256 for each of 4096 documents."""
    max_visual_tokens: int = 2**17
    """Tokens of all different images and videos, which are in memory at once: 72 of the largest images, or 17 of the
    longest videos. In bf16 they take 8 kB each for every thousand of the model's hidden size."""


class _SizeCounter:
    """Counts the content of one request against its limits."""

    def __init__(self, limits: RequestLimits) -> None:
        self.limits = limits
        self._chars = 0
        self._media = 0
        self._values = 0

    def values(self, raw: bytes) -> None:
        """Before JSON is parsed: each of these bytes outside a text begins a value, which takes up to 100 bytes.

        Within texts they count as characters do; base64 has none of them.
        """
        self._values += raw.count(b"[") + raw.count(b"{") + raw.count(b",")
        most = self.limits.max_request_chars
        if self._values > most:
            raise InputError(f"makes more than {most} JSON values in one request; send fewer documents at a time")

    def content(self, content: Content) -> None:
        chars = sum(len(text) for text in content.texts)
        _check_length("text", chars, self.limits)
        self.chars(chars)
        self._media += len(content.images)
        self._media += sum(len(video) if isinstance(video, tuple) else 1 for video in content.videos)
        most = self.limits.max_media
        if self._media > most:
            raise InputError(f"makes more than {most} images, videos and frames in one request")

    def chars(self, chars: int) -> None:
        self._chars += chars
        most = self.limits.max_request_chars
        if self._chars > most:
            raise InputError(f"makes more than {most} characters in one request; send fewer documents at a time")


def parse_request(
    query: bytes,
    documents: Sequence[bytes],
    instruction: bytes | None,
    options: bytes | None,
    reader: MediaReader,
    limits: RequestLimits,
) -> RerankRequest:
    """Check and convert one request.

    Args:
        query: JSON object.
        documents: JSON objects, at least one.
        instruction: Plain text; None or blank means the default instruction.
        options: JSON object with ``fps``, ``max_frames``, ``truncation`` and ``max_document_tokens``, all optional.
        reader: Holds the encoded images and videos, and tells which of them are images, which decides how
            ``"video": [...]`` is read: a list that begins with an image is one video given by its frames, any other
            list is several videos.
        limits: How large the request may be.

    Raises:
        InputError: Names the query or the document, and the cause.
    """
    if not documents:
        raise InputError("documents: there are none")
    if len(documents) > limits.max_documents:
        raise InputError(
            f"documents: there are {len(documents)}; at most {limits.max_documents} are allowed in one request"
        )
    chosen = _options(options)
    text = _instruction(instruction, limits)
    counter = _SizeCounter(limits)

    def content(raw: bytes, place: str) -> Content:
        try:
            counter.values(raw)
            found = _content(_json_object(raw), reader)
            counter.content(found)
        except InputError as error:
            raise error.at(place) from error
        return found

    return RerankRequest(
        query=content(query, "query"),
        documents=tuple(content(raw, f"document {index}") for index, raw in enumerate(documents)),
        instruction=text,
        options=chosen,
        reader=reader,
    )


def _json_object(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicate_keys)
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 ({error.reason} at byte {error.start})") from error
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"is a JSON {_json_type(value)}, not an object")
    return value


def _no_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that stands twice: one of the two would be content that is ignored."""
    table = dict(pairs)
    if len(table) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        duplicate = next(key for key, _ in pairs if counts[key] > 1)
        raise InputError(f"has the key {duplicate[:80]!r} twice in one object")
    return table


def _content(raw: dict[str, Any], reader: MediaReader) -> Content:
    _only(raw, "text", "image", "video")
    content = Content(
        texts=tuple(_text(value, "text") for value in _listed(raw.get("text"))),
        images=tuple(_reference(value, "image", reader.media) for value in _listed(raw.get("image"))),
        videos=_videos(raw.get("video"), reader),
    )
    if not (content.texts or content.images or content.videos):
        raise InputError("is empty: it needs a text, an image or a video")
    return content


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name} is a JSON {_json_type(value)}, not a string or a list of strings")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"{name} holds half of a surrogate pair at character {error.start}") from error
    return value


def _reference(value: Any, name: str, media: Sequence[bytes]) -> Reference:
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and value.keys() == {"media"}:
        index = value["media"]
        if isinstance(index, bool) or not isinstance(index, int):
            raise InputError(f'{name}: "media" is a JSON {_json_type(index)}, not a number')
        if not 0 <= index < len(media):
            raise InputError(f"{name}: media {index} does not exist; the request carries {len(media)}")
        return MediaIndex(index)
    raise InputError(f'{name} is a JSON {_json_type(value)}; it must be {{"media": k}} or a data URI')


def _videos(value: Any, reader: MediaReader) -> tuple[Video, ...]:
    if value is None or value == []:
        if value == []:
            raise InputError("video has no frames")
        return ()
    media = reader.media
    if not isinstance(value, list):
        return (_reference(value, "video", media),)
    first = value[0]
    if not isinstance(first, list) and _is_image(_reference(first, "video frame 0", media), reader):
        return (_frames(value, media),)
    return tuple(_frames(one, media) if isinstance(one, list) else _reference(one, "video", media) for one in value)


def _is_image(reference: Reference, reader: MediaReader) -> bool:
    try:
        return reader.is_image(reference)
    except InputError as error:
        raise error.at("video 0") from error


def _frames(value: list[Any], media: Sequence[bytes]) -> tuple[Reference, ...]:
    if not value:
        raise InputError("video has no frames")
    return tuple(_reference(frame, f"video frame {index}", media) for index, frame in enumerate(value))


def _check_length(what: str, chars: int, limits: RequestLimits) -> None:
    if chars > limits.max_text_chars:
        raise InputError(f"{what} is {chars} characters long; at most {limits.max_text_chars} are allowed")


def _instruction(raw: bytes | None, limits: RequestLimits) -> str:
    if raw is None:
        return DEFAULT_INSTRUCTION
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"instruction: is not UTF-8 ({error.reason} at byte {error.start})") from error
    _check_length("instruction:", len(text), limits)
    return text or DEFAULT_INSTRUCTION


def _options(raw: bytes | None) -> Options:
    if raw is None or not raw.strip():
        return Options()
    try:
        value = _json_object(raw)
        _only(value, "fps", "max_frames", "truncation", "max_document_tokens")
        return Options(
            _fps(value.get("fps")),
            _max_frames(value.get("max_frames")),
            _truncation(value.get("truncation")),
            _max_document_tokens(value.get("max_document_tokens")),
        )
    except InputError as error:
        raise error.at("options") from error


def _fps(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_FPS:
        raise InputError(f"fps is {json.dumps(value)}; it must be a number above 0 and at most {MAX_FPS}")
    return float(value)


def _max_frames(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not MIN_FRAMES <= value <= MAX_FRAMES:
        raise InputError(
            f"max_frames is {json.dumps(value)}; it must be a whole number from {MIN_FRAMES} to {MAX_FRAMES}"
        )
    return value


def _truncation(value: Any) -> bool:
    if value not in (None, "cut", "refuse"):
        raise InputError(f'truncation is {json.dumps(value)[:80]}; it must be "cut" or "refuse"')
    return bool(value == "refuse")


def _max_document_tokens(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"max_document_tokens is {json.dumps(value)[:80]}; it must be a whole number of at least 1")
    return value


def _only(value: dict[str, Any], *known: str) -> None:
    """Refuse unknown keys: a misspelt one would be content that is ignored."""
    unknown = sorted(value.keys() - set(known))
    if unknown:
        raise InputError(f"has the unknown key {unknown[0][:80]!r}; known are {', '.join(known)}")


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"
