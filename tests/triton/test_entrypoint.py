"""The Triton image starts with an admin key that is its own, or not at all; without the key nobody loads code."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton
from harness.network import fetch
from harness.waiting import until
from tests.support.toy import make_repository
from tests.unit.images.contained import ENTRY_POINT, ISOLATED, NOBODY, USER, Contained, contained, given, refusal
from tritonclient.utils import InferenceServerException

from baton.local.argv_secret import restrictions
from baton.triton.grpc import KEY_HEADER

KEY = "planted-admin-key-4c1e"
CODE = b"open('/tmp/ran', 'w')\nclass TritonPythonModel:\n    pass\n"
"""What a stranger would have Triton run."""
CONFIG = {"backend": "python", "input": [], "output": [], "max_batch_size": 0}


@pytest.fixture
def key(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    path = tmp_path / "admin.key"
    path.write_text(f"{KEY}\n")
    return given(path, 0o600)


def test_it_does_not_start_without_a_key(tmp_path: Path) -> None:
    for named in (None, tmp_path / "not-there"):
        done = refusal(tmp_path, named)
        assert done.returncode == 2
        assert "does not start without an admin key" in done.stderr
        assert "can't be read" in done.stderr
        assert "openssl rand -hex 32 > admin.key" in done.stderr
        assert f"chown {USER} admin.key" in done.stderr


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o644, 0o622])
def test_it_does_not_start_with_a_key_that_others_can_open(tmp_path: Path, key: Path, mode: int) -> None:
    done = refusal(tmp_path, given(key, mode))
    assert done.returncode == 2
    assert f"may be opened by others than its owner (mode {mode:04o})" in done.stderr
    assert "chmod 600" in done.stderr
    assert KEY not in done.stderr + done.stdout


def test_it_does_not_start_with_an_empty_key(tmp_path: Path, key: Path) -> None:
    key.write_text("\n")
    done = refusal(tmp_path, key)
    assert done.returncode == 2
    assert "does not hold one line" in done.stderr


@pytest.mark.skipif(not ISOLATED, reason="takes root, to own a file that another user can't read")
def test_a_key_of_another_user_is_told(tmp_path: Path, key: Path) -> None:
    done = refusal(tmp_path, given(key, 0o600, owner=0))
    assert done.returncode == 2
    assert "Permission denied" in done.stderr
    assert f"chown {NOBODY} admin.key" in done.stderr


@pytest.mark.parametrize("words", [["tritonserver", "--model-repository=/models"], ["bash"], ["--load-model", "toy"]])
def test_only_options_are_taken(tmp_path: Path, key: Path, words: list[str]) -> None:
    """The words of a command that used to be given in full would start a Triton without a key."""
    done = refusal(tmp_path, key, *words)
    assert done.returncode == 2
    assert "is no option of tritonserver" in done.stderr
    assert "--entrypoint" in done.stderr


@pytest.fixture
def entry_point(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The entry point as a module, whose handlers of signals are taken away again."""
    spec = importlib.util.spec_from_file_location("entry_point", ENTRY_POINT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    before = {number: signal.getsignal(number) for number in module._HANDED_ON}
    yield module
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_given_option_takes_the_place_of_ours(entry_point: Any) -> None:
    words = ["--model-repository=/other", "--load-model=toy", "--load-model=public"]
    options = entry_point.options(words)
    assert options[-3:] == words
    assert [option for option in options if option.startswith("--model-repository")] == words[:1]
    assert {"--model-control-mode=explicit", "--strict-readiness=false"} <= set(options)


def test_where_no_process_may_be_traced_the_key_stays_visible_and_that_is_told(
    entry_point: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(pid: int, _hidden: object) -> bool:
        os.kill(pid, signal.SIGKILL)
        return False

    monkeypatch.setattr(entry_point, "reveal", refuse)
    server = [sys.executable, "-c", "import sys; print(sys.argv[1:])"]
    process = entry_point.start([*server, *restrictions(KEY)], KEY)
    assert process.wait(120) == 0
    said = capfd.readouterr()
    assert f"admin-key={KEY}" in said.out, "it runs all the same, and with its key"
    assert "stays visible in the process list" in said.err
    assert "hidepid=2" in said.err
    assert KEY not in said.err


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Contained]:
    place = tmp_path_factory.mktemp("contained")
    repository = make_repository(place / "models", {"toy": [1]})
    path = place / "admin.key"
    path.write_text(f"{KEY}\n")
    with contained(place, repository, given(path, 0o600), "--load-model=toy") as one:
        yield one


def over_http(one: Contained, path: str, body: dict[str, Any] | None = None, **headers: str) -> int:
    request = urllib.request.Request(
        f"http://127.0.0.1:{one.ports.http}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers=headers,
    )
    try:
        fetch(request)
    except urllib.error.HTTPError as refused:
        return refused.code
    return 200


@pytest.mark.triton
@pytest.mark.parametrize("headers", [None, {KEY_HEADER: "wrong"}])
def test_without_the_key_no_code_is_loaded_over_grpc(running: Contained, headers: dict[str, str] | None) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{running.ports.grpc}") as client:
        calls = (
            lambda: client.load_model(
                "theirs", headers=headers, config=json.dumps(CONFIG), files={"file:1/model.py": CODE}
            ),
            lambda: client.load_model("toy", headers=headers),
            lambda: client.unload_model("toy", headers=headers),
            lambda: client.get_model_repository_index(headers=headers),
            lambda: client.register_system_shared_memory("r", "/none", 1, headers=headers),
            lambda: client.update_log_settings({"log_verbose_level": 1}, headers=headers),
            lambda: client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]}, headers=headers),
        )
        for call in calls:
            with pytest.raises(InferenceServerException, match="protocol is restricted"):
                call()
        assert client.is_model_ready("toy")


