"""The splitter in front of an engine on a real Triton: the files that the control plane writes, clients, control."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from google.protobuf import text_format
from harness.waiting import until
from tests.support.stage import still_run
from tests.support.toy import engine_config, make_checkpoint
from tests.support.triton import tensors
from tests.unit.splitter.routes import route_of
from tritonclient.grpc import model_config_pb2

from baton.local import LocalTriton
from baton.triton.key import Caps, Key
from baton.triton.repository import ServiceFiles

LONG_S = 120.0
UNCAPPED = Caps(weight=100.0, shadow=100.0, lease_s=3600.0, contents=True)


class Rig:
    """One service: alias -> splitter -> engine versions 1 (stable) and 2 (candidate)."""

    def __init__(self, server: LocalTriton, repository: Path, name: str, caps: Caps = UNCAPPED) -> None:
        self.server = server
        self.name, self.engine, self.splitter = name, f"{name}_engine", f"{name}_splitter"
        self.files = ServiceFiles(repository, name, self.engine, Key(repository.parent / f"{name}.token", caps))
        self.client = triton.InferenceServerClient(server.grpc_url)
        self.config: model_config_pb2.ModelConfig

    def engine_files(self, text: str) -> None:
        self.files.engine_dir.mkdir(parents=True)
        (self.files.engine_dir / "config.pbtxt").write_text(text)
        self.config = text_format.Parse(text, model_config_pb2.ModelConfig())

    def toys(self, *versions: Mapping[str, Any]) -> None:
        """Engine versions 1, 2, ... with these switches of the toy."""
        log = self.files.repository.parent / f"{self.name}.loads"
        self.engine_files(engine_config(self.engine, range(1, len(versions) + 1), load_log=log))
        for number, toy in enumerate(versions, 1):
            make_checkpoint(self.files.folder(number), seed=number, toy=toy)

    def pid(self, version: int) -> int:
        """The process of an engine version that the toy serves."""
        lines = (self.files.repository.parent / f"{self.name}.loads").read_text().splitlines()
        return next(int(line.split()[1]) for line in reversed(lines) if line.split()[0] == str(version))

    def load(self, model: str) -> None:
        self.client.load_model(model, client_timeout=LONG_S)

    def unload(self, model: str) -> None:
        self.client.unload_model(model, client_timeout=LONG_S)

    def point(self, at: str, stable: int = 1) -> None:
        """Lead the alias to the ``engine`` or to the ``splitter``; its version stays stable's number."""
        self.files.set_alias(stable, split=at == "splitter")
        self.load(self.name)
        self.load(self.name)

    def begin(self, stable: int = 1) -> None:
        """Everything loaded, the alias leading to the splitter."""
        self.files.set_splitter(stable)
        self.load(self.engine)
        self.load(self.splitter)
        self.point("splitter", stable)

    def end(self) -> None:
        """Nothing of the service is left loaded."""
        still_run([self.server])
        loaded = {model.name for model in self.client.get_model_repository_index().models if model.state == "READY"}
        for model in (self.name, self.splitter, self.engine):
            if model in loaded:
                self.unload(model)
        self.client.close()

    def control(self, **asked: Any) -> dict[str, Any]:
        return self.control_raw(json.dumps({"token": self.files.token()} | asked).encode())

    def control_raw(self, raw: bytes) -> dict[str, Any]:
        shape = [1, 1] if self.config.max_batch_size else [1]
        tensor = triton.InferInput("baton_control", shape, "BYTES")
        tensor.set_data_from_numpy(np.array([raw], dtype=np.object_).reshape(shape))
        wanted = [triton.InferRequestedOutput("baton_report")]
        result = self.client.infer(self.splitter, [tensor], outputs=wanted, client_timeout=LONG_S)
        return dict(json.loads(result.as_numpy("baton_report").reshape(-1)[0]))

    def route(self, **route: Any) -> dict[str, Any]:
        return self.control(route=route_of(**route))

    def infer(self, *inputs: Any, **options: Any) -> Any:
        """Ask the alias; by default the one question that all ask."""
        return self.client.infer(self.name, list(inputs) or QUESTION, client_timeout=LONG_S, **options)

    def counted(self, **counts: int) -> dict[str, Any]:
        """The report, as soon as it counts that. A request is counted after its client has the answer."""
        found: dict[str, Any] = until(
            lambda: (r := self.control())["counts"] | counts == r["counts"] and r, f"the counts {counts}"
        )
        return found

    def samples(self, what: str, after: int = 0) -> list[dict[str, Any]]:
        """Everything newer in the ring, page by page."""
        found: list[dict[str, Any]] = []
        boot = self.control()["boot"]
        while (report := self.control(after=after, boot=boot))["samples"]:
            found += report["samples"]
            after = report["next"]
        return [sample for sample in found if sample["what"] == what]


QUESTION = tensors(triton, {"text": "red round shape"}, [{"text": "a red round shape"}, {"text": "the blue thing"}])


def version_of(result: Any) -> int:
    """The engine version that answered, by its own word."""
    return int(result.as_numpy("model_version")[0, 0])
