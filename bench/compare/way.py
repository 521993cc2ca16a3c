"""What every way of updating has in common, and how its processes are started, weighed and ended."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from demo.command import few
from demo.rig import CHECKPOINTS, ROOT, Failed, pss

from baton.local import procfs
from baton.local.tether import tethered as tie
from baton.triton import pbtxt

OLD, NEW = 1, 2
"""The versions of every run: the update leads from one to the other."""
ENGINE = "qwen3_vl_reranker"
ENGINE_CODE = ROOT / "python_backend" / ENGINE
CHECKPOINT = CHECKPOINTS / "base"
THREADS = 1
"""Of torch, in every process that computes."""
STEPS = (5, 50, 100)
"""Percent of the traffic, where a way moves it by weights."""
STEP_S = few(5.0, 1.0)
_STOP_S = 10.0


@dataclass(frozen=True)
class Running:
    """A way that serves version ``OLD``."""

    url: str
    """Where clients ask, ``http://host:port/v2/models/<name>/infer``."""
    update: Callable[[], None]
    """From version ``OLD`` to ``NEW``; returns when all that a person would do is done."""
    processes: Callable[[], Iterable[int]]
    """Everything that the way needs to serve and to update."""
    paths: Mapping[str, str] = field(default_factory=dict)
    """URLs whose costs are told besides, the one that the others are compared with first."""


@dataclass(frozen=True)
class Way:
    """One way to update a model."""

    name: str
    update: str
    """What its update is, in one sentence."""
    run: Callable[[Path], AbstractContextManager[Running]]
    """Starts it in an empty folder; every process of it is gone when the context is left, whatever happened."""


def infer_url(address: str, model: str = ENGINE, *, version: int | None = None) -> str:
    exact = "" if version is None else f"/versions/{version}"
    return f"http://{address}/v2/models/{model}{exact}/infer"


def engine_config(policy: str) -> str:
    """The repository's ``config.pbtxt`` for the engine, with ``THREADS`` and another version policy."""
    path = ROOT / "model_repository" / ENGINE / "config.pbtxt"
    config = pbtxt.parse(path.read_text(), path)
    config.parameters["threads"].string_value = str(THREADS)
    config.ClearField("version_policy")
    return f"{config}\nversion_policy {{ {policy} }}\n"


def memory(processes: Iterable[int]) -> int:
    """Proportional set size of the processes, in bytes: what they share is counted once. Those that ended count 0."""
    return sum(pss(pid) for pid in processes)


class Child:
    """A process in a session of its own, so that Ctrl-C reaches the benchmark only, which then ends what it started."""

    def __init__(self, command: Sequence[str], log: Path, *, tethered: bool = True) -> None:
        """``tethered``: it also ends when the benchmark is killed. Not for one whose own children would stay."""
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                tie(command, parent=os.getpid()) if tethered else [*command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                # Module paths of the engine and of the benchmark: neither is installed.
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ENGINE_CODE)])},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    def first_line(self) -> Any:
        """The JSON that the process prints when it is ready. Raises ``Failed`` with its log when it ends before."""
        assert self._process.stdout is not None  # noqa: S101 - it was asked for above
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"{self._process.args!r} ended before it was ready:\n{self._log.read_text()}")
        return json.loads(line)

    def processes(self) -> list[int]:
        return procfs.session_members(self._process.pid)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to what is left of its session."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        finally:
            procfs.kill_session(self._process.pid)
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
