"""A stage for whole rollouts: a repository, real Triton servers with the toy engine, and the control plane here."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import harness.traffic
import numpy as np
import tritonclient.grpc
import tritonclient.http
from harness.traffic import Ask, Client, Reply
from harness.triton import start
from harness.waiting import PATIENCE_S, Failed, until
from tests.support.reasons import within
from tests.support.toy import HIDDEN, WEIGHTS, engine_config, make_checkpoint, weights, write_golden
from tests.support.triton import running_triton, tensors

from baton.app import App, open_app
from baton.codec import encode
from baton.config import Config, parse
from baton.local import LocalTriton, procfs
from baton.reasons import Reason, Why
from baton.triton.repository import ServiceFiles

ABORTED = (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS)
"""How Triton ends by itself."""


def still_run(servers: Iterable[LocalTriton]) -> None:
    """Fail at once where a server ended by itself: nothing that a test waits for will come.

    Triton 24.10 ends by a signal now and then when a process of its models is ended or starved. ``pyproject.toml`` has
    a test that meets this run once more, and the summary counts it.
    """
    for server in servers:
        if (code := server.poll()) in ABORTED:
            raise Failed(f"Triton ended by itself with signal {-code}")


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
        """As ``parse`` gives it; see :meth:`settings`."""
        return parse(self.settings(**rollout), "test", self.root)

    def settings(self, **rollout: Any) -> dict[str, Any]:
        """The configuration as a table: quick, and with limits of time that no slow machine meets.

        ``rollout`` are settings of ``[services.rollout]``; ``gates``, ``traffic``, ``live``, ``health`` and ``state``
        are taken out of them, and so is ``golden``, false for none. Without ``traffic`` all of it moves at once.
        """
        golden = {"golden": str(self.root / "golden.jsonl")} if rollout.pop("golden", True) else {}
        traffic = rollout.pop("traffic", {"steps": [], "shadow_share": 0})
        live = rollout.pop("live", {})
        health = rollout.pop("health", {})
        gates = {
            "latency_min_samples": 40,
            "latency_max_samples": 120,
            "latency_limit": 20.0,
            "warmup_limit": 200.0,
            "hold_retry": "500ms",
            "hold_attempts": 20,
        }
        gates |= rollout.pop("gates", {})
        state = rollout.pop("state", self.root / "state")
        options = {"settle": "100ms", "cut_after": "1s", "keep_previous": "0s", "load_timeout": "90s"} | rollout
        options = {"drain_timeout": "20s"} | options
        return {
            "repository": str(self.repository),
            "state": str(state),
            "control": {"rescan": "300ms"},
            "servers": [
                {"name": f"s{i}", "grpc": s.grpc_url, "metrics": s.metrics_url.split("/")[2]}
                for i, s in enumerate(self.servers)
            ],
            "services": [
                {
                    "name": name,
                    "engine": engine,
                    "probe": "reranker",
                    **golden,
                    "rollout": options,
                    "gates": gates,
                    "traffic": traffic,
                    "live": live,
                    "health": health,
                }
                for name, engine in self.engines.items()
            ],
        }

    @contextlib.contextmanager
    def control(self, **rollout: Any) -> Iterator[App]:
        """The control plane, running."""
        with open_app(self.config(**rollout)) as app:
            self.app = app
            yield app

    def drop(self, version: int, service: str = "ranker", **checkpoint: Any) -> Path:
        """A version folder as a person drops it: made elsewhere, renamed into place."""
        return self.place(self.make(version, service, **checkpoint), version, service)

    def make(self, version: int, service: str = "ranker", **checkpoint: Any) -> Path:
        """A checkpoint outside of the repository, on its way to be that version."""
        made = self.root / "made" / f"{service}-{version}"
        shutil.rmtree(made, ignore_errors=True)
        return make_checkpoint(made, **checkpoint)

    def drop_copy(self, of: int, version: int, service: str = "ranker", *, padding_mb: int = 0, **toy: Any) -> Path:
        """The content of a version on disk under a new number, with other switches of the toy.

        ``padding_mb`` is a file of that size beside it, which takes time to hash.
        """
        made = self.root / "made" / f"{service}-{version}"
        shutil.rmtree(made, ignore_errors=True)
        shutil.copytree(self.engine_dir(service) / str(of), made)
        config = json.loads((made / "config.json").read_text())
        (made / "config.json").write_text(json.dumps(config | {"toy": toy}))
        (made / "padding.dat").unlink(missing_ok=True)
        if padding_mb:
            (made / "padding.dat").write_bytes(bytes(padding_mb << 20))
        return self.place(made, version, service)

    def place(self, folder: Path, version: int, service: str = "ranker") -> Path:
        target = self.engine_dir(service) / str(version)
        os.rename(folder, target)  # noqa: PTH104
        return target

    def kill(self, number: int = 0) -> None:
        """End a Triton server with SIGKILL, as a crash does; its stubs go as well."""
        server = self.servers[number]
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        server.stop()

    def restart(self, number: int = 0, *, load: tuple[str, ...] = ()) -> None:
        """Start a killed server again, on the ports that it had."""
        start(self.servers[number], self.root / f"triton{number}", self.repository, load=load)

    def revive(self) -> None:
        """Start servers again that ended by themselves, with what clients call."""
        called = [names for names in self.engines.items() if (self.repository / names[0] / "config.pbtxt").exists()]
        for number, server in enumerate(self.servers):
            if server.poll() in ABORTED:
                self.restart(number, load=tuple(itertools.chain.from_iterable(called)))

    def wait_message(self, *words: str, service: str = "ranker") -> str:
        """Until the sentence for a person holds all the words; returns it."""

        def said() -> str | None:
            message: str = self.status(service)["message"]
            return message if all(word in message for word in words) else None

        return str(until(said, f"a message with {words}", instead=lambda: self.status(service)["message"]))

    def why(self, service: str = "ranker") -> Why:
        """The reason of what the service does or waits for."""
        why: Why = self.app.services[service].decision.why
        return why

    def wait_why(self, reason: Reason, service: str = "ranker") -> Why:
        """Until that is the reason, or a part of it; returns the whole."""

        def given() -> Why | None:
            why = self.why(service)
            return why if reason in within(why) else None

        why: Why = until(given, f"the reason {reason}", instead=lambda: self.status(service)["message"])
        return why

    def ended_why(self, version: int, service: str = "ranker") -> Why:
        """Why the newest rollout of the version ended."""
        rollouts = self.app.journal.rollouts.newest(service=service)
        return next(r.ended_why for r in rollouts if r.candidate == version and r.ended_why is not None)

    def wait_phase(self, *phases: str, service: str = "ranker") -> dict[str, Any]:
        """Until the service is in one of the phases; returns its status."""

        def there() -> dict[str, Any] | None:
            status = self.status(service)
            return status if status["phase"] in phases else None

        return dict(until(there, f"one of {phases}", instead=lambda: self.status(service)))

    def version(self, version: int, service: str = "ranker") -> dict[str, Any]:
        """The version's line of ``ctl versions``."""
        return next(encode(v) for v in self.app.versions(service) if v.version == version)

    def serving(self) -> int:
        """The version that the alias leads to."""
        version = ServiceFiles(self.repository, "ranker", self.engines["ranker"]).alias()
        assert version is not None
        return version

    def unused(self) -> int:
        """A number that no version on disk has, higher than all."""
        return max(int(entry.name) for entry in self.engine_dir().iterdir() if entry.name.isdigit()) + 1

    def stub(self, model: str, version: int, server: int = 0) -> procfs.Stub:
        """The process that runs a version on a server."""
        return next(s for s in self.servers[server].stubs() if (s.model, s.version) == (model, version))

    def policy(self, service: str = "ranker") -> set[int]:
        """The versions that the engine's policy on disk names: what a restarted Triton loads."""
        return set(ServiceFiles(self.repository, service, self.engines[service]).policy())

    def status(self, service: str = "ranker") -> dict[str, Any]:
        """The service in ``ctl status --output json``."""
        still_run(self.servers)
        return next(encode(s) for s in self.app.status().services if s.name == service)

    def wait_live(self, version: int, service: str = "ranker") -> dict[str, Any]:
        """Until the version serves and nothing is under way."""

        def live() -> dict[str, Any] | None:
            status = self.status(service)
            rested = status["phase"] == "steady" and status["rollout"] is None
            return status if rested and status["stable"] == version else None

        return until(live, f"version {version} live", instead=lambda: self.status(service))

    def wait_end(self, version: int, service: str = "ranker", after: int = 0) -> dict[str, Any]:
        """Until the newest rollout of the version has ended; returns its history item."""

        def ended() -> dict[str, Any] | None:
            for item in self.app.history(service):
                if item.candidate == version and item.id > after:
                    return encode(item) if item.ended_at else None
            return None

        return until(ended, f"the end of version {version}'s rollout", instead=lambda: self.status(service))

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


