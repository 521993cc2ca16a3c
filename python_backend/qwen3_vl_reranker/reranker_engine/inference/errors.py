"""What can be wrong with a request."""

from __future__ import annotations


class InputError(ValueError):
    """The request cannot be scored; the text names the query or the document at fault, and the cause."""

    def at(self, place: str) -> InputError:
        """The same error with the place it happened at put in front."""
        return InputError(f"{place}: {self}")
