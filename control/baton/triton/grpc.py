"""The port to a real Triton, over gRPC. Metrics come over HTTP.

Repository calls never go over HTTP: there a load blocks every open connection until it is done (seen on 24.10).
"""

from __future__ import annotations

import http.client
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tritonclient.grpc as client
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from baton.client import DIRECT
from baton.domain import EngineInfo, ModelState, ModelVersion, Signature, TensorSpec
from baton.errors import BatonError, InvalidRequest, KeyRefused, TimedOut, TritonError, Unreachable
from baton.tls import Connection, Tls
from baton.triton.port import Counts, EngineInfos, Heartbeats, Index, Tensors, own_id
from baton.triton.words import cause, refused
from baton.verify.device import TRITON, DeviceMemory

INDEX_TIMEOUT_S = 2.0
NO_MODEL = "baton-no-such-model"
PENDING = "nv_inference_pending_request_count"
ENGINE_INFO = "baton_engine_info"
ENGINE_BEATS = "baton_engine_beats"
GPU_TOTAL, GPU_USED = "nv_gpu_memory_total_bytes", "nv_gpu_memory_used_bytes"
KEY_HEADER = "triton-grpc-protocol-admin-key"
MAX_MESSAGE_BYTES = 2**31 - 1
_METRICS = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks the server itself, whatever proxy ``http_proxy`` names."""


class GrpcTriton:
    """One server at ``address`` (``host:port`` of its gRPC endpoint).

    The ``admin_key`` goes with every call: the operator chooses which calls the server restricts by it. ``tls``: calls
    are encrypted, and the server is checked. Raises ``ConfigError`` when the file of authorities can't be used.
    """

    def __init__(
        self,
        name: str,
        address: str,
        *,
        metrics: str | None = None,
        admin_key: str | None = None,
        tls: Tls | None = None,
    ) -> None:
        self._name = name
        self._address = address
        self._metrics = metrics
        self._headers = {KEY_HEADER: admin_key} if admin_key else None
        self._connection = Connection(tls, self._connected)

    def _connected(self, credentials: Any, options: list[tuple[str, str]]) -> client.InferenceServerClient:
        return client.InferenceServerClient(
            self._address,
            creds=credentials,
            # Pings without data more often than every five minutes are answered with GOAWAY.
            keepalive_options=client.KeepAliveOptions(keepalive_time_ms=2**31 - 1, keepalive_timeout_ms=20_000),
            channel_args=[
                DIRECT,  # whoever runs a proxy would be shown the key
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                # A server that comes back is found within seconds, not after minutes of backing off.
                ("grpc.max_reconnect_backoff_ms", 2000),
                *options,
            ],
        )

    @property
    def _client(self) -> client.InferenceServerClient:
        return self._connection.client()

    @property
    def name(self) -> str:
        return self._name

    def release(self) -> str:
        """The server's version, for example ``2.51.0``. Raises ``Unreachable``."""
        with self._errors("metadata"):
            return str(self._client.get_server_metadata(headers=self._headers, client_timeout=INDEX_TIMEOUT_S).version)

    def explicit(self) -> bool:
        """Whether it takes load and unload calls. To unload a model that is not there does nothing (seen on 24.10)."""
        try:
            self._client.unload_model(NO_MODEL, headers=self._headers, client_timeout=INDEX_TIMEOUT_S)
        except InferenceServerException as error:
            if "polling is enabled" in (error.message() or ""):  # its words in the modes none and poll
                return False
            raise self._translated(error, "an unload call", None) from None
        return True

    def index(self) -> Index:
        with self._errors("repository index"):
            answer = self._client.get_model_repository_index(headers=self._headers, client_timeout=INDEX_TIMEOUT_S)
        found: dict[str, dict[int, ModelVersion]] = {}
        for line in answer.models:
            versions = found.setdefault(line.name, {})
            if line.version:
                state = ModelState(line.state) if line.state else ModelState.UNAVAILABLE
                versions[int(line.version)] = ModelVersion(state, line.reason)
        return found

    def load(self, model: str, timeout_s: float) -> None:
        with self._errors(f"loading {model}", timeout_s):
            self._client.load_model(model, headers=self._headers, client_timeout=timeout_s)

    def unload(self, model: str, timeout_s: float) -> None:
        with self._errors(f"unloading {model}", timeout_s):
            self._client.unload_model(model, headers=self._headers, client_timeout=timeout_s)

    def infer(
        self, model: str, version: int | None, inputs: Tensors, timeout_s: float, request_id: str | None = None
    ) -> Tensors:
        tensors = []
        for name, value in inputs.items():
            tensor = client.InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
            tensor.set_data_from_numpy(value)
            tensors.append(tensor)
        with self._errors(f"a request to {model} version {version}", timeout_s):
            answer = self._client.infer(
                model,
                tensors,
                model_version="" if version is None else str(version),
                request_id=request_id or own_id(),
                headers=self._headers,
                client_timeout=timeout_s,
                timeout=max(1, int(timeout_s * 1e6)),
            )
        outputs: dict[str, np.ndarray[Any, Any]] = {}
        for output in answer.get_response().outputs:
            value = answer.as_numpy(output.name)
            if value is None:
                raise TritonError(f"{model} answered without data for its output {output.name!r}.")
            outputs[output.name] = value
        return outputs

    def step(self, model: str) -> str | None:
        try:
            steps = self._config(model).ensemble_scheduling.step
        except KeyRefused:
            raise
        except TritonError:
            return None
        return str(steps[0].model_name) if steps else None

    def instances(self, model: str, version: int) -> int:
        # Triton fills in what the file leaves out. A group on GPUs has its count on each of them.
        return sum(group.count * max(1, len(group.gpus)) for group in self._config(model, version).instance_group)

    def signature(self, model: str, version: int | None) -> Signature:
        """None: of the version that Triton chooses."""
        config = self._config(model, version)

        def spec(tensor: Any, *, optional: bool = False) -> TensorSpec:
            kind = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_").replace("STRING", "BYTES")
            return TensorSpec(tensor.name, kind, tuple(tensor.dims), optional)

        return Signature(
            tuple(spec(tensor, optional=tensor.optional) for tensor in config.input),
            tuple(spec(tensor) for tensor in config.output),
            batched=config.max_batch_size > 0,
        )

    def _config(self, model: str, version: int | None = None) -> Any:
        asked = "" if version is None else str(version)
        with self._errors(f"configuration of {model}"):
            answer = self._client.get_model_config(model, asked, headers=self._headers, client_timeout=INDEX_TIMEOUT_S)
        return answer.config

    def counts(self) -> Mapping[str, Mapping[int, Counts]]:
        with self._errors("statistics"):
            answer = self._client.get_inference_statistics(headers=self._headers, client_timeout=INDEX_TIMEOUT_S)
        found: dict[str, dict[int, Counts]] = {}
        for model in answer.model_stats:
            stats = model.inference_stats
            found.setdefault(model.name, {})[int(model.version)] = Counts(stats.success.count, stats.fail.count)
        return found

    def inflight(self, model: str) -> Mapping[int, int] | None:
        if self._metrics is None:
            return None
        # The parser gives every counter the name that it has in newer formats.
        return {
            version: int(sample.value)
            for name, version, sample in self._samples(self._metrics)
            if name == model and sample.name.removesuffix("_total") == PENDING
        }

    def engine_infos(self) -> EngineInfos | None:
        if self._metrics is None:
            return None
        found: dict[str, dict[int, frozenset[EngineInfo]]] = {}
        for model, version, sample in self._samples(self._metrics):
            if sample.name == ENGINE_INFO and sample.value > 0:  # it falls to 0 when the version leaves
                info = EngineInfo(**{field: sample.labels.get(field) for field in EngineInfo.__dataclass_fields__})
                versions = found.setdefault(model, {})
                versions[version] = versions.get(version, frozenset()) | {info}
        return found

    def heartbeats(self) -> Heartbeats | None:
        if self._metrics is None:
            return None
        found: dict[str, dict[int, float]] = {}
        for model, version, sample in self._samples(self._metrics):
            if sample.name.removesuffix("_total") == ENGINE_BEATS:
                found.setdefault(model, {})[version] = sample.value
        return found

    def device_memory(self) -> Sequence[DeviceMemory]:
        found: dict[str, dict[str, int]] = {}
        for sample in [] if self._metrics is None else self._scrape(self._metrics):
            if sample.name in (GPU_TOTAL, GPU_USED) and "gpu_uuid" in sample.labels:
                found.setdefault(sample.labels["gpu_uuid"], {})[sample.name] = int(sample.value)
        return [
            DeviceMemory(uuid, each[GPU_TOTAL], max(each[GPU_TOTAL] - each[GPU_USED], 0), TRITON)
            for uuid, each in sorted(found.items())
            if each.keys() == {GPU_TOTAL, GPU_USED}
        ]

    def _samples(self, address: str) -> list[tuple[str, int, Sample]]:
        """Every sample of the server's metrics that is about a version of a model: model, version, sample."""
        return [
            (sample.labels["model"], int(sample.labels["version"]), sample)
            for sample in self._scrape(address)
            if "model" in sample.labels and sample.labels.get("version", "").isdecimal()
        ]

    def _scrape(self, address: str) -> list[Sample]:
        try:
            with _METRICS.open(f"http://{address}/metrics", timeout=INDEX_TIMEOUT_S) as answer:
                text = answer.read().decode()
            families = list(text_string_to_metric_families(text))
        # ValueError: it is no such text. HTTPException: it is no HTTP, or breaks off.
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unreachable(
                f"The metrics of server {self._name} at {address} can't be read: {error or type(error).__name__}."
            ) from None
        return [sample for family in families for sample in family.samples]

    def close(self) -> None:
        self._connection.close(client.InferenceServerClient.close)

    @contextmanager
    def _errors(self, what: str, timeout_s: float | None = None) -> Iterator[None]:
        """Triton's errors of a call as Baton's.

        Without ``timeout_s`` the call has the short deadline, and a server that misses it is unreachable.
        """
        try:
            yield
        except InferenceServerException as error:
            raise self._translated(error, what, timeout_s) from None

    def _translated(self, error: InferenceServerException, what: str, timeout_s: float | None) -> BatonError:
        status: Any = error.status() or ""
        words = (error.message() or "").strip()
        where = f"server {self._name} at {self._address}"
        if "DEADLINE_EXCEEDED" in status:
            if timeout_s is None:
                return Unreachable(f"Triton, {where}, did not answer within {INDEX_TIMEOUT_S:.0f} s.")
            return TimedOut(f"Triton, {where}: {what} took longer than {timeout_s:g} s.")
        # For this Triton's status is UNAVAILABLE too, although the server answers (seen on 24.10).
        if "UNAVAILABLE" in status and "protocol is restricted" in words:
            how = "wants an admin key, and none is configured" if self._headers is None else "refused the admin key"
            return KeyRefused(
                f"Triton, {where}, {how}: {what}: {words}.",
                mend="Put the key that it was started with into the file that admin_key_file in [[servers]] names, "
                "and start the control plane again.",
            )
        # The engine has no time or no room for this request: it is alive, and busy.
        if "UNAVAILABLE" in status and refused(words):
            return TimedOut(f"Triton, {where}: {what}: {words}.")
        # Triton also says UNAVAILABLE of a version that is loading or unloading: then the server does answer.
        if "CANCELLED" in status or ("UNAVAILABLE" in status and "unknown model" not in words):
            silent = Unreachable(f"Triton, {where}, does not answer: {words or status}.")
            return self._connection.trust.explained(silent, f"Triton, {where},", self._address)
        if "INVALID_ARGUMENT" in status:
            return InvalidRequest(cause(words) or str(status), words=words or None)
        return TritonError(cause(words) or str(status), words=words or None)
