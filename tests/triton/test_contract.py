"""What Baton relies on in Triton: the same tests against the real server and against the fake one.

Where the two differ, the fake is wrong. Each test has an engine and an alias of its own on one server.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness.waiting import until
from tests.support.toy import engine_config, make_checkpoint
from tests.support.triton import OUR_BACKENDS, TOY_BACKENDS, running_triton

from baton.domain import EngineInfo, ModelState
from baton.errors import InvalidRequest, TimedOut, TritonError, Unreachable
from baton.local import procfs
from baton.local.find import find_triton
from baton.testing import SIGNATURE, Behaviour, DiskRepository, FakeTriton
from baton.triton.grpc import GrpcTriton
from baton.triton.key import Caps, Key
from baton.triton.port import Counts
from baton.triton.quarantine import GIVEN_UP
from baton.triton.repository import CONTROL, REPORT, SPLITTER_VERSION, ServiceFiles

LONG_S = 120.0
READY, LOADING = ModelState.READY, ModelState.LOADING


class Rig:
    """One service on one server, whichever that is."""

    def __init__(self, server: Any, repository: Path, name: str) -> None:
        self.server = server
        self.engine, self.alias = f"{name}_engine", name
        caps = Caps(weight=100.0, shadow=100.0, lease_s=LONG_S, contents=True)
        self.files = ServiceFiles(repository, self.alias, self.engine, Key(repository.parent / f"{name}.token", caps))
        self.splitter = self.files.splitter_name
        self._log = repository.parent / f"{name}.loads"
        self.files.engine_dir.mkdir(parents=True)
        (self.files.engine_dir / "config.pbtxt").write_text(engine_config(self.engine, [1], load_log=self._log))

    def drop(self, version: int, **toy: Any) -> None:
        make_checkpoint(self.files.folder(version), seed=version, toy=toy)
        if isinstance(self.server, FakeTriton):
            self.server.versions[version] = Behaviour(
                load_s=toy.get("load_s", 0.0),
                load_error="this toy version raises while it loads" if toy.get("raise_at_load") else None,
                answer_s=toy.get("delay_ms", 0.0) / 1000,
                answer_error="this toy version fails now and then" if toy.get("error_rate") else None,
                score=toy.get("constant"),
                info=EngineInfo(**toy["info"]) if "info" in toy else None,
                leave_s=0.3,
            )

    def load(self, *policy: int, timeout_s: float = LONG_S) -> None:
        self.files.set_policy(frozenset(policy))
        self.server.load(self.engine, timeout_s)

    def point(self, version: int, *, split: bool = False) -> None:
        self.files.set_alias(version, split=split)
        self.server.load(self.alias, LONG_S)
        self.server.load(self.alias, LONG_S)

    def split(self, stable: int) -> None:
        """Put a splitter before the stable version; it has no route yet."""
        self.files.set_splitter(stable)
        self.server.load(self.splitter, LONG_S)
        self.point(stable, split=True)

    def steer(self, candidate: int | None, weight: float, *, lease_s: float = LONG_S, **more: Any) -> dict[str, Any]:
        """Send the splitter a route; its report."""
        route = {"candidate": candidate, "weight": weight, "shadow": 0.0, "lease_s": lease_s, "salt": "", "kinds": []}
        return self.control(route={**route, "deadline_s": 10.0, "compare": "scores", "contents": False}, **more)

    def control(self, **asked: Any) -> dict[str, Any]:
        text = json.dumps({"token": self.files.token(), **asked}).encode()
        inputs = {CONTROL: np.array([[text]], dtype=np.object_)}
        answer = self.server.infer(self.splitter, SPLITTER_VERSION, inputs, LONG_S)
        return dict(json.loads(bytes(answer[REPORT].reshape(-1)[0])))

    def answering(self, requests: int) -> set[int]:
        """The versions that answer so many requests to the alias."""
        return {self.ask(None, self.alias) for _ in range(requests)}

    def kill(self, model: str, version: int | None = None) -> None:
        """End the processes of a version of the model; None: of the one that is loaded."""
        if isinstance(self.server, FakeTriton):
            self.server.die(model, version or next(iter(self.states(model))))
        else:
            self._signal(signal.SIGKILL, model, version)

    def freeze(self, model: str, version: int) -> None:
        """The process of a version stands still."""
        if isinstance(self.server, FakeTriton):
            self.server.freeze(model, version)
        else:
            self._signal(signal.SIGSTOP, model, version)

    def _signal(self, number: int, model: str, version: int | None) -> None:
        for stub in [s for s in procfs.stubs() if s.model == model and version in (None, s.version)]:
            os.kill(stub.pid, number)

    def loads(self) -> Counter[int]:
        if isinstance(self.server, FakeTriton):
            return Counter({v: n for (model, v), n in self.server.loads.items() if model == self.engine})
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return Counter(int(line.split()[0]) for line in lines)

    def states(self, model: str | None = None) -> dict[int, ModelState]:
        """Versions that take memory; those that are gone are left out, as the index may or may not name them."""
        index = self.server.index().get(model or self.engine, {})
        return {v: m.state for v, m in index.items() if m.state is not ModelState.UNAVAILABLE}

    def settles(self, expected: set[int], model: str | None = None) -> None:
        wanted = dict.fromkeys(expected, READY)
        until(lambda: self.states(model) == wanted, f"{expected} READY and nothing else; {self.states(model)}")

    def ask(self, version: int | None, model: str | None = None, timeout_s: float = LONG_S) -> int:
        return int(self.answer(version, model, timeout_s)["model_version"][0, 0])

    def answer(
        self, version: int | None, model: str | None = None, timeout_s: float = LONG_S, text: bytes = b""
    ) -> Any:
        return self.server.infer(model or self.engine, version, self.inputs(text), timeout_s)

    def inputs(self, text: bytes = b"") -> dict[str, Any]:
        return {
            "query": np.array([[b'{"text": "red round"}']], dtype=np.object_),
            "documents": np.array([[b'{"text": "a red one"}', text or b'{"text": "no"}']], dtype=np.object_),
        }


@pytest.fixture(scope="module", params=["fake", pytest.param("real", marks=pytest.mark.triton)])
def stage(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    repository = root / "repository"
    repository.mkdir()
    if request.param == "fake":
        yield FakeTriton("one", DiskRepository(repository)), repository
        return
    find_triton(None)
    with running_triton(root, repository, backends=(TOY_BACKENDS, OUR_BACKENDS)) as running:
        server = GrpcTriton("one", running.grpc_url, metrics=running.metrics_url.split("/")[2])
        with contextlib.closing(server):
            yield server, repository


@pytest.fixture
def rig(stage, request):
    server, repository = stage
    return Rig(server, repository, request.node.originalname.removeprefix("test_"))


def test_a_version_from_the_future(rig):
    """Triton looks at nothing but the newest time in a model's directory: a file that is ahead hides every change."""
    rig.drop(1)
    rig.load(1)
    rig.drop(2)
    ahead = time.time() + 7200
    for path in (rig.files.folder(2), *rig.files.folder(2).iterdir()):
        os.utime(path, (ahead, ahead))
    rig.load(1, 2)
    rig.settles({1, 2})
    config = rig.files.engine_dir / "config.pbtxt"
    rig.files.set_policy(frozenset({2}))
    now = time.time()
    os.utime(config, (now, now))  # as anybody else's edit has it
    rig.server.load(rig.engine, LONG_S)
    rig.settles({1, 2})
    rig.load(2)
    rig.settles({2})
    rig.drop(3)
    rig.load(2, 3)
    rig.settles({2, 3})
    rig.load(3)
    rig.settles({3})
    assert rig.loads() == {1: 1, 2: 1, 3: 1}, "and nothing is loaded anew"


