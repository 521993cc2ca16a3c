"""An ordinary client sends videos that take minutes: other clients, and the control plane's question, hardly notice."""

from __future__ import annotations

import shutil
import threading
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
import tritonclient.grpc as triton
from harness.waiting import until
from PIL import Image
from tests.support.triton import running_triton
from tests.unit.engine.hostile_media import film
from tests.unit.engine.support import BACKEND, BASE, ROOT, png

from baton.client import Reranker
from baton.config import HealthConfig, ServiceConfig
from baton.controller.health import Health
from baton.controller.ports import UNSEEN
from baton.controller.tasks import Tasks
from baton.domain import ModelState
from baton.local.procfs import stubs
from baton.probe.reranker import BUILTIN, RerankerProbe
from baton.triton.grpc import GrpcTriton
from baton.triton.repository import ServiceFiles

pytestmark = [pytest.mark.triton, pytest.mark.slow]
ENGINE, ALIAS = "qwen3_vl_reranker", "reranker"
VIDEOS = 14
FILM = film(2, (4096, 4096), repeat=126)
"""In 40 kB the most pixels that one video may have."""


@pytest.fixture
def server(tmp_path):
    repository = tmp_path / "repository"
    (repository / ENGINE).mkdir(parents=True)
    shutil.copy(ROOT / "model_repository" / ENGINE / "config.pbtxt", repository / ENGINE)
    (repository / ENGINE / "1").symlink_to(BASE)
    ServiceFiles(repository, ALIAS, ENGINE).set_alias(1)
    backends = tmp_path / "backends"
    shutil.copytree(BACKEND, backends / ENGINE, ignore=shutil.ignore_patterns("__pycache__"))
    with running_triton(tmp_path, repository, load=[ALIAS], backends=(backends,)) as running:
        yield running


class Attack:
    """One client's videos, all at once."""

    def __init__(self, address):
        self.answers, self._client = [], triton.InferenceServerClient(address)
        for _ in range(VIDEOS):
            inputs = []
            for name, item in (("query", b'{"text": "a"}'), ("documents", b'{"video": {"media": 0}}'), ("media", FILM)):
                tensor = triton.InferInput(name, [1, 1], "BYTES")
                tensor.set_data_from_numpy(np.array([[item]], dtype=np.object_))
                inputs.append(tensor)
            self._client.async_infer(ALIAS, inputs, lambda result, error: self.answers.append(error or result))

    def close(self):
        self._client.close()


class Control:
    """The control plane's own question, put as it puts it, without what it would do about it."""

    def __init__(self, server):
        self.triton = GrpcTriton("a", server.grpc_url, metrics=server.metrics_url.split("/")[2])
        self.told, self.asked = [], 0
        self._tasks = Tasks(ALIAS, self._now, lambda: None)
        self._time = 0.0
        probe = RerankerProbe(BUILTIN)

        def question(one, version, timeout_s):
            self.asked += 1
            probe.smoke(lambda v, inputs, t: one.infer(ENGINE, v, inputs, t), version, timeout_s=timeout_s)

        config = ServiceConfig(ALIAS, ENGINE, health=HealthConfig(every=1.0, timeout=2.0, failures=2))
        ports = SimpleNamespace(servers={"a": self.triton}, engines=UNSEEN, clock=self._now)
        self.health = Health(config, ports, question, self._tasks, lambda why, _: self.told.append(why))

    def _now(self):
        return self._time

    def look(self):
        self._time += 10.0
        server = SimpleNamespace(name="a", serving=lambda: frozenset({1}), ready=lambda: frozenset({1}))
        view = SimpleNamespace(
            now=self._time, rollout=None, running=frozenset(), live=lambda: [server], servers=[server]
        )
        self.health.watch(view)
        until(lambda: not self._tasks.running(), "the question is answered")

    def beats(self):
        return self.triton.heartbeats()[ENGINE][1]

    def close(self):
        self._tasks.close()
        self.triton.close()


def processes(repository):
    return {stub.pid for stub in stubs() if stub.model == ENGINE and stub.repository == repository}


def test_nobody_else_fails_and_the_engine_is_not_ended(server, tmp_path):
    picture = png(Image.new("RGB", (320, 240), (200, 30, 30)))
    with closing(Control(server)) as control, Reranker(server.grpc_url, timeout_s=60.0) as client:
        client.rank("a red circle", ["a blue square"])
        before, beats = processes(tmp_path / "repository"), control.beats()
        assert len(before) == 1
        with closing(Attack(server.grpc_url)) as attack:
            failed, stop = [], threading.Event()

            def others():
                while not stop.is_set():
                    try:
                        client.rank("a red circle", ["a blue square", {"image": picture}])
                    except Exception as error:  # noqa: BLE001 - whatever it is, another client met it
                        failed.append(error)

            other = threading.Thread(target=others)
            other.start()
            try:
                for _ in range(12):
                    control.look()
                    client.rank("a red circle", ["a blue square"])
            finally:
                stop.set()
                other.join()
            assert failed == []
            assert control.health.unhealthy() == {}
            assert control.told == []
            assert control.asked >= 12
            assert len(attack.answers) < VIDEOS
            assert control.triton.index()[ENGINE][1].state is ModelState.READY
            assert processes(tmp_path / "repository") == before
            until(lambda: control.beats() > beats, "it shows signs of life")


def test_too_many_pixels_are_refused_at_once_and_by_name(server):
    """The finding's own video: 4.2 gigapixels in a file of some kilobytes."""
    with Reranker(server.grpc_url, timeout_s=300.0) as client, pytest.raises(Exception, match="video 0") as refused:
        client.rank("a", ["b", {"video": film(2, (4096, 4096), repeat=251)}])
    assert "document 1: video 0: has 252 frames of 4096x4096 pixels, and at most 2147483648" in str(refused.value)
    assert "send it shorter, or in smaller frames" in str(refused.value)