def toml(table: Mapping[str, Any], prefix: str = "") -> str:
    """A configuration as TOML; its values are texts, numbers, tables, lists of those and lists of tables."""

    def is_table(value: Any) -> bool:
        return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))

    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items() if not is_table(value))
    for key, value in table.items():
        if isinstance(value, dict):
            text += f"\n[{prefix}{key}]\n{toml(value, f'{prefix}{key}.')}"
        elif is_table(value):
            text += "".join(f"\n[[{prefix}{key}]]\n{toml(one, f'{prefix}{key}.')}" for one in value)
    return text


QUERY, DOCUMENT = "red round shape", "a red round shape"
"""What all traffic asks."""


def expected_score(*, quality: float = 1.0, seed: int = 1) -> float:
    """The toy engine's score of (``QUERY``, ``DOCUMENT``) with the weights of a checkpoint made like this.

    Worked out here from the toy's definition, not asked of it: what answered can be told from the score alone.
    """
    asked = set(QUERY.split())
    overlap = len(asked & set(DOCUMENT.split())) / len(asked)
    digest = hashlib.shake_256(f"{QUERY}\0{DOCUMENT}".encode()).digest(HIDDEN)
    noise = np.frombuffer(digest, dtype=np.uint8).astype(np.float32) / 127.5 - 1.0
    features = np.concatenate([np.array([overlap, 1.0], dtype=np.float32), noise[: HIDDEN - 2]])
    return 1 / (1 + math.exp(-math.fsum((features * weights(quality=quality, seed=seed)[WEIGHTS]).tolist())))


