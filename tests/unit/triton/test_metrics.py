"""What is read of a server's metrics, whatever stands there: Triton's own, other people's, and what is no metrics."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from baton.domain import EngineInfo
from baton.errors import Unreachable
from baton.triton.grpc import GrpcTriton
from baton.verify.device import DeviceMemory

RECORDED = Path(__file__).parent / "recorded" / "gpu_metrics.txt"

PAGE = """\
# HELP nv_inference_request_success Number of successful inference requests
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="ranker",version="2"} 7
nv_inference_request_success{model="other",version="2"} 9
# TYPE nv_gpu_utilization gauge
nv_gpu_utilization{gpu_uuid="GPU-1"} 0.5
# TYPE baton_engine_info gauge
baton_engine_info{model="ranker",version="1",device="cuda:0",dtype="bf16",fallback="none"} 0
baton_engine_info{model="ranker",version="2",device="cuda:0",dtype="bf16",fallback="none",colour="red"} 1
baton_engine_info{model="ranker",version="2",device="cuda:1",dtype="bf16",fallback="none"} 2
baton_engine_info{model="sorter",version="5",device="tpu"} 1
baton_engine_info{model="ranker",version="latest"} 1
baton_engine_info{version="3"} 1
"""


@contextlib.contextmanager
def serving(answer: bytes) -> Iterator[GrpcTriton]:
    """A server whose metrics are ``answer``, to the byte."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(answer)

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        server = GrpcTriton("one", "127.0.0.1:1", metrics=f"127.0.0.1:{listening.server_address[1]}")
        try:
            yield server
        finally:
            server.close()
            listening.shutdown()
            thread.join()


def http(body: str, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"HTTP/1.0 200 OK\r\nContent-Length: {size}\r\n\r\n{body}".encode()


def test_what_engines_tell_is_read_whatever_else_stands_there():
    with serving(http(PAGE)) as server:
        assert server.engine_infos() == {
            "ranker": {2: {EngineInfo("cuda:0", "bf16", "none"), EngineInfo("cuda:1", "bf16", "none")}},
            "sorter": {5: {EngineInfo("tpu")}},
        }


def test_the_memory_of_each_gpu_is_read():
    """A page as Triton with two GPUs writes it. Not run on a GPU."""
    with serving(http(RECORDED.read_text())) as server:
        assert server.device_memory() == [
            DeviceMemory("GPU-0a9f2f1e-7d0c-5c3b-8d7e-3f4f4a1d9b20", 24 << 30, 6 << 30, "Triton's metrics"),
            DeviceMemory("GPU-51c8a4be-2e96-0d57-b1ab-92e1c7c0f6aa", 24 << 30, 23 << 30, "Triton's metrics"),
        ]
        assert server.engine_infos()["qwen3_vl_reranker"][1] == {
            EngineInfo(f"cuda:{i}", "bf16", "none", f"cuda:{i}", "bf16") for i in range(2)
        }
    with serving(http(PAGE)) as server:
        assert server.device_memory() == []


def test_signs_of_life_are_read():
    page = PAGE + "# TYPE baton_engine_beats_total counter\n"
    page += 'baton_engine_beats_total{model="ranker",version="2"} 41\n'
    with serving(http(page)) as server:
        assert server.heartbeats() == {"ranker": {2: 41.0}}


def test_without_metrics_nothing_is_known():
    with contextlib.closing(GrpcTriton("one", "127.0.0.1:1")) as server:
        assert server.engine_infos() is None
        assert server.heartbeats() is None
        assert server.device_memory() == []


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"",
        http(PAGE, length=10_000),
        http("baton_engine_info{model= 1\n"),
        http("baton_engine_info many\n"),
        b"HTTP/1.0 200 OK\r\n\r\n\xff\xfe",
        b"HTTP/1.0 500 Oh\r\n\r\n",
    ],
)
def test_what_is_no_metrics_is_told_with_the_server_and_the_address(answer):
    with serving(answer) as server:
        for call in (server.engine_infos, server.device_memory, lambda: server.inflight("ranker")):
            with pytest.raises(Unreachable, match=r"The metrics of server one at 127\.0\.0\.1:\d+ can't be read: \S"):
                call()
