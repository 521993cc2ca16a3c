"""A reranker that takes milliseconds to load: Baton's contract with Triton, without a neural network.

It serves the tensors of the public contract from an ordinary checkpoint folder. A document's score is the
sigmoid of a feature vector (how many of the query's words the document shares, and some hash noise) times one
weight vector that is read from the safetensors shards: the same weights give the same scores, and a pair scores
the same alone and in any batch. A ``"toy"`` object in ``config.json`` makes a version misbehave, see :class:`Toy`.

Needs numpy and Triton's own utilities, nothing else.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

WEIGHTS = "model.language_model.norm.weight"
"""The tensor whose values are the score's weights: overlap, bias, then one for each hash feature."""

Scores = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Toy:
    """How a version misbehaves; the ``"toy"`` object of its ``config.json``. By default it does not."""

    delay_ms: float = 0.0
    """Added to each batch, as a model's time to compute."""
    ms_per_kb: float = 0.0
    """Added to each batch for each kilobyte of its documents: large requests take longer."""
    constant: float | None = None
    """This score for every document."""
    nan: bool = False
    """Every score is NaN."""
    load_s: float = 0.0
    """Seconds that loading takes."""
    hang_at_load: bool = False
    """Loading never ends."""
    raise_at_load: bool = False
    """Loading fails with an error."""
    exit_at_load: bool = False
    """The process of the version ends while it loads."""
    exit_on_request: bool = False
    """The process of the version ends at its first request."""
    batch_noise: float = 0.0
    """Added to the logit for each document beside the first: scores then depend on the batch."""
    error_rate: float = 0.0
    """Share of requests answered by an error, 0..1."""
    least_timeout_ms: float = 0.0
    """Requests with a shorter timeout of their own get an error as the engine's, whose time is over."""
    leak_mb: float = 0.0
    """Megabytes kept for ever by each request."""
    hang_on_request: float = 0.0
    """Seconds that each batch hangs, as in a call that waits for something which does not come."""
    wrong_on: str | None = None
    """Documents that hold this key (``text``, ``image``, ``video``) get 1 - score."""
    info: dict[str, str] | None = None
    """Further labels of ``baton_engine_info``, which it exports then: ``device``, ``dtype``, ``fallback``."""
    only_if: str | None = None
    """It misbehaves in requests only while a file of this path exists: after its gates, say."""

    @classmethod
    def read(cls, config: dict[str, Any]) -> Toy:
        """Raises ``ValueError`` on a switch that does not exist, so that a typing error is no healthy version."""
        asked = config.get("toy", {})
        unknown = set(asked) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"config.json: toy has no switch {sorted(unknown)}")
        return cls(**asked)

    def now(self) -> Toy:
        """The switches that are in force for requests at this moment."""
        return self if self.only_if is None or os.path.exists(self.only_if) else Toy()  # noqa: PTH110 - per request


class InvalidInput(Exception):
    """A request that can't be read; the text names the document and the cause."""