def asking(protocol: Any, url: str, service: str, *, pictures: int = 0) -> Client:
    """A client that asks the one question by ``tritonclient.grpc`` or ``.http``.

    With ``pictures``, every so manieth request has documents that are images, to the toy, and each of 20 its own.
    """

    @contextlib.contextmanager
    def connected() -> Iterator[Ask]:
        bound = {"client_timeout": 60.0} if hasattr(protocol, "service_pb2") else {}  # over HTTP that is the default
        usual = _inputs(protocol, "text")
        others = [_inputs(protocol, "image", f" {number}") for number in range(20 if pictures else 0)]
        count = itertools.count(1)
        with protocol.InferenceServerClient(url) as client:

            def ask(_number: int) -> Reply:
                mine = next(count)
                inputs = others[mine // pictures % len(others)] if pictures and mine % pictures == 0 else usual
                result = client.infer(service, inputs, **bound)
                response = result.get_response()
                said = response["model_version"] if isinstance(response, dict) else response.model_version
                version = int(result.as_numpy("model_version")[0, 0])
                return Reply(version, tuple(result.as_numpy("scores")[0].tolist()), response_version=said)

            yield ask

    return Client(url, connected)


def _inputs(protocol: Any, key: str, more: str = "") -> list[Any]:
    return tensors(protocol, {"text": QUERY}, [{key: DOCUMENT}, {key: "the blue square thing" + more}])


class Traffic(harness.traffic.Traffic):
    """Clients that ask a stage's servers over gRPC and HTTP in turn."""

    def __init__(
        self,
        stage: Stage,
        *,
        service: str = "ranker",
        clients: int = 4,
        pictures: int = 0,
        pause_s: float = 0.04,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """See :func:`asking` for ``pictures``, and the harness for the rest."""
        self._servers = stage.servers
        asks = []
        for number in range(clients):
            server = stage.servers[number % len(stage.servers)]
            grpc = (number // len(stage.servers)) % 2 == 0
            place = (tritonclient.grpc, server.grpc_url) if grpc else (tritonclient.http, server.http_url)
            asks.append(asking(*place, service, pictures=pictures))
        super().__init__(asks, pause_s=pause_s, patience_s=patience_s)

    def alone(self, version: int) -> bool:
        """Whether the last hundred answers are all of one version."""
        return {a.version for a in self.answers[-100:]} == {version}

    def wait_answers(self, version: int, more: int = 20) -> None:
        """Until the version has given so many more answers."""
        enough = self.versions[version] + more

        def there() -> bool:
            still_run(self._servers)
            return self.versions[version] >= enough

        until(there, f"{more} answers of version {version}", instead=lambda: self.errors[-1:])
