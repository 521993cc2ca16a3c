"""A server with an admin key: what works without it, what does not, and where the key can be seen."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import tritonclient.grpc as triton
from harness.network import fetch
from harness.waiting import until
from tests.support.listening import listening
from tests.support.toy import make_repository
from tests.support.triton import ask, running_triton
from tritonclient.utils import InferenceServerException

from baton.config import ServerConfig
from baton.doctor import servers
from baton.errors import KeyRefused, TritonError, Unreachable
from baton.local import process, procfs
from baton.local.argv_secret import masked
from baton.triton.grpc import KEY_HEADER, GrpcTriton

KEY = "planted-admin-key-1f7c"


class ProcessList(threading.Thread):
    """Looks at the machine's command lines, over and over, as another user could; ``found``: those with the key."""

    def __init__(self):
        super().__init__(daemon=True)
        self.found, self.looks, self.over = set(), 0, threading.Event()

    def run(self):
        while not self.over.is_set():
            for one in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    line = (one / "cmdline").read_bytes()
                    self.found |= {line} if KEY.encode() in line else set()
            self.looks += 1

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()


@pytest.fixture(scope="module")
def process_list():
    return ProcessList()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, process_list):
    place = tmp_path_factory.mktemp("guarded")
    repository = make_repository(place / "repository")
    with contextlib.ExitStack() as until_the_end:
        with process_list:
            started = running_triton(place, repository, load=["toy"], admin_key=KEY, die_with_parent=True)
            server = until_the_end.enter_context(started)
        yield server


@pytest.fixture
def key_file(tmp_path):
    file = tmp_path / "key"
    file.touch(mode=0o600)
    file.write_text(f"{KEY}\n")
    return file


def over_http(server, path, body=b"{}", **headers):
    request = urllib.request.Request(f"http://{server.http_url}{path}", data=body, headers=headers)
    try:
        fetch(request)
    except urllib.error.HTTPError as refusal:
        return refusal.code
    return 200


RESTRICTED_CALLS = {
    "index": lambda c, h: c.get_model_repository_index(headers=h),
    "load": lambda c, h: c.load_model("toy", headers=h),
    "unload": lambda c, h: c.unload_model("toy", headers=h),
    "shared memory": lambda c, h: c.register_system_shared_memory("r", "/none", 1, headers=h),
    "logging": lambda c, h: c.update_log_settings({"log_verbose_level": 1}, headers=h),
    "trace": lambda c, h: c.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]}, headers=h),
}


@pytest.mark.triton
@pytest.mark.parametrize("headers", [None, {KEY_HEADER: "wrong"}])
@pytest.mark.parametrize("call", RESTRICTED_CALLS)
def test_without_the_key_nothing_is_changed_over_grpc(guarded, call, headers):
    with triton.InferenceServerClient(guarded.grpc_url) as client:
        with pytest.raises(InferenceServerException, match="protocol is restricted"):
            RESTRICTED_CALLS[call](client, headers)
        assert client.is_model_ready("toy")


@pytest.mark.triton
@pytest.mark.parametrize("headers", [{}, {"admin-key": "wrong"}])
@pytest.mark.parametrize(
    "path",
    [
        "/v2/repository/index",
        "/v2/repository/models/toy/load",
        "/v2/repository/models/toy/unload",
        "/v2/systemsharedmemory/region/r/register",
        "/v2/cudasharedmemory/unregister",
        "/v2/logging",
        "/v2/trace/setting",
        "/v2/models/toy/trace/setting",
    ],
)
def test_without_the_key_nothing_is_changed_over_http(guarded, path, headers):
    # Triton opens its HTTP port a moment after it answers over gRPC.
    until(lambda: procfs.listener(guarded.ports.http) is not None, "HTTP is there")
    assert over_http(guarded, path, **headers) == 403
    assert over_http(guarded, "/v2/repository/index", **{"admin-key": KEY}) == 200


