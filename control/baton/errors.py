"""The one error hierarchy.

Every error names the thing, the cause and what to do, and has the exit code of ``ctl``. Its text is for the person on
call at 3 a.m.; a traceback is only for bugs.
"""

from __future__ import annotations

from typing import ClassVar

from baton.reasons import Reason, Why


class BatonError(Exception):
    """Something went wrong that Baton has no better name for."""

    exit_code: ClassVar[int] = 1

    def __init__(self, why: Why | str, *, mend: str | None = None) -> None:
        """``why``: what went wrong, by a reason where a program may want to tell it from others."""
        super().__init__(str(why))
        self.message = str(why)
        self.reason = why.reason if isinstance(why, Why) else Reason.OTHER
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.message} {self.mend}" if self.mend else self.message


class UsageError(BatonError):
    """The command line or an argument does not make sense."""

    exit_code = 2


class ConfigError(BatonError):
    """A configuration file holds a value that is not allowed."""

    exit_code = 2


class Refused(BatonError):
    """The present state does not allow what was asked for."""

    exit_code = 3


class Untrusted(Refused):
    """Another user could have prepared a file or a folder, or could still change it: it is not used."""


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
    """A version folder can never serve as it is: it names the file and the figure that is wrong."""

    exit_code = 4


class TritonError(BatonError):
    """Triton answered with an error. The message has the cause in Triton's words; ``words`` is its whole text."""

    exit_code = 1

    def __init__(self, message: str, *, mend: str | None = None, words: str | None = None) -> None:
        super().__init__(message, mend=mend)
        self.words = message if words is None else words


class InvalidRequest(TritonError):
    """The model refused the request itself (INVALID_ARGUMENT): the version answers."""


class GivenUp(TritonError):
    """Triton gave requests to this version up, since its process shows no sign of life.

    Baton sends it no more requests until it is loaded again: one that reaches such a process can make the whole server
    abort (seen on 24.10).
    """


class NotSteered(BatonError):
    """The splitter refuses this control plane's token: it was loaded with files that have changed since."""


class KeyRefused(TritonError):
    """Triton answers, and refuses Baton's admin key. Trying again does not help."""


class RepositoryError(BatonError):
    """A file of the model repository can't be read or written as it must be."""

    exit_code = 1


class Unreadable(RepositoryError):
    """The file system does not give a file of the model repository: whether it is there is not known."""