def test_a_change_within_one_tick_of_the_clock_is_noticed(rig):
    rig.drop(1)
    rig.drop(2)
    for wanted in ({1}, {1, 2}, {2}, {1, 2}, {1}):
        rig.load(*wanted)
        rig.settles(wanted)


def test_policy(rig):
    rig.drop(1)
    rig.drop(2)
    rig.load(1)
    assert rig.states() == {1: READY}
    rig.load(1, 2)
    assert rig.states() == {1: READY, 2: READY}
    assert rig.loads() == {1: 1, 2: 1}, "only what is new is loaded"
    rig.load(1, 2, 7)
    assert rig.states() == {1: READY, 2: READY}, "a version without a folder is skipped, with OK"
    answer = rig.answer(1)
    assert answer["scores"].shape == (1, 2)
    assert answer["scores"].dtype == np.float32
    assert answer["model_version"].tolist() == [[1]]
    assert rig.ask(None) == 2, "an unversioned request goes to the highest number"
    with pytest.raises(TritonError, match="document 1"):
        rig.answer(1, text=b"{")
    with pytest.raises(TritonError, match="version 9 is not found"):
        rig.ask(9)
    rig.load(1)
    rig.settles({1})
    assert rig.loads() == {1: 1, 2: 1}
    rig.files.set_policy(frozenset())
    with pytest.raises(TritonError, match="at least one version must be available"):
        rig.server.load(rig.engine, LONG_S)
    assert rig.states() == {1: READY}, "an empty policy is an error and changes nothing"
    rig.files.set_policy(frozenset({7}))
    with pytest.raises(TritonError, match="at least one version must be available"):
        rig.server.load(rig.engine, LONG_S)
    assert rig.states() == {1: READY}
    rig.server.unload(rig.engine, LONG_S)
    rig.settles(set())


