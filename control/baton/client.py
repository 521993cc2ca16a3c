"""What users import: ask a served reranker for scores, over gRPC or HTTP.

    from baton.client import Reranker

    with Reranker("localhost:8001") as reranker:
        ranking = reranker.rank("red apple", ["a green pear", "a red apple"])

The tensors are those of the alias and of the engine; :func:`encode` and :func:`decode` are the two ends of the
wire and know no connection, so that the rollout's probes send exactly what users send.

Importing this module is quick: ``tritonclient`` is imported by the first request.
"""

from __future__ import annotations

import json
import math
import re
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, Literal, Self, TypeAlias
from typing import Protocol as Protocol_

import numpy as np
from numpy.typing import NDArray

from baton.client_errors import InvalidInput as InvalidInput  # noqa: PLC0414 - users import them from here
from baton.client_errors import NotServing as NotServing  # noqa: PLC0414
from baton.client_errors import error_of
from baton.errors import TritonError, UsageError
from baton.tls import Connection, Tls

Protocol: TypeAlias = Literal["grpc", "http", "gateway"]
Content: TypeAlias = str | Mapping[str, Any]
"""A query or a document: text, or an object with ``text``, ``image`` and ``video``, at least one of them."""
Tensors: TypeAlias = dict[str, NDArray[Any]]

_KEYS = ("text", "image", "video")
_OUTPUTS = ("scores", "model_version")
_BINARY = (bytes, bytearray, memoryview)

_KEEPALIVE_MS = 330_000
"""Triton 24.10 answers pings more often than every 5 min without data with GOAWAY; half a minute of slack."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """One answer. ``scores`` are relevances in 0..1, in the order in which the documents were given.

    ``version`` is the engine version that computed them, also while traffic is split between two versions.
    """

    scores: list[float]
    version: int
    request_id: str

    @property
    def order(self) -> list[int]:
        """The documents' indices, best first; equal scores keep the order in which they were given, NaN is last."""
        return sorted(range(len(self.scores)), key=lambda i: (math.isnan(self.scores[i]), -self.scores[i]))


def encode(
    query: Content,
    documents: Sequence[Content],
    *,
    instruction: str | None = None,
    options: Mapping[str, Any] | None = None,
    media: Sequence[bytes] | None = None,
) -> Tensors:
    """Make the input tensors of one request: BYTES, each with a leading batch dimension of 1.

    ``query`` is [1, 1] and ``documents`` [1, N]; ``instruction`` [1, 1], ``options`` [1, 1] and ``media`` [1, K] are
    left out when there is nothing to say. ``bytes`` in the place of an image or a video go to the ``media`` tensor,
    after those of ``media``, each distinct one once, and are replaced by ``{"media": k}``.

    Raises :class:`InvalidInput` naming the query or the document. What can be known only by decoding an image is left
    to the engine, which names it as well.
    """
    if isinstance(documents, (str, Mapping, *_BINARY)):
        raise InvalidInput("documents is one document, not a list of them.", mend="Put it in a list.")
    if not documents:
        raise InvalidInput("documents is empty: there is nothing to rank.", mend="Give at least one document.")
    attached = _Media(media or ())
    tensors = {
        "query": _bytes_tensor([_object("query", query, attached)]),
        "documents": _bytes_tensor([_object(f"documents[{i}]", d, attached) for i, d in enumerate(documents)]),
    }
    if instruction is not None:
        tensors["instruction"] = _bytes_tensor([_utf8("instruction", instruction)])
    if options:
        tensors["options"] = _bytes_tensor([_dumps("options", dict(options))])
    if attached.items:
        tensors["media"] = _bytes_tensor(attached.items)
    return tensors


def decode(outputs: Mapping[str, NDArray[Any]]) -> tuple[list[float], int]:
    """Return scores in document order and the engine version, from ``scores`` [1, N] and ``model_version`` [1, 1].

    Values are passed on as they are, NaN included: to judge them is the caller's business. Raises ``TritonError`` when
    an output is missing or has another shape.
    """
    for name in _OUTPUTS:
        if name not in outputs:
            raise TritonError(f"The answer has no output {name!r}, only {sorted(outputs)}.")
    scores, version = outputs["scores"], outputs["model_version"]
    if scores.ndim != 2 or scores.shape[0] != 1:  # noqa: PLR2004 the contract's [1, N]
        raise TritonError(f"Output 'scores' has shape {list(scores.shape)}, expected [1, N].")
    if version.size != 1:
        raise TritonError(f"Output 'model_version' has shape {list(version.shape)}, expected [1, 1].")
    return [float(score) for score in scores[0]], int(version.reshape(-1)[0])


