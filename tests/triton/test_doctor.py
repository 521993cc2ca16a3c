"""``ctl doctor`` and a real Triton: one that others started, with a key, without its backends, in the wrong mode."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton
from click.testing import CliRunner
from harness.waiting import until
from tests.support.toy import alias_config, make_repository
from tests.support.triton import OUR_BACKENDS, TOY_BACKENDS, running_triton

from baton.cli import main
from baton.local import LocalTriton
from baton.triton.grpc import GrpcTriton

pytestmark = pytest.mark.triton
KEY = "planted-admin-key-77c1"
Told = dict[tuple[str, str], dict[str, Any]]
Doctor = Callable[..., Told]


def with_alias(repository: Path) -> Path:
    """The toy behind an alias, as a control plane would leave it."""
    alias = repository / "reranker"
    (alias / "1").mkdir(parents=True)
    (alias / "config.pbtxt").write_text(alias_config("reranker", "toy", 1, rich=True))
    return repository


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("remote")


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[LocalTriton]:
    repository = with_alias(make_repository(place / "repository", rich=True))
    backends = (TOY_BACKENDS, OUR_BACKENDS)
    with running_triton(place, repository, load=["reranker"], admin_key=KEY, backends=backends) as one:
        until(lambda: not CliRunner().invoke(main, ["doctor", f"http://{one.http_url}"]).exit_code, "HTTP answers")
        yield one


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Runs it in a folder of its own, with this configuration; what it tells, by role and name."""
    monkeypatch.chdir(tmp_path)
    for name in ("https_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str, config: str = "") -> Told:
        if config:
            Path("baton.toml").write_text(config)
        done = CliRunner().invoke(main, ["doctor", "--output", "json", *words])
        assert done.exit_code in {0, 1}, done.output
        return {(one["role"], one["name"]): one for one in json.loads(done.stdout)}

    return run


def configured(place: Path, server: LocalTriton, *, key: str = KEY) -> str:
    file = place / "admin.key"
    file.touch(mode=0o600)
    file.write_text(f"{key}\n")
    metrics = server.metrics_url.removeprefix("http://").removesuffix("/metrics")
    return (
        f'repository = "{place / "repository"}"\n[control]\nmetrics = "127.0.0.1:0"\n[[servers]]\nname = "gpu"\n'
        f'grpc = "{server.grpc_url}"\nhttp = "{server.http_url}"\nmetrics = "{metrics}"\nadmin_key_file = "{file}"\n'
        '[[services]]\nname = "reranker"\nengine = "toy"\nprobe = "reranker"\n'
    )


def verdicts(told: Told, *names: str) -> dict[str, str]:
    return {name: one["verdict"] for (_, name), one in told.items() if name in names}


def test_a_server_that_is_well(place: Path, server: LocalTriton, doctor: Doctor) -> None:
    told = doctor(config=configured(place, server))
    wanted = {
        "key of gpu", "server gpu", "release of gpu", "access to gpu", "mode of gpu", "models of gpu", "metrics of gpu",
        "toy config", "reranker config", "control mode", "served folder", "rights of Triton",
        "gRPC", "reranker alias", "reranker tensors", "gRPC reranker", "gRPC message size", "HTTP reranker",
        "HTTP message size",
    }  # fmt: skip
    assert verdicts(told, *wanted) == dict.fromkeys(wanted, "ok")
    assert told["client", "reranker alias"]["message"] == "leads to toy"
    others = {name for (_, name), one in told.items() if one["verdict"] == "fail"}
    assert others <= {"memory", "repository disk", "state disk", "shared memory"}, "what this machine has"
    assert not {"port grpc", "tritonserver"} & {name for _, name in told}, "Baton starts none beside it"


def test_it_leaves_no_trace(place: Path, server: LocalTriton, doctor: Doctor) -> None:
    """Nothing is loaded, unloaded or written, and no request of a client is counted but its own few."""
    with contextlib.closing(GrpcTriton("a", server.grpc_url, admin_key=KEY)) as client:
        before = client.index()
        files = {path: path.stat().st_mtime_ns for path in (place / "repository").rglob("*")}
        doctor(config=configured(place, server))
        assert client.index() == before
        assert {path: path.stat().st_mtime_ns for path in (place / "repository").rglob("*")} == files


def test_without_the_key(place: Path, server: LocalTriton, doctor: Doctor) -> None:
    told = doctor(config=configured(place, server, key="another-key-0000"))
    names = ("server gpu", "access to gpu", "mode of gpu", "gRPC reranker")
    assert verdicts(told, *names) == {
        "server gpu": "ok", "access to gpu": "fail", "mode of gpu": "skipped", "gRPC reranker": "ok",
    }  # fmt: skip
    assert KEY not in json.dumps(list(told.values()))


def test_a_repository_that_is_another_one(place: Path, server: LocalTriton, doctor: Doctor, tmp_path: Path) -> None:
    shutil.copytree(place / "repository", tmp_path / "other")
    (tmp_path / "other" / "toy").rename(tmp_path / "other" / "toys")
    text = configured(place, server).replace(str(place / "repository"), str(tmp_path / "other"))
    told = doctor(config=text.replace('engine = "toy"', 'engine = "toys"'))
    assert verdicts(told, "models of gpu", "served folder") == {"models of gpu": "fail", "served folder": "fail"}


def test_a_client_with_nothing_but_an_address(server: LocalTriton, doctor: Doctor) -> None:
    told = doctor(server.grpc_url, f"http://{server.http_url}")
    assert {one["verdict"] for one in told.values()} == {"ok"}
    assert {role for role, _ in told} == {"client"}


def test_a_client_that_asks_the_engine(server: LocalTriton, doctor: Doctor) -> None:
    told = doctor(server.grpc_url, "--service", "toy")
    assert verdicts(told, "toy alias", "gRPC toy") == {"toy alias": "warn", "gRPC toy": "ok"}
    assert told["client", "HTTP"]["verdict"] == "skipped"


def test_a_name_that_nobody_serves(server: LocalTriton, doctor: Doctor) -> None:
    told = doctor(server.grpc_url, "--service", "none")
    assert told["client", "none alias"]["verdict"] == "fail"


def test_a_service_of_another_kind(place: Path, server: LocalTriton, doctor: Doctor) -> None:
    """No probe is known, so it gets the request that its configuration gives."""
    text = configured(place, server).replace('probe = "reranker"\n', "")
    assert doctor("--role", "client", config=text)["client", "gRPC reranker"]["verdict"] in {"ok", "skipped"}


@contextlib.contextmanager
def by_hand(server: LocalTriton, repository: Path, log: Path, *options: str) -> Iterator[str]:
    """A Triton as somebody starts it who does not know what Baton needs; its gRPC address."""
    port = triton_port()
    command = [
        str(server.installation.binary), f"--model-repository={repository}", f"--grpc-port={port}",
        "--grpc-address=127.0.0.1", "--allow-http=false", "--allow-metrics=false", *options,
    ]  # fmt: skip
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=server._environment(None))
    try:
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:

            def answers() -> bool:
                assert process.poll() is None, log.read_text()[-2000:]
                with contextlib.suppress(triton.InferenceServerException):
                    return bool(client.is_server_live(client_timeout=5.0))
                return False

            until(answers, "Triton answers")
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def triton_port() -> int:
    from baton.local.ports import choose_ports

    return choose_ports("127.0.0.1", http=None, grpc=None, metrics=None).grpc


