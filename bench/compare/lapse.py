"""How soon a candidate loses its share of traffic: when a person aborts, and when the control plane is gone."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.compare.way import CHECKPOINT, engine_config
from harness.command import SHORT, few
from harness.control_plane import ControlPlane
from harness.places import ENGINE
from harness.traffic import Question, Traffic, rerankers
from harness.triton import running_triton
from harness.waiting import until
from rich.box import SIMPLE_HEAD
from rich.table import Table

from baton.config import TrafficConfig
from baton.local import LocalTriton
from baton.triton.config_file import CONFIG

LEASE_S = TrafficConfig().lease
LATE_S = 2.0
"""What is granted beyond the lease: a request that was already on its way, and a busy machine."""
ABORT_S = 1.0
CLIENTS = 8
HEAD = """\
repository = "{repository}"
state = "{state}"
[control]
metrics = "127.0.0.1:0"
[[servers]]
name = "local"
grpc = "{grpc}"
metrics = "{metrics}"
[[services]]
name = "reranker"
engine = "{engine}"
probe = "reranker"
"""
"""How each configuration of these benches begins."""
CONFIGURATION = """\
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


@contextmanager
def stage(home: Path, text: str, **places: object) -> Iterator[tuple[ControlPlane, LocalTriton, Path]]:
    """A Triton with an empty engine and a ``ctl serve``, not yet started, configured by :data:`HEAD` and ``text``.

    ``places`` fill what ``text`` leaves open. Gives the engine's directory as the third.
    """
    repository, configuration = home / "model_repository", home / "baton.toml"
    (repository / ENGINE).mkdir(parents=True)
    (repository / ENGINE / CONFIG).write_text(engine_config("specific { versions: [ 1 ] }"))
    with running_triton(home / "triton", repository) as triton:
        reached = {"grpc": triton.grpc_url, "metrics": triton.metrics_url.split("/")[2]}
        here = {"repository": repository, "state": home / "state", "engine": ENGINE}
        configuration.write_text((HEAD + text).format(**here, **reached, **places))
        serve = ControlPlane("serve", options=("--config", str(configuration)), log=home / "serve.log")
        try:
            yield serve, triton, repository / ENGINE
        finally:
            serve.stop()


def lapses(home: Path, questions: Sequence[Question]) -> list[Lapse]:
    """A split of half of the traffic, and what ends it, one after the other."""
    found = []
    with stage(home, CONFIGURATION) as (serve, triton, engine):
        serve.start()
        urls = [f"grpc://{triton.grpc_url}", f"http://{triton.http_url}"]
        drop(home, engine, 1)
        serve.rest(1)

        def abort() -> None:
            serve.api.abort(None)

        ends: tuple[tuple[str, float, Callable[[], object], Callable[[], object] | None], ...] = (
            ("ctl abort", ABORT_S, abort, None),
            ("control plane: kill -9", LEASE_S, serve.kill, serve.start),
            (
                "control plane: SIGSTOP",
                LEASE_S,
                lambda: serve.send(signal.SIGSTOP),
                lambda: serve.send(signal.SIGCONT),
            ),
        )
        for number, (fault, promised, act, mend) in enumerate(few(ends, ends[1:2]), 2):
            traffic = Traffic(rerankers(urls, questions, CLIENTS), rate=20.0)
            traffic.start()
            try:
                drop(home, engine, number)
                serve.until(lambda service: service["weight"] == 50, "half of the traffic")
                until(lambda: traffic.versions[number] >= 20, "answers of the candidate")  # noqa: B023
                at = time.time()
                act()
                until(lambda: time.time() - at > promised + 3, "the lease to end")  # noqa: B023 - used at once
                last = max(a.due for a in traffic.answers if a.version == number) - at
                then = "the stable version alone"
                if mend is not None:
                    mend()
                    serve.until(lambda service: service["weight"] == 50, "the split to go on")
                    then = "then resumed, under a new lease"
                    serve.api.abort(None)
                serve.rest()
            finally:
                traffic.stop()
            found.append(Lapse(fault, promised, max(last, 0.0), len(traffic.failures), then))
    return found


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