def test_unknown(rig):
    with pytest.raises(TritonError, match="failed to load 'nobody', failed to poll from model repository"):
        rig.server.load("nobody", LONG_S)
    with pytest.raises(TritonError, match="Request for unknown model: 'nobody' is not found"):
        rig.ask(None, "nobody")
    rig.server.unload("nobody", LONG_S)


def test_failed_load(rig):
    rig.drop(1)
    rig.drop(2)
    rig.drop(4, raise_at_load=True)
    rig.load(1)
    with pytest.raises(TritonError, match=r"raises while it loads$") as failed:
        rig.load(2, 4)
    assert "version 4 is at UNAVAILABLE state" in failed.value.words
    rig.settles({1})
    assert "raises while it loads" in rig.server.index()[rig.engine][4].reason
    assert rig.ask(1) == 1, "what was to go stays as well"
    rig.load(1)
    rig.settles({1})
    assert rig.loads()[1] == 1


def test_alias(rig):
    rig.drop(1)
    rig.drop(2)
    rig.load(1, 2)
    rig.point(1)
    rig.settles({1}, rig.alias)
    assert rig.ask(None, rig.alias) == 1
    rig.point(2)
    assert rig.ask(None, rig.alias) == 2
    rig.settles({2}, rig.alias)
    with pytest.raises(TritonError, match="required version 9 is not loaded"):
        rig.point(9)
    rig.settles(set(), rig.alias)
    with pytest.raises(TritonError, match="has no available versions"):
        rig.ask(None, rig.alias)
    rig.point(2)
    rig.settles({2}, rig.alias)
    rig.load(1)
    rig.settles(set(), rig.alias)
    rig.load(1, 2)
    rig.settles({2}, rig.alias)
    assert rig.ask(None, rig.alias) == 2, "it comes back with the version that it leads to"
    rig.server.unload(rig.alias, LONG_S)
    rig.settles(set(), rig.alias)
    rig.settles({1, 2})
    assert rig.loads() == {1: 1, 2: 2}


