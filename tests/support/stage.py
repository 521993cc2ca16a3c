"""A stage for whole rollouts: a repository, real Triton servers with the toy engine, the control plane in this process."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.toy import engine_config, make_checkpoint, write_golden
from tests.support.triton import running_triton

from baton.app import App, open_app
from baton.client import Reranker
from baton.config import Config, parse
from baton.local import LocalTriton

PATIENCE_S = 120.0
"""No test asks how fast the machine is: a condition that never comes true fails after this long."""


def until(condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
    """Wait until the condition gives something true, and return that."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:.0f} s for: {what}")
        time.sleep(0.02)
    return value


@dataclass
class Stage:
    """One or more Triton servers on one repository."""

    root: Path
    servers: list[LocalTriton]
    engines: dict[str, str]
    """Service name to engine name."""
    app: App = field(init=False)

    @property
    def repository(self) -> Path:
        return self.root / "repository"

    def engine_dir(self, service: str = "ranker") -> Path:
        return self.repository / self.engines[service]

    def config(self, **rollout: Any) -> Config:
        gates = {"latency_min_samples": 40, "latency_max_samples": 120, "latency_limit": 3.0, "warmup_limit": 50.0}
        gates |= rollout.pop("gates", {})
        options = {"settle": "300ms", "keep_previous": "0s", "load_timeout": "60s", "drain_timeout": "20s"} | rollout
        return parse(
            {
                "repository": str(self.repository),
                "state": str(self.root / "state"),
                "control": {"rescan": "1s"},
                "servers": [
                    {"name": f"s{i}", "grpc": s.grpc_url, "metrics": s.metrics_url.split("/")[2]}
                    for i, s in enumerate(self.servers)
                ],
                "services": [
                    {
                        "name": name,
                        "engine": engine,
                        "probe": "reranker",
                        "golden": str(self.root / "golden.jsonl"),
                        "rollout": options,
                        "gates": gates,
                    }
                    for name, engine in self.engines.items()
                ],
            },
            "test",
            self.root,
        )

    @contextlib.contextmanager
    def control(self, **rollout: Any) -> Iterator[App]:
        """The control plane, running."""
        with open_app(self.config(**rollout)) as app:
            self.app = app
            yield app

    def drop(self, version: int, service: str = "ranker", **checkpoint: Any) -> Path:
        """A version folder as a person drops it: made elsewhere, renamed into place."""
        made = self.root / "made" / f"{service}-{version}"
        shutil.rmtree(made, ignore_errors=True)
        make_checkpoint(made, **checkpoint)
        return self.place(made, version, service)

    def place(self, folder: Path, version: int, service: str = "ranker") -> Path:
        target = self.engine_dir(service) / str(version)
        os.rename(folder, target)  # noqa: PTH104
        return target

    def status(self, service: str = "ranker") -> dict[str, Any]:
        return next(s for s in self.app.status()["services"] if s["name"] == service)

    def wait_live(self, version: int, service: str = "ranker") -> dict[str, Any]:
        """Until the version serves and nothing is under way."""

        def live() -> dict[str, Any] | None:
            status = self.status(service)
            rested = status["phase"] == "steady" and status["rollout"] is None
            return status if rested and status["stable"] == version else None

        return until(live, f"version {version} live; {self.status(service)['message']}")

    def wait_end(self, version: int, service: str = "ranker", after: int = 0) -> dict[str, Any]:
        """Until the newest rollout of the version has ended; returns its history item."""

        def ended() -> dict[str, Any] | None:
            for item in self.app.history(service):
                if item["candidate"] == version and item["id"] > after:
                    return item if item["ended_at"] else None
            return None

        return until(ended, f"the end of version {version}'s rollout")

    def loads(self) -> Counter[int]:
        """How often each version was loaded, over all servers."""
        log = self.root / "loads.log"
        return Counter(int(line.split()[0]) for line in log.read_text().splitlines()) if log.exists() else Counter()


@contextlib.contextmanager
def stage(root: Path, *, services: tuple[str, ...] = ("ranker",), servers: int = 1, **triton: Any) -> Iterator[Stage]:
    """A stage with empty engines: the first dropped version is the first of all."""
    engines = {name: f"{name}_engine" for name in services}
    repository = root / "repository"
    for engine in engines.values():
        (repository / engine).mkdir(parents=True)
        (repository / engine / "config.pbtxt").write_text(engine_config(engine, [1], load_log=root / "loads.log"))
    write_golden(root / "golden.jsonl")
    with contextlib.ExitStack() as stack:
        started = []
        for number in range(servers):
            home = root / f"triton{number}"
            home.mkdir()
            started.append(stack.enter_context(running_triton(home, repository, **triton)))
        yield Stage(root, started, engines)


class Traffic:
    """Clients that ask all the time, over gRPC and HTTP, and write down every answer."""

    def __init__(self, stage: Stage, *, service: str = "ranker", clients: int = 4, pause_s: float = 0.01) -> None:
        self._stop = threading.Event()
        self._pause = pause_s
        self.errors: list[str] = []
        self.versions: Counter[int] = Counter()
        self.answers: list[tuple[float, float, int]] = []
        """Monotonic time of the answer, seconds it took, version."""
        self._lock = threading.Lock()
        urls = []
        for number in range(clients):
            server = stage.servers[number % len(stage.servers)]
            grpc = (number // len(stage.servers)) % 2 == 0
            urls.append(f"grpc://{server.grpc_url}" if grpc else f"http://{server.http_url}")
        self._threads = [threading.Thread(target=self._ask, args=(url, service), daemon=True) for url in urls]

    def _ask(self, url: str, service: str) -> None:
        with Reranker(url, model=service, timeout_s=30.0) as client:
            while not self._stop.is_set():
                start = time.monotonic()
                try:
                    ranking = client.rank("red round shape", ["a red round shape", "the blue square thing"])
                except Exception as error:  # every failure is what this is here to count
                    with self._lock:
                        self.errors.append(f"{url}: {type(error).__name__}: {error}")
                else:
                    with self._lock:
                        self.versions[ranking.version] += 1
                        self.answers.append((time.monotonic(), time.monotonic() - start, ranking.version))
                self._stop.wait(self._pause)

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