@pytest.mark.triton
@pytest.mark.parametrize("headers", [{}, {"admin-key": "wrong"}])
def test_without_the_key_no_code_is_loaded_over_http(running: Contained, headers: dict[str, str]) -> None:
    code = {"config": json.dumps(CONFIG), "file:1/model.py": b64encode(CODE).decode()}
    for path, body in (
        ("/v2/repository/models/theirs/load", {"parameters": code}),
        ("/v2/repository/models/toy/load", {}),
        ("/v2/repository/models/toy/unload", {}),
        ("/v2/repository/index", {}),
        ("/v2/systemsharedmemory/region/r/register", {}),
        ("/v2/logging", {}),
        ("/v2/trace/setting", {}),
    ):
        assert over_http(running, path, body, **headers) == 403, path
    assert over_http(running, "/v2/models/toy/ready") == 200


@pytest.mark.triton
def test_with_the_key_models_are_loaded(running: Contained) -> None:
    assert over_http(running, "/v2/repository/index", {}, **{"admin-key": KEY}) == 200
    with triton.InferenceServerClient(f"127.0.0.1:{running.ports.grpc}") as client:
        client.load_model("toy", headers={KEY_HEADER: KEY})
        assert client.is_model_ready("toy")


@pytest.mark.triton
def test_the_key_is_in_no_process_list_and_no_log(running: Contained) -> None:
    lists = running.children()
    assert "--http-restricted-api=BATON_HIDDEN_0" in lists[running.triton()]
    assert len(lists) >= 3, "the entry point, Triton and a stub"
    for pid, words in lists.items():
        assert KEY not in " ".join(words), pid
    assert KEY not in running.log.read_text()


@pytest.mark.triton
@pytest.mark.skipif(not ISOLATED, reason="takes root, to become somebody else with fewer rights")
def test_it_runs_as_another_user_without_capabilities_on_a_read_only_system(running: Contained) -> None:
    """A model is loaded and ready there (see above), so nothing of it needs more."""
    for pid in (running.entry_point(), running.triton()):
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert set(status["Uid"].split()) == {str(NOBODY)}
        assert {int(status[f"Cap{name}"], 16) for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
        assert status["NoNewPrivs"] == "1"
        mounts = [line.split() for line in Path(f"/proc/{pid}/mounts").read_text().splitlines()]
        options = {point: kept.split(",") for _, point, _, kept, *_ in mounts}
        assert {point: "ro" in options[point] for point in ("/", "/mnt/place", "/tmp", "/dev/shm")} == {
            "/": True,
            "/mnt/place": True,
            "/tmp": False,
            "/dev/shm": False,
        }


@pytest.mark.triton
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_first_process_ends_triton_in_order(tmp_path: Path, key: Path, number: signal.Signals) -> None:
    repository = make_repository(tmp_path / "models", {"toy": [1]})
    with contained(tmp_path, repository, key) as one:
        server = one.triton()
        os.kill(one.entry_point(), number)
        assert one.process.wait(120) == 0, one.log.read_text()
        until(lambda: not Path(f"/proc/{server}").exists(), "Triton is gone")
        assert "Waiting for in-flight requests to complete." in one.log.read_text()


@pytest.mark.triton
def test_it_ends_with_triton(tmp_path: Path, key: Path) -> None:
    with contained(tmp_path, make_repository(tmp_path / "models", {"toy": [1]}), key) as one:
        os.kill(one.triton(), signal.SIGKILL)
        assert one.process.wait(120) == 128 + signal.SIGKILL


def test_a_server_that_refuses_its_options_is_told_by_its_exit_code(tmp_path: Path, key: Path) -> None:
    done = refusal(tmp_path, key, "--no-such-option=1")
    assert done.returncode not in {0, 2}
    assert KEY not in done.stderr + done.stdout
