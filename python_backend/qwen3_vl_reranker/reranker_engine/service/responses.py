"""From the scheduler's results to Triton's responses."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import triton_python_backend_utils as pb_utils

from reranker_engine.inference.errors import InputError
from reranker_engine.inference.scorer import scores_of

from .job import Job, Refused
from .loading import is_out_of_memory
from .scheduler import EngineFailure
from .tensors import read_request

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from reranker_engine.inference.scorer import Scorer
    from reranker_engine.inference.scoring import PreparedRequest
    from reranker_engine.inference.steps import Steps

    from .metrics import Metrics

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class ResponseBuilder:
    """Makes a response of scores or of an error, and counts it."""

    def __init__(self, metrics: Metrics, version: int) -> None:
        """``version``: the model version, which each response with scores names."""
        self._metrics = metrics
        self._version = np.array([[version]], dtype=np.int64)

    def build(
        self, job: Job, result: NDArray[np.float32] | Exception, stage: str, wanted: Collection[str] = ()
    ) -> pb_utils.InferenceResponse:
        """The response to a job.

        Args:
            job: The job.
            result: Logits, or what went wrong.
            stage: What was being read last: the ``request`` itself, or its ``content``. It is the cause that an input
                error is counted under.
            wanted: The outputs that the request asks for. Who names none asks for all of the configuration, and one
                that was deployed before there were ``logits`` and ``tokens`` has neither.
        """
        if isinstance(result, Refused):
            code = pb_utils.TritonError.CANCELLED if result.cause == "cancelled" else pb_utils.TritonError.UNAVAILABLE
            return self._error(result.cause, str(result), code)
        if isinstance(result, InputError):
            return self._error(stage, str(result), pb_utils.TritonError.INVALID_ARG)
        if isinstance(result, Exception):
            cause = "no_memory" if is_out_of_memory(result) else "internal"
            kind = "" if isinstance(result, EngineFailure) else f"{type(result).__name__}: "
            text = f"{'scoring' if job.prepared else 'preparing the request'} failed: {kind}{result}"
            pb_utils.Logger.log_error(text)
            return self._error(cause, text, pb_utils.TritonError.INTERNAL)
        scores = scores_of(result)
        if not np.isfinite(scores).all():
            document = int(np.flatnonzero(~np.isfinite(scores))[0])
            text = f"document {document}: the model's score is not a number"
            return self._error("not_a_number", text, pb_utils.TritonError.INTERNAL)
        self._metrics.add("pairs_total", len(scores))
        if job.prepared and job.prepared.truncated:
            self._metrics.add("truncated_total", job.prepared.truncated)
        self._metrics.observe("request_seconds", time.monotonic() - job.arrived)
        outputs: dict[str, NDArray[Any]] = {"scores": scores[None], "model_version": self._version}
        if "logits" in wanted:
            outputs["logits"] = result[None]
        if "tokens" in wanted and job.prepared:
            outputs["tokens"] = job.prepared.tokens[None]
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(*output) for output in outputs.items()])

    def _error(self, cause: str, text: str, code: pb_utils.ErrorCode) -> pb_utils.InferenceResponse:
        self._metrics.add("rejected_total", 1, cause=cause)
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))


class PendingRequest:
    """A request of Triton's until it is answered: by ``execute``, or later through its response sender.

    It must not hold its job, since the job holds it. Triton's request occupies shared memory until Python frees it, and
    a reference cycle would wait for the garbage collector.
    """

    def __init__(
        self, request: pb_utils.InferenceRequest, scorer: Scorer, responses: ResponseBuilder, timeout_s: float
    ) -> None:
        """``timeout_s``: for a request that brings no timeout; 0 for no limit."""
        self._request = request
        self._scorer = scorer
        self._responses = responses
        self._timeout_s = timeout_s
        self._stage = "request"
        self._lock = threading.Lock()
        self._response: pb_utils.InferenceResponse | None = None
        self._sender: pb_utils.ResponseSender | None = None

    def job(self) -> Job:
        """The work that the request asks for, without anything of Triton in it."""
        timeout_s = self._request.timeout() / 1e6 or self._timeout_s
        return Job(
            steps=self._steps(),
            cancelled=self._request.is_cancelled,
            finish=self._finish,
            timeout_s=timeout_s or None,
        )

    def take_response(self) -> pb_utils.InferenceResponse | None:
        """The response if there is one; None: it will be sent through the request's response sender."""
        with self._lock:
            if self._response is None:
                self._sender = self._request.get_response_sender()
            return self._response

    def _steps(self) -> Steps[PreparedRequest]:
        scorer, request = self._scorer, self._request
        raw = read_request(lambda name: pb_utils.get_input_tensor_by_name(request, name))
        yield raw.first_step(remote_media=bool(scorer.settings.media.allowed_hosts))
        parsed = scorer.parse(raw.query, raw.documents, raw.instruction, raw.options, raw.media)
        self._stage = "content"
        return (yield from scorer.preparing(parsed))

    def _finish(self, job: Job, result: NDArray[np.float32] | Exception) -> None:
        try:
            response = self._responses.build(job, result, self._stage, self._request.requested_output_names())
        except Exception as error:  # noqa: BLE001 - the computing thread must go on, and Triton must get an answer
            response = self._responses.build(job, error, self._stage)
        with self._lock:
            if self._sender is None:
                self._response = response
                return
        try:
            self._sender.send(response, flags=_FINAL)
        except Exception as error:  # noqa: BLE001 - nothing more can be done for this request
            pb_utils.Logger.log_error(f"an answer could not be sent: {type(error).__name__}: {error}")
