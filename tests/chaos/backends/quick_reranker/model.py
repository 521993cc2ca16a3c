"""A reranker that is loaded in a fraction of a second: it has Baton's contract with Triton, and no neural network.

It reads every shard of an ordinary checkpoint to its end, so a file that was cut is noticed at the load, and answers by
``score.py`` with the mark in ``config.json``. ``load_s`` there makes the load last, ``delay_s`` each batch; so does a
number of seconds in a file ``slow-VERSION`` beside the log of loads, for as long as that is there.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from score import score, text


def read_whole(shard: Path) -> None:
    """Raises ``TritonModelException`` when the shard is shorter than its header says."""
    size = shard.stat().st_size
    with shard.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        begin = file.tell()
    header.pop("__metadata__", None)
    wanted = begin + max(tensor["data_offsets"][1] for tensor in header.values())
    if size < wanted:
        raise pb_utils.TritonModelException(f"{shard} ends after {size} of {wanted} bytes")


class TritonPythonModel:
    """One version, in a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        self.version = int(args["model_version"])
        folder = Path(args["model_repository"]) / args["model_version"]
        # From here on the process may be killed: one that dies within some 10 ms of its start blocks Triton's loads.
        log = json.loads(args["model_config"])["parameters"]["load_log"]["string_value"]
        self.slow = Path(log).with_name(f"slow-{self.version}")
        with Path(log).open("a") as file:
            file.write(f"{self.version} {os.getpid()}\n")
        config = json.loads((folder / "config.json").read_text())
        self.mark = int(config["mark"])
        self.delay_s = float(config.get("delay_s", 0.0))
        time.sleep(float(config.get("load_s", 0.0)))
        for shard in sorted(folder.glob("*.safetensors")):
            read_whole(shard)

    def execute(self, requests: list[Any]) -> list[Any]:
        try:
            time.sleep(float(self.slow.read_text() or 0))
        except FileNotFoundError:
            time.sleep(self.delay_s)
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        query = json.loads(pb_utils.get_input_tensor_by_name(request, "query").as_numpy()[0, 0])
        documents = pb_utils.get_input_tensor_by_name(request, "documents").as_numpy()[0]
        scores = [[score(text(query), text(json.loads(document)), self.mark) for document in documents]]
        return pb_utils.InferenceResponse(
            output_tensors=[
                pb_utils.Tensor("scores", np.array(scores, dtype=np.float32)),
                pb_utils.Tensor("model_version", np.array([[self.version]], dtype=np.int64)),
            ]
        )