@pytest.mark.triton
def test_without_the_key_clients_are_served(guarded):
    assert ask(guarded, "toy", "red", ["red one"], version=1).model_version == 1
    with triton.InferenceServerClient(guarded.grpc_url) as client:
        assert client.is_server_live()
        assert client.is_model_ready("toy")
        assert client.get_model_metadata("toy")
        assert client.get_model_config("toy")
        assert client.get_inference_statistics("toy")


@pytest.mark.triton
def test_with_the_key_baton_does_all_it_needs(guarded):
    server = GrpcTriton("local", guarded.grpc_url, admin_key=KEY)
    try:
        server.load("toy", 120)
        assert server.index()["toy"]
        assert server.step("toy") is None
    finally:
        server.close()


@pytest.mark.triton
@pytest.mark.parametrize(("key", "told"), [(None, "none is configured"), ("wrong-key-5d2e", "refused the admin key")])
def test_a_key_that_is_refused_is_no_silence(guarded, key, told):
    server = GrpcTriton("local", guarded.grpc_url, admin_key=key)
    try:
        for call in (server.index, lambda: server.load("toy", 120), lambda: server.unload("toy", 120)):
            with pytest.raises(KeyRefused, match=told) as refusal:
                call()
            assert isinstance(refusal.value, TritonError)
            assert "admin_key_file in [[servers]]" in refusal.value.mend
            assert str(key) not in str(refusal.value)
    finally:
        server.close()


@pytest.mark.triton
def test_the_key_is_in_no_process_list_and_no_log(guarded, process_list):
    assert process_list.looks > 0
    assert process_list.found == set()
    for pid in (guarded.pid, *(stub.pid for stub in guarded.stubs())):
        for file in ("cmdline", "environ"):
            assert KEY.encode() not in Path(f"/proc/{pid}/{file}").read_bytes()
    assert b"\0--http-restricted-api=BATON_HIDDEN_0\0" in Path(f"/proc/{guarded.pid}/cmdline").read_bytes()
    assert KEY not in guarded.last_log_lines(10_000)


@pytest.mark.triton
def test_where_the_key_can_not_be_hidden_it_is_blanked(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "reveal", lambda pid, hidden: False)
    with running_triton(tmp_path, make_repository(tmp_path / "repository"), admin_key=KEY) as server:
        line = Path(f"/proc/{server.pid}/cmdline").read_bytes()
        assert KEY.encode() not in line
        assert b"admin-key=" + b"*" * len(KEY) in line
        assert GrpcTriton("owner", server.grpc_url, admin_key=KEY).index() is not None


@pytest.mark.triton
def test_a_server_without_its_key_does_not_start(tmp_path, monkeypatch):
    """Should Baton be killed while it starts one, nothing is left that lets anybody load."""
    monkeypatch.setattr(process, "masked", lambda command, secret: (masked(command, secret)[0], {}))
    repository = make_repository(tmp_path / "repository")
    with pytest.raises(Unreachable, match="exited"), running_triton(tmp_path, repository, admin_key=KEY):
        pass


@pytest.mark.triton
def test_a_key_that_stays_visible_is_told(guarded, monkeypatch, caplog):
    monkeypatch.setattr(procfs, "blank", lambda pid, secret: False)
    guarded._blank(KEY)
    assert "stays visible in this machine's process list" in caplog.text
    assert "hidepid=2" in caplog.text
    assert KEY not in caplog.text


@pytest.mark.triton
def test_all_ports_are_on_loopback(guarded):
    heard = listening(guarded.pid)
    assert {guarded.ports.http, guarded.ports.grpc, guarded.ports.metrics} <= {port for port, _ in heard}
    assert all(address.is_loopback for _, address in heard), heard


