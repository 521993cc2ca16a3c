"""An API server as people write one: the engine as a library behind Python's own HTTP server.

``python -m bench.compare.apiserver VERSION FOLDER`` loads the version, then listens on a free port and prints it as
``{"port": N}``. It speaks as much of Triton's protocol as the load needs. A second version can be loaded into the same
process, and gets a share of the requests by chance:

    POST /load    {"version": 2, "folder": "..."}   answers when it is loaded
    POST /share   {"version": 2, "percent": 50}

Both are asked by way (d) only.
"""

from __future__ import annotations

import json
import random
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import torch
from bench.compare.way import THREADS

from reranker_engine.inference.errors import InputError
from reranker_engine.inference.scorer import Scorer, ScorerSettings
from reranker_engine.inference.selftest import self_test
from reranker_engine.service.allocator import keep_freed_memory


class Instance:
    """One loaded version; like one instance in Triton it scores one request after the other."""

    def __init__(self, version: int, folder: Path) -> None:
        self.version = version
        self._lock = threading.Lock()
        self._scorer = Scorer(folder, ScorerSettings())
        self_test(self._scorer)

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        inputs = {tensor["name"]: [one.encode() for one in tensor["data"]] for tensor in question["inputs"]}
        with self._lock:
            request = self._scorer.parse(inputs["query"][0], inputs["documents"])
            scores = self._scorer.score([self._scorer.prepare(request)])[0].tolist()
        outputs = [("scores", "FP32", scores), ("model_version", "INT64", [self.version])]
        return {
            "model_version": str(self.version),
            "outputs": [{"name": n, "datatype": t, "shape": [1, len(d)], "data": d} for n, t, d in outputs],
        }


class Switch:
    """The loaded versions, and which of them answers."""

    def __init__(self, first: Instance) -> None:
        self._stable = first
        self._loaded = {first.version: first}
        self._percent = dict.fromkeys(self._loaded, 100)

    def pick(self) -> Instance:
        for version, percent in self._percent.items():
            if random.random() * 100 < percent:
                return self._loaded[version]
        return self._stable

    def load(self, version: int, folder: str) -> None:
        self._loaded[version] = Instance(version, Path(folder))

    def share(self, version: int, percent: int) -> None:
        self._percent = {version: percent}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes; together they would wait for the client's ACK
    switch: ClassVar[Switch]

    def do_POST(self) -> None:
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            if self.path == "/load":
                self.switch.load(said["version"], said["folder"])
                self._tell(200, {})
            elif self.path == "/share":
                self.switch.share(said["version"], said["percent"])
                self._tell(200, {})
            else:
                self._tell(200, self.switch.pick().answer(said))
        except (InputError, KeyError) as error:
            self._tell(400, {"error": f"{type(error).__name__}: {error}"})

    def log_message(self, *_: object) -> None:
        """Nothing: a line for each request would be part of what is measured."""

    def _tell(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # five by default: too few for clients that come all at once


def main() -> None:
    version, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(THREADS)
    keep_freed_memory()  # as the engine does in Triton
    Handler.switch = Switch(Instance(version, folder))
    with Server(("127.0.0.1", 0), Handler) as server:
        print(json.dumps({"port": server.server_port}), flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