def test_a_triton_in_the_mode_none_without_baton_s_backends(
    server: LocalTriton, doctor: Doctor, tmp_path: Path
) -> None:
    backends = tmp_path / "backends"
    shutil.copytree(server.backend_directory / "python", backends / "python")
    (tmp_path / "repository" / "toy").mkdir(parents=True)
    (tmp_path / "repository" / "toy" / "config.pbtxt").write_text('name: "toy"\nbackend: "toy_reranker"\n')
    options = (f"--backend-directory={backends}", "--exit-on-error=false", "--strict-readiness=false")
    config = (
        'repository = "repository"\n[control]\nmetrics = "127.0.0.1:0"\n[[servers]]\nname = "own"\ngrpc = "{}"\n'
        '[[services]]\nname = "reranker"\nengine = "toy"\nprobe = "reranker"\n'
    )
    with by_hand(server, tmp_path / "repository", tmp_path / "log", *options) as address:
        told = doctor(config=config.format(address))
    names = {"mode of own", "access to own", "control mode", "served folder", "models at start", "toy version_policy"}
    assert verdicts(told, *names) == {
        "mode of own": "fail", "access to own": "warn", "control mode": "fail", "served folder": "ok",
        "models at start": "warn", "toy version_policy": "fail",
    }  # fmt: skip
    lacking = [one for (role, name), one in told.items() if role == "triton" and name == "backends"]
    assert [one["verdict"] for one in lacking] == ["fail"]
    assert "toy_reranker, which toy needs and splitter, which reranker_splitter needs" in lacking[0]["message"]
    assert told["client", "reranker alias"]["verdict"] == "skipped", "no version is live yet"