def test_step(rig):
    rig.drop(1)
    rig.load(1)
    assert rig.server.step(rig.alias) is None, "it is not loaded"
    rig.point(1)
    assert rig.server.step(rig.alias) == rig.engine
    assert rig.server.step(rig.engine) is None, "it is no ensemble"
    rig.files.set_splitter(1)
    rig.server.load(rig.splitter, LONG_S)
    assert rig.states(rig.splitter) == {SPLITTER_VERSION: READY}
    assert rig.server.step(rig.alias) == rig.engine, "a splitter that is loaded is not in the path yet"
    rig.files.set_alias(1, split=True)
    assert rig.server.step(rig.alias) == rig.engine, "it tells what is loaded, and not what the files say"
    rig.point(1, split=True)
    assert rig.server.step(rig.alias) == rig.splitter
    rig.server.unload(rig.alias, LONG_S)
    rig.settles(set(), rig.alias)
    assert rig.server.step(rig.alias) is None


def test_split(rig):
    rig.drop(1)
    rig.drop(2)
    rig.load(1, 2)
    rig.point(1)
    rig.split(1)
    assert rig.states(rig.alias) == {1: READY}, "the alias keeps stable's number"
    assert rig.answering(5) == {1}, "without a route stable answers alone"
    assert rig.control()["route"] is None
    report = rig.steer(2, 100.0)
    assert (report["stable"], report["route"]["candidate"], report["route"]["weight"]) == (1, 2, 100.0)
    assert rig.answering(5) == {2}
    assert rig.steer(2, 0.0)["route"]["weight"] == 0.0
    assert rig.answering(5) == {1}
    rig.steer(2, 50.0)
    assert rig.answering(60) == {1, 2}
    assert rig.steer(None, 0.0)["route"]["candidate"] is None
    assert rig.answering(5) == {1}
    rig.point(1)
    assert rig.server.step(rig.alias) == rig.engine
    rig.server.unload(rig.splitter, LONG_S)
    rig.settles(set(), rig.splitter)
    assert rig.answering(5) == {1}, "it goes, and the alias stays where it is"
    rig.settles({1, 2})
    assert rig.loads() == {1: 1, 2: 1}, "nothing of it touched the engine"


def test_lease(rig):
    rig.drop(1)
    rig.drop(2)
    rig.load(1, 2)
    rig.split(1)
    rig.steer(2, 100.0)
    assert rig.answering(3) == {2}
    rig.steer(2, 100.0, lease_s=0.3)
    until(lambda: rig.answering(1) == {1}, "stable answers alone when the lease is over")
    assert rig.control()["route"] is None
    assert rig.answering(5) == {1}
    left = rig.steer(2, 100.0, lease_s=50.0)["route"]["lease_left_s"]
    assert 0 < left <= 50.0
    assert rig.answering(3) == {2}, "a new one holds"


def test_report(rig):
    rig.drop(1)
    rig.drop(2)
    rig.load(1, 2)
    rig.split(1)
    first = rig.steer(2, 100.0)
    rig.answering(3)
    rig.steer(2, 0.0)
    rig.answering(2)

    def report_now() -> dict[str, Any]:
        return rig.control(boot=first["boot"], after=first["next"])

    # An answer is written down a moment after its client has it.
    until(lambda: len(report_now()["samples"]) >= 5, "five samples")
    report = report_now()
    assert report["boot"] == first["boot"]
    assert Counter(s["role"] for s in report["samples"]) == {"candidate": 3, "stable": 2}
    assert {s["what"] for s in report["samples"]} == {"answer"}
    assert {s["outcome"] for s in report["samples"]} == {"ok"}
    assert all(s["took_ms"] > 0 and s["age_s"] >= 0 for s in report["samples"])
    counts = {k: report["counts"][k] for k in ("requests", "stable", "candidate", "sent_to_candidate", "failed")}
    assert counts == {"requests": 5, "stable": 2, "candidate": 3, "sent_to_candidate": 3, "failed": 0}
    assert report["breaker"]["state"] == "closed"
    assert {v: c["begun"] - c["ended"] for v, c in report["calls"].items()} == {"1": 0, "2": 0}, "none is under way"
    assert {c["given_up"] for c in report["calls"].values()} == {None}
    assert rig.control(boot=report["boot"], after=report["next"])["samples"] == [], "each is told once"
    assert len(rig.control(boot="another", after=report["next"])["samples"]) == 5, "another process knows no number"


