"""The one error hierarchy.

Every error names the thing, the cause and what to do, and has the exit code with which ``ctl`` ends.
Its text is for a person on call. A traceback means a defect.
"""

from __future__ import annotations

from typing import ClassVar

from baton.reasons import Reason, Why


class BatonError(Exception):
    """Something went wrong that has no class of its own."""

    exit_code: ClassVar[int] = 1

    def __init__(self, why: Why | str, *, mend: str | None = None) -> None:
        """``why``: what went wrong, as a reason where code handles it. ``mend``: what to do, if the reason has none."""
        super().__init__(str(why))
        self.message = str(why)
        self.reason = why.reason if isinstance(why, Why) else Reason.OTHER
        self.mend = why.mend if mend is None and isinstance(why, Why) else mend

    def __str__(self) -> str:
        return f"{self.message} {self.mend}" if self.mend else self.message


class UsageError(BatonError):
    """The command line or an argument does not make sense."""

    exit_code = 2


class ConfigError(BatonError):
    """A configuration file holds a value that is not allowed."""

    exit_code = 2


class Refused(BatonError):
    """The present state does not allow the request."""

    exit_code = 3


class Untrusted(Refused):
    """Another user can write a file or a folder, or could before: Baton does not use it."""


class GateFailed(BatonError):
    """A gate failed, or the rollout was rolled back."""

    exit_code = 4


class Unreachable(BatonError):
    """Triton or the control plane does not answer."""

    exit_code = 5


class TimedOut(BatonError):
    """The time given with ``--timeout`` is over."""

    exit_code = 6


class CheckpointError(BatonError):
    """A version folder can't serve as it is. The message names the file and the wrong figure."""

    exit_code = 4


class TritonError(BatonError):
    """Triton answered with an error. The message has the cause in Triton's words; ``words`` is its whole text."""

    exit_code = 1

    def __init__(self, message: str, *, mend: str | None = None, words: str | None = None) -> None:
        super().__init__(message, mend=mend)
        self.words = message if words is None else words


class InvalidRequest(TritonError):
    """The model refused the request (INVALID_ARGUMENT). The version does answer."""


class GivenUp(TritonError):
    """Triton cancelled requests to this version, because its process is frozen or dead. Baton sends it no more.

    It is asked again after it was loaded again: a request to such a process can end the whole server (seen on 24.10).
    """


class NotSteered(BatonError):
    """The splitter takes no route from this control plane: its files changed after it was loaded."""


class KeyRefused(TritonError):
    """Triton answers and refuses Baton's admin key. A call that needs the key fails again until the key is right."""


class RepositoryError(BatonError):
    """A file of the model repository can't be read or written, or has the wrong content."""

    exit_code = 1


class NoRoom(RepositoryError):
    """A version does not fit on the disk. Nothing was copied."""


class Unreadable(RepositoryError):
    """The file system fails to read a file of the model repository. Whether the file exists is unknown."""
