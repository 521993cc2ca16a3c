"""Python, Baton's own packages, ports; releases of Triton, and servers that do not answer."""

from __future__ import annotations

import importlib.metadata
import socket
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baton.config import ServerConfig, load
from baton.doctor import Setup, control, servers
from baton.doctor.finding import Finding
from baton.errors import KeyRefused, TritonError, Unreachable

AWAY = ServerConfig("away", "127.0.0.1:1")
KEY = Path("/no/key")


def test_python(monkeypatch: pytest.MonkeyPatch) -> None:
    assert control.python().verdict == "ok"
    monkeypatch.setattr(sys, "version_info", (3, 10, 2))
    assert control.python().verdict == "fail"


def test_packages_that_are_missing_or_old(monkeypatch: pytest.MonkeyPatch) -> None:
    assert control.packages().verdict == "ok"
    wanted = ["numpy>=99", "no-such-package>=1", 'torch>=99; extra == "engine"', "tritonclient[all]>=2.51"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: wanted)
    found = control.packages()
    assert found.verdict == "fail"
    assert "numpy" in found.message
    assert "no-such-package is not there" in found.message
    assert "torch" not in found.message
    assert "tritonclient" not in found.message


def test_baton_from_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert control.packages("no-such-distribution").verdict == "ok"


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        grpc, console, api = control.ports({"grpc": port, "console": port, "none": 0, "api": port})
    assert grpc.verdict == "fail"
    assert f"Port {port} (grpc)" in grpc.message
    assert "--grpc-port" in (grpc.mend or "")
    assert "`metrics` in [control]" in (console.mend or "")
    assert "[control.api]" in (api.mend or "")
    assert [one.verdict for one in control.ports({"grpc": port})] == ["ok"]


@pytest.mark.parametrize(
    ("release", "verdict"),
    [
        ("2.51.0", "ok"),
        ("2.50.0", "warn"),
        ("2.49.0", "warn"),
        ("2.48.0", "fail"),
        ("1.99.0", "fail"),
        ("2.70.0", "warn"),
        ("dev", "warn"),
    ],
)
def test_releases_of_triton(release: str, verdict: str) -> None:
    found = servers.judge_release("release", release)
    assert found.verdict == verdict
    assert (found.mend is None) == (verdict == "ok")


@pytest.mark.parametrize(
    ("starts", "runs", "verdict"),
    [(True, False, "skipped"), (True, True, "fail"), (False, False, "fail"), (False, True, "fail")],
)
def test_a_server_that_does_not_answer(verdict: str, *, starts: bool, runs: bool) -> None:
    """Before `ctl up` that is as it should be; else clients get no answer."""
    (found,) = servers.look(AWAY, Setup(load(None), starts=starts, runs=runs), KEY)
    assert (found.name, found.verdict) == ("server away", verdict)
    assert (verdict == "fail") == ("get no answer" in found.message)


class Server:
    """Answers as a Triton does in what is asked of it."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {"release": "2.51.0", "index": {}, "explicit": True, "heartbeats": {}} | answers

    def __getattr__(self, name: str) -> Any:
        answer = self.answers[name]

        def call() -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


def looked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **answers: Any) -> dict[str, Finding]:
    @contextmanager
    def opened(*_: Any) -> Any:
        yield Server(**answers)

    monkeypatch.setattr(servers, "_opened", opened)
    engine = tmp_path / "qwen3_vl_reranker"
    engine.mkdir(exist_ok=True)
    (engine / "config.pbtxt").touch()
    setup = Setup(replace(load(None), repository=tmp_path))
    found = servers.look(ServerConfig("a", "h:1", metrics="h:2"), setup, KEY)
    return {one.name: one for one in found}


def test_what_a_server_tells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    well = looked(monkeypatch, tmp_path, index={"qwen3_vl_reranker": {}})
    assert {name: one.verdict for name, one in well.items()} == {
        "server a": "ok", "release of a": "ok", "access to a": "warn", "mode of a": "ok", "models of a": "ok",
        "metrics of a": "ok",
    }  # fmt: skip
    faulty = looked(
        monkeypatch,
        tmp_path,
        explicit=False,
        index={"other": {}},
        heartbeats=Unreachable("No metrics."),
        release="2.44.0",
    )
    assert {name: one.verdict for name, one in faulty.items()} == {
        "server a": "ok", "release of a": "fail", "access to a": "warn", "mode of a": "fail", "models of a": "fail",
        "metrics of a": "warn",
    }  # fmt: skip
    assert "--load-model=reranker --load-model=qwen3_vl_reranker" in (faulty["mode of a"].mend or "")
    assert "serves from another folder" in faulty["models of a"].message
    broken = looked(monkeypatch, tmp_path, explicit=TritonError("No."), index=TritonError("No index."))
    assert broken["access to a"].verdict == "fail"
    assert broken["mode of a"].verdict == "skipped"


def test_the_key_of_another_users_triton(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It lies in his state directory, which he alone may open."""

    def closed(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", closed)
    found = looked(monkeypatch, tmp_path, index=KeyRefused("A key is needed.", mend="Name it."))
    assert (found["access to a"].verdict, found["access to a"].mend) == ("fail", "Name it.")


def test_all_of_a_control_plane(tmp_path: Path) -> None:
    config = replace(load(None), repository=tmp_path / "models", state=tmp_path / "state", servers=(AWAY,))
    found = list(control.findings(Setup(config), KEY))
    assert len({one.name for one in found}) == len(found)
    assert not any(tmp_path.iterdir()), "looking changes nothing"