def test_own_requests(rig):
    """One that was announced goes where it was to go, is mirrored, and is no client's; its id counts once."""
    rig.drop(1)
    rig.drop(2)
    rig.load(1, 2)
    rig.split(1)
    first = rig.steer(2, 0.001)

    def ask(request_id: str) -> int:
        answer = rig.server.infer(rig.alias, None, rig.inputs(), LONG_S, request_id)
        return int(answer["model_version"][0, 0])

    rig.control(probe={"id": "baton-1", "to": "candidate"})
    assert ask("baton-2") == 1, "another id is a client's"
    assert ask("baton-1") == 2
    assert ask("baton-1") == 1, "and so is this one from now on"
    route = {"candidate": 2, "weight": 99.999, "shadow": 0.001, "lease_s": LONG_S, "salt": "", "kinds": []}
    rig.control(route={**route, "deadline_s": 10.0, "compare": "scores", "contents": False})
    rig.control(probe={"id": "baton-3", "to": "stable"})
    assert ask("baton-3") == 1

    def report_now() -> dict[str, Any]:
        return rig.control(boot=first["boot"], after=first["next"])

    until(lambda: len(report_now()["samples"]) >= 5, "five samples")
    report = report_now()
    own = [s for s in report["samples"] if s.get("own")]
    assert [(s["what"], s["id"]) for s in own] == [("answer", "baton-1"), ("answer", "baton-3"), ("pair", "baton-3")]
    assert own[2]["stable_ms"] > 0 < own[2]["candidate_ms"]
    assert len(own[2]["stable"]) == len(own[2]["candidate"]) > 0
    counts = {k: report["counts"][k] for k in ("own", "requests", "stable", "candidate", "shadowed")}
    assert counts == {"own": 2, "requests": 2, "stable": 2, "candidate": 0, "shadowed": 0}


def test_token(rig):
    rig.drop(1)
    rig.drop(2)
    rig.load(1, 2)
    rig.split(1)
    rig.steer(2, 100.0)
    for token in ("", "x" * 64, rig.files.token()[:-1]):
        with pytest.raises(TritonError, match="token") as refused:
            rig.steer(None, 0.0, token=token)
        assert rig.files.token() not in str(refused.value)
    assert rig.answering(3) == {2}, "the route in force stays"
    rig.point(1)
    rig.files.set_splitter(1)
    with pytest.raises(TritonError, match="token"):
        rig.steer(2, 100.0)
    rig.server.load(rig.splitter, LONG_S)
    assert rig.steer(2, 100.0)["counts"]["requests"] == 0, "new files are a new splitter, which knows its own token"


def test_failing_candidate(rig):
    rig.drop(1)
    rig.drop(2, error_rate=1.0)
    rig.load(1, 2)
    rig.split(1)
    rig.steer(2, 100.0)
    assert rig.answering(3) == {1}, "stable answers for it"
    # The last client had its answer before the failure was counted.
    until(lambda: rig.control()["counts"]["failed"] == 3, "all failures are counted")
    report = rig.control()
    assert report["counts"]["candidate"] == 0
    failed = [s for s in report["samples"] if s["role"] == "candidate"]
    assert {s["outcome"] for s in failed} == {"failed"}
    assert {s["error"] for s in failed} == {"this toy version fails now and then"}


def test_splitter_gone(rig):
    """The order that must not be: a splitter that leaves takes the alias before it down."""
    rig.drop(1)
    rig.load(1)
    rig.split(1)
    rig.server.unload(rig.splitter, LONG_S)
    rig.settles(set(), rig.alias)
    with pytest.raises(TritonError):
        rig.ask(None, rig.alias)
    rig.server.load(rig.splitter, LONG_S)
    rig.settles({1}, rig.alias)
    assert rig.answering(3) == {1}
    rig.load(1)
    rig.files.set_splitter(None)
    rig.point(1)
    rig.server.unload(rig.splitter, LONG_S)
    assert rig.answering(3) == {1}


