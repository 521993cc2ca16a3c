"""Entry point of the Triton python-based backend ``splitter``. All that depends on Triton is here.

The model is not decoupled. ``execute`` passes each request with its response sender to a thread, and returns. If it
answered synchronously, the engine would get one request at a time. ``async_exec`` is not used: its few threads are
shared, and hung calls would block all others.
"""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from traffic_splitter.calls import CANDIDATE_CALLS, STABLE_CALLS, VersionCalls
from traffic_splitter.control import NO_TOKEN, Control
from traffic_splitter.dispatch import Splitter
from traffic_splitter.pool import Pool, Timer
from traffic_splitter.processes import Processes
from traffic_splitter.request import Answer
from traffic_splitter.route import InvalidControl, Tensors, parse_caps

CONTROL, REPORT = "baton_control", "baton_report"
COMPARABLE = frozenset({"TYPE_FP16", "TYPE_FP32", "TYPE_FP64"})
"""Without BF16: Triton's Python backend has no numpy array for it."""
TIMEOUT_ERRORS = ("deadline: ", "Request timeout expired")
"""How the engine's error, and that of Triton's own queue, begins when the request's timeout is over or too short."""
DRAIN_S = 10.0
"""How long an unload waits for calls that no client waits for: late attempts and shadows."""
_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """One splitter, one process."""

    def initialize(self, args: dict[str, str]) -> None:
        """Raises ``ValueError`` naming the parameter that is wrong.

        Without a hash of a token, as in files of an older Baton, every route is refused and stable answers alone.
        """
        config = json.loads(args["model_config"])
        engine = _parameter(config, "engine")
        stable = _parameter(config, "stable")
        if not stable.isdecimal() or not 0 < int(stable) < 2**63:
            raise ValueError(f"parameters: stable must be the number of an engine version, not {stable!r}")
        given = {key: str(value.get("string_value", "")) for key, value in config.get("parameters", {}).items()}
        caps = parse_caps(given)
        self._engine = Engine(engine, config)
        self._pools = [Pool(STABLE_CALLS, "stable", _log), Pool(CANDIDATE_CALLS, "candidate", _log)]
        self._timer = Timer(_log)
        self._calls = VersionCalls(Processes(engine), time.monotonic, _warn)
        self._splitter = Splitter(
            int(stable),
            self._engine.tensors,
            stable_pool=self._pools[0],
            candidate_pool=self._pools[1],
            timer=self._timer,
            calls=self._calls,
        )
        threading.Thread(target=self._calls.watch, name="watch", daemon=True).start()
        self._control = Control(self._splitter, given.get("token_sha256", NO_TOKEN), caps)

    def execute(self, requests: Sequence[Any]) -> None:
        """Returns at once. Control requests are answered here, also when every thread is busy."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                response = self._begin(request, sender)
            except Exception as error:  # noqa: BLE001 - each request must be answered, this one and the next
                _log(error)
                response = _refusal(f"splitter: {error}", pb_utils.TritonError.INTERNAL)
            if response is not None:
                sender.send(response, flags=_FINAL)

    def finalize(self) -> None:
        """Triton calls it when every client has its answer, before it ends this process."""
        for pool in reversed(self._pools):
            pool.close(DRAIN_S)
        self._timer.close()
        self._calls.close()

    def _begin(self, request: Any, sender: Any) -> Any:
        """The response to a control request. None for any other request, which is answered later."""
        control = pb_utils.get_input_tensor_by_name(request, CONTROL)
        if control is None:
            self._splitter.dispatch(ClientRequest(request, sender, self._engine))
            return None
        given = control.as_numpy()
        if given.size != 1:
            return _refusal(f"{CONTROL}: one text is expected, not {given.size}", pb_utils.TritonError.INVALID_ARG)
        try:
            report = self._control.answer(given.reshape(-1)[0])
        except InvalidControl as error:
            return _refusal(f"{CONTROL}: {error}", pb_utils.TritonError.INVALID_ARG)
        text = np.array([report.encode()], dtype=np.object_).reshape(given.shape)
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(REPORT, text)])


class Engine:
    """The engine's name and tensors, from the splitter's own configuration."""

    def __init__(self, name: str, config: Mapping[str, Any]) -> None:
        self.name = name
        # With a maximal batch size of 0 there is no batch dimension.
        batch = (-1,) if int(config.get("max_batch_size", 0)) > 0 else ()
        texts = {tensor["name"] for tensor in config["input"] if tensor["data_type"] == "TYPE_STRING"}
        scores = {
            tensor["name"]: (*batch, *(int(size) for size in tensor["dims"]))
            for tensor in config["output"]
            if tensor["data_type"] in COMPARABLE
        }
        self.tensors = Tensors(texts=frozenset(texts - {CONTROL}), scores=scores)
        # The splitter reads scores on the CPU, wherever the engine runs.
        self.memory = pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0)


class ClientRequest:
    """One client's request, as ``traffic_splitter.request.Request``. It is passed on unchanged."""

    __slots__ = ("_engine", "_request", "_sender", "again", "id")

    def __init__(self, request: Any, sender: Any, engine: Engine) -> None:
        self._request = request
        self._sender = sender
        self._engine = engine
        self.id: str = request.request_id()
        self.again = False

    def call(self, version: int, compare: str | None) -> Answer:
        request = self._request
        try:
            response = pb_utils.InferenceRequest(
                request_id=self.id,
                correlation_id=request.correlation_id(),
                inputs=request.inputs(),
                # A client that asks the splitter itself and names no outputs gets all, but the engine has no report.
                requested_output_names=[name for name in request.requested_output_names() if name != REPORT],
                model_name=self._engine.name,
                model_version=version,
                flags=request.flags(),
                timeout=request.timeout(),
                preferred_memory=self._engine.memory,
                trace=request.trace(),
                parameters=parameters_of(request),
            ).exec()
            if response.has_error():
                error = response.error()
                text = error.message() or "no message"
                hurried = request.timeout() > 0 and text.startswith(TIMEOUT_ERRORS)
                return Answer(pb_utils.InferenceResponse(error=error), error=text, hurried=hurried)
            tensors = response.output_tensors()
            scores = next((tensor.as_numpy() for tensor in tensors if tensor.name() == compare), None)
            return Answer(pb_utils.InferenceResponse(output_tensors=tensors), scores=scores)
        except Exception as error:  # noqa: BLE001 - any error is this version's answer
            text = f"{self._engine.name} version {version} can't be called: {error}"
            return Answer(_refusal(text, pb_utils.TritonError.INTERNAL), error=text)

    def refusal(self, error: str) -> Answer:
        text = f"{self._engine.name} {error}"
        return Answer(_refusal(text, pb_utils.TritonError.UNAVAILABLE), error=text)

    def reply(self, answer: Answer) -> None:
        self._sender.send(answer.response, flags=_FINAL)

    def wants(self, output: str) -> bool:
        return output in self._request.requested_output_names()

    def size(self) -> int:
        return sum(_size(tensor.as_numpy()) for tensor in self._request.inputs())

    def texts(self) -> dict[str, list[bytes]]:
        names = self._engine.tensors.texts
        return {t.name(): t.as_numpy().reshape(-1).tolist() for t in self._request.inputs() if t.name() in names}


def parameters_of(request: Any) -> dict[str, Any]:
    """The request's parameters. Floating-point numbers become texts: Triton does not pass them from model to model."""
    text = request.parameters()
    if not text or text == "{}":
        return {}
    return {key: str(value) if isinstance(value, float) else value for key, value in json.loads(text).items()}


def _size(array: Any) -> int:
    return sum(map(len, array.reshape(-1).tolist())) if array.dtype == np.object_ else array.nbytes


def _parameter(config: Mapping[str, Any], key: str) -> str:
    value = config.get("parameters", {}).get(key, {}).get("string_value", "")
    if not value:
        raise ValueError(f"parameters: {key} is missing")
    return str(value)


def _refusal(text: str, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))


def _log(error: BaseException) -> None:
    pb_utils.Logger.log_error("splitter: " + "".join(traceback.format_exception(error)))


def _warn(text: str) -> None:
    pb_utils.Logger.log_warn(f"splitter: {text}")