class _Media:
    """The ``media`` tensor while it is put together."""

    def __init__(self, given: Sequence[bytes]) -> None:
        if isinstance(given, _BINARY):
            raise InvalidInput("media is one item, not a list of them.", mend="Put it in a list.")
        for k, item in enumerate(given):
            if not isinstance(item, _BINARY):
                raise InvalidInput(f"media[{k}] is {type(item).__name__}, not bytes.", mend="Give the encoded file.")
        self.items = [bytes(item) for item in given]
        self.given = len(self.items)
        self._index = {item: k for k, item in reversed(list(enumerate(self.items)))}

    def add(self, item: bytes) -> dict[str, int]:
        if item not in self._index:
            self._index[item] = len(self.items)
            self.items.append(item)
        return {"media": self._index[item]}


def _object(where: str, content: Content, media: _Media) -> bytes:
    if isinstance(content, str):
        content = {"text": content}
    if not isinstance(content, Mapping):
        raise InvalidInput(f"{where} is {type(content).__name__}.", mend="Give text, or an object as documented.")
    if unknown := [key for key in content if key not in _KEYS]:
        raise InvalidInput(f"{where} has the unknown key {unknown[0]!r}.", mend=f"Known are {', '.join(_KEYS)}.")
    if not content:
        raise InvalidInput(f"{where} is empty.", mend=f"Give at least one of {', '.join(_KEYS)}.")
    values = {key: _value(f"{where}.{key}", value, media, text=key == "text") for key, value in content.items()}
    return _dumps(where, values)


def _value(where: str, value: Any, media: _Media, *, text: bool) -> Any:
    """One value as JSON: text as it is, binary through ``media``, lists (of texts, images or frames) item by item."""
    if isinstance(value, (list, tuple)):
        if not value:
            raise InvalidInput(f"{where} is an empty list.", mend="Leave the key out.")
        return [_value(f"{where}[{i}]", item, media, text=text) for i, item in enumerate(value)]
    if isinstance(value, str):
        return value
    if isinstance(value, _BINARY) and not text:
        return media.add(bytes(value))
    if isinstance(value, Mapping) and list(value) == ["media"] and not text:
        if type(value["media"]) is not int or not 0 <= value["media"] < media.given:
            raise InvalidInput(f"{where} refers to media {value['media']!r}, and {media.given} were given.")
        return dict(value)
    mend = "Give text." if text else 'Give bytes, a data: URI or {"media": k}.'
    raise InvalidInput(f"{where} is {type(value).__name__}.", mend=mend)


def _utf8(where: str, text: str) -> bytes:
    if not isinstance(text, str):
        raise InvalidInput(f"{where} is {type(text).__name__}, not text.")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{where} is not valid Unicode: {error.reason} at {error.start}.") from error


