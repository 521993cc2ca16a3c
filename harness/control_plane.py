"""The control plane as users run it: ``ctl`` as a process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from harness.processes import Child
from harness.waiting import Failed, until

from baton.api import ApiClient
from baton.codec import encode
from baton.errors import BatonError

# The script beside this interpreter: nothing here needs an activated environment.
CTL = str(Path(sys.executable).with_name("ctl"))
Data = dict[str, Any]
NOBODY: Data = {"phase": "", "weight": 0, "stable": None, "candidate": None, "rollout": None, "gates": []}
"""The service as told by a control plane that does not answer."""


class ControlPlane:
    """``ctl serve`` or ``ctl up``, which can be killed, stopped and started again.

    Attributes:
        places: Where it listens, as it says when everything does.
        api: What it is asked by, once it was started.
    """

    api: ApiClient
    look_s = 0.02
    """How often it is asked for its status where that is waited for."""

    def __init__(
        self,
        *verb: str,
        options: Sequence[str] = (),
        log: Path,
        begin: Callable[[list[str]], list[str]] = lambda words: words,
        **process: Any,
    ) -> None:
        """``verb`` is ``serve`` or ``up`` with its options; ``options`` stand before it, and before any other verb.

        ``begin`` gives the words that run a command in another way, as by another user; ``process`` are options of
        ``subprocess.Popen``.
        """
        self.log = log
        self.places: Data = {}
        self._verb, self._options = verb, options
        self._begin, self._process = begin, process
        self._child: Child | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._child is not None  # noqa: S101 - it was started
        return self._child.process

    @property
    def runs(self) -> bool:
        return self._child is not None and self.process.poll() is None

    def command(self, *words: str) -> list[str]:
        """The command line of a verb with the same options."""
        return [CTL, "--output", "json", *self._options, *words]

    def launch(self) -> Self:
        """Begin, and wait for nothing."""
        self.stop()
        self._child = Child(self._begin(self.command(*self._verb)), self.log, **self._process)
        return self

    def listening(self) -> Data:
        """Wait until it acts: it prints one line, when everything listens. Raises ``Failed`` when it ends before."""
        assert self._child is not None  # noqa: S101 - it was launched
        self.places = self._child.first_line()
        self.api = ApiClient(Path(self.places["api"]))
        return self.places

    def start(self) -> Self:
        """Begin, and wait until it acts. Raises ``Failed``, and then nothing of it runs."""
        self.launch()
        try:
            self.listening()
        except BaseException:
            self.stop()
            raise
        return self

    def send(self, number: int) -> None:
        """A signal."""
        self.process.send_signal(number)

    def kill(self, number: int = signal.SIGKILL) -> int:
        """End it by a signal, and wait until it is gone; its exit code."""
        self.send(number)
        return self.process.wait(60)

    def stop(self) -> int | None:
        """End it as a person does, also where it stands still; its exit code, None when it was never begun."""
        return None if self._child is None else self._child.stop()

    def ctl(self, *words: str, check: bool = True) -> tuple[int, Any]:
        """Run a verb; its exit code and what it printed, as data."""
        done = subprocess.run(self.command(*words), capture_output=True, check=False)
        if check and done.returncode != 0:
            raise Failed(f"ctl {' '.join(words)} ended with {done.returncode}: {done.stderr.decode().strip()}")
        text = done.stdout.decode().strip()
        return done.returncode, json.loads(text) if text else None

    # What it says. It is asked in process: a `ctl` each moment would be a load of its own on a small machine.

    def service(self) -> Data:
        """The first service's part of ``ctl status``; an empty phase when nobody answers."""
        try:
            service: Data = encode(self.api.status().services[0])
        except BatonError as error:
            return NOBODY | {"message": str(error)}
        return service

    def row(self, version: int) -> Data | None:
        """The version's newest line of the history; None when it has none."""
        return next((encode(row) for row in self.api.history() if row.candidate == version), None)

    def until(self, condition: Callable[[Data], Any], what: str) -> Any:
        """Wait until the condition holds of the service; what it gave. Fails at once when the process ends."""

        def holds() -> Any:
            if not self.runs:
                end = "\n".join(self.log.read_text().splitlines()[-20:])
                raise Failed(f"The control plane ended by itself while it was waited for {what}:\n{end}")
            return condition(self.service())

        return until(holds, what, instead=lambda: self.service()["message"], every_s=self.look_s)

    def rest(self, version: int | None = None) -> None:
        """Wait until nothing goes on; with a version, until that one serves."""

        def rests(service: Data) -> bool:
            without_rollout = service["phase"] == "steady" and service["rollout"] is None
            return without_rollout and version in (None, service["stable"])

        self.until(rests, "rest" if version is None else f"version {version} to serve")

    def ended(self, version: int) -> Data:
        """Wait for the end of the version's newest rollout and return its line of the history."""

        def newest(_service: Data) -> Data | None:
            row = self.row(version)
            return row if row is not None and row["ended_at"] is not None else None

        row: Data = self.until(newest, f"the end of version {version}'s rollout")
        return row
