"""A real server starts, answers and ends, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from harness.waiting import until
from tests.support.toy import alias_config, engine_config, make_checkpoint, make_repository
from tests.support.triton import ROOT, ask, prepare, running_triton

from baton.errors import Refused, TimedOut, Unreachable
from baton.local import procfs
from baton.local.ports import choose_ports

pytestmark = pytest.mark.triton


def gone(pid):
    """Whether a process has ended; a zombie that nobody has collected yet counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def regions(server):
    """Of a server that runs in its own /dev/shm, where it has one, else in the machine's."""
    places = [procfs.SHARED_MEMORY, *([] if server.pid is None else [Path(f"/proc/{server.pid}/root/dev/shm")])]
    return sorted({path.name for place in places for path in place.iterdir() if path.name.startswith(server._prefix)})


def test_answers_through_the_alias(server):
    answer = ask(server, "public", "red round shape", ["a red round shape", "something blue"])
    assert answer.scores[0] > answer.scores[1]
    assert (answer.model_version, answer.response_version) == (1, "1")


def test_stub_pids_tell_the_versions_apart(server):
    first, second = server.stub_pids("toy", 1), server.stub_pids("toy", 2)
    assert len(first) == len(second) == 1
    assert first != second
    assert server.stub_pids("toy", 3) == server.stub_pids("public", 1) == []
    assert {stub.server for stub in server.stubs()} == {server.pid}
    assert all(region.startswith(server._prefix) for region in regions(server))


def test_models_import_from_the_virtual_environment(server):
    """The toy backend imports numpy, and it has to be the one that is installed beside Baton."""
    maps = Path(f"/proc/{server.stub_pids('toy', 1)[0]}/maps").read_text()
    assert f"{sys.prefix}/" in maps


def test_runs_in_a_session_of_its_own(server):
    assert os.getsid(server.pid) == server.pid != os.getsid(0)


def test_a_second_start_is_refused(server, repository, place):
    with pytest.raises(Refused, match=f"process {server.pid}"):
        server.start(repository, log_file=place / "again.log")


def test_a_port_in_use_names_the_process(server, repository, tmp_path):
    with pytest.raises(Refused) as refusal:
        prepare(tmp_path).start(repository, http_port=server.ports.http, log_file=tmp_path / "log")
    assert f"Port {server.ports.http} (HTTP)" in refusal.value.message
    assert f"process {server.pid} (tritonserver)" in refusal.value.message
    assert "--http-port" in refusal.value.mend


def test_two_servers_share_a_repository(server, repository, place, tmp_path):
    """Also with the same state directory: the start of one must not sweep away the other's shared memory."""
    before = regions(server)
    second = prepare(place)
    with second.start(repository, load=["public"], log_file=tmp_path / "second.log"):
        documents = ["red one", "blue two"]
        assert ask(second, "public", "red", documents).scores == pytest.approx(
            ask(server, "public", "red", documents).scores
        )
        assert second.stub_pids("toy", 1) != server.stub_pids("toy", 1)
    assert regions(second) == []
    assert regions(server) == before
    assert ask(server, "public", "red", ["red one"]).model_version == 1


def test_stop_leaves_nothing(tmp_path):
    repository = make_repository(tmp_path / "repository")
    with running_triton(tmp_path, repository, load=["toy"]) as server:
        pid, stubs = server.pid, [stub.pid for stub in server.stubs()]
        assert stubs
        assert regions(server)
        assert server.poll() is None
        assert server.stop() == 0
        assert server.pid is None
        assert server.poll() == 0
        assert all(gone(process) for process in (pid, *stubs))
        assert regions(server) == []
        # The same object starts again, and finds its backends assembled.
        server.start(repository, log_file=tmp_path / "triton.log")
        assert server.stubs() == []
    assert "successfully loaded 'toy'" in (tmp_path / "triton.log").read_text()


