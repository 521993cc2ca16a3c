"""Asks a gateway instead of Triton: the same tensors, written in the gateway's own shape. Needs httpx alone."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any

import numpy as np

from baton.client_errors import InvalidInput, NotServing
from baton.errors import BatonError, ConfigError, TimedOut, TritonError, Unreachable, UsageError

try:
    import httpx
except ModuleNotFoundError:
    raise UsageError("A gateway is asked by httpx, which is not installed.", mend="pip install httpx") from None

_FIELDS = {"fps": "fps", "max_frames": "max_frames", "max_document_tokens": "max_tokens_per_doc"}
_LATER, _NEVER = {404, 429, 503}, {400, 413, 422}


class GatewayTransport:
    """One gateway, as ``baton.client`` wants a server. Its connections may be shared between threads."""

    def __init__(self, url: str, timeout_s: float, api_key: str | None, authority: Path | None) -> None:
        """``authority``: who signed the gateway's certificate; without it the machine's list of authorities counts."""
        headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._url, self._timeout_s = url, timeout_s
        try:
            trusted = True if authority is None else ssl.create_default_context(cafile=authority)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(
                f"The authorities in {authority} can't be used: {error.strerror or error}.",
                mend="Name a PEM file with the certificate of the authority that signed the gateway's in ca_file.",
            ) from None
        self._client = httpx.Client(headers=headers, timeout=timeout_s, trust_env=False, verify=trusted)

    def infer(self, model: str, version: str, inputs: dict[str, Any], request_id: str) -> dict[str, Any]:
        """``scores`` and ``model_version``, as from Triton. The request id is the user, by whom a split sticks."""
        body = {"model": model, "user": request_id, **_body(inputs)}
        parts = {f"media{k}": (f"media{k}", item) for k, item in enumerate(inputs.get("media", [[]])[0])}
        sent: dict[str, Any] = {"json": body}
        if parts:
            sent = {"files": {"request": (None, json.dumps(body), "application/json"), **parts}}
        headers = {"x-model-version": version} if version else {}
        try:
            answer = self._client.post(f"{self._url}/rerank", headers=headers, **sent)
        except httpx.TimeoutException as error:
            late = f"The gateway at {self._url} gave no answer within {self._timeout_s:g} s."
            raise TimedOut(late, mend="Raise timeout_s.") from error
        except httpx.TransportError as error:
            raise Unreachable(f"The gateway at {self._url} does not answer: {error}.", mend="Is it running?") from error
        if answer.status_code != httpx.codes.OK:
            raise _error(answer)
        try:
            rows = sorted(answer.json()["results"], key=lambda row: row["index"])
            scores = np.array([[float(row["relevance_score"]) for row in rows]])
            told = int(answer.headers.get("x-model-version", 0))
        except (ValueError, KeyError, TypeError):
            raise TritonError(
                f"What answers at {self._url} is no gateway.", mend="Give the URL of `ctl gateway`."
            ) from None
        return {"scores": scores, "model_version": np.array([[told]])}

    def close(self) -> None:
        self._client.close()


def _body(inputs: dict[str, Any]) -> dict[str, Any]:
    """The fields of a request; binaries are named, and travel beside it."""
    options = json.loads(inputs["options"][0, 0]) if "options" in inputs else {}
    body: dict[str, Any] = {
        "query": json.loads(inputs["query"][0, 0], object_hook=_named),
        "documents": [json.loads(one, object_hook=_named) for one in inputs["documents"][0]],
    }
    if "instruction" in inputs:
        body["instruction"] = inputs["instruction"][0, 0].decode()
    if "truncation" in options:
        body["truncate"] = options.pop("truncation") != "refuse"
    if unknown := options.keys() - _FIELDS.keys():
        raise InvalidInput(f"options has the key {min(unknown)!r}, which a gateway does not know.")
    return body | {_FIELDS[name]: value for name, value in options.items()}


def _named(found: dict[str, Any]) -> Any:
    return f"attachment:media{found['media']}" if found.keys() == {"media"} else found


def _error(answer: httpx.Response) -> BatonError:
    try:
        said = str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        said = f"The gateway answered {answer.status_code}."
    if answer.status_code in _NEVER:
        return InvalidInput(said)
    if answer.status_code in _LATER:
        return NotServing(said)
    if answer.status_code in {401, 403}:
        return UsageError(said)
    return TimedOut(said) if answer.status_code in {408, 504} else TritonError(said)