def _dumps(where: str, value: Any) -> bytes:
    try:
        return _utf8(where, json.dumps(value, ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{where} can't be written as JSON: {error}.") from error


def _bytes_tensor(items: Sequence[bytes]) -> NDArray[Any]:
    # np.array() would make fixed-width strings of bytes, which lose trailing zero bytes.
    tensor = np.empty((1, len(items)), dtype=object)
    tensor[0, :] = items
    return tensor


class Reranker:
    """A served reranker. May be shared between threads; close it, or use it as a context manager.

    ``url`` is ``host:port``, ``grpc://host:port`` or ``http://host:port``; ``protocol`` is gRPC unless the URL says
    otherwise. ``http://host:port/v1`` is a gateway, which gets the ``api_key``. ``timeout_s`` bounds each request,
    connecting included. Nothing is connected before the first request.
    ``tls`` encrypts gRPC, and checks the server: ``Tls(ca_file=Path("ca.pem"))``.

    All threads share one gRPC channel. The HTTP client, built on gevent, can't move between threads: each gets its own.
    """

    def __init__(
        self, url: str, *, protocol: Protocol | None = None, model: str = "reranker", timeout_s: float = 30.0,
        tls: Tls | None = None, api_key: str | None = None,
    ) -> None:  # fmt: skip
        self.protocol, self.address = _parse(url, protocol)
        if not timeout_s > 0:
            raise UsageError(f"timeout_s is {timeout_s}.", mend="Give a number of seconds above zero.")
        self.model, self.timeout_s = model, timeout_s
        self._closed = False
        self._transport: _Transport
        if self.protocol == "gateway":
            from baton.client_gateway import GatewayTransport

            self._transport = GatewayTransport(self.address, timeout_s, api_key, None if tls is None else tls.ca_file)
        else:
            self._transport = (_Http if self.protocol == "http" else _Grpc)(self.address, timeout_s, tls)

    @staticmethod
    def image(data: bytes, *, text: str | None = None) -> dict[str, Any]:
        """Make a query or document of an encoded image (PNG, JPEG, ...), with a caption where there is one."""
        return {"image": data} if text is None else {"image": data, "text": text}

    @staticmethod
    def video(data: bytes | Sequence[bytes], *, text: str | None = None) -> dict[str, Any]:
        """Make a query or document of an encoded video, or of a list of frames, each an encoded image."""
        return {"video": data} if text is None else {"video": data, "text": text}

    def rank(
        self,
        query: Content,
        documents: Sequence[Content],
        *,
        instruction: str | None = None,
        options: Mapping[str, Any] | None = None,
        media: Sequence[bytes] | None = None,
        request_id: str | None = None,
        model_version: str | int = "",
    ) -> Ranking:
        """Score each document against the query.

        ``instruction`` replaces the engine's default task description; ``options`` are ``fps`` and ``max_frames`` for
        videos, ``max_document_tokens``, and ``truncation`` (``refuse`` makes an error of a text that would be cut);
        ``media`` holds binaries that documents refer to as ``{"media": k}``; ``model_version`` asks one exact version,
        not the one that is live.

        Raises :class:`InvalidInput` (it names the document, and nothing was scored), :class:`NotServing`, and
        ``Unreachable``, ``TimedOut`` and ``TritonError`` of :mod:`baton.errors`.
        """
        if self._closed:
            raise UsageError("This Reranker is closed.", mend="Make a new one.")
        inputs = encode(query, documents, instruction=instruction, options=options, media=media)
        name = request_id or uuid.uuid4().hex
        scores, version = decode(self._transport.infer(self.model, str(model_version), inputs, name))
        if len(scores) != len(documents):
            raise TritonError(f"{len(documents)} documents were sent and {len(scores)} scores came back.")
        return Ranking(scores=scores, version=version, request_id=name)

    def close(self) -> None:
        """Close the connection; for HTTP this thread's, the others' go with their threads. May be called twice."""
        self._closed = True
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def _parse(url: str, protocol: Protocol | None) -> tuple[Protocol, str]:
    if re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?/v1/?", url) and protocol in {None, "gateway"}:
        return "gateway", url.rstrip("/")
    parts = re.fullmatch(r"(?:(grpc|http)://)?((?:\[[0-9a-fA-F:.]+\]|[^\s/:@\[\]]+):\d{1,5})/?", url)
    if parts is None:
        raise UsageError(
            f"{url!r} is no address.",
            mend="Give host:port, grpc://host:port, http://host:port or a gateway's http://host:port/v1.",
        )
    scheme, address = parts.groups()
    if protocol not in {None, scheme or protocol} or protocol not in {None, "grpc", "http"}:
        raise UsageError(f"protocol={protocol!r} does not go with {url!r}.", mend='Give "grpc" or "http", once.')
    return ("http" if "http" in {scheme, protocol} else "grpc"), address


class _Transport(Protocol_):
    def infer(self, model: str, version: str, inputs: Tensors, request_id: str) -> Tensors: ...

    def close(self) -> None: ...


class _Grpc:
    def __init__(self, address: str, timeout_s: float, tls: Tls | None) -> None:
        self._address, self._timeout_s, self._connection = address, timeout_s, Connection(tls, self._connected)

    def _connected(self, credentials: Any, options: list[tuple[str, str]]) -> Any:
        import tritonclient.grpc as triton

        return triton.InferenceServerClient(self._address, creds=credentials, channel_args=(*CHANNEL, *options))

    def infer(self, model: str, version: str, inputs: Tensors, request_id: str) -> dict[str, NDArray[Any]]:
        import tritonclient.grpc as triton
        from tritonclient.utils import InferenceServerException

        tensors, options = wire(triton.InferInput, inputs), call_options(version, request_id, self._timeout_s)
        try:
            answer = self._connection.client().infer(model, tensors, client_timeout=self._timeout_s, **options)
        except InferenceServerException as error:
            code = str(error.status() or "").removeprefix("StatusCode.")
            told = error_of(code, str(error.message()), self._address, self._timeout_s)
            raise self._connection.trust.explained(told, f"Triton at {self._address}", self._address) from error
        return _outputs(answer)

    def close(self) -> None:
        self._connection.close(lambda client: client.close())


DIRECT = ("grpc.enable_http_proxy", 0)
"""A channel option: gRPC sends what is meant for 127.0.0.1 through ``https_proxy``, too, and in clear text."""
CHANNEL = (
    DIRECT,
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.max_receive_message_length", 2**31 - 1),
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 0),
    # gRPC waits up to 120 s before it tries a lost server again; one that restarts is back sooner.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


class _Http:
    def __init__(self, address: str, timeout_s: float, tls: Tls | None) -> None:
        if tls is not None:
            raise UsageError("Triton's HTTP has no TLS.", mend="Use gRPC.")
        self._address, self._timeout_s = address, timeout_s
        self._mine = threading.local()

    def infer(self, model: str, version: str, inputs: Tensors, request_id: str) -> dict[str, NDArray[Any]]:
        import tritonclient.http as triton
        from tritonclient.utils import InferenceServerException

        tensors, options = wire(triton.InferInput, inputs), call_options(version, request_id, self._timeout_s)
        options["outputs"] = [triton.InferRequestedOutput(name, binary_data=True) for name in _OUTPUTS]
        try:
            answer = self._retrying(triton, lambda client: client.infer(model, tensors, **options))
        except InferenceServerException as error:
            code = _HTTP_CODES.get(str(error.status()), str(error.status()))
            raise error_of(code, str(error.message()), self._address, self._timeout_s) from error
        except (OSError, HTTPException) as error:
            self.close()
            code = "DEADLINE_EXCEEDED" if isinstance(error, TimeoutError) else "UNAVAILABLE"
            raise error_of(code, str(error), self._address, self._timeout_s) from error
        return _outputs(answer)

    def _retrying(self, triton: Any, send: Callable[[Any], Any]) -> Any:
        kept = getattr(self._mine, "client", None)
        if kept is not None:
            try:
                return send(kept)
            except (
                ConnectionError,
                HTTPException,
            ):  # a server that restarted has closed it; scoring twice does no harm
                self.close()
        self._mine.client = triton.InferenceServerClient(
            self._address, connection_timeout=self._timeout_s, network_timeout=self._timeout_s
        )
        return send(self._mine.client)

    def close(self) -> None:
        client, self._mine.client = getattr(self._mine, "client", None), None
        if client is not None:
            client.close()


_HTTP_CODES = {"400": "INVALID_ARGUMENT", "404": "NOT_FOUND", "503": "UNAVAILABLE", "504": "DEADLINE_EXCEEDED"}


def wire(make: Callable[[str, list[int], str], Any], inputs: Tensors) -> list[Any]:
    tensors = [make(name, list(value.shape), "BYTES") for name, value in inputs.items()]
    for tensor, value in zip(tensors, inputs.values(), strict=True):
        tensor.set_data_from_numpy(value)
    return tensors


def call_options(version: str, request_id: str, timeout_s: float) -> dict[str, Any]:
    """``timeout``, in microseconds, tells the engine when this client gives up; Triton tells it nothing of that."""
    return {"model_version": version, "request_id": request_id, "timeout": int(min(timeout_s, 1e9) * 1e6) or 1}


def _outputs(answer: Any) -> dict[str, NDArray[Any]]:
    return {name: value for name in _OUTPUTS if (value := answer.as_numpy(name)) is not None}
