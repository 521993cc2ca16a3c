"""What is hit: a Triton, ``ctl serve`` beside it, and the repository that they share; each a process of its own."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.compare.way import CHECKPOINT
from harness.control_plane import ControlPlane
from harness.places import BACKENDS, MODELS
from harness.triton import running_triton, start
from harness.waiting import Failed, until
from tests.chaos.clients import questions
from tests.chaos.disks import Disks, disks

from baton.codec import encode
from baton.domain import ModelState
from baton.errors import BatonError, RepositoryError
from baton.local import LocalTriton
from baton.local.procfs import Stub
from baton.triton.config_file import CONFIG
from baton.triton.grpc import GrpcTriton
from baton.triton.repository import SPLITTER_VERSION, ServiceFiles

HERE = Path(__file__).parent
ALIAS, ENGINE = "reranker", "quick_reranker"
LEASE_S, DEADLINE_S = 2.0, 2.0
"""As in ``baton.toml``."""
MARKS = 50
SOON_S = 60.0
"""No moment that a fault waits for is further away."""


class Stage:
    """The whole of it in one folder. What ends although it should run is started again by :meth:`supervise`."""

    def __init__(self, home: Path, disk: Disks, triton: LocalTriton) -> None:
        self.home, self.disk, self.triton = home, disk, triton
        self.repository, self.state = disk.repository, disk.state
        self.files = ServiceFiles(self.repository, ALIAS, ENGINE)
        self.marks: dict[int, int] = {}
        self.restarts = 0
        """Of processes that ended although nobody had hit them."""
        self._load_log = home / "loads.log"
        engine = self.repository / ENGINE
        engine.mkdir()
        text = (MODELS / "qwen3_vl_reranker" / CONFIG).read_text()
        (engine / CONFIG).write_text(_engine_config(text, self._load_log))
        self._golden()
        configuration = (HERE / "baton.toml").read_text()
        places = {"repository": self.repository, "state": self.state, "golden": home / "golden.jsonl"}
        places |= {"grpc": triton.grpc_url, "metrics": triton.metrics_url.split("/")[2]}
        for name, place in places.items():
            configuration = configuration.replace(f"@{name}@", str(place))
        (home / "baton.toml").write_text(configuration)
        self.client = GrpcTriton("chaos", triton.grpc_url)
        self.serve = ControlPlane("serve", options=("--config", str(home / "baton.toml")), log=home / "serve.log")
        self.serve.start()

    def _golden(self) -> None:
        with (self.home / "golden.jsonl").open("w") as file:
            for number, (query, documents) in enumerate(questions(12)):
                case = {
                    "id": f"case-{number:03d}",
                    "kind": "text",
                    "query": {"text": query},
                    "documents": [{"text": d} for d in documents],
                    "relevance": [3, 2, 1, 0],
                }
                file.write(json.dumps(case) + "\n")

    # Processes

    def restart_triton(self) -> None:
        """As its unit file does: with both names. A start that fails is tried again."""
        self.triton.stop(timeout=5.0)
        deadline = time.monotonic() + 60.0
        while True:
            try:
                return start(self.triton, self.home, self.repository, load=(ALIAS, ENGINE))
            except BatonError as error:
                self.note(f"Triton does not start: {error}")
                if time.monotonic() > deadline:
                    raise Failed(f"Triton does not start: {error}") from error
                time.sleep(1.0)  # a supervisor's RestartSec

    def start_serve(self) -> None:
        """A start that fails is tried again, as a supervisor does."""
        deadline = time.monotonic() + 60.0
        while True:
            with contextlib.suppress(Failed):
                self.serve.start()
                return
            self.note("the control plane does not start")
            if time.monotonic() > deadline:
                raise Failed(f"the control plane does not start: {self.serve.log.read_text()}")
            time.sleep(0.5)  # a supervisor's RestartSec

    def supervise(self) -> None:
        """Start again what ended by itself."""
        if self.triton.poll() is not None:
            self.note(f"Triton ended by itself with {self.triton.poll()}")
            self.restarts += 1
            self.restart_triton()
        if not self.serve.runs:
            self.note("the control plane ended by itself")
            self.restarts += 1
            self.start_serve()

    def kill_serve(self, number: int = signal.SIGKILL) -> None:
        """End the control plane; returns when it is gone."""
        self.serve.kill(number)

    def stub(self, model: str, version: int) -> Stub | None:
        """The process that runs a version, once it has begun to load it; None when there is none."""
        begun = {int(line.split()[1]) for line in self._loads()} if model == ENGINE else None
        for stub in self.triton.stubs():
            if (stub.model, stub.version) == (model, version) and (begun is None or stub.pid in begun):
                return stub
        return None

    def splitter(self) -> ModelState | None:
        """The state of the splitter; None where Triton knows of none."""
        states = self.client.index().get(self.files.splitter_name, {})
        return states[SPLITTER_VERSION].state if SPLITTER_VERSION in states else None

    def _loads(self) -> list[str]:
        return self._load_log.read_text().splitlines() if self._load_log.exists() else []

    # Versions

    def drop(self, version: int, *, slow_file: int = 0, **quirks: float) -> Path:
        """The base checkpoint as a new version with a mark of its own, made elsewhere and renamed into place.

        ``slow_file``: bytes of an empty file beside it, which takes time to hash. ``quirks``: see the engine.
        """
        made = self.repository / f".made-{version}"
        shutil.rmtree(made, ignore_errors=True)
        shutil.copytree(CHECKPOINT, made)
        self.marks[version] = version % MARKS
        config = json.loads((made / "config.json").read_text()) | {"mark": self.marks[version]} | quirks
        (made / "config.json").write_text(json.dumps(config))
        if slow_file:
            with (made / "padding.dat").open("wb") as file:
                file.truncate(slow_file)
        made.rename(self.files.folder(version))
        return self.files.folder(version)

    @contextlib.contextmanager
    def slow(self, version: int, seconds: float) -> Iterator[None]:
        """Each batch of the version takes so long meanwhile."""
        told = self.home / f"slow-{version}"
        try:
            told.write_text(str(seconds))
            yield
        finally:
            told.unlink(missing_ok=True)

    def tidy(self, keep: int) -> None:
        """Remove the folders of all other versions, as a person does now and then."""
        for entry in (self.repository / ENGINE).iterdir():
            if entry.is_dir() and entry.name != str(keep):
                shutil.rmtree(entry)

    # What is seen

    def service(self) -> dict[str, Any]:
        """The service's part of ``ctl status``; an empty phase when nobody answers."""
        try:
            status: dict[str, Any] = encode(self.serve.api.status())
        except BatonError:
            return {"phase": "", "stable": None, "rollout": None, "message": "the control plane does not answer"}
        return status["services"][0] | {"in_sync": status["servers"][0]["in_sync"]}

    def unrest(self, allowed: set[int]) -> str:
        """What is not as it should be when nothing goes on, with one of these versions alone; empty when all is."""
        shown = self.service()
        version = shown["stable"]
        if shown["phase"] != "steady" or shown["rollout"] is not None:
            return f"{shown['phase'] or 'no control plane'}: {shown['message']}"
        if version not in allowed:
            return f"version {version} is stable, which is not one of {sorted(allowed)}"
        if not shown["in_sync"]:
            return "the server is not in sync"
        try:
            policy, (alias, split) = self.files.policy(), self.files.alias_and_split()
            index = self.client.index()
        except (RepositoryError, BatonError) as error:
            return str(error)
        if (alias, split, policy) != (version, False, {version}):
            return f"version {version} is stable; on disk: alias {alias}, split {split}, policy {sorted(policy)}"
        if self.files.splitter_dir.exists():
            return "the splitter's folder is still there"
        ready = {v for v, m in index.get(ENGINE, {}).items() if m.state not in _GONE}
        if ready != {version}:
            return f"version {version} is stable; loaded are {sorted(ready)}"
        if any(m.state not in _GONE for m in index.get(self.files.splitter_name, {}).values()):
            return "the splitter is still loaded"
        return ""

    def leaks(self) -> int:
        """Versions that Triton never lets go of."""
        states = [m.state for versions in self.client.index().values() for m in versions.values()]
        return states.count(ModelState.UNLOADING)

    def note(self, what: str) -> None:
        """One line for the evidence."""
        with (self.home / "chaos.log").open("a") as file:
            file.write(f"{time.time():.3f} {what}\n")

    def close(self) -> None:
        with contextlib.suppress(Failed):  # it is killed then
            self.serve.stop()
        self.client.close()


_GONE = {ModelState.UNAVAILABLE, ModelState.UNLOADING}
"""A version whose process died with a request under way stays UNLOADING for ever (Triton 24.10), and takes no more."""


def _engine_config(text: str, load_log: Path) -> str:
    text = text.replace('"qwen3_vl_reranker"', f'"{ENGINE}"').partition("# All of these may be left out")[0]
    return f'{text}parameters [ {{ key: "load_log" value: {{ string_value: "{load_log}" }} }} ]\n'


@contextlib.contextmanager
def stage(home: Path) -> Iterator[Stage]:
    """A stage on which version 1 serves."""
    with disks(home) as disk, contextlib.ExitStack() as stack:
        backends = (BACKENDS, HERE / "backends")
        triton = stack.enter_context(running_triton(home, disk.repository, backends=backends))
        made = Stage(home, disk, triton)
        stack.callback(made.close)
        made.drop(1)
        until(lambda: not made.unrest({1}), "version 1 to serve", SOON_S)
        yield made
