"""``python -m bench.frozen``: a model's process that stands still under load and goes on takes Triton 24.10 down.

Baton's control plane and splitter take no part: one tiny Python model, one version, ordinary gRPC clients, and signals.

    Triton + model  ->  clients ask  ->  SIGSTOP to the model's process  ->  SIGCONT (or SIGKILL)  ->  does Triton live?
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from harness.traffic import Ask, Client, Reply, Traffic
from harness.triton import running_triton
from harness.waiting import Failed, until
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from tritonclient import grpc

from baton.client import DIRECT
from baton.errors import BatonError
from baton.local import LocalTriton

MODEL = "echo"
CONFIG = """\
backend: "python"
max_batch_size: 0
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU } ]
"""
CODE = """\
import time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.01)
        x = [pb_utils.get_input_tensor_by_name(r, "x").as_numpy() for r in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", one)]) for one in x]
"""
SEEN_WITHIN_S = 6.0
"""An abort came within a second of the wake-up; what the clients still send may come later upon what it left."""


@dataclass(frozen=True, slots=True)
class Case:
    """``asked``: whether clients ask while it stands still. ``killed_s``: when it is killed instead, if it is.

    ``all_of_it``: Triton itself stands still as well, as where its container is paused.
    """

    name: str
    frozen_s: float
    asked: bool = True
    killed_s: float | None = None
    all_of_it: bool = False


CASES = (
    Case("frozen 0.5 s, then woken", 0.5),
    Case("frozen 1.5 s, then woken", 1.5),
    Case("frozen 3 s, then woken", 3.0),
    Case("frozen 3 s with no request in its hands, then woken", 3.0, asked=False),
    Case("frozen, killed after 0.5 s, before it could wake", 1.5, killed_s=0.5),
    Case("Triton and the model's process frozen 3 s together, then woken", 3.0, all_of_it=True),
)


def asking(url: str) -> Client:
    """One that asks by gRPC."""

    @contextlib.contextmanager
    def connected() -> Iterator[Ask]:
        value = grpc.InferInput("x", [1], "FP32")
        value.set_data_from_numpy(np.array([1], dtype=np.float32))
        with grpc.InferenceServerClient(url, channel_args=[DIRECT]) as client:

            def ask(_number: int) -> Reply:
                client.infer(MODEL, [value], client_timeout=5.0)
                return Reply(1)

            yield ask

    return Client(url, connected)


def attempt(home: Path, case: Case, count: int) -> int | None:
    """One try on a server of its own; the exit code of a Triton that ended, None of one that lives."""
    folder = home / "repository" / MODEL
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(CONFIG)
    (folder / "1" / "model.py").write_text(CODE)
    with (
        running_triton(home, home / "repository", load=[MODEL], backends=[]) as triton,
        contextlib.ExitStack() as before,
    ):
        asks = [asking(triton.grpc_url)] * count
        traffic = before.enter_context(Traffic(asks))
        until(lambda: len(traffic.answers) > 10 * count, "answers")
        if not case.asked:
            before.close()
        (pid,) = triton.stub_pids(MODEL, 1)
        assert triton.pid is not None  # noqa: S101 - it answers
        frozen = [triton.pid, pid] if case.all_of_it else [pid]
        for one in frozen:
            os.kill(one, signal.SIGSTOP)
        try:
            time.sleep(case.frozen_s if case.killed_s is None else case.killed_s)
            if case.killed_s is not None:
                os.kill(pid, signal.SIGKILL)
                time.sleep(case.frozen_s - case.killed_s)
        finally:
            for one in frozen:  # Triton first: the worse order
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, signal.SIGCONT)
        if not case.asked:
            before.enter_context(Traffic(asks))
        return _outcome(triton)


def _outcome(triton: LocalTriton) -> int | None:
    deadline = time.monotonic() + SEEN_WITHIN_S
    while time.monotonic() < deadline:
        if (code := triton.poll()) is not None:
            return code
        time.sleep(0.1)
    return None


def table(found: dict[Case, list[int | None]]) -> Table:
    shown = Table(title="A model's process stands still: does Triton live?", title_justify="left", box=SIMPLE_HEAD)
    shown.add_column("case")
    shown.add_column("Triton ended", justify="right")
    shown.add_column("by signal")
    for case, codes in found.items():
        ended = Counter(
            signal.Signals(-code).name if code < 0 else f"exit {code}" for code in codes if code is not None
        )
        how = ", ".join(f"{name} {times}" for name, times in sorted(ended.items()))
        shown.add_row(case.name, f"{ended.total()} of {len(codes)}", how)
    return shown


def main(words: Sequence[str] | None = None) -> int:
    """Prints the table; 0 when it could be measured, whatever it says."""
    asked = argparse.ArgumentParser(prog="python -m bench.frozen", description=__doc__)
    asked.add_argument("--tries", type=int, default=3, help="of each case")
    asked.add_argument("--clients", type=int, default=4)
    given = asked.parse_args(words)
    console = Console(highlight=False)
    found: dict[Case, list[int | None]] = {}
    try:
        for case in CASES:
            found[case] = []
            for _ in range(given.tries):
                with tempfile.TemporaryDirectory(prefix="baton-frozen-") as home:
                    found[case].append(attempt(Path(home), case, given.clients))
    except (Failed, BatonError) as error:
        console.print(f"[red]✖ {error}[/red]", soft_wrap=True)
        return 1
    console.print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