@pytest.mark.triton
def test_metrics_stay_on_loopback_whatever_else_is_opened(tmp_path):
    repository = make_repository(tmp_path / "repository")
    with running_triton(tmp_path, repository, admin_key=KEY, host="0.0.0.0") as server:
        ports = server.ports
        until(lambda: procfs.listener(ports.http) is not None, "HTTP is there")
        heard = dict(listening(server.pid))
        assert [heard[port].is_unspecified for port in (ports.http, ports.grpc)] == [True, True]
        assert heard[ports.metrics].is_loopback
        assert "nv_" in fetch(server.metrics_url)
        with pytest.raises(KeyRefused):
            GrpcTriton("stranger", server.grpc_url).index()


@pytest.mark.triton
def test_more_may_be_restricted_by_the_same_key(tmp_path):
    more = f"model-config,metadata,statistics:admin-key={KEY}"
    args = [f"--grpc-restricted-protocol={more}", f"--http-restricted-api={more}"]
    with running_triton(
        tmp_path, make_repository(tmp_path / "repository"), load=["toy"], admin_key=KEY, extra_args=args
    ) as one:
        stranger, owner = GrpcTriton("stranger", one.grpc_url), GrpcTriton("owner", one.grpc_url, admin_key=KEY)
        with pytest.raises(KeyRefused):
            stranger.step("toy")
        assert owner.step("toy") is None
        assert owner.index()["toy"]
        assert ask(one, "toy", "red", ["red one"], version=1).model_version == 1
        stranger.close()
        owner.close()


@pytest.mark.triton
def test_doctor_tells_who_may_load(guarded, key_file, tmp_path):
    address = guarded.grpc_url
    state = tmp_path / "state"

    def look(server):
        _, found = servers.access(server, state / "admin.key")
        return found

    assert look(ServerConfig("a", address, admin_key_file=key_file)).ok is True
    without = look(ServerConfig("a", address))
    assert without.ok is False
    assert "none is configured" in without.message
    key_file.write_text("wrong-key-5d2e")
    wrong = look(ServerConfig("a", address, admin_key_file=key_file))
    assert wrong.ok is False
    assert "refused the admin key" in wrong.message
    # The one that `ctl up` started.
    state.mkdir()
    (state / "admin.key").touch(mode=0o600)
    (state / "admin.key").write_text(KEY)
    assert look(ServerConfig("a", address)).ok is True


@pytest.mark.triton
def test_doctor_warns_of_a_server_without_a_key(tmp_path):
    with running_triton(tmp_path, make_repository(tmp_path / "repository")) as server:
        _, check = servers.access(ServerConfig("open", server.grpc_url), tmp_path / "admin.key")
    assert check.verdict == "warn"
    assert "anybody" in check.message
    assert re.search(r"--grpc-restricted-protocol=\S+:admin-key=", check.mend)


SLEEPER = "import sys; print('up', flush=True); sys.stdin.read()"


def test_a_text_is_taken_out_of_a_command_line():
    words = [sys.executable, "-c", SLEEPER, f"--one={KEY}", f"--two=x:{KEY}", "last"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"up\n"
        line = Path(f"/proc/{process.pid}/cmdline")
        assert line.read_bytes().count(KEY.encode()) == 2
        assert procfs.blank(process.pid, KEY)
        stars = "*" * len(KEY)
        assert line.read_text().split("\0")[3:] == [f"--one={stars}", f"--two=x:{stars}", "last", ""]
        process.stdin.close()
    assert process.wait() == 0
    assert procfs.blank(process.pid, KEY)  # it is gone, and so is its command line


def test_a_command_line_that_may_not_be_written_is_told(monkeypatch):
    """As under Yama's mode 2: the file of the process's memory can't be opened for writing."""
    words = [sys.executable, "-c", SLEEPER, KEY]
    opened = Path.open

    def refuse(path, *args, **more):
        if path.name == "mem":
            raise PermissionError(1, "not permitted")
        return opened(path, *args, **more)

    monkeypatch.setattr(Path, "open", refuse)
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert procfs.blank(process.pid, KEY) is False
        process.stdin.close()
