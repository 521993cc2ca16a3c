"""An engine that tells what it was given: any tensors, with or without a batch dimension.

``refuse`` among the parameters makes it answer with an error of that code.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.version = int(args["model_version"])
        self.batch = json.loads(args["model_config"])["max_batch_size"] > 0

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        parameters = json.loads(request.parameters() or "{}")
        if "refuse" in parameters:
            error = pb_utils.TritonError("refused as asked", getattr(pb_utils.TritonError, parameters["refuse"]))
            return pb_utils.InferenceResponse(error=error)
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        seen = {
            "version": self.version,
            "id": request.request_id(),
            "correlation": request.correlation_id(),
            "flags": request.flags(),
            "timeout": request.timeout(),
            "parameters": parameters,
            "wanted": sorted(request.requested_output_names()),
            "inputs": {name: [str(array.dtype), list(array.shape), digest(array)] for name, array in inputs.items()},
        }
        lead = (1,) if self.batch else ()
        text = np.array([json.dumps(seen).encode()], dtype=np.object_).reshape((*lead, 1))
        tensors = [
            pb_utils.Tensor("seen", text),
            pb_utils.Tensor("half", np.full((*lead, 3), self.version / 4, dtype=np.float16)),
        ]
        if "blob" in inputs:
            tensors.append(pb_utils.Tensor("copy", inputs["blob"]))
        return pb_utils.InferenceResponse(output_tensors=tensors)


def digest(array: Any) -> str:
    items = array.reshape(-1).tolist() if array.dtype == np.object_ else [array.tobytes()]
    return hashlib.sha256(b"".join(len(item).to_bytes(8) + item for item in items)).hexdigest()
