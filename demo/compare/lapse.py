"""How soon a candidate loses its share of traffic: when a person aborts, and when the control plane is gone."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.command import SHORT, few
from demo.compare.way import CHECKPOINT, ENGINE, engine_config
from demo.rig import Failed, until
from demo.traffic import Traffic
from rich.box import SIMPLE_HEAD
from rich.table import Table

from baton.api import SOCKET, ApiClient
from baton.cli.local import own_backends
from baton.codec import encode
from baton.errors import Unreachable
from baton.local import LocalTriton
from baton.triton.config_file import CONFIG

LEASE_S = 15.0
"""The default."""
LATE_S = 2.0
"""What is granted beyond the lease: a request that was already on its way, and a busy machine."""
ABORT_S = 1.0
CONFIGURATION = """\
repository = "{repository}"
state = "{state}"
[control]
metrics = "127.0.0.1:0"
[[servers]]
name = "local"
grpc = "{grpc}"
[[services]]
name = "reranker"
engine = "{engine}"
probe = "reranker"
[services.gates]
allow_unjudged = true
[services.rollout]
keep_previous = "1s"
[services.traffic]
steps = [{{ weight = 50, hold = "10m" }}]
shadow_share = 0
"""


@dataclass(frozen=True, slots=True)
class Lapse:
    """One fault in mid-split. Seconds from the fault to the last request that still went to the candidate."""

    fault: str
    promised_s: float
    last_s: float
    failed: int
    then: str


class Serve:
    """``ctl serve`` as a process of its own, which can be stopped and killed."""

    def __init__(self, home: Path, configuration: Path) -> None:
        self._log = home / "serve.log"
        script = str(Path(sys.executable).with_name("ctl"))
        self._command = [script, "--config", str(configuration), "--output", "json", "serve"]
        self.api = ApiClient(home / "state" / SOCKET)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
        assert self.process.stdout is not None  # noqa: S101 - it was asked for above
        with self.process.stdout as told:  # it prints one line, when everything listens
            if not told.readline():
                self.process.wait(60)
                raise Failed(f"ctl serve did not start:\n{self._log.read_text()}")

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(60)

    def service(self) -> dict[str, Any]:
        try:
            status: dict[str, Any] = encode(self.api.status().services[0])
        except Unreachable:
            return {"phase": "", "weight": 0, "stable": None}
        return status


@contextmanager
def stage(home: Path, text: str, **places: object) -> Iterator[tuple[Serve, LocalTriton, Path]]:
    """A Triton with an empty engine and a ``ctl serve``, not yet started, with the configuration ``text``.

    ``places`` fill the text besides ``repository``, ``state``, ``engine``, ``grpc`` and ``metrics``. Gives the engine's
    directory as the third.
    """
    repository, configuration = home / "model_repository", home / "baton.toml"
    (repository / ENGINE).mkdir(parents=True)
    (repository / ENGINE / CONFIG).write_text(engine_config("specific { versions: [ 1 ] }"))
    with LocalTriton.prepare(home / "triton", own_backends()) as triton:
        triton.start(repository, load=[], log_file=home / "triton.log", die_with_parent=True)
        reached = {"grpc": triton.grpc_url, "metrics": triton.metrics_url.split("/")[2]}
        here = {"repository": repository, "state": home / "state", "engine": ENGINE}
        configuration.write_text(text.format(**here, **reached, **places))
        serve = Serve(home, configuration)
        try:
            yield serve, triton, repository / ENGINE
        finally:
            serve.stop()


def lapses(home: Path, questions: Sequence[tuple[Any, Sequence[Any]]]) -> list[Lapse]:
    """A split of half of the traffic, and what ends it, one after the other."""
    found = []
    with stage(home, CONFIGURATION) as (serve, triton, engine):
        serve.start()
        drop(home, engine, 1)
        until(lambda: serve.service()["stable"] == 1, "version 1 to serve")

        def abort() -> None:
            serve.api.abort(None)

        def kill() -> None:
            assert serve.process is not None  # noqa: S101 - it was started
            serve.process.kill()
            serve.process.wait()

        def freeze() -> None:
            assert serve.process is not None  # noqa: S101 - it was started
            serve.process.send_signal(signal.SIGSTOP)

        def thaw() -> None:
            assert serve.process is not None  # noqa: S101 - it was started
            serve.process.send_signal(signal.SIGCONT)

        ends = (
            ("ctl abort", ABORT_S, abort, None),
            ("control plane: kill -9", LEASE_S, kill, serve.start),
            ("control plane: SIGSTOP", LEASE_S, freeze, thaw),
        )
        for number, (fault, promised, act, mend) in enumerate(few(ends, ends[:2]), 2):
            traffic = Traffic([f"grpc://{triton.grpc_url}", f"http://{triton.http_url}"], questions, rate=20.0)
            traffic.start()
            try:
                drop(home, engine, number)
                until(lambda: serve.service()["weight"] == 50, "half of the traffic")
                until(lambda: _answers(traffic, number) >= 20, "answers of the candidate")  # noqa: B023
                at = time.time()
                act()
                until(lambda: time.time() - at > promised + 3, "the lease to end")  # noqa: B023 - used at once
                last = max(a.due for a in traffic.answers if a.version == number) - at
                then = "the stable version alone"
                if mend is not None:
                    mend()
                    until(lambda: serve.service()["weight"] == 50, "the split to go on")
                    then = "then resumed, under a new lease"
                    serve.api.abort(None)
                until(lambda: serve.service()["phase"] == "steady", "the end")
            finally:
                traffic.stop()
            found.append(Lapse(fault, promised, max(last, 0.0), len(traffic.errors), then))
    return found


def _answers(traffic: Traffic, version: int) -> int:
    return sum(a.version == version for a in list(traffic.answers))


def drop(home: Path, engine: Path, version: int) -> None:
    """A copy of the base checkpoint, renamed into place."""
    made = home / "made"
    shutil.copytree(CHECKPOINT, made)
    made.rename(engine / str(version))


def lapse_table(found: Sequence[Lapse]) -> Table:
    """What was promised and what was seen."""
    shown = Table(title="A candidate with half of the traffic loses it", title_justify="left", box=SIMPLE_HEAD)
    shown.add_column("fault")
    for name in ("within, s", "last request, s", "failed"):
        shown.add_column(name, justify="right")
    shown.add_column("after that")
    for one in found:
        shown.add_row(one.fault, f"{one.promised_s:g}", f"{one.last_s:.1f}", str(one.failed), one.then)
    return shown


def late(found: Sequence[Lapse]) -> list[str]:
    """What was promised and did not hold."""
    told = [f"{o.fault}: {o.failed} requests failed, none may" for o in found if o.failed]
    return told + [
        f"{o.fault}: the candidate got requests for {o.last_s:.1f} s, {o.promised_s:g} s is promised"
        for o in found
        if o.last_s > o.promised_s + LATE_S and not SHORT
    ]