def test_stop_ends_a_server_that_hangs(tmp_path):
    """With a model that hangs while it loads, Triton 2.51 does not end at SIGTERM; and its start times out."""
    repository = make_repository(tmp_path / "repository")
    make_checkpoint(tmp_path / "repository" / "hung" / "1", toy={"hang_at_load": True})
    (repository / "hung" / "config.pbtxt").write_text(engine_config("hung", [1], load_log=tmp_path / "loads"))
    server = prepare(tmp_path)
    with pytest.raises(TimedOut, match="loading: hung:1"):
        server.start(repository, load=["hung"], log_file=tmp_path / "log", timeout=5)
    assert server.pid is None
    assert server.stubs() == []
    assert regions(server) == []


def test_an_early_exit_tells_why(tmp_path):
    repository = make_repository(tmp_path / "repository")
    make_checkpoint(repository / "broken" / "1", toy={"raise_at_load": True})
    (repository / "broken" / "config.pbtxt").write_text(engine_config("broken", [1]))
    server = prepare(tmp_path)
    with pytest.raises(Unreachable) as failure:
        server.start(repository, load=["broken"], log_file=tmp_path / "log", timeout=600)
    assert "this toy version raises while it loads" in failure.value.message
    assert len(failure.value.message.splitlines()) < 20
    assert server.stubs() == []


def test_a_killed_server_is_swept_by_the_next_start(tmp_path):
    """A server killed by SIGKILL can't clean up; what it left goes with the next start of the same state."""
    repository = make_repository(tmp_path / "repository")
    with running_triton(tmp_path, repository, load=["toy"]) as server:
        os.kill(server.pid, signal.SIGKILL)
        assert server.wait(120) == -signal.SIGKILL
        left = procfs.SHARED_MEMORY / f"{server._prefix}leftover"
        left.touch()
        with prepare(tmp_path).start(repository, log_file=tmp_path / "next.log"):
            assert not left.exists()
            assert server.stubs() == []


def test_a_repository_in_shared_memory_stays_in_sight(tmp_path, caplog):
    """Triton then shares the machine's; its regions are closed to other users, and the log says so."""
    place = Path(tempfile.mkdtemp(prefix="baton-test-", dir=procfs.SHARED_MEMORY))
    try:
        repository = make_repository(place / "repository", {"toy": [1]}, alias="public")
        with running_triton(tmp_path, repository, load=["public"]) as server:
            assert ask(server, "public", "red", ["red one"]).model_version == 1
            found = [procfs.SHARED_MEMORY / name for name in regions(server)]
            assert found
            assert {stat.S_IMODE(path.stat().st_mode) for path in found} == {0o600}
            (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
            assert told.startswith("Triton shares the machine's /dev/shm, since it uses files that lie there;")
        assert not any(path.exists() for path in found)
    finally:
        shutil.rmtree(place)


PARENT = """
import sys
from pathlib import Path
from tests.support.triton import prepare
tmp = Path(sys.argv[1])
server = prepare(tmp).start(tmp / "repository", load=["toy"], log_file=tmp / "log", die_with_parent=True)
print(server.pid, *(stub.pid for stub in server.stubs()), server._prefix, flush=True)
sys.stdin.read()
"""


def test_dies_with_its_parent(tmp_path):
    make_repository(tmp_path / "repository")
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        *pids, prefix = parent.stdout.readline().split()
        assert len(pids) == 2
        assert not any(gone(pid) for pid in pids)
        parent.kill()
    until(lambda: all(gone(pid) for pid in pids), "the server and its stub end")
    procfs.remove_regions(prefix)


def test_ports_are_chosen_and_checked():
    ports = choose_ports("127.0.0.1", http=None, grpc=0, metrics=None)
    assert len({ports.http, ports.grpc, ports.metrics}) == 3
    with pytest.raises(Refused, match="asked for twice"):
        choose_ports("127.0.0.1", http=ports.http, grpc=ports.http, metrics=None)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(Refused, match=f"process {os.getpid()}"):
        choose_ports("127.0.0.1", http=None, grpc=taken.getsockname()[1], metrics=None)


def test_alias_config_names_the_version():
    assert "versions: [ 7 ]" in alias_config("public", "toy", 7)
