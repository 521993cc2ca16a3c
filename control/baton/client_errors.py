"""The errors of ``baton.client``, and which of them an answer of Triton's is."""

from __future__ import annotations

from baton.errors import BatonError, TimedOut, TritonError, Unreachable, UsageError

_TRITON_UNAVAILABLE = ("unknown model", "ready state", "not ready", "stopping", "stopped accepting", "queue size")
"""UNAVAILABLE is also what Triton itself says of a model that is not ready or whose queue is full. gRPC gives no field
that tells the two apart ("Error received from peer" also stands in front of "Socket closed"), so its words have to."""


class InvalidInput(UsageError):
    """A query or document can't be scored; the message names it, as in ``documents[3]``."""


class NotServing(TritonError):
    """Triton is there, and does not serve this model or version right now."""


def error_of(code: str, words: str, address: str, timeout_s: float) -> BatonError:
    if code == "INVALID_ARGUMENT":
        return InvalidInput(words)
    if code == "UNAVAILABLE" and "deadline: " in words:
        return TimedOut(f"Triton at {address} said: {words}.", mend="Raise timeout_s.")
    if code == "UNAVAILABLE" and "busy: " in words:
        return NotServing(words, mend="Send fewer requests at a time.")
    if code == "NOT_FOUND" or (code == "UNAVAILABLE" and any(said in words for said in _TRITON_UNAVAILABLE)):
        return NotServing(words, mend="Is the model loaded? `ctl status` tells.")
    if code == "UNAVAILABLE":
        return Unreachable(f"Triton at {address} does not answer: {words}.", mend="Is it running, on this port?")
    if code == "DEADLINE_EXCEEDED":
        return TimedOut(f"Triton at {address} gave no answer within {timeout_s:g} s.", mend="Raise timeout_s.")
    return TritonError(f"Triton at {address} said: {words}")