def test_changes(rig):
    rig.drop(1)
    rig.drop(2)
    rig.load(1, 2)
    os.utime(rig.files.folder(1) / "config.json")
    rig.server.load(rig.engine, LONG_S)
    assert rig.loads() == {1: 2, 2: 1}, "a touched version is loaded again"
    (rig.files.engine_dir / "notes").mkdir()
    rig.server.load(rig.engine, LONG_S)
    assert rig.loads() == {1: 3, 2: 2}, "a new entry beside them reloads every version"
    (rig.files.engine_dir / "notes").rmdir()
    rig.server.load(rig.engine, LONG_S)
    assert rig.loads() == {1: 3, 2: 2}, "its going does not"
    rig.files.folder(1).rename(rig.files.repository / f"away-{rig.engine}")
    rig.server.load(rig.engine, LONG_S)
    rig.settles({2})


def test_slow(rig):
    rig.drop(1, load_s=1.5, delay_ms=700)
    with pytest.raises(TimedOut):
        rig.load(1, timeout_s=0.3)
    assert rig.states() == {1: LOADING}
    with pytest.raises((TritonError, Unreachable)):
        rig.ask(1)
    rig.server.load(rig.engine, LONG_S)
    assert rig.states() == {1: READY}
    assert rig.loads() == {1: 1}, "the second call waits for the load that is under way"
    with pytest.raises(TimedOut):
        rig.ask(1, timeout_s=0.2)
    until(lambda: rig.server.inflight(rig.engine)[1] == 0, "the abandoned request ends")


def test_drop_under_requests(rig):
    rig.drop(1)
    rig.drop(2, delay_ms=1500)
    rig.load(1, 2)
    answered: list[int] = []
    asking = threading.Thread(target=lambda: answered.append(rig.ask(2)))
    asking.start()
    if isinstance(rig.server, FakeTriton):
        until(lambda: rig.server.inflight(rig.engine)[2] == 1, "the request is under way")
    else:
        asking.join(0.5)  # the server's metric counts what waits, not what runs
    rig.load(1)
    states = rig.states()
    assert answered or states == {1: READY, 2: ModelState.UNLOADING}
    with pytest.raises((TritonError, Unreachable)):
        rig.ask(2)
    asking.join(LONG_S)
    assert answered == [2], "a request that was under way is answered by the version that is leaving"
    rig.settles({1})


def test_counts(rig):
    rig.drop(1)
    rig.load(1)
    assert rig.server.counts()[rig.engine] == {1: Counts(0, 0)}
    rig.ask(1)
    rig.ask(1)
    with pytest.raises(InvalidRequest, match="document 1"):
        rig.answer(1, text=b"{")
    # Triton counts a moment after it answered.
    until(lambda: rig.server.counts()[rig.engine] == {1: Counts(3, 0)}, "an error of the model's own is an answer")


def test_signature(rig):
    rig.drop(1)
    rig.load(1)
    signature = rig.server.signature(rig.engine, 1)
    assert signature == SIGNATURE
    with pytest.raises(TritonError):
        rig.server.signature(rig.engine, 2)


def test_instances(rig):
    rig.drop(1)
    rig.load(1)
    assert rig.server.instances(rig.engine, 1) == 1
    for absent in (lambda: rig.server.instances(rig.engine, 2), lambda: rig.server.instances("nobody", 1)):
        with pytest.raises(TritonError, match="unknown model"):
            absent()


def test_infos(rig):
    rig.drop(1)
    rig.drop(2, info={"device": "cuda:0", "dtype": "bf16", "fallback": "none"})
    rig.drop(3, info={"device": "cpu", "dtype": "fp32", "fallback": "cpu", "asked_device": "cuda:0"})
    rig.load(1, 2)
    rig.point(2)

    def told() -> dict[int, set[EngineInfo]]:
        assert rig.alias not in rig.server.engine_infos(), "an alias runs in nothing"
        return {v: set(infos) for v, infos in rig.server.engine_infos().get(rig.engine, {}).items()}

    second = {2: {EngineInfo("cuda:0", "bf16", "none")}}
    until(lambda: told() == second, "the version that tells something, and no other")
    rig.load(1, 2, 3)
    third = {3: {EngineInfo("cpu", "fp32", "cpu", asked_device="cuda:0")}}
    until(lambda: told() == second | third, "the new one as well")
    rig.point(3)
    rig.load(1, 3)
    rig.settles({1, 3})
    until(lambda: told() == third, "one that left tells nothing more")
    rig.drop(4)
    rig.load(1, 4)
    rig.settles({1, 4})
    until(lambda: told() == {}, "nor does the last one")


