"""The class that Triton's python backend creates for each instance of a model version.

This module imports nothing heavy. Triton starts a process of its own before each load, only to ask this class whether
it completes the configuration; importing torch there would double the time of every load.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .watchdog import initialize_timeout, watchdog

if TYPE_CHECKING:
    from collections.abc import Sequence


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        """Load the version; whatever is raised here is the reason that Triton gives for the failed load.

        Raises:
            ValueError: A parameter of config.pbtxt is wrong.
            CheckpointError: The version folder is no checkpoint that can be served.
        """
        seconds = initialize_timeout(json.loads(args["model_config"]))
        # The watchdog looks after the imports as well: they read hundreds of files, perhaps over a network.
        with watchdog(seconds, f"loading {args['model_name']} version {args['model_version']}"):
            from .instance import Instance

            self._instance = Instance(args)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer a batch of requests, each with scores or with an error of its own."""
        return self._instance.execute(requests)

    def finalize(self) -> None:
        """Triton calls it when every client has its answer; not after a failed ``initialize``."""
        self._instance.finalize()
