"""Sends the hostile corpus to a real Triton and holds it to its answers, its scores, its time and its memory."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import struct
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton
from harness.network import fetch
from tests.support.triton import running_triton
from tests.unit.engine.hostile import GOOD, Case, Sent, cases
from tests.unit.engine.hostile_media import saved
from tests.unit.engine.support import BACKEND, BASE, ROOT
from tritonclient.grpc import service_pb2

from baton.client import DIRECT
from baton.local import LocalTriton

ENGINE = "qwen3_vl_reranker"
LONGEST_S = 120.0
"""For any one request: several times what the largest take here, since the machine may be busy."""
GROWTH = 1.05
"""What resident memory may come to, times the most that it was in the cycle before."""
SLACK_MIB = 16.0
"""More of it, for the C library: each of Triton's threads keeps room of its own from the first time it serves."""

MIXED = Sent(
    query=b'{"text": "find a red circle"}',
    documents=(GOOD, b'{"text": "a blue star"}', b'{"image": {"media": 0}}'),
    media=(saved("PNG"),),
)
"""The good request whose scores must stay the same to the bit."""


@contextmanager
def server(tmp: Path) -> Iterator[LocalTriton]:
    """A Triton whose only engine version is the base checkpoint, with the configuration as it is delivered."""
    model = tmp / "repository" / ENGINE
    model.mkdir(parents=True)
    shutil.copy(ROOT / "model_repository" / ENGINE / "config.pbtxt", model)
    (model / "1").symlink_to(BASE)
    backends = tmp / "backends"
    shutil.copytree(BACKEND, backends / ENGINE, ignore=shutil.ignore_patterns("__pycache__"))
    with running_triton(tmp, tmp / "repository", load=[ENGINE], backends=(backends,)) as running:
        yield running


def tensors(sent: Sent) -> list[tuple[str, list[int], bytes]]:
    """(name, shape, content) of each input."""
    given: list[tuple[str, tuple[bytes, ...]]] = [("query", (sent.query,)), ("documents", sent.documents)]
    given += [(name, (value,)) for name in ("instruction", "options") if (value := getattr(sent, name)) is not None]
    given += [("media", sent.media)] if sent.media else []
    return [(name, [1, len(values)], elements(*values)) for name, values in given]


def elements(*values: bytes) -> bytes:
    """Triton's form of BYTES: each value behind its length."""
    return b"".join(part for value in values for part in (struct.pack("<I", len(value)), value))


def malformed() -> dict[str, tuple[dict[str, Any], str]]:
    """Requests that break the protocol: what differs from a good one, and the pattern of the error."""
    good = {"query": ([1, 1], elements(GOOD)), "documents": ([1, 1], elements(GOOD))}
    number = struct.pack("<i", 5)
    return {
        "another datatype": ({**good, "query": ([1, 1], number, "INT32")}, "data-type|datatype"),
        "no documents tensor": ({"query": good["query"]}, "expected|missing"),
        "no tensors": ({}, "expected|missing|no inputs"),
        "an unknown tensor": ({**good, "labels": ([1, 1], elements(b"x"))}, "unexpected inference input|labels"),
        "a batch of two": (
            {name: ([2, 1], elements(GOOD, GOOD)) for name in good},
            r"(query|documents): has the shape \[2, 1\]; it must be \[1, n\]",
        ),
        "two queries": ({**good, "query": ([1, 2], elements(GOOD, GOOD))}, "unexpected shape"),
        "three dimensions": ({**good, "documents": ([1, 1, 1], elements(GOOD))}, "unexpected shape"),
        "a batch of 10^9": ({name: ([10**9, 1], elements(GOOD)) for name in good}, "batch-size must be <= 16"),
        "10^9 documents that are not there": ({**good, "documents": ([1, 10**9], elements(GOOD))}, "expect"),
        "a negative shape": ({**good, "documents": ([1, -1], elements(GOOD))}, "shape|expect|dim"),
        "a length beyond the end": ({**good, "query": ([1, 1], b"\xff\xff\xff\xff{}")}, "expect|incomplete|string"),
        "half a length": ({**good, "query": ([1, 1], b"\x02\0")}, "expect|incomplete|string"),
        "more than was said": ({**good, "query": ([1, 1], elements(GOOD, GOOD))}, "expect|unexpected"),
        "no content": ({**good, "query": ([1, 1], b"")}, "expect"),
    }


