"""``ctl serve`` and ``ctl up`` as processes: where they listen, how they stop, and that there is only one."""

from __future__ import annotations

import contextlib
import platform
import re
import signal
import subprocess
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from harness.control_plane import CTL, ControlPlane
from harness.network import fetch
from harness.waiting import until

from baton.api import SOCKET, ApiClient
from baton.cli import local, main
from baton.cli.up import _Supervised
from baton.config import Config, ServerConfig, load
from baton.errors import ConfigError
from baton.share import shared
from baton.triton.repository import ServiceFiles


@contextlib.contextmanager
def running(*args: str, log: Path, before: str = "") -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    """The process and what it printed: it prints only when everything listens. ``before``: a shell's command."""
    shell = ["sh", "-c", f'{before or ":"}; exec "$@"', "sh"]
    with ControlPlane(*args, log=log, begin=lambda words: [*shell, *words]) as control_plane:
        yield control_plane.process, control_plane.places


def _configuration(tmp_path: Path) -> Path:
    engine = tmp_path / "repo" / "qwen3_vl_reranker"
    engine.mkdir(parents=True)
    template = shared("model_repository", "qwen3_vl_reranker", "config.pbtxt")
    (engine / "config.pbtxt").write_text(template.read_text())
    file = tmp_path / "some.toml"
    # Nothing listens on port 1: the control plane has to live without Triton.
    file.write_text(
        'repository = "repo"\nstate = "state"\n[control]\nmetrics = "127.0.0.1:0"\n'
        '[[servers]]\nname = "local"\ngrpc = "127.0.0.1:1"\n'
    )
    return file


def test_serve(tmp_path: Path) -> None:
    args = ("--config", str(_configuration(tmp_path)), "--output", "json", "serve")
    log = tmp_path / "log"
    with running(*args, log=log) as (process, listening):
        assert listening["api"] == str(tmp_path / "state" / SOCKET)
        client = ApiClient(Path(listening["api"]))
        assert client.status().services[0].name == "reranker"
        assert 'baton_server_live{server="local"} 0.0' in fetch(f"{listening['console']}/metrics")
        second = subprocess.run([CTL, *args], capture_output=True, text=True, check=False, timeout=30)
        assert second.returncode == 3
        assert f"process {process.pid}" in " ".join(second.stderr.split())
        assert client.health().live
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert not Path(listening["api"]).exists()
    assert "Traceback" not in log.read_text()
    assert log.read_text().splitlines()[-1] == "Stopped."


# Two of them


@contextlib.contextmanager
def standing_by(args: tuple[str, ...], log: Path) -> Iterator[ControlPlane]:
    """It has said that it stands by."""
    one = ControlPlane(*args, log=log)
    try:
        said(one.launch(), "stands by")
        yield one
    finally:
        one.stop()


def said(one: ControlPlane, words: str) -> str:
    """What its log says of it, once it does."""

    def found() -> str | None:
        assert one.runs, one.log.read_text()
        return next((line for line in one.log.read_text().splitlines() if words in line), None)

    return str(until(found, f"the log says {words!r}"))


def patient(tmp_path: Path) -> tuple[str, ...]:
    file = _configuration(tmp_path)
    file.write_text(file.read_text().replace("[control]", '[control]\nsecond = "stand_by"'))
    return ("--config", str(file), "--output", "json", "serve")


def asked(url: str) -> tuple[int, str]:
    try:
        return 200, fetch(url)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_one_stands_by_and_takes_over(tmp_path: Path, how: int) -> None:
    args, log = patient(tmp_path), tmp_path / "second"
    with running(*args, log=tmp_path / "first") as (first, places), standing_by(args, log) as second:
        why = said(second, "stands by")
        assert f"process {first.pid} on {platform.node()}" in why
        health = said(second, "answers meanwhile")
        address = re.search(r"http://[^/]*", health)
        assert address is not None
        assert asked(f"{address[0]}/healthz")[0] == 200
        code, words = asked(f"{address[0]}/readyz")
        assert code == 503
        assert f"Process {second.process.pid} stands by" in words
        assert "baton_acting 0.0" in asked(f"{address[0]}/metrics")[1]
        assert "baton_acting 1.0" in asked(f"{places['console']}/metrics")[1]
        client = ApiClient(Path(places["api"]))
        assert client.status().services[0].name == "reranker", "the socket is the first one's still"
        first.send_signal(how)
        assert second.listening()["api"] == places["api"]
        assert client.status().services[0].name == "reranker"
        assert first.wait(60) == (-9 if how == signal.SIGKILL else 0)
        assert client.status().services[0].name == "reranker", "what the first one left does no harm"
        assert log.read_text().count("stands by") == 1, "it is said once"
    assert "Traceback" not in log.read_text()