def test_process_that_is_gone(rig):
    rig.drop(1)
    rig.load(1)
    rig.point(1)
    rig.kill(rig.engine)
    with pytest.raises(TritonError, match="not healthy"):
        rig.ask(1)
    until(lambda: rig.server.counts()[rig.engine] == {1: Counts(0, 1)}, "the failure is counted")
    rig.load(1)
    assert rig.states() == {1: READY}, "Triton does not know, and a load call does nothing"
    with pytest.raises(TritonError, match="not healthy"):
        rig.ask(1)
    rig.server.unload(rig.engine, LONG_S)
    assert rig.states() == {1: ModelState.UNLOADING}, "the requests that it failed keep it for ever"
    rig.load(1)
    assert rig.loads() == {1: 2}
    assert rig.ask(1) == 1
    assert rig.ask(1, rig.alias) == 1, "the alias comes back with its engine"


def test_a_process_that_stands_still_and_is_ended(rig):
    """Woken instead it may take the real server down: only the fake is asked to show that."""
    rig.drop(1)
    rig.drop(2)
    rig.load(1, 2)
    rig.freeze(rig.engine, 1)
    with pytest.raises(TritonError, match="is not healthy") as told:
        rig.ask(1)
    assert GIVEN_UP.match(told.value.words)
    assert rig.ask(2) == 2, "the other one answers"
    assert rig.states() == {1: READY, 2: READY}
    rig.kill(rig.engine, 1)
    with pytest.raises(TritonError, match="is not healthy"):
        rig.ask(1)
    assert rig.ask(2) == 2


def test_splitter_whose_process_is_gone(rig):
    rig.drop(1)
    rig.load(1)
    rig.split(1)
    rig.kill(rig.splitter)
    with pytest.raises(TritonError, match="not healthy"):
        rig.control()
    with pytest.raises(TritonError):
        rig.ask(None, rig.alias)
    rig.server.load(rig.splitter, LONG_S)
    assert rig.states(rig.splitter) == {SPLITTER_VERSION: READY}, "Triton does not know, and a load call does nothing"
    with pytest.raises(TritonError, match="not healthy"):
        rig.control()
    rig.point(1)
    assert rig.answering(3) == {1}, "the alias leads past it"
    rig.server.unload(rig.splitter, LONG_S)
    assert rig.states(rig.splitter) == {SPLITTER_VERSION: ModelState.UNLOADING}, (
        "the requests that it failed keep it for ever"
    )
    rig.split(1)
    assert rig.states(rig.splitter) == {SPLITTER_VERSION: READY}
    assert rig.answering(3) == {1}, "the next one is alive"


def test_unreachable(rig):
    gone = rig.server
    if isinstance(gone, FakeTriton):
        gone = FakeTriton("gone", DiskRepository(rig.files.repository))
        gone.reachable = False
    else:
        gone = GrpcTriton("gone", "127.0.0.1:1", metrics="127.0.0.1:1")
    with contextlib.closing(gone):
        for call in (
            gone.index,
            lambda: gone.load(rig.engine, 5.0),
            lambda: gone.unload(rig.engine, 5.0),
            lambda: gone.inflight(rig.engine),
            gone.counts,
            lambda: gone.instances(rig.engine, 1),
            gone.engine_infos,
        ):
            with pytest.raises(Unreachable):
                call()
        rig.server = gone
        with pytest.raises(Unreachable):
            rig.ask(1)