@dataclass
class Run:
    """One server under fire."""

    triton: LocalTriton
    times: dict[str, list[float]] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client = triton.InferenceServerClient(self.triton.grpc_url, channel_args=[DIRECT])
        self.scores = self.good()

    def good(self) -> list[float]:
        answer = self.over_grpc(MIXED)
        assert not isinstance(answer, str), f"a good request was refused: {answer}"
        return answer

    def over_grpc(self, sent: Sent) -> list[float] | str:
        """Scores, or the error's text."""
        return self.raw({name: (shape, content) for name, shape, content in tensors(sent)})

    def raw(self, inputs: dict[str, Any]) -> list[float] | str:
        request = service_pb2.ModelInferRequest(model_name=ENGINE)
        for name, (shape, content, *kind) in inputs.items():
            request.inputs.add(name=name, datatype=kind[0] if kind else "BYTES", shape=shape)
            request.raw_input_contents.append(content)
        try:
            response = self.client._client_stub.ModelInfer(request, timeout=LONGEST_S)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
        names = [output.name for output in response.outputs]
        return np.frombuffer(response.raw_output_contents[names.index("scores")], np.float32).tolist()

    def over_http(self, sent: Sent) -> list[float] | str:
        inputs = tensors(sent)
        head = json.dumps({"inputs": [
            {"name": name, "shape": shape, "datatype": "BYTES", "parameters": {"binary_data_size": len(content)}}
            for name, shape, content in inputs
        ]}).encode()  # fmt: skip
        body = head + b"".join(content for _, _, content in inputs)
        return self.post(body, {"Inference-Header-Content-Length": str(len(head))})

    def post(self, body: bytes, headers: dict[str, str]) -> list[float] | str:
        url = f"http://{self.triton.http_url}/v2/models/{ENGINE}/infer"
        # Not urllib's own kind, a form: Triton 24.10 takes one of 8 MB apart until its stack is used up, and dies.
        request = urllib.request.Request(url, body, {"Content-Type": "application/octet-stream", **headers})
        try:
            answer = json.loads(fetch(request, timeout_s=LONGEST_S))
        except urllib.error.HTTPError as error:
            return f"{error.code}: {json.loads(error.read() or b'{}').get('error', '')}"
        except OSError as error:
            return f"no answer: {error}"
        outputs = {output["name"]: output for output in answer["outputs"]}
        return outputs["scores"]["data"]

    def fire(
        self, case: Case, send: Callable[[Sent], list[float] | str] | None = None, sent: Sent | None = None
    ) -> None:
        """Send a case, hold it to its answer, then a good request to its scores."""
        sent = sent or case.build()
        start = time.monotonic()
        answer = (send or self.over_grpc)(sent)
        self.times.setdefault(case.name, []).append(time.monotonic() - start)
        self.hold(case.name, case.error, answer)

    def hold(self, name: str, error: str | None, answer: list[float] | str) -> None:
        text = answer if isinstance(answer, str) else f"{len(answer)} scores"
        self.answers[name] = text
        if (error is None) != (not isinstance(answer, str)) or not re.search(error or "", text):
            self.faults.append(f"{name}: expected {error or 'scores'}, answered {text[:300]}")
        again = self.good()
        if again != self.scores:
            self.faults.append(f"{name}: afterwards a good request scored {again}, not {self.scores}")

    def break_the_protocol(self) -> None:
        for name, (inputs, error) in malformed().items():
            self.hold(f"protocol: {name}", error, self.raw(inputs))
        bodies = {
            "no JSON": (b"{", {}),
            "nothing": (b"", {}),
            "nested deep": (b'{"inputs": ' + b"[" * 10**5, {}),
            "a length that lies": (b"{}", {"Inference-Header-Content-Length": "99999"}),
            "a negative length": (b"{}", {"Inference-Header-Content-Length": "-1"}),
            "a shape of texts": (
                b'{"inputs": [{"name": "query", "shape": ["a"], "datatype": "BYTES", "data": []}]}',
                {},
            ),
            "fewer data": (b'{"inputs": [{"name": "query", "shape": [1, 1], "datatype": "BYTES", "data": []}]}', {}),
        }
        for name, (body, headers) in bodies.items():
            self.hold(
                f"HTTP: {name}", "^(400|500): .", self.post(body, headers)
            )  # 500 is Triton's for JSON that is none

    def memory(self) -> dict[str, float]:
        """Resident MiB of the server and of the engine's process, shared memory included."""
        pids = {"server": self.triton.pid, "engine": self.triton.stub_pids(ENGINE, 1)[0]}
        return {name: resident(pid) for name, pid in pids.items()}


def resident(pid: int | None) -> float:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


def attack(run: Run, rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """One cycle of all cases, then ``rounds`` of the quick ones; memory in the last of the first and at the end.

    The first cycle is gone through twice by gRPC and once by HTTP, and sends what is slow once.
    """
    every = cases()
    built = [(case, case.build()) for case in every if not case.slow]
    for case in every:
        if case.slow:
            run.fire(case)
    for case, sent in built:
        run.fire(case, sent=sent)
        run.fire(case, run.over_http, sent)
    run.break_the_protocol()
    before, after = [], []
    for case, sent in built:
        run.fire(case, sent=sent)
        before.append(run.memory())
    for case, sent in islice(cycle(built), rounds):
        run.fire(case, sent=sent)
        after.append(run.memory())
    return (
        {name: max(one[name] for one in before) for name in before[0]},
        {name: min(one[name] for one in after[-10:]) for name in before[0]},
    )


def judge(run: Run, before: dict[str, float], after: dict[str, float]) -> list[str]:
    """What is not as promised."""
    slow = [f"{name}: took {max(times):.1f} s" for name, times in run.times.items() if max(times) > LONGEST_S]
    grown = [
        f"the {name} grew from {before[name]:.0f} to {after[name]:.0f} MiB"
        for name in before
        if after[name] > GROWTH * before[name] + SLACK_MIB
    ]
    return run.faults + slow + grown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000, help="hostile requests after the first cycle")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as running:
        run = Run(running)
        print(f"at rest: {run.memory()}")
        start = time.monotonic()
        before, after = attack(run, rounds)
        took = time.monotonic() - start
        problems = judge(run, before, after)
    print(f"{'case':<58} {'times':>5} {'median s':>9} {'worst s':>8}  answer")
    for name, answer in run.answers.items():
        times = run.times.get(name, [])
        median = f"{np.median(times):9.3f} {max(times):8.2f}" if times else " " * 18
        print(f"{ascii(name)[1:-1]:<58} {len(times) or 1:>5} {median}  {answer[:90]}")
    for name in before:
        print(f"{name}: {before[name]:.0f} MiB after the first cycle, {after[name]:.0f} MiB {rounds} rounds later")
    print(f"{took:.0f} s; " + (f"{len(problems)} PROBLEMS" if problems else "all as promised"))
    print(*problems, sep="\n")
    return 1 if problems else 0