def read_tensor(folder: Path, name: str) -> Scores:
    """One float32 tensor of a checkpoint, found through ``model.safetensors.index.json``."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    with (folder / index["weight_map"][name]).open("rb") as shard:
        header_size = int.from_bytes(shard.read(8), "little")
        entry = json.loads(shard.read(header_size))[name]
        begin, end = entry["data_offsets"]
        shard.seek(8 + header_size + begin)
        data = shard.read(end - begin)
    if entry["dtype"] != "F32" or len(data) != end - begin:
        raise ValueError(f"{name}: expected {end - begin} bytes of F32, found {len(data)} of {entry['dtype']}")
    return np.frombuffer(data, dtype="<f4").reshape(entry["shape"])


def text_of(raw: bytes, what: str) -> str:
    """The text of a query or a document; images and videos count as the words that name them."""
    try:
        item = json.loads(raw)
    except ValueError as error:
        raise InvalidInput(f"{what} is not JSON: {error}") from None
    known = {"text", "image", "video"}
    if not isinstance(item, dict) or not item or not set(item) <= known:
        raise InvalidInput(f"{what} must be a JSON object with text, image or video")
    words: list[str] = []
    for key in sorted(item):
        for part in item[key] if isinstance(item[key], list) else [item[key]]:
            if key == "text" and not isinstance(part, str):
                raise InvalidInput(f"{what}: text must be a string or a list of strings")
            words.append(part if isinstance(part, str) else json.dumps(part, sort_keys=True))
    return " ".join(words)


def features(query: str, document: str, size: int) -> Scores:
    """``[overlap in 0..1, 1, noise in -1..1, ...]`` of one pair, ``size`` values."""
    asked = set(query.lower().split())
    overlap = len(asked & set(document.lower().split())) / max(len(asked), 1)
    digest = hashlib.shake_256(f"{query}\0{document}".encode()).digest(size)
    noise = np.frombuffer(digest, dtype=np.uint8).astype(np.float32) / 127.5 - 1.0
    return np.concatenate([np.array([overlap, 1.0], dtype=np.float32), noise[: size - 2]])


class TritonPythonModel:
    """One version of the engine, in a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Reads the checkpoint. Raises when it is not whole: Triton then keeps the version out."""
        self.version = int(args["model_version"])
        folder = Path(args["model_repository"]) / args["model_version"]
        given = json.loads(args["model_config"])
        parameters = given.get("parameters", {})
        self.rich = "logits" in {output["name"] for output in given["output"]}
        self._count_load(parameters.get("load_log", {}).get("string_value"))
        config_file = folder / "config.json"
        if not config_file.is_file():
            raise pb_utils.TritonModelException(f"{config_file} is not there")
        config = json.loads(config_file.read_text())
        self.toy = Toy.read(config)
        self._misbehave_at_load()
        self.weights = read_tensor(folder, WEIGHTS)
        self.random = random.Random(self.version)
        self.leaked: list[bytes] = []
        self.info: Any = None
        if self.toy.info is not None:
            self._tell(args["model_name"], self.toy.info)

    def _tell(self, model: str, info: dict[str, str]) -> None:
        kind = pb_utils.MetricFamily.GAUGE
        self.family = pb_utils.MetricFamily(name="baton_engine_info", description="What it runs in", kind=kind)
        self.info = self.family.Metric(labels={"model": model, "version": str(self.version), **info})
        self.info.increment(1)

    def finalize(self) -> None:
        """Triton keeps a metric for as long as it lives itself."""
        if self.info is not None:
            self.info.increment(-1)

    def _count_load(self, log: str | None) -> None:
        """Appends ``version pid time``. One short O_APPEND write, so that lines of several processes don't mix."""
        if log:
            with Path(log).open("a") as file:
                file.write(f"{self.version} {os.getpid()} {time.time():.3f}\n")

    def _misbehave_at_load(self) -> None:
        if self.toy.exit_at_load:
            os._exit(3)
        if self.toy.raise_at_load:
            raise pb_utils.TritonModelException("this toy version raises while it loads")
        time.sleep(self.toy.load_s)
        while self.toy.hang_at_load:
            time.sleep(3600)

    def execute(self, requests: list[Any]) -> list[Any]:
        toy = self.toy.now()
        if toy.exit_on_request:
            os._exit(4)
        time.sleep(toy.delay_ms / 1000 + toy.hang_on_request + self._work_s(requests))
        return [self._answer(toy, request) for request in requests]

    def _work_s(self, requests: list[Any]) -> float:
        """By the version's own switch, whatever ``only_if`` says: what a request takes is no misbehaviour."""
        if not self.toy.ms_per_kb:
            return 0.0
        documents = (pb_utils.get_input_tensor_by_name(r, "documents").as_numpy().reshape(-1) for r in requests)
        return self.toy.ms_per_kb * sum(len(text) for texts in documents for text in texts) / 1e6

    def _answer(self, toy: Toy, request: Any) -> Any:
        """One request's response; what is wrong with one request never reaches another one's."""
        if toy.leak_mb:
            self.leaked.append(os.urandom(int(toy.leak_mb * 2**20)))
        try:
            if self.random.random() < toy.error_rate:
                error = pb_utils.TritonError("this toy version fails now and then", pb_utils.TritonError.INTERNAL)
                return pb_utils.InferenceResponse(error=error)
            if 0 < request.timeout() < toy.least_timeout_ms * 1000:
                text = f"deadline: the request's timeout of {request.timeout() / 1e6:g} s is over"
                error = pb_utils.TritonError(text, pb_utils.TritonError.UNAVAILABLE)
                return pb_utils.InferenceResponse(error=error)
            scores = self._score(toy, request)
        except InvalidInput as refusal:
            error = pb_utils.TritonError(str(refusal), pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=error)
        tensors = {"scores": scores, "model_version": np.array([[self.version]], dtype=np.int64)}
        if self.rich:
            documents = pb_utils.get_input_tensor_by_name(request, "documents").as_numpy()
            tensors["logits"] = np.log(scores / (1 - scores))
            tensors["tokens"] = np.array([[len(one) for one in documents[0]]], dtype=np.int64)
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(*one) for one in tensors.items()])

    def _score(self, toy: Toy, request: Any) -> Scores:
        """Scores ``[1, N]`` of one request's documents."""
        query = text_of(pb_utils.get_input_tensor_by_name(request, "query").as_numpy().reshape(-1)[0], "query")
        raw = pb_utils.get_input_tensor_by_name(request, "documents").as_numpy()
        if raw.shape[0] != 1:
            raise InvalidInput(f"one query a request, not {raw.shape[0]}")
        documents = [text_of(item, f"document {place}") for place, item in enumerate(raw[0])]
        if toy.nan:
            return np.full((1, len(documents)), np.nan, dtype=np.float32)
        if toy.constant is not None:
            return np.full((1, len(documents)), toy.constant, dtype=np.float32)
        scores = np.empty((1, len(documents)), dtype=np.float32)
        for place, document in enumerate(documents):
            # A sum of its own for each pair: a matrix product could round differently with the number of rows.
            logit = math.fsum((features(query, document, self.weights.size) * self.weights).tolist())
            logit += toy.batch_noise * (len(documents) - 1)
            scores[0, place] = 1 / (1 + math.exp(-logit))
            if toy.wrong_on is not None and toy.wrong_on in json.loads(raw[0, place]):
                scores[0, place] = 1 - scores[0, place]
        return scores