def test_of_two_that_stand_by_one_takes_over(tmp_path: Path) -> None:
    args, logs = patient(tmp_path), [tmp_path / "second", tmp_path / "third"]
    with (
        running(*args, log=tmp_path / "first") as (first, _),
        standing_by(args, logs[0]) as second,
        standing_by(args, logs[1]) as third,
    ):
        first.kill()
        both = (second, third)
        until(lambda: any("takes over" in log.read_text() for log in logs), "one takes over")
        acting = 0 if "takes over" in logs[0].read_text() else 1
        assert both[acting].listening()["api"]
        other = both[1 - acting]
        until(
            lambda: f"process {both[acting].process.pid} on" in logs[1 - acting].read_text(),
            "the other one waits for it",
        )
        assert "takes over" not in logs[1 - acting].read_text()
        both[acting].kill()
        assert other.listening()["api"], "and then it is its turn"


def test_a_stopped_one_keeps_its_place(tmp_path: Path) -> None:
    args, log = patient(tmp_path), tmp_path / "second"
    with running(*args, log=tmp_path / "first") as (first, places), standing_by(args, log) as second:
        first.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                second.process.wait(2.0)  # several tries
        finally:
            first.send_signal(signal.SIGCONT)
        assert "takes over" not in log.read_text()
        assert ApiClient(Path(places["api"])).health().live


def test_one_that_stands_by_can_be_stopped(tmp_path: Path) -> None:
    args, log = patient(tmp_path), tmp_path / "second"
    with running(*args, log=tmp_path / "first") as (_, places), standing_by(args, log) as second:
        assert second.kill(signal.SIGTERM) == 0
        assert ApiClient(Path(places["api"])).health().live
    assert log.read_text().splitlines()[-1] == "Stopped."


def test_a_state_directory_that_is_replaced_ends_it(tmp_path: Path) -> None:
    """Else two would act: nothing keeps another one from the new directory."""
    args, log = patient(tmp_path), tmp_path / "second"
    with running(*args, log=tmp_path / "first") as (first, places), standing_by(args, log) as second:
        (tmp_path / "state").rename(tmp_path / "moved")
        assert second.listening()["api"] == places["api"]
        assert first.wait(60) == 3
        assert ApiClient(Path(places["api"])).health().live, "the new one's socket stays"
    told = " ".join((tmp_path / "first").read_text().split())
    assert f"was removed or replaced under process {first.pid}" in told
    assert "Traceback" not in told


