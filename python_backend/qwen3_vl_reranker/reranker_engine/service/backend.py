"""The class that Triton's python backend creates for each instance of a model version.

This module imports nothing heavy. Before each load, Triton starts a separate process only to ask this class whether it
completes the configuration; importing torch there would double the time of every load.
"""

from __future__ import annotations

import gc
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .tokenizer_trial import TokenizerTrial
from .watchdog import initialize_timeout, watchdog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from triton_python_backend_utils import InferenceRequest, InferenceResponse

_START_TIME = 19
"""Index of ``starttime`` in /proc/<pid>/stat after the name, which may contain spaces; see proc_pid_stat(5)."""


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        """Load the version. Triton reports an exception as the reason of the failed load.

        Raises:
            ValueError: A parameter of config.pbtxt is wrong.
            CheckpointError: The version folder is no checkpoint that can be served.
        """
        seconds = initialize_timeout(json.loads(args["model_config"]))
        # The watchdog covers the imports, too: they read hundreds of files, perhaps over a network.
        folder = Path(args["model_repository"]) / args["model_version"]
        with (
            watchdog(seconds, f"loading {args['model_name']} version {args['model_version']}"),
            TokenizerTrial(folder) as trial,
        ):
            seconds_of = {"start": process_age_s()}
            begun = time.monotonic()
            # torch creates some 180,000 objects, and keeps all. Garbage collection over them takes a seventh of the
            # imports' time, and would later delay a request by 70 ms now and then.
            gc.disable()
            try:
                from .instance import Instance
            finally:
                gc.enable()
            gc.freeze()
            seconds_of["imports"] = time.monotonic() - begun
            trial.finish()
            seconds_of["trial"] = trial.seconds
            self._instance = Instance(args, seconds_of)

    def execute(self, requests: Sequence[InferenceRequest]) -> list[InferenceResponse | None]:
        """Answer a batch of requests, each with scores or with an error of its own."""
        return self._instance.execute(requests)

    def finalize(self) -> None:
        """Triton calls it when every client has its answer; not after a failed ``initialize``."""
        self._instance.finalize()


def process_age_s() -> float:
    """Seconds since this process was started, to a hundredth; 0 if the system does not tell."""
    try:
        fields = Path("/proc/self/stat").read_text("ascii").rpartition(")")[2].split()
        started = int(fields[_START_TIME]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    except OSError:
        return 0.0
