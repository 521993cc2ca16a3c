"""What a client is told when a request fails: one error, from which all shapes of an error are written at once.

A Cohere client reads ``message``, a Jina client ``detail``, a TEI client ``error`` and ``error_type``. All are texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from baton.client import InvalidInput, NotServing
from baton.errors import BatonError, TimedOut, Unreachable
from baton.triton.words import cause, refused

BAD, UNAUTHORIZED, FORBIDDEN, NOT_FOUND, GONE_AWAY, TOO_LATE = 400, 401, 403, 404, 499, 408
TOO_LARGE, INVALID, OVERLOADED, FAILED, UNAVAILABLE, TIMEOUT = 413, 422, 429, 502, 503, 504
MEANING = {
    BAD: ("Validation", "no JSON, no UTF-8, no form"),
    UNAUTHORIZED: ("Unauthorized", "the API key is missing or unknown"),
    FORBIDDEN: ("Forbidden", "this caller may not ask for a version"),
    NOT_FOUND: ("NotFound", "no such path, model or version"),
    405: ("MethodNotAllowed", "the path takes another method"),
    TOO_LATE: ("Timeout", "the body did not arrive in time"),
    TOO_LARGE: ("Validation", "too many bytes or documents"),
    INVALID: ("Validation", "a field or a document that can't be used"),
    OVERLOADED: ("Overloaded", "too much at once"),
    500: ("Internal", "the gateway failed"),
    FAILED: ("Backend", "the engine failed"),
    UNAVAILABLE: ("Unavailable", "no server answers"),
    TIMEOUT: ("Timeout", "no answer in time"),
}
"""By status: ``error_type``, in TEI's own words where it has some, and what it means."""
RETRY_AFTER_S = 1
"""An engine answers within seconds; who asks again later than that waits for nothing."""


class Problem(BatonError):
    """A request that is not answered with scores.

    Its text is for the client: it names the field or the document, and holds nothing of a stack, a path or a key.
    """

    def __init__(self, status: int, message: str, *, mend: str | None = None) -> None:
        super().__init__(message, mend=mend)
        self.status = status

    @property
    def kind(self) -> str:
        return MEANING.get(self.status, ("Error", ""))[0]

    def body(self, request_id: str) -> dict[str, Any]:
        """Each client finds its own field; all hold the same text."""
        text = str(self).encode(errors="backslashreplace").decode()  # what it quotes may hold half a surrogate pair
        return {"detail": text, "message": text, "error": text, "error_type": self.kind, "id": request_id}

    def headers(self) -> Mapping[str, str]:
        if self.status == OVERLOADED:
            return {"retry-after": str(RETRY_AFTER_S)}
        if self.status == UNAUTHORIZED:
            return {"www-authenticate": "Bearer"}
        # What is left of the body is not read: the connection can't be used again.
        return {"connection": "close"} if self.status in {TOO_LARGE, TOO_LATE} else {}


def invalid(place: str, cause: str, mend: str | None = None) -> Problem:
    """A field or a document that can't be used; ``place`` names it, as in ``documents[3].image``."""
    return Problem(INVALID, f"{place} {cause}.", mend=mend)


def busy(what: str) -> Problem:
    """Overload is 429 and not 503: some clients send a request ten times again after a 503."""
    return Problem(OVERLOADED, f"{what}. Nothing was scored.", mend="Try again in a moment.")


def problem_of(error: BatonError, *, asked_version: bool) -> Problem:
    """What a client is told of an error of Triton's. Its address and its own words about itself stay here.

    ``asked_version``: the client chose the version, so that one which is not loaded is the client's mistake.
    """
    if isinstance(error, Problem):
        return error
    if isinstance(error, InvalidInput):
        return Problem(INVALID, cause(error.message), mend=error.mend)
    said = refused(error.message)
    if said == "busy":
        return busy("The engine has as many requests under way as it takes")
    if isinstance(error, TimedOut):
        return Problem(
            TIMEOUT, "The engine gave no answer in time.", mend="Send fewer documents at a time, or try again later."
        )
    if isinstance(error, NotServing) and asked_version:
        return Problem(NOT_FOUND, "The version that was asked for is not loaded.", mend="Ask without a version.")
    if isinstance(error, NotServing | Unreachable):
        return Problem(UNAVAILABLE, "The engine does not answer at present.", mend="Try again in a moment.")
    return Problem(FAILED, "The engine failed at this request.", mend="The gateway's log says more.")