def test_what_is_told_when_the_last_one_died(tmp_path: Path) -> None:
    args = ("--config", str(_configuration(tmp_path)), "--output", "json", "serve")
    with running(*args, log=tmp_path / "log") as (process, _):
        process.kill()
        process.wait(60)
    asked = [CTL, "--config", args[1], "status"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 5
    told = " ".join(done.stderr.split())
    assert f"the last one (process {process.pid} on {platform.node()}) died, or is only just starting" in told
    assert "one that stands by takes over within seconds" in told


def test_a_state_directory_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    state = tmp_path / "file" / "state"
    args = ("--config", str(_configuration(tmp_path)), "--state", str(state), "serve")
    done = subprocess.run([CTL, *args], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 3
    assert f"The state directory {state} can't be locked: Not a directory." in " ".join(done.stderr.split())


# What `ctl up` makes of a configuration


def test_ports_come_from_the_flag_then_the_file_then_the_default() -> None:
    config = load(None)
    none = {"http": None, "grpc": None, "metrics": None}
    assert local.wanted_ports(config, none) == {"http": 8000, "grpc": 8001, "metrics": 8002}
    own = Config(servers=(ServerConfig(name="mine", grpc="localhost:9001"),), services=config.services)
    assert local.wanted_ports(own, none) == {"http": 8000, "grpc": 9001, "metrics": 8002}
    assert local.wanted_ports(own, none | {"grpc": 0}) == {"http": 8000, "grpc": 0, "metrics": 8002}
    far = Config(servers=(ServerConfig(name="far", grpc="10.0.0.2:9001"),), services=config.services)
    assert local.wanted_ports(far, none)["grpc"] == 8001


def test_ports_that_are_not_opened_are_told_by_the_flag_then_the_file() -> None:
    none = {"http": None, "grpc": None, "metrics": None}
    bare = Config(servers=(ServerConfig("mine", "127.0.0.1:9001", http=False, metrics=False),))
    assert local.wanted_ports(bare, none) == {"grpc": 9001}
    assert local.wanted_ports(bare, none | {"http": 7000}, http=None, metrics=True) == {"grpc": 9001, "metrics": 8002}
    assert local.wanted_ports(bare, none | {"http": 7000}, http=True) == {"http": 7000, "grpc": 9001}
    assert local.wanted_ports(load(None), none, http=False) == {"grpc": 8001, "metrics": 8002}
    config = local.with_local_server(bare, {"grpc": 1}, None, Path("key"))
    assert (config.servers[0].http, config.servers[0].metrics) == (False, False)


def test_the_local_server_takes_the_place_of_the_configured_ones() -> None:
    config = local.with_local_server(load(None), {"http": 1, "grpc": 2, "metrics": 3}, 4, Path("key"))
    assert [s.grpc for s in config.servers] == ["127.0.0.1:2"]
    assert config.servers[0].admin_key_file == Path("key")
    assert config.control.metrics == "127.0.0.1:4"


def test_an_engine_without_a_configuration_and_a_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "shared", (tmp_path / "nowhere").joinpath)
    config = Config(repository=tmp_path / "repo", services=load(None).services)
    with pytest.raises(ConfigError, match=r"has no .*config\.pbtxt"):
        local.prepare_repository(config)


def test_a_folder_that_ends_triton_is_said_before_it_is_started(tmp_path: Path) -> None:
    config = Config(repository=tmp_path / "repo", services=load(None).services)
    (tmp_path / "repo" / "qwen3_vl_reranker" / ("9" * 25)).mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"9{25}: Triton ends when it reads this number\. Move the folder out"):
        local.prepare_repository(config)


def test_only_aliases_that_are_there_are_loaded(tmp_path: Path) -> None:
    config = Config(repository=tmp_path / "repo", services=load(None).services)
    assert local.prepare_repository(config) == []
    files = ServiceFiles(tmp_path / "repo", "reranker", "qwen3_vl_reranker")
    files.set_alias(3)
    assert local.prepare_repository(config) == ["reranker"]


def test_triton_starts_with_what_serves_and_nothing_that_was_never_proved(tmp_path: Path) -> None:
    config = Config(repository=tmp_path / "repo", services=load(None).services)
    local.prepare_repository(config)
    files = ServiceFiles(tmp_path / "repo", "reranker", "qwen3_vl_reranker")
    files.set_alias(3)
    files.set_policy(frozenset({3, 4}))  # as a control plane leaves it that was killed while version 4 loaded
    local.prepare_repository(config)
    assert files.policy() == {3}


def test_a_local_server_is_started_with_its_key_where_it_was_told(tmp_path: Path) -> None:
    given: dict[str, Any] = {}

    class Started:
        def start(self, repository: Path, **how: Any) -> None:
            given.update(how)

    server: Any = _Supervised(Started(), tmp_path, tmp_path / "log", "0.0.0.0", "the-key")  # type: ignore[arg-type]
    server.start((), {"http": 1, "grpc": 2, "metrics": 3})
    assert (given["host"], given["admin_key"], given["die_with_parent"]) == ("0.0.0.0", "the-key", True)
    assert (given["http"], given["http_port"], given["metrics"], given["metrics_port"]) == (True, 1, True, 3)
    server.start((), {"grpc": 2})
    assert (given["http"], given["http_port"], given["metrics"], given["metrics_port"]) == (False, None, False, None)
    refused = CliRunner().invoke(main, ["up", "--host", "10.0.0.5"])
    assert refused.exit_code == 2
    assert "'127.0.0.1', '0.0.0.0'" in refused.stderr
