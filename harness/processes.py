"""A program as a process of its own, of which nothing stays."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from harness.waiting import Failed

from baton.local import procfs
from baton.local.exec_wrapper import wrapped_command

STOP_S = 90.0
"""Granted to a program that is asked to end. ``ctl up`` waits for its Triton, which waits 30 s for requests."""


class Child:
    """A process in a session of its own: Ctrl-C reaches only who started it, who then ends it in the right order."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        dies_with_us: bool = True,
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        """Its errors are added to ``log``; ``options`` are those of ``subprocess.Popen``.

        ``dies_with_us``: it also ends when this process is killed. That is not for one whose own children would stay.
        """
        words = [shutil.which(command[0]) or command[0], *command[1:]]
        self._log, self._name = log, " ".join(map(str, command))
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                wrapped_command(words, parent=os.getpid()) if dies_with_us else words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                env={**os.environ, **(env or {})},
                **options,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self.process.pid

    def first_line(self) -> dict[str, Any]:
        """The JSON that it prints when it is ready. Raises ``Failed`` with its log when it ends before."""
        assert self.process.stdout is not None  # noqa: S101 - it was asked for above
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait(STOP_S)
            raise Failed(f"{self._name} ended with {code} before it was ready:\n{self._log.read_text()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def processes(self) -> list[int]:
        """Its own id, and those of all that it started in its session."""
        return procfs.session_members(self.pid)

    def stop(self, timeout_s: float = STOP_S) -> int:
        """SIGTERM, also to one that stands still; its exit code. Whatever is left of its session is killed.

        Raises ``Failed`` when it does not end in time.
        """
        try:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
                self.process.send_signal(signal.SIGCONT)
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self._name} did not end within {timeout_s:g} s of SIGTERM.") from None
        finally:
            procfs.kill_session(self.pid)
            self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()
