"""``ctl up``: Triton and the control plane in one, which starts Triton again when it ends."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
from pathlib import Path

import httpx
import pytest
from harness.waiting import until
from tests.support.hostile_http import FORM, INFER, ONE_BYTE_CHUNKS, post
from tests.support.listening import listening as listening_on
from tests.unit.cli.test_serve import running

from baton import secret
from baton.api import ApiClient
from baton.errors import KeyRefused
from baton.triton.grpc import GrpcTriton

pytestmark = pytest.mark.triton


def test_up(tmp_path: Path) -> None:
    ports = [word for name in ("http", "grpc", "metrics", "console") for word in (f"--{name}-port", "0")]
    args = (
        "--state",
        str(tmp_path / "state"),
        "--output",
        "json",
        "up",
        "--repository",
        str(tmp_path / "repo"),
        *ports,
    )
    log = tmp_path / "log"
    with running(*args, log=log, before="ulimit -Sn 256") as (process, listening):
        assert (tmp_path / "repo" / "qwen3_vl_reranker" / "config.pbtxt").is_file()
        assert ApiClient(Path(listening["api"])).status().servers[0].grpc == listening["grpc"]
        (server,) = _children(process.pid)
        key = Path(listening["admin_key"])
        _guarded(listening["grpc"], key)
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        for pid in (server, process.pid):
            assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (most, most)
        for pid in (server, process.pid):
            assert key.read_bytes().strip() not in Path(f"/proc/{pid}/cmdline").read_bytes()
            assert all(address.is_loopback for _, address in listening_on(pid))
        assert len(listening_on(server)) >= 3
        assert len(listening_on(process.pid)) == 1
        os.kill(server, signal.SIGKILL)
        while b"answers again; the control plane" not in log.read_bytes():
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
        assert _children(process.pid) != [server]
        _guarded(listening["grpc"], key)
        _eventually_live(Path(listening["api"]))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert _children(process.pid) == []
    text = log.read_text()
    assert "Triton ended by itself with code -9." in text
    assert "Traceback" not in text


def test_up_with_grpc_alone(tmp_path: Path) -> None:
    """Triton opens one port. What ends one that speaks HTTP (test_http_port.py) finds nobody there."""
    ports = [word for name in ("grpc", "console") for word in (f"--{name}-port", "0")]
    args = ("--state", str(tmp_path / "state"), "--output", "json", "up", "--repository", str(tmp_path / "repo"))
    with running(*args, *ports, "--no-http", "--no-metrics", log=tmp_path / "log") as (process, listening):
        assert not {"http", "metrics"} & listening.keys()
        (server,) = _children(process.pid)
        (port,) = {port for port, _ in listening_on(server)}
        assert f"127.0.0.1:{port}" == listening["grpc"]
        for headers, parts in (ONE_BYTE_CHUNKS, FORM):
            post(port, INFER, headers, parts)
            _guarded(listening["grpc"], Path(listening["admin_key"]))
        _eventually_live(Path(listening["api"]))
        assert _children(process.pid) == [server]


def test_up_with_the_gateway(tmp_path: Path) -> None:
    """It answers beside the control plane, says that nothing serves yet, and ends with it."""
    ports = [word for name in ("grpc", "console", "gateway") for word in (f"--{name}-port", "0")]
    args = ("--state", str(tmp_path / "state"), "--output", "json", "up", "--repository", str(tmp_path / "repo"))
    with running(*args, *ports, "--no-http", "--no-metrics", log=tmp_path / "log") as (process, listening):
        with httpx.Client(base_url=listening["gateway"], trust_env=False, timeout=60) as client:
            assert client.get("/healthz").status_code == 200
            assert client.get("/readyz").json()["services"] == {"reranker": False}
            assert client.post("/v1/rerank", json={"query": "a", "documents": ["b"]}).status_code == 503
        assert all(address.is_loopback for _, address in listening_on(process.pid))
        assert len(listening_on(process.pid)) == 3
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert _children(process.pid) == []
    assert "Traceback" not in (tmp_path / "log").read_text()


def _guarded(address: str, key: Path) -> None:
    """A stranger may not load; who has the key may, and the key is its owner's alone."""
    with pytest.raises(KeyRefused):
        GrpcTriton("stranger", address).index()
    GrpcTriton("owner", address, admin_key=secret.read(key, "key")).index()


def _eventually_live(api: Path) -> None:
    until(lambda: ApiClient(api).status().servers[0].live, "the control plane gets in again")


def _children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]
