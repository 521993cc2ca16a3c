"""(a) and (b): Triton as it comes, with the engine asked by its own name."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.compare.way import CHECKPOINT, NEW, OLD, Running, engine_config, infer_url
from harness.places import ENGINE
from harness.triton import running_triton, start
from harness.waiting import until

from baton.local import LocalTriton, procfs
from baton.triton.grpc import GrpcTriton


@contextmanager
def stop_start(home: Path) -> Iterator[Running]:
    """(a) Stop the server, put the new folder in the old one's place, start the server."""
    engine = _repository(home)
    with running_triton(home, engine.parent, load=[ENGINE]) as triton:

        def update() -> None:
            triton.stop()
            shutil.rmtree(engine / str(OLD))
            shutil.copytree(CHECKPOINT, engine / str(NEW))
            start(triton, home, engine.parent, load=[ENGINE])

        yield Running(infer_url(triton.http_url), update, lambda: _processes(triton))


@contextmanager
def poll(home: Path) -> Iterator[Running]:
    """(b) Triton looks at the repository every second; the new folder is copied straight into it."""
    engine = _repository(home)
    # Of two values for the same option Triton takes the last.
    polls = ["--model-control-mode=poll", "--repository-poll-secs=1"]
    with running_triton(home, engine.parent, extra_args=polls) as triton:
        client = GrpcTriton("poll", triton.grpc_url)

        def update() -> None:
            subprocess.run(["/bin/cp", "-r", str(CHECKPOINT), str(engine / str(NEW))], check=True)
            until(lambda: _ready(client) == [NEW], "Triton to find the new version and to drop the old one")

        try:
            yield Running(infer_url(triton.http_url), update, lambda: _processes(triton))
        finally:
            client.close()


def _repository(home: Path) -> Path:
    """A repository whose engine serves its highest version; returns the engine's folder."""
    engine = home / "model_repository" / ENGINE
    engine.mkdir(parents=True)
    (engine / "config.pbtxt").write_text(engine_config("latest { num_versions: 1 }"))
    shutil.copytree(CHECKPOINT, engine / str(OLD))
    return engine


def _ready(client: GrpcTriton) -> list[int]:
    return sorted(v for v, m in client.index().get(ENGINE, {}).items() if m.state != "UNAVAILABLE")


def _processes(triton: LocalTriton) -> list[int]:
    return [] if triton.pid is None else procfs.session_members(triton.pid)
