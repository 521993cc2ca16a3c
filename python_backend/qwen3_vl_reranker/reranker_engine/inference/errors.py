"""What can be wrong with a request."""

from __future__ import annotations

MAX_CHARS = 500
"""Limit of an error's text: it may quote the request, and is shown in logs and on terminals."""


class InputError(ValueError):
    """The request cannot be scored; the text names the query or the document at fault, and the cause.

    What the text quotes is untrusted. Control characters and lone surrogates are escaped (the latter could not even be
    sent), and a long text is cut.
    """

    def __init__(self, text: str) -> None:
        super().__init__(_printable(text))

    def at(self, place: str) -> InputError:
        """The same error, with the place in front."""
        return InputError(f"{place}: {self}")


def _printable(text: str) -> str:
    if len(text) > MAX_CHARS:
        text = text[: MAX_CHARS - 3] + "..."
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape", "backslashreplace").decode() for one in text
    )
