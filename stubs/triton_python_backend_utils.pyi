# What the engine uses of the module that Triton's python backend gives to a model.py, as of Triton 24.10. The module
# exists only inside Triton's own processes, and has no types. mypy alone reads this file. Written after
# python_backend's src/pb_stub.cc and src/resources/triton_python_backend_utils.py.

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, NewType

from numpy.typing import NDArray

ErrorCode = NewType("ErrorCode", int)
MetricKind = NewType("MetricKind", int)

TRITONSERVER_RESPONSE_COMPLETE_FINAL: int

class Tensor:
    def __init__(self, name: str, array: NDArray[Any], /) -> None: ...
    def as_numpy(self) -> NDArray[Any]: ...

class TritonModelException(Exception): ...

class TritonError:
    CANCELLED: ClassVar[ErrorCode]
    INTERNAL: ClassVar[ErrorCode]
    INVALID_ARG: ClassVar[ErrorCode]
    UNAVAILABLE: ClassVar[ErrorCode]
    def __init__(self, message: str, code: ErrorCode = ..., /) -> None: ...

class InferenceResponse:
    def __init__(self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None) -> None: ...

class ResponseSender:
    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None: ...

class InferenceRequest:
    def timeout(self) -> int: ...  # microseconds; 0 where the client sent none
    def is_cancelled(self) -> bool: ...
    def requested_output_names(self) -> Collection[str]: ...  # all, where the client named none
    def get_response_sender(self) -> ResponseSender: ...

class Metric:
    def increment(self, value: float) -> None: ...  # a negative value is for a gauge alone
    def observe(self, value: float) -> None: ...

class MetricFamily:
    COUNTER: ClassVar[MetricKind]
    GAUGE: ClassVar[MetricKind]
    HISTOGRAM: ClassVar[MetricKind]
    def __init__(self, name: str, description: str, kind: MetricKind) -> None: ...
    def Metric(self, labels: Mapping[str, str], buckets: Sequence[float] | None = None) -> Metric: ...  # noqa: N802

class Logger:
    @staticmethod
    def log_info(message: str, /) -> None: ...
    @staticmethod
    def log_warn(message: str, /) -> None: ...
    @staticmethod
    def log_error(message: str, /) -> None: ...

def get_input_tensor_by_name(inference_request: InferenceRequest, name: str) -> Tensor | None: ...
