"""An admin key that would travel in clear text is told of when the control plane starts."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from tests.support.certificate import write_secret

from baton.config import Config, ServerConfig
from baton.controller.build import build
from baton.doctor.servers import way
from baton.errors import ConfigError
from baton.tls import is_loopback


def built(tmp_path: Path, grpc: str, *, key: bool = True, **tls: Any) -> None:
    (tmp_path / "repository").mkdir(exist_ok=True)
    file = write_secret(tmp_path / "key", "planted-4711") if key else None
    server = ServerConfig("gpu", grpc, admin_key_file=file, **tls)
    config = Config(repository=tmp_path / "repository", state=tmp_path / "state", servers=(server,))
    build(config, clock=lambda: 0.0, wake=threading.Event()).close()


def test_it_is_told_with_server_and_mend(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    built(tmp_path, "10.9.8.7:8001")
    (line,) = caplog.messages
    assert "server gpu at 10.9.8.7:8001 in clear text" in line
    assert "tls = true" in line
    assert "planted" not in line


@pytest.mark.parametrize(
    ("grpc", "settings"),
    [("127.0.0.1:8001", {}), ("[::1]:8001", {}), ("10.9.8.7:8001", {"tls": True}), ("10.9.8.7:8001", {"key": False})],
)
def test_nothing_is_told_where_nobody_sees_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, grpc: str, settings: dict[str, Any]
) -> None:
    built(tmp_path, grpc, **settings)
    assert caplog.messages == []


def test_doctor_warns_too(tmp_path: Path) -> None:
    key = write_secret(tmp_path / "key", "planted-4711")
    (found,) = way(ServerConfig("gpu", "10.9.8.7:8001", admin_key_file=key))
    assert found.verdict == "warn"
    assert "in clear text" in found.message
    assert list(way(ServerConfig("gpu", "127.0.0.1:8001", admin_key_file=key))) == []
    assert list(way(ServerConfig("gpu", "10.9.8.7:8001"))) == []


@pytest.mark.parametrize("text", ["", "nothing", "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n"])
def test_authorities_that_are_none_keep_it_from_starting(tmp_path: Path, text: str) -> None:
    file = tmp_path / "ca.pem"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"ca\.pem can't be used"):
        built(tmp_path, "10.9.8.7:8001", tls=True, ca_file=file)


@pytest.mark.parametrize(
    ("address", "here"),
    [("127.0.0.1:1", True), ("127.9.9.9:1", True), ("localhost:1", True), ("[::1]:1", True)]
    + [(a, False) for a in ("10.0.0.1:1", "127.evil.example:1", "0.0.0.0:1", "[::2]:1", "localhost.example:1")],
)
def test_which_addresses_are_on_this_machine_alone(address: str, *, here: bool) -> None:
    assert is_loopback(address) is here
